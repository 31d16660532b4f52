"""Commands as separate processes: what they print goes where the caller's progress goes."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from unipruning_core.errors import UnipruningError
from unipruning_core.progress import Bars, Progress
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.tools.processes import Commands, _pass_on


@pytest.fixture
def argv(home):
    data = ["--data", str(home / "text.txt"), "--seq-len", "16", "--windows", "2", "--json"]
    return ["perplexity", str(home / "model"), *data]


@pytest.mark.parametrize("progress", [Progress(), Bars()], ids=["silent", "shown"])
def test_a_command_shows_its_progress_where_the_caller_shows_its_own(progress, argv, capfd):
    with Commands(progress) as commands:
        stages = [commands.run(argv) for _ in range(2)]
    first, second = (json.loads(stage.output) for stage in stages)
    assert first == second
    assert first["windows"] == 2
    assert all(10 < stage.peak_mib < 4000 and 0 < stage.seconds < 60 for stage in stages)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert ("backend cpu" in shown.err) == isinstance(progress, Bars)
    assert isinstance(progress, Bars) or shown.err == ""


def test_the_reason_of_a_silent_failure_is_in_the_error_and_the_next_command_runs(argv, capfd):
    with Commands(Progress()) as commands:
        for words in ([argv[0], f"{argv[1]}-nowhere", *argv[2:]], [argv[0], argv[1], "--windows", "-1", *argv[2:4]]):
            with pytest.raises(UnipruningError, match=r"'unipruning perplexity' failed with exit code 2; ") as told:
                commands.run(words)
            assert ("does not exist" in str(told.value)) == ("nowhere" in words[1])
        with pytest.raises(
            UnipruningError, match=r"failed with exit code 2; 'unipruning perplexity' has no option '--nonsense'"
        ):
            commands.run([*argv, "--nonsense"])
        assert json.loads(commands.run(argv).output)["windows"] == 2
    assert capfd.readouterr() == ("", "")


def test_the_reason_of_a_shown_failure_is_above_the_error(argv, capfd):
    with Commands(Bars()) as commands, pytest.raises(UnipruningError, match="exit code 2; the reason is above"):
        commands.run([argv[0], f"{argv[1]}-nowhere", *argv[2:]])
    assert "does not exist" in capfd.readouterr().err


def test_a_process_that_is_killed_is_an_error(argv):
    with Commands(Progress()) as commands:
        commands.run(argv)
        commands._server.kill()
        commands._server.wait()
        with pytest.raises(UnipruningError, match="'unipruning perplexity' failed with exit code -9"):
            commands.run(argv)


def test_a_function_is_called_where_the_commands_run(argv):
    with Commands(Progress()) as commands:
        assert commands.call(partial(divmod, 17, 5)) == (3, 2)
        with pytest.raises(UnipruningError, match=r"^sparsity '0\.6' is neither"):
            commands.call(partial(parse_sparsity, "0.6"))
        number = commands.call(os.getpid)
        commands.run(argv)
        assert commands.call(os.getpid) == number == commands._server.pid


ENDLESS = """
import sys
from unipruning_core.progress import Progress
from unipruning_core.tools.processes import Commands
with Commands(Progress()) as commands:
    commands.run(["targets", sys.argv[2]])
    print(commands._server.pid, flush=True)
    commands.run(sys.argv[1:])
"""


def test_a_caller_that_is_killed_takes_its_command_with_it(home, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text((home / "text.txt").read_text() * 200)
    words = ["search", str(home / "model"), "--data", str(text), "--samples", "5000", "--seq-len", "16"]
    words += ["--out", str(tmp_path / "run"), "--save-every", "0"]
    with subprocess.Popen([sys.executable, "-c", ENDLESS, *words], stdout=subprocess.PIPE, text=True) as caller:
        server = int(caller.stdout.readline())
        while not list(tmp_path.glob("run/unfinished/resume*")):
            assert caller.poll() is None
            time.sleep(0.05)
        caller.kill()
    until = time.monotonic() + 60
    while Path(f"/proc/{server}/cmdline").exists() and Path(f"/proc/{server}/cmdline").read_bytes():
        assert time.monotonic() < until, "the command goes on"
        time.sleep(0.05)
    assert list(tmp_path.glob("run/unfinished/resume*"))
    assert not (tmp_path / "run" / "run.json").exists()


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
