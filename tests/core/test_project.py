"""Projection, file to file: exact counts, untouched bytes, and nothing written when something is wrong."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch
from _checkpoints import FakeScores, content, parsed, save_gpt2, save_llama, targets_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from unipruning_core.progress import Progress
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.projection.project import project
from unipruning_core.sparsity.forms import SemiStructured, Unstructured
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend
from unipruning_kernels import reference

BACKEND = CpuBackend()
FORMS = ["0%", "37.5%", "60%", "99.99%", "60%/row", "99%/row", "70%/global", "2:4", "1:2", "5:8"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "llama": Checkpoint.open(save_llama(folder / "llama")),
        "llama in shards": Checkpoint.open(save_llama(folder / "shards", shards=True)),
        "llama in float16": Checkpoint.open(save_llama(folder / "half", dtype=torch.float16)),
        "llama in float32": Checkpoint.open(save_llama(folder / "float", dtype=torch.float32)),
        "gpt2": Checkpoint.open(save_gpt2(folder / "gpt2")),
    }


@pytest.fixture
def llama(models):
    return models["llama in shards"]


def expected_masks(scores, sparsity):
    """By stable sorts alone, none of the code under test."""
    found = {target.name: scores.score(target.name) for target in scores.targets}
    if isinstance(sparsity, SemiStructured):
        return {name: reference.nm_mask(score, sparsity.n, sparsity.m) for name, score in found.items()}
    if sparsity.scope == "row":
        return {name: reference.topk_mask(score, sparsity.keep(score.shape[1])) for name, score in found.items()}
    if sparsity.scope == "matrix":
        return {
            name: reference.topk_mask(score.view(1, -1), sparsity.keep(score.numel())).view(score.shape)
            for name, score in found.items()
        }
    whole = torch.cat([score.flatten() for score in found.values()]).view(1, -1)
    mask = reference.topk_mask(whole, sparsity.keep(whole.numel())).flatten()
    parts = mask.split([score.numel() for score in found.values()])
    return {name: part.view(score.shape) for part, (name, score) in zip(parts, found.items(), strict=True)}


@pytest.mark.parametrize("levels", [0, 3], ids=["distinct", "ties"])
@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("model", ["llama", "llama in shards", "llama in float16", "llama in float32", "gpt2"])
def test_exactly_the_weights_with_the_largest_scores_stay(model, text, levels, models, tmp_path):
    checkpoint, (sparsity,) = models[model], parsed(text)
    scores = FakeScores(checkpoint, levels=levels)
    (result,) = project(checkpoint, scores, [sparsity], tmp_path / "out", BACKEND)
    pruned, masks = Checkpoint.open(tmp_path / "out"), expected_masks(scores, sparsity)
    packed = read_masks(tmp_path / "out")
    assert packed.targets == scores.targets
    zeros = 0
    for target in scores.targets:
        mask = masks[target.name]
        assert torch.equal(packed.read(target.name), mask)
        before, after = checkpoint.read(target.name), pruned.read(target.name)
        assert after.dtype == before.dtype
        stored_mask = mask.t() if target.transposed else mask
        assert torch.equal(after, before.masked_fill(~stored_mask, 0))
        assert not torch.signbit(after[~stored_mask]).any()
        zeros += int((after == 0).sum())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert (result.total, result.pruned) == (sum(m.numel() for m in masks.values()), result.total - kept)
    assert result.zero_fraction == zeros / result.total
    assert (result.path, result.sparsity) == (tmp_path / "out", sparsity)
    if text != "0%":
        assert kept == pytest.approx((1 - share_of(sparsity)) * result.total, abs=len(masks) * 80)


def share_of(sparsity):
    return float(sparsity.ratio) if isinstance(sparsity, Unstructured) else 1 - sparsity.n / sparsity.m


@pytest.mark.parametrize("model", ["llama", "llama in shards", "gpt2"])
def test_all_that_is_no_target_stays_byte_for_byte(model, models, tmp_path):
    checkpoint = models[model]
    scores = FakeScores(checkpoint)
    project(checkpoint, scores, parsed("60%"), tmp_path / "out", BACKEND)
    before, after = content(checkpoint.folder), content(tmp_path / "out")
    assert after.keys() - before.keys() == {"unipruning.masks", "unipruning.json", "README.md"}
    assert before.keys() <= after.keys()
    shards = {shard.name for shard in checkpoint.shards}
    assert all(after[name] == before[name] for name in before.keys() - shards)
    touched = {target.name for target in scores.targets}
    patched = {name: bytearray(before[name]) for name in shards}
    for name in touched:
        info = checkpoint.tensors[name]
        patched[info.file.name][info.start : info.end] = after[info.file.name][info.start : info.end]
    assert all(after[name] == patched[name] for name in shards)
    assert any(after[name] != before[name] for name in shards)


@pytest.mark.parametrize("text", ["60%", "70%/global", "2:4"])
@pytest.mark.parametrize("model", ["llama", "llama in shards", "llama in float16", "llama in float32", "gpt2"])
def test_the_result_loads_as_a_model(model, text, models, tmp_path):
    checkpoint = models[model]
    scores = FakeScores(checkpoint)
    project(checkpoint, scores, parsed(text), tmp_path / "out", BACKEND)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    state = loaded.state_dict()
    for name in checkpoint.tensors:
        expected = Checkpoint.open(tmp_path / "out").read(name)
        assert torch.equal(state[name if name in state else f"transformer.{name}"], expected)
    assert torch.isfinite(loaded(torch.tensor([[1, 2, 3]])).logits).all()


def test_several_sparsities_give_what_each_alone_gives(llama, tmp_path):
    scores, together = FakeScores(llama, levels=50), tmp_path / "together"
    results = project(llama, scores, parsed(*FORMS), together, BACKEND)
    assert [result.path.name for result in results] == [parse_sparsity(text).slug for text in FORMS]
    assert sorted(path.name for path in together.iterdir()) == sorted(result.path.name for result in results)
    for text, result in zip(FORMS, results, strict=True):
        project(llama, scores, parsed(text), tmp_path / result.path.name, BACKEND)
        assert content(result.path) == content(tmp_path / result.path.name)


def test_two_runs_write_the_same_bytes(llama, tmp_path):
    for name in ("first", "second"):
        project(llama, FakeScores(llama), parsed("60%", "2:4"), tmp_path / name, BACKEND)
    assert content(tmp_path / "first") == content(tmp_path / "second")


def test_the_report_says_what_was_done(llama, tmp_path):
    folder = shutil.copytree(llama.folder, tmp_path / "model")
    (folder / "pytorch_model.bin").write_text("")
    name = targets_of(llama)[0].name
    info = llama.tensors[name]
    with (folder / info.file.name).open("r+b") as file:  # the weights were zero before
        file.seek(info.start)
        file.write(bytes(info.nbytes))
    checkpoint = Checkpoint.open(folder)
    scores = FakeScores(checkpoint)
    project(checkpoint, scores, parsed("50%"), tmp_path / "out", BACKEND)
    report = json.loads((tmp_path / "out" / "unipruning.json").read_text())
    numel = info.shape[0] * info.shape[1]
    assert report["sparsity"] == "50%/matrix"
    assert report["backend"] == "cpu"
    assert report["model_fingerprint"] == checkpoint.fingerprint()
    assert report["provenance"] == {"mode": "fake", "steps": 3}
    assert report["not_copied"] == {"pytorch_model.bin": "pickled weights"}
    assert report["matrices"].keys() == {target.name for target in scores.targets}
    assert report["matrices"][name] == {
        "asked": "50%/matrix",
        "kept": numel // 2,
        "total": numel,
        "sparsity": 0.5,
        "zero_share": 1.0,
        "empty_rows": 0,
        "empty_columns": 0,
        "sha256": hashlib.sha256(bytes(info.nbytes)).hexdigest(),
    }
    assert report["overall"]["total"] == sum(layer["total"] for layer in report["matrices"].values())
    assert report["overall"]["sparsity"] == 0.5
    assert report["overall"]["zero_share"] > 0.5


def test_a_pruned_checkpoint_can_be_pruned_again(llama, tmp_path):
    project(llama, FakeScores(llama), parsed("2:4"), tmp_path / "once", BACKEND)
    once = Checkpoint.open(tmp_path / "once")
    project(once, FakeScores(once), parsed("50%"), tmp_path / "twice", BACKEND)
    report = json.loads((tmp_path / "twice" / "unipruning.json").read_text())
    assert report["sparsity"] == "50%/matrix"
    assert report["not_copied"].keys() == {"unipruning.masks", "unipruning.json"}


def test_weights_that_are_not_finite_become_zero_where_they_are_pruned(llama, tmp_path):
    folder = shutil.copytree(llama.folder, tmp_path / "model")
    target = targets_of(llama)[0]
    info = llama.tensors[target.name]
    weights = load_file(folder / info.file.name)
    weights[target.name] = torch.full_like(weights[target.name], torch.nan)
    save_file(weights, folder / info.file.name, metadata={"format": "pt"})
    checkpoint = Checkpoint.open(folder)
    project(checkpoint, FakeScores(checkpoint), parsed("50%"), tmp_path / "out", BACKEND)
    after = Checkpoint.open(tmp_path / "out").read(target.name)
    assert torch.equal(after.isnan(), read_masks(tmp_path / "out").read(target.name))
    assert (after[~after.isnan()] == 0).all()


class Watching(Progress):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


class ZeroScores(FakeScores):
    def score(self, name):
        score = super().score(name)
        return torch.zeros_like(score) if ".0." in name else score


def test_matrices_whose_scores_are_too_few_are_counted_and_named(llama, tmp_path):
    progress, scores = Watching(), ZeroScores(llama)
    project(llama, scores, parsed("60%", "2:4"), tmp_path / "out", BACKEND, progress=progress)
    first = next(target.name for target in scores.targets if ".0." in target.name)
    notes = [note for note in progress.notes if "position decides" in note]
    assert [note.split(":")[0] for note in notes] == ["60%/matrix", "2"]
    for note in notes:
        assert "7 of 14 matrices" in note
        assert first in note
        assert note.endswith("and 2 more")
        assert "\n" not in note


def test_scores_above_zero_are_no_reason_for_a_note(llama, tmp_path):
    progress = Watching()
    project(llama, FakeScores(llama), parsed("60%", "2:4"), tmp_path / "out", BACKEND, progress=progress)
    assert not [note for note in progress.notes if "position decides" in note]


@pytest.mark.parametrize("suits", ["matrix", "row", "global"])
def test_a_share_that_does_not_say_of_what_is_one_of_what_suits_the_search(llama, tmp_path, suits):
    scores = FakeScores(llama)
    scores.scope = suits
    (bare,) = project(llama, scores, [parse_sparsity("60%")], tmp_path / "bare", BACKEND)
    project(llama, scores, [parse_sparsity(f"60%/{suits}")], tmp_path / "said", BACKEND)
    assert str(bare.sparsity) == f"60%/{suits}"
    assert content(tmp_path / "bare") == content(tmp_path / "said")
