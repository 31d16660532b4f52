"""Commands as separate processes: what they print goes where the caller's progress goes."""

import json

import pytest

from unipruning_core.errors import UnipruningError
from unipruning_core.progress import Bars, Progress
from unipruning_core.tools.processes import run_command


@pytest.fixture
def argv(home):
    data = ["--data", str(home / "text.txt"), "--seq-len", "16", "--windows", "2", "--json"]
    return ["perplexity", str(home / "model"), *data]


@pytest.mark.parametrize("progress", [Progress(), Bars()], ids=["silent", "shown"])
def test_a_command_shows_its_progress_where_the_caller_shows_its_own(progress, argv, capfd):
    stage = run_command(argv, progress)
    assert json.loads(stage.output)["windows"] == 2
    assert stage.peak_mib > 0
    shown = capfd.readouterr()
    assert shown.out == ""
    assert ("backend cpu" in shown.err) == isinstance(progress, Bars)
    assert isinstance(progress, Bars) or shown.err == ""


def test_the_reason_of_a_silent_failure_is_in_the_error(argv, capfd):
    with pytest.raises(UnipruningError, match=r"'unipruning perplexity' failed with exit code 2; .*does not exist"):
        run_command([argv[0], f"{argv[1]}-nowhere", *argv[2:]], Progress())
    assert capfd.readouterr() == ("", "")


def test_the_reason_of_a_shown_failure_is_above_the_error(argv, capfd):
    with pytest.raises(UnipruningError, match="exit code 2; the reason is above"):
        run_command([argv[0], f"{argv[1]}-nowhere", *argv[2:]], Bars())
    assert "does not exist" in capfd.readouterr().err
