"""Commands and their folders: kills, two at once, overlaps, places that cannot be renamed, a user's own files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from _killed import KILLED, in_a_fork, tree

from unipruning_core.cli.main import main
from unipruning_core.storage.ownership import LOCK, MARKER

SEARCH = ("--samples", "3", "--seq-len", "16", "--save-every", "0")
RUN_FILES = {"run.json", "dual.safetensors", MARKER}


@pytest.fixture(scope="module")
def model(home):
    return [str(home / "model"), "--data", str(home / "text.txt")]


def succeed(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A finished search of each seed, and what its folder holds."""
    folder = tmp_path_factory.mktemp("finished")
    for seed in (0, 1):
        succeed("search", *model, *SEARCH, "--mode", "drift", "--seed", seed, "--out", folder / str(seed))
    return folder


@pytest.fixture
def refused(capsys):
    """Assert that a command is refused with one sentence; return it."""

    def check(*words):
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        return error

    return check


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


@pytest.mark.parametrize("name", ["notes.txt", "unfinished/notes.txt", "sub/notes.txt", "dual.safetensors.bak"])
def test_a_users_file_in_a_run_folder_is_refused_by_name_when_it_is_overwritten(
    model, finished, tmp_path, refused, name
):
    out = tmp_path / "run"
    shutil.copytree(finished / "1", out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = tree(tmp_path)
    error = refused("search", *model, *SEARCH, "--mode", "drift", "--out", out, "--overwrite")
    assert repr(name.partition("/")[0]) in error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["results.json", "eval/results.json", "eval/", "config.json.bak"])
@pytest.mark.parametrize("listed", [True, False], ids=["new report", "old report"])
def test_a_users_file_beside_pruned_weights_is_refused_by_name_when_they_are_overwritten(
    model, finished, tmp_path, refused, name, listed
):
    words = ["project", model[0], finished / "0", "--sparsity", "50%", "--out", tmp_path / "out"]
    succeed(*words)
    if not listed:
        path = tmp_path / "out" / "unipruning.json"
        report = json.loads(path.read_text()) | {"format": "unipruning-checkpoint-2"}
        path.write_text(json.dumps({key: report[key] for key in report if key not in ("written", "checksum")}))
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        (tmp_path / "out" / name).mkdir()
    else:
        (tmp_path / "out" / name).write_text("years of work")
    before = tree(tmp_path)
    assert name.rstrip("/") in refused(*words, "--overwrite")
    assert tree(tmp_path) == before
    path = tmp_path / "out" / name
    (shutil.rmtree if path.is_dir() else os.unlink)(path)
    if path.parent != tmp_path / "out" and path.parent.exists() and not name.endswith("/"):
        path.parent.rmdir()
    succeed(*words, "--overwrite")


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


@pytest.mark.parametrize("place", ["{model}", "{model}/run", "{home}", "{text}", "{text}/run", "{link}/run"])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_a_search_into_what_it_reads_is_refused(model, home, tmp_path, refused, place, overwrite):
    (tmp_path / "link").symlink_to(home / "model")
    out = place.format(model=model[0], home=home, text=model[2], link=tmp_path / "link")
    before = tree(home)
    refused("search", *model, *SEARCH, "--out", out, *overwrite)
    refused("prune", *model, *SEARCH, "--sparsity", "50%", "--out", out, "--run", tmp_path / "run", *overwrite)
    refused("prune", *model, *SEARCH, "--sparsity", "50%", "--out", tmp_path / "out", "--run", out, *overwrite)
    refused("compare", *model, "--methods", "wanda", "--sparsity", "50%", "--out", out)
    refused("compare-sparsegpt", *model, "--sparsity", "50%", "--out", out, *overwrite)
    assert tree(home) == before
    assert os.listdir(tmp_path) == ["link"]


def test_a_search_into_a_folder_that_the_model_links_to_is_refused(home, finished, tmp_path, refused):
    """Its weights lie in a checkpoint that an earlier command of ours wrote, and so might replace."""
    succeed("project", home / "model", finished / "0", "--sparsity", "50%", "--out", tmp_path / "real")
    shutil.copytree(home / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "real" / "model.safetensors")
    words = [tmp_path / "model", "--data", home / "text.txt", *SEARCH]
    before = tree(tmp_path)
    refused("search", *words, "--out", tmp_path / "real")
    assert "overlap" in refused("prune", *words, "--sparsity", "50%", "--out", tmp_path / "real", "--overwrite")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["", "inner", ".."])
