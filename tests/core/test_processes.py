"""Commands as separate processes: what they print goes where the caller's progress goes."""

import json
import signal
import subprocess
import sys

import pytest

from unipruning_core.errors import UnipruningError
from unipruning_core.progress import Bars, Progress
from unipruning_core.tools.processes import _pass_on, run_command


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


SAVES = """
import signal, sys, time
def save(number, _):
    print("saved after", signal.Signals(number).name, flush=True)
    sys.exit(3)
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), save)
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_command_is_told_of_the_signal_that_ends_its_caller_unless_the_terminal_has(number, terminal, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal, raising=False)
    process = subprocess.Popen([sys.executable, "-c", SAVES], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    if terminal and number != signal.SIGTERM:
        process.send_signal(number)
    with process.stdout as pipe:
        _pass_on(process, number)
        assert pipe.read() == f"saved after {number.name}\n"
    assert process.returncode == 3
