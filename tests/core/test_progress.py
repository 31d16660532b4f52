"""Progress where no bar can be drawn: a line a tenth with the time left, and nothing where silence is asked for."""

import io
import os
import pty
import select
import sys

import pytest

from unipruning_core import progress
from unipruning_core.cli.main import main
from unipruning_core.progress import Bars


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def told(monkeypatch, clock, total, unit, seconds, *, done=0, **shown):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Bars().task("work", total, unit, done) as task:
        for _ in range(total - done):
            clock[0] += seconds
            task.advance(**shown)
    return sys.stderr.getvalue().splitlines()


def test_a_line_a_tenth_says_what_is_left(monkeypatch, clock):
    lines = told(monkeypatch, clock, 100, "samples", 12.0, loss=2.5)
    assert lines[0] == "work: 10 of 100 samples, 18:00 left, loss 2.5"
    assert lines[8] == "work: 90 of 100 samples, 02:00 left, loss 2.5"
    assert lines[9] == "work: 100 samples in 20:00, loss 2.5"
    assert len(lines) == 10


def test_what_an_earlier_process_did_took_no_time(monkeypatch, clock):
    lines = told(monkeypatch, clock, 10, "samples", 2.0, done=6)
    assert lines[0] == "work: 7 of 10 samples, 6 s left"
    assert lines[-1] == "work: 10 samples in 8 s"


def test_quick_work_takes_one_line(monkeypatch, clock):
    assert told(monkeypatch, clock, 500, "tensors", 0.001) == ["work: 500 tensors in 0.5 s"]


def test_bytes_are_written_as_people_write_them(monkeypatch, clock):
    assert told(monkeypatch, clock, 1500, "B", 0.002)[-1] == "work: 1.50kB in 3 s"


def test_a_task_that_fails_is_not_called_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    def broken():
        with Bars().task("work", 3, "samples") as task:
            task.advance()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(("columns", "drawn"), [(80, True), (0, False)])
def test_a_terminal_without_a_width_gets_lines(monkeypatch, columns, drawn):
    reader, writer = pty.openpty()
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
        with Bars().task("work", 2, "samples") as task:
            task.advance(2)
        text = ""
        # the kernel passes it on in pieces
        while "2 samples in" not in text and "100%|" not in text and select.select([reader], [], [], 10)[0]:
            text += os.read(reader, 4096).decode()
    os.close(reader)
    assert ("100%|" in text) == drawn
    assert ("work: 2 samples in" in text) != drawn


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_a_quiet_command_prints_its_result_alone(home, tmp_path, capsys, flag):
    words = ["prune", str(home / "model"), "--data", str(home / "text.txt"), "--samples", "2", "--seq-len", "16"]
    assert main([*words, "--sparsity", "60%", "--out", str(tmp_path / "out"), flag]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    first, second = shown.out.splitlines()
    assert "pruned " in first
    assert f"kept in {tmp_path / 'out-run'} (" in second


def test_a_quiet_command_still_says_what_is_wrong(home, tmp_path, capsys):
    assert main(["perplexity", str(home / "nowhere"), "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
