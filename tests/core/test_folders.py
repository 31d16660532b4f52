"""Commands and their folders: kills, results that are overwritten, places that cannot be renamed."""

from __future__ import annotations

import os
import shutil

import pytest
from _folders import SEARCH, succeed
from _killed import KILLED, in_a_fork, tree

from unipruning_core.storage.ownership import MARKER


@pytest.mark.parametrize(("saving", "step"), [(SEARCH, 4), (SEARCH[:-2], 2)], ids=["saving", "not saving"])
@pytest.mark.parametrize("before", ["nothing", "another result"])
def test_a_search_killed_before_any_change_on_disk_ends_with_the_same_bytes(
    model, finished, tmp_path, before, saving, step
):
    """And until then an old result is whole, or the new one is."""
    out, old = tmp_path / "run", {}
    words = ["search", *model, *saving, "--mode", "drift", "--out", out]
    if before == "another result":
        old = tree(finished / "1")
        words.append("--overwrite")
    expected = tree(finished / "0")
    for number in range(1, 400, step):
        shutil.rmtree(out, ignore_errors=True)
        if old:
            shutil.copytree(finished / "1", out)
        code = in_a_fork(lambda: succeed(*words), number)
        if code == 0:
            assert number > 30, "too few changes were counted"
            return
        assert code == KILLED, number
        found = {name: data for name, data in tree(out).items() if "unfinished" not in name}
        whole = (out / "unfinished" / "whole").exists() or (out / "unfinished" / "placing").exists()
        assert whole or found in (old, expected), number
        assert in_a_fork(lambda: succeed(*words)) == 0, number
        assert tree(out) == expected, number
        assert os.listdir(tmp_path) == ["run"]
    pytest.fail("it never ends")


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "another result"])
@pytest.mark.parametrize("sparsities", [["50%"], ["50%", "2:4"]], ids=["one", "two"])
def test_a_projection_killed_before_any_change_on_disk_ends_with_the_same_bytes(
    model, finished, tmp_path, before, sparsities
):
    words = ["project", model[0], finished / "0", *(word for text in sparsities for word in ("--sparsity", text))]
    succeed(*words, "--out", tmp_path / "expected")
    old = ["project", model[0], finished / "1", *words[3:], "--out", tmp_path / "old"]
    succeed(*old)
    out, expected = tmp_path / "place" / "out", tree(tmp_path / "expected")
    for number in range(1, 400, 7):
        shutil.rmtree(tmp_path / "place", ignore_errors=True)
        (tmp_path / "place").mkdir()
        if before == "another result":
            shutil.copytree(tmp_path / "old", out)
        elif before != "nothing":
            out.mkdir()
        command = [*words, "--out", out, *(["--overwrite"] if before == "another result" else [])]
        code = in_a_fork(lambda command=command: succeed(*command), number)
        if code == 0:
            assert number > 20, "too few changes were counted"
            return
        assert code == KILLED, number
        assert in_a_fork(lambda command=command: succeed(*command)) == 0, number
        assert tree(out) == expected, number
        assert os.listdir(tmp_path / "place") == ["out"]
    pytest.fail("it never ends")


def test_what_was_saved_is_kept_by_overwrite_if_it_is_of_this_search_only(model, finished, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["search", *model, *SEARCH, "--mode", "drift", "--out", out, "--overwrite"]
    for number in range(10, 60, 5):  # some change on disk after the first state
        shutil.rmtree(out, ignore_errors=True)
        in_a_fork(lambda: succeed(*words), number)
        if list(out.glob("unfinished/resume-0*")):
            break
    shutil.copytree(out, tmp_path / "copy")
    succeed(*words)
    assert "resuming after sample" in capsys.readouterr().err
    assert tree(out) == tree(finished / "0")
    words[words.index(out)] = tmp_path / "copy"
    succeed(*words, "--seed", "1")
    shown = capsys.readouterr().err
    assert "starting over: " in shown
    assert "resuming after" not in shown
    assert tree(tmp_path / "copy") == tree(finished / "1")


def test_overwriting_a_run_keeps_the_old_one_when_the_new_one_fails(model, finished, tmp_path, monkeypatch, refused):
    out = tmp_path / "run"
    shutil.copytree(finished / "1", out)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unipruning_core.search.loop.write_run", full)
    refused("search", *model, *SEARCH, "--mode", "drift", "--out", out, "--overwrite")
    assert {name: data for name, data in tree(out).items() if "unfinished" not in name} == tree(finished / "1")


@pytest.mark.parametrize("command", ["search", "project"])
def test_a_folder_that_cannot_be_renamed_or_replaced_is_filled_from_inside(
    model, finished, tmp_path, monkeypatch, command
):
    """As a mount point, or where nobody may write beside it."""
    out = tmp_path / "out"
    words = ["search", *model, *SEARCH, "--mode", "drift"]
    if command == "project":
        words = ["project", model[0], finished / "0", "--sparsity", "50%"]
    succeed(*words, "--out", tmp_path / "expected")
    out.mkdir()
    before = os.listdir(tmp_path)
    for name in ("rename", "replace", "rmdir", "mkdir", "unlink", "open"):
        change = getattr(os, name)

        def inside_only(path, *rest, change=change, name=name, **options):
            touched = [path, rest[0]] if name in ("rename", "replace") else [path]
            reads = name == "open" and not rest[0] & os.O_CREAT
            inside = all(
                str(item).startswith(f"{out}{os.sep}") for item in touched if isinstance(item, str | os.PathLike)
            )
            if str(path).startswith(str(tmp_path)) and not inside and not reads:
                raise PermissionError(13, "Permission denied", str(path))
            return change(path, *rest, **options)

        monkeypatch.setattr(os, name, inside_only)
    succeed(*words, "--out", out)
    assert tree(out) == tree(tmp_path / "expected")
    succeed(*words, "--out", out, "--overwrite")
    assert tree(out) == tree(tmp_path / "expected")
    assert os.listdir(tmp_path) == before


def test_a_damaged_run_of_ours_can_be_overwritten(model, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished / "1", out)
    (out / "run.json").write_text("{")
    succeed("search", *model, *SEARCH, "--mode", "drift", "--out", out, "--overwrite")
    assert tree(out) == tree(finished / "0")


def test_a_run_of_a_version_without_markers_can_be_overwritten(model, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished / "1", out)
    (out / MARKER).unlink()
    succeed("search", *model, *SEARCH, "--mode", "drift", "--out", out, "--overwrite")
    assert tree(out) == tree(finished / "0")


def test_the_working_folder_is_a_place_like_any_other(model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    succeed("prune", *model, *SEARCH, "--mode", "drift", "--sparsity", "50%", "--out", ".")
    assert (tmp_path / "here-run" / "run.json").is_file()
    assert os.path.samefile(".", tmp_path / "here")
    assert os.path.isfile("unipruning.json")
