"""Projection refuses before it writes: a run that does not fit, a folder in use, a disk too small."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from _checkpoints import FakeScores, content, parsed, save_llama, targets_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError, ConfigError, OutputError, RunError
from unipruning_core.projection.project import project
from unipruning_core.storage import fingerprint as storage
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.tensorfile import digest_of
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Checkpoint.open(save_llama(tmp_path_factory.mktemp("llama"), shards=True))


class Broken(FakeScores):
    def __init__(self, checkpoint, **changed):
        super().__init__(checkpoint)
        vars(self).update(changed)


def changed_targets(checkpoint, **changes):
    first, *rest = targets_of(checkpoint)
    return (Target(**{**vars(first), **changes}), *rest)


@pytest.mark.parametrize(
    ("changed", "text", "error", "fault"),
    [
        ({"fingerprint": "0" * 64}, "60%", RunError, "made from another model"),
        ({"targets": lambda c: ()}, "60%", RunError, "no targets"),
        ({"targets": lambda c: changed_targets(c, name="none")}, "60%", RunError, "'none' .* is not in the checkpoint"),
        ({"targets": lambda c: targets_of(c) * 2}, "60%", RunError, "occurs twice"),
        ({"targets": lambda c: changed_targets(c, shape=(5, 8))}, "60%", RunError, r"but \(5, 8\) in the run"),
        ({"targets": lambda c: changed_targets(c, transposed=True)}, "60%", RunError, "has the shape"),
        ({"provenance": {"loss": float("nan")}}, "60%", RunError, "cannot be written as JSON"),
        ({"provenance": {"path": Path()}}, "60%", RunError, "cannot be written as JSON"),
        ({"score": lambda name: torch.ones(2, 2)}, "60%", RunError, r"should be float32 of shape \(\d+, \d+\), but is"),
        ({"score": lambda name: torch.ones(2, 2)}, "60%/global", RunError, "should be float32"),
        ({"bad_score": torch.bfloat16}, "60%", RunError, "but is 'torch.bfloat16'"),
        ({"bad_score": torch.nan}, "60%", RunError, "NaN or infinite"),
        ({}, "5:9", ConfigError, "'5:9' needs a multiple of 9 inputs, but 'model"),
        ({}, "60%,60.0%", ConfigError, "was given twice"),
        ({}, "", ConfigError, "no sparsity was given"),
    ],
)  # fmt: skip
def test_a_run_that_does_not_fit_is_refused_and_nothing_is_written(changed, text, error, fault, llama, tmp_path):
    changed = {key: value(llama) if key == "targets" else value for key, value in changed.items()}
    if (bad := changed.pop("bad_score", None)) is not None:
        good = FakeScores(llama)
        changed["score"] = lambda name: (
            good.score(name).to(bad) if isinstance(bad, torch.dtype) else good.score(name) * bad
        )
    with pytest.raises(error, match=fault) as caught:
        project(llama, Broken(llama, **changed), parsed(*filter(None, text.split(","))), tmp_path / "out", BACKEND)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["README.md", "README.base.md"])
def test_a_folder_in_the_place_of_a_card_is_refused_before_any_work(name, tmp_path):
    folder = save_llama(tmp_path / "model")
    (folder / name).mkdir()
    (folder / name / "text").write_text("text")
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=f"{name}' is a folder, where a pruned checkpoint has its card"):
        project(checkpoint, FakeScores(checkpoint), parsed("60%"), tmp_path / "out", BACKEND)
    assert not (tmp_path / "out").exists()


def test_weights_changed_where_the_fingerprint_does_not_look_are_refused_and_nothing_is_written(tmp_path):
    checkpoint = Checkpoint.open(save_llama(tmp_path / "model", dtype=torch.float32))
    scores = FakeScores(checkpoint)
    scores.digests = {target.name: digest_of(checkpoint.read(target.name)) for target in scores.targets}
    last = checkpoint.tensors[scores.targets[-1].name]
    project(checkpoint, scores, parsed("60%"), tmp_path / "before", BACKEND)
    with last.file.open("r+b") as file:
        file.seek(last.end - 1)
        file.write(b"\x3f")
    scores.fingerprint = checkpoint.fingerprint()
    with pytest.raises(
        RunError, match=r"the weights of '.*' are not those that were searched; pass the model as it was"
    ):
        project(checkpoint, scores, parsed("60%"), tmp_path / "out", BACKEND)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "model"]


def test_integers_without_scales_are_refused(llama, tmp_path):
    folder = shutil.copytree(llama.folder, tmp_path / "model")
    target = targets_of(llama)[0]
    shard = folder / llama.tensors[target.name].file.name
    weights = load_file(shard)
    weights[target.name] = weights[target.name].to(torch.int8)
    save_file(weights, shard)
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="stored as 'I8', which is quantised"):
        project(checkpoint, FakeScores(checkpoint, targets_of(llama)), parsed("60%"), tmp_path / "out", BACKEND)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("texts", [["60%"], ["60%", "2:4"]], ids=["one", "several"])
def test_a_folder_of_something_else_is_never_overwritten(texts, overwrite, llama, tmp_path):
    out = tmp_path / "out"
    (out / "60").mkdir(parents=True)
    (out / "60" / "thesis.txt").write_text("years of work")
    (out / "unipruning.json").write_text('{"format": "something else"}')
    before = content(tmp_path)
    fault = "--overwrite only replaces checkpoints" if overwrite else "is not empty"
    with pytest.raises(OutputError, match=fault):
        project(llama, FakeScores(llama), parsed(*texts), out, BACKEND, overwrite=overwrite)
    assert content(tmp_path) == before


@pytest.mark.parametrize("texts", [["60%"], ["60%", "2:4"]], ids=["one", "several"])
def test_our_own_folder_is_overwritten_on_demand_only(texts, llama, tmp_path):
    out = tmp_path / "out"
    project(llama, FakeScores(llama), parsed(*texts), out, BACKEND)
    before = content(out)
    with pytest.raises(OutputError, match="is not empty"):
        project(llama, FakeScores(llama, levels=2), parsed(*texts), out, BACKEND)
    assert content(out) == before
    project(llama, FakeScores(llama, levels=2), parsed(*texts), out, BACKEND, overwrite=True)
    assert content(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwriting_deletes_no_sparsity_that_is_not_written_again(llama, tmp_path):
    out = tmp_path / "out"
    project(llama, FakeScores(llama), parsed("60%", "2:4"), out, BACKEND)
    with pytest.raises(OutputError, match=r"--overwrite only replaces checkpoints pruned to the same sparsities"):
        project(llama, FakeScores(llama), parsed("60%", "50%"), out, BACKEND, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["2-4", "60"]


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_an_output_that_overlaps_the_model_is_refused(place, llama, tmp_path):
    project(llama, FakeScores(llama), parsed("60%"), tmp_path / "parent" / "60", BACKEND)
    model = Checkpoint.open(tmp_path / "parent" / "60")
    before = content(tmp_path)
    with pytest.raises(OutputError, match="overlap"):
        project(model, FakeScores(model), parsed("60%", "2:4"), model.folder / place, BACKEND, overwrite=True)
    assert content(tmp_path) == before


def test_an_output_that_is_a_file_is_refused(llama, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="is a file"):
        project(llama, FakeScores(llama), parsed("60%"), tmp_path / "out", BACKEND)


def test_an_empty_output_folder_is_taken(llama, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    project(llama, FakeScores(llama), parsed("60%"), tmp_path / "out", BACKEND)
    assert (tmp_path / "real" / "config.json").is_file()


def test_a_disk_too_small_is_noticed_before_anything_is_written(llama, tmp_path, monkeypatch):
    size = sum(shard.stat().st_size for shard in llama.shards)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 2 * size))
    with pytest.raises(OutputError, match=rf"needs \d+ bytes, but its disk has {2 * size} free"):
        project(llama, FakeScores(llama), parsed("60%", "2:4"), tmp_path / "out", BACKEND)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_fills_up_leaves_all_as_it_was(overwrite, llama, tmp_path, monkeypatch):
    if overwrite:
        project(llama, FakeScores(llama), parsed("60%"), tmp_path / "out", BACKEND)
    before, copyfile, copied = content(tmp_path), shutil.copyfile, []

    def filling_up(source, target):
        copied.append(target)
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", filling_up)
    with pytest.raises(OutputError, match="No space left on device"):
        project(llama, FakeScores(llama), parsed("60%"), tmp_path / "out", BACKEND, overwrite=overwrite)
    assert content(tmp_path) == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_projection_wants_the_weights_that_the_search_saw(home, search_words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "FINGERPRINT_SAMPLE", 4)  # of tensors as small as these it would read every byte
    model, run, out = str(shutil.copytree(home / "model", tmp_path / "model")), str(tmp_path / "run"), tmp_path / "out"
    assert main(["search", model, *search_words[1:], "--mode", "frozen", "--out", run]) == 0
    checkpoint = Checkpoint.open(model)
    target = targets_of(checkpoint)[3].name
    info = checkpoint.tensors[target]
    before = info.file.read_bytes()
    fingerprint = checkpoint.fingerprint()
    info.file.write_bytes(
        before[: info.start + 101] + bytes([before[info.start + 101] ^ 1]) + before[info.start + 102 :]
    )
    assert Checkpoint.open(model).fingerprint() == fingerprint
    project_words = ["project", model, run, "--sparsity", "50%", "--out", str(out)]
    assert main(project_words) == 2
    assert f"the weights of {target!r} are not those that were searched" in capsys.readouterr().err
    assert not out.exists()
    info.file.write_bytes(before)
    assert main(project_words) == 0


def test_a_projection_in_memory_wants_the_weights_that_the_search_saw(home, monkeypatch):
    monkeypatch.setattr(storage, "FINGERPRINT_SAMPLE", 4)
    model = AutoModelForCausalLM.from_pretrained(home / "model")
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    text = [(home / "text.txt").read_text()]
    found = unipruning.search(model, tokenizer, data=text, samples=2, seq_len=16, mode="frozen", progress=False)
    weight = model.get_parameter(found.targets[2].name)
    before = weight.detach().clone()
    weight.data[1, 5] += 1
    with pytest.raises(RunError, match="are not those that were searched"):
        unipruning.project(model, found, sparsity="50%", progress=False)
    weight.data.copy_(before)
    assert unipruning.project(model, found, sparsity="50%", progress=False)
    # masked by these scores, the weights are others, and known
    assert unipruning.project(model, found, sparsity="60%", progress=False)
