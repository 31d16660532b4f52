"""A folder appears whole or not at all, whatever happens to the process that writes it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest

from unipruning_core.errors import OutputError
from unipruning_core.progress import Progress
from unipruning_core.storage.staging import check_space, clean_up, staged


class Notes(Progress):
    def __init__(self):
        self.lines = []

    def note(self, message):
        self.lines.append(message)


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def filled(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text(content)
    return folder


def fill_and_fail(folder, error):
    filled(folder, "new")
    raise error


def test_the_folder_appears_at_the_end_only(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged(out, replace=False) as folder:
        filled(folder, "new")
        assert not out.exists()
    assert (out / "file").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(error, tmp_path):
    with pytest.raises(error), staged(tmp_path / "out", replace=False) as folder:
        fill_and_fail(folder, error)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OutputError, match="No space left on device; free some space"),
        staged(tmp_path / "out", replace=False),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with staged(tmp_path / "out", replace=False) as folder:
        filled(folder, "new")
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_a_folder_that_came_meanwhile_is_not_touched(tmp_path):
    with pytest.raises(OutputError, match="could not be written"), staged(tmp_path / "out", replace=False) as folder:
        filled(filled(folder, "new").with_name("out"), "theirs")
    assert (tmp_path / "out" / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_stays_until_the_new_one_is_whole(tmp_path):
    out = filled(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), staged(out, replace=True) as folder:
        fill_and_fail(folder, RuntimeError)
    assert (out / "file").read_text() == "old"
    with staged(out, replace=True) as folder:
        filled(folder, "new")
        assert (out / "file").read_text() == "old"
    assert (out / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path):
    out = filled(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="could not be written"), staged(out, replace=True) as folder:
        shutil.rmtree(folder)
    assert (out / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"), staged(tmp_path / "file" / "out", replace=False):
        pytest.fail("there is nowhere to write")


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path, dead_pid):
    out, notes = tmp_path / "out", Notes()
    stay = [
        f"out.partial-{os.getppid()}",
        f"other.partial-{dead_pid}",
        "out.partial-",
        "out.partial-1x",
        "xout.partial-1",
    ]
    go = [f"out.partial-{dead_pid}", f"out.partial-{os.getpid()}"]
    for name in stay + go:
        filled(tmp_path / name, "partial")
    clean_up(out, notes)
    assert {path.name for path in tmp_path.iterdir()} == set(stay)
    assert len(notes.lines) == 2


def test_a_folder_moved_aside_by_a_killed_process_comes_back(tmp_path, dead_pid):
    out, notes = tmp_path / "out", Notes()
    filled(tmp_path / f"out.replaced-{dead_pid}", "old")
    filled(tmp_path / f"out.partial-{dead_pid}", "new")
    clean_up(out, notes)
    assert (out / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "put back" in notes.lines[1]


def test_a_folder_moved_aside_goes_when_the_new_one_is_in_place(tmp_path, dead_pid):
    out = filled(tmp_path / "out", "new")
    filled(tmp_path / f"out.replaced-{dead_pid}", "old")
    clean_up(out, Notes())
    assert (out / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_cleaning_up_where_nothing_is_does_nothing(tmp_path):
    clean_up(tmp_path / "no" / "such" / "out", Notes())
    assert not list(tmp_path.iterdir())


def test_too_little_space_names_what_is_wanted_and_what_is_free(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    wanted = 2 * free + 10**15
    with pytest.raises(OutputError, match=rf"needs {wanted} bytes, but its disk has \d+ free"):
        check_space(tmp_path / "no" / "such" / "out", wanted)
    check_space(tmp_path / "no" / "such" / "out", free // 2)
