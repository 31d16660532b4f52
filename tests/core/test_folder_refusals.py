"""Folders that a command refuses: a user's own files, overlaps, places that cannot be written, two at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from _folders import SEARCH, succeed
from _killed import tree

from unipruning_core.cli.main import main
from unipruning_core.search.claim import ClaimedRun
from unipruning_core.search.resume import Resume
from unipruning_core.storage.ownership import LOCK


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


def test_one_checkpoint_is_not_replaced_by_several_and_is_named_as_one(model, finished, tmp_path, refused):
    words = ["project", model[0], finished / "0", "--sparsity", "50%", "--out", tmp_path / "out"]
    succeed(*words)
    before = tree(tmp_path)
    error = refused(*words, "--sparsity", "2:4", "--overwrite")
    assert f"{str(tmp_path / 'out')!r} is itself one pruned to 50%/matrix; choose another output folder" in error
    assert tree(tmp_path) == before


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


def test_a_search_that_does_not_fit_the_disk_is_refused_before_the_model_is_loaded(
    model, tmp_path, refused, monkeypatch
):
    monkeypatch.setattr("unipruning_core.models.loading.load_model", lambda *_, **__: pytest.fail("work had begun"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 1000))
    assert "bytes, but its disk has 1000 free" in refused("search", *model, *SEARCH, "--out", tmp_path / "run")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", ["drift", "coupled"])
def test_the_room_that_a_search_asks_for_is_what_its_tensors_take_at_most(model, tmp_path, capsys, monkeypatch, mode):
    words = ["search", *model, *SEARCH, "--samples", "5", "--mode", mode, "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 0))
        assert main(list(map(str, words))) == 2
    asked = int(re.search(r"needs (\d+) bytes", capsys.readouterr().err)[1])
    taken = []

    def watched(cls, name):
        change = getattr(cls, name)

        def wrapper(*arguments, **options):
            files = [path.read_bytes() for path in tmp_path.rglob("*.safetensors") if model[0] not in path.parents]
            taken.append(sum(len(file) - 8 - int.from_bytes(file[:8], "little") for file in files))
            return change(*arguments, **options)

        monkeypatch.setattr(cls, name, wrapper)

    watched(Resume, "_complete")
    watched(ClaimedRun, "publish")
    succeed(*words)
    assert len(taken) == 5
    assert 0.8 * asked < max(taken) <= 1.1 * asked


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