def test_a_projection_into_its_run_is_refused(model, finished, refused, place):
    before = tree(finished)
    words = ["project", model[0], finished / "0", "--sparsity", "50%", "--out", finished / "0" / place, "--overwrite"]
    assert "overlap" in refused(*words)
    assert tree(finished) == before


@pytest.mark.parametrize("name", ["run.json", "new.json", "unfinished"])
def test_a_budget_inside_its_run_or_model_is_refused(model, finished, refused, name):
    before = tree(finished)
    for folder in (finished / "0", model[0]):
        words = ["allocate", model[0], finished / "0", "--scheme", "owl", "--sparsity", "50%", "--overwrite"]
        assert "overlap" in refused(*words, "--out", f"{folder}/{name}")
    assert tree(finished) == before


@pytest.mark.parametrize(
    "place",
    ["x" * 300, "x/" * 2500 + "x", "file/below", "loop", "loop/below", "dangling", "closed/run", "/", "/dev/null"],
)
def test_a_place_that_cannot_be_written_is_one_sentence_before_any_work(
    model, finished, tmp_path, refused, monkeypatch, place
):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("/proc/no/such/place")
    monkeypatch.setattr("unipruning_core.models.loading.load_model", lambda *_, **__: pytest.fail("work had begun"))
    mkdir = os.mkdir

    def closed(path, *rest, **options):
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return mkdir(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", closed)
    out = tmp_path / place
    refused("search", *model, *SEARCH, "--out", out)
    refused("prune", *model, *SEARCH, "--sparsity", "50%", "--out", out)
    refused("prune", *model, *SEARCH, "--sparsity", "50%", "--out", tmp_path / "out", "--run", out)
    refused("project", model[0], finished / "0", "--sparsity", "50%", "--out", out)
    refused("compare", *model, "--methods", "wanda", "--sparsity", "50%", "--out", out)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "loop"]


def test_the_working_folder_is_a_place_like_any_other(model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    succeed("prune", *model, *SEARCH, "--mode", "drift", "--sparsity", "50%", "--out", ".")
    assert (tmp_path / "here-run" / "run.json").is_file()
    assert os.path.samefile(".", tmp_path / "here")
    assert os.path.isfile("unipruning.json")


def test_a_search_that_does_not_fit_the_disk_is_refused_before_the_model_is_loaded(
    model, tmp_path, refused, monkeypatch
):
    monkeypatch.setattr("unipruning_core.models.loading.load_model", lambda *_, **__: pytest.fail("work had begun"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 1000))
    assert "bytes, but its disk has 1000 free" in refused("search", *model, *SEARCH, "--out", tmp_path / "run")
    assert os.listdir(tmp_path) == []


HOLDER = """
import sys, time
from pathlib import Path
from unipruning_core.storage.ownership import LOCK, locked
with locked(Path(sys.argv[1]) / LOCK, Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_command_says_who_holds_the_folder(model, finished, tmp_path, refused):
    holders = []
    try:
        for name in ("run/unfinished", "out.partial", "old/unfinished"):
            place = tmp_path / name
            place.mkdir(parents=True)
            holder = subprocess.Popen([sys.executable, "-c", HOLDER, place], stdout=subprocess.PIPE, text=True)
            holders.append(holder)
            assert holder.stdout.readline() == "held\n"
        before = [name for name in tree(tmp_path) if LOCK not in name]
        by = [f"is in use by process {holder.pid} on {os.uname().nodename}" for holder in holders]
        assert by[0] in refused("search", *model, *SEARCH, "--out", tmp_path / "run")
        assert by[0] in refused("search", *model, *SEARCH, "--out", tmp_path / "run", "--overwrite")
        for number, name in ((1, "out"), (2, "old")):
            words = ["project", model[0], finished / "0", "--sparsity", "50%", "--out", tmp_path / name]
            assert by[number] in refused(*words)
            words = ["prune", *model, *SEARCH, "--sparsity", "50%", "--out", tmp_path / name]
            assert by[number] in refused(*words)
        assert [name for name in tree(tmp_path) if LOCK not in name] == before
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
    succeed("search", *model, *SEARCH, "--mode", "drift", "--out", tmp_path / "run")
    assert tree(tmp_path / "run") == tree(finished / "0")
