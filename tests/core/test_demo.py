"""The demonstration's folder: its own, given again after a kill, and gone if it was temporary."""

import contextlib
import io
import os
import tempfile

import pytest
from _killed import tree

from unipruning_core.cli.main import main
from unipruning_core.storage.ownership import LOCK, MARKER, locked, mark
from unipruning_core.tools.demo import demo
from unipruning_core.tools.processes import Commands, Stage


@pytest.fixture
def stop_before(monkeypatch, tmp_path):
    """Every command of the demonstration, run in this process; the one to stop before, as a kill would."""
    stop, seen = [0], []

    def run(self, words):
        assert self._keep_open, "the lock is not passed on"
        seen.append(words[0])
        if len(seen) == stop[0]:
            raise KeyboardInterrupt
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(words) == 0
        return Stage(printed.getvalue(), 1.5, 64.0)

    monkeypatch.setattr(Commands, "run", run)
    monkeypatch.setattr(demo, "EVALUATION_WINDOW", 32)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def stop_at(number):
        seen.clear()
        stop[0] = number

    return stop_at


@pytest.fixture
def words(home):
    text = str(home / "text.txt")
    sizes = ["--samples", "2", "--seq-len", "16", "--windows", "2", "--mode", "frozen"]
    return ["demo", "--model", str(home / "model"), "--data", text, "--eval-data", text, *sizes, "--sparsity", "50%"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_demonstration_that_was_stopped_can_be_given_again(words, stop_before, tmp_path, stage, capsys):
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    stop_before(stage)
    assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    stop_before(0)
    assert main([*words, "--out", str(tmp_path / "cut")]) == 0
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    assert main([*words, "--out", str(tmp_path / "cut")]) == 0


def test_a_folder_that_is_no_demonstration_is_not_touched(words, stop_before, tmp_path, capsys, home):
    for files in (["run/thesis.tex"], ["notes.txt"], [MARKER]):
        out = tmp_path / files[0].replace("/", "-")
        for name in files:
            (out / name).parent.mkdir(parents=True)
            (out / name).write_text("theirs")
        before = tree(out)
        assert main([*words, "--out", str(out)]) == 2
        assert "holds something other than a demonstration" in capsys.readouterr().err
        assert tree(out) == before
    before = tree(home)
    assert main([*words, "--out", str(home / "model" / "demo")]) == 2
    assert "overlap" in capsys.readouterr().err
    assert tree(home) == before


@pytest.mark.parametrize("stage", [0, 3])
def test_a_temporary_folder_is_gone_in_the_end_and_so_are_those_of_killed_commands(words, stop_before, tmp_path, stage):
    dead, busy, foreign = (tmp_path / "tmp" / f"unipruning-demo-{name}" for name in ("dead", "busy", "foreign"))
    for folder in (dead, busy, foreign):
        (folder / "run").mkdir(parents=True)
        if folder != foreign:
            mark(folder, "demo")
    (dead / LOCK).write_text("")
    stop_before(stage)
    with locked(busy / LOCK, busy):
        assert main(words) == (130 if stage else 0)
    assert sorted(os.listdir(tmp_path / "tmp")) == sorted([busy.name, foreign.name])
