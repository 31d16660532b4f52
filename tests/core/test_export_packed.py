"""Masks and kept values: the way there and back gives every byte, in every layout of weights and files."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from _checkpoints import FakeScores, changed, content, parsed, save_gpt2, save_llama
from _drawn import damaged, damages, in_place_of, quick
from _quantised import as_fp8
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.export.job import RECORD_FILE
from unipruning_core.export.packed import VALUES_FILE
from unipruning_core.export.registry import Formats
from unipruning_core.progress import Progress
from unipruning_core.projection.project import project
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.tools.size import sizes_of
from unipruning_cpu.backend import CpuBackend


def pruned_of(folder, out, sparsity="50%", targets=None):
    checkpoint = Checkpoint.open(folder)
    project(checkpoint, FakeScores(checkpoint, targets), parsed(sparsity), out, CpuBackend())
    return out


def there_and_back(pruned, place):
    done = unipruning.export(pruned, place / "small", "packed", progress=False)
    unipruning.unpack(place / "small", place / "back", progress=False)
    assert content(place / "back") == content(pruned)
    return done


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A packed checkpoint, never changed."""
    place = tmp_path_factory.mktemp("packed")
    pruned = pruned_of(save_llama(place / "model"), place / "pruned")
    unipruning.export(pruned, place / "small", "packed", progress=False)
    return place / "small"


@pytest.mark.parametrize("sparsity", ["50%", "2:4", "1:4"])
@pytest.mark.parametrize("shards", [False, True])
def test_a_llama_gets_its_bytes_again(sparsity, shards, tmp_path):
    pruned = pruned_of(save_llama(tmp_path / "model", shards=shards), tmp_path / "pruned", sparsity)
    done = there_and_back(pruned, tmp_path)
    assert done.bytes == sum(map(len, content(tmp_path / "small").values()))


def test_weights_that_lie_transposed_get_their_bytes_again(tmp_path):
    there_and_back(pruned_of(save_gpt2(tmp_path / "model"), tmp_path / "pruned"), tmp_path)


def test_experts_that_are_parts_of_a_tensor_get_their_bytes_again(tmp_path):
    folder = save_llama(tmp_path / "model")
    changed(folder, lambda tensors: tensors.update(experts=torch.randn(3, 6, 8)))
    # the second alone, so that there are others before and behind it
    there_and_back(
        pruned_of(folder, tmp_path / "pruned", "50%", (Target("1", (6, 8), False, "experts", 48),)), tmp_path
    )
    held = load_file(tmp_path / "small" / VALUES_FILE)
    assert {name: held[name].numel() for name in held if name == "1" or name.startswith("experts")} == {
        "experts[0:48]": 48,
        "1": 24,
        "experts[96:144]": 48,
    }


def test_codes_of_eight_bits_get_their_bytes_again_and_are_refused_where_floats_are_needed(tmp_path):
    folder = save_llama(tmp_path / "model")
    as_fp8(folder)
    pruned = pruned_of(folder, tmp_path / "pruned")
    there_and_back(pruned, tmp_path)
    for to in ("gguf", "semi-structured", "compressed-tensors"):
        spec = Formats().specs[to]
        if Formats().probe(spec).available:
            with pytest.raises(ConfigError, match=r"made from bfloat16, float16 or float32, and .* holds codes of"):
                unipruning.export(pruned, tmp_path / "out", to, progress=False)


def test_what_two_shards_hold_is_kept_once(tmp_path):
    folder = save_llama(tmp_path / "model", shards=True)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = "model.layers.0.mlp.down_proj.weight"
    other = folder / next(file for file in index.values() if file != index[name])
    twice = {name: load_file(folder / index[name])[name]}
    save_file({**load_file(other), **twice}, other, {"format": "pt"})
    there_and_back(pruned_of(folder, tmp_path / "pruned"), tmp_path)


@pytest.mark.parametrize("sparsity", ["50%", "2:4"])
def test_the_values_are_as_large_as_size_says(sparsity, tmp_path):
    pruned = pruned_of(save_llama(tmp_path / "model"), tmp_path / "pruned", sparsity)
    unipruning.export(pruned, tmp_path / "small", "packed", progress=False)
    masks = unipruning.read_masks(tmp_path / "small", progress=False)
    packed = sum(info.nbytes for info in masks.packed.values())
    values = load_file(tmp_path / "small" / VALUES_FILE)
    kept = sum(values[target.name].nbytes for target in masks.targets)
    row = next(row for row in sizes_of(pruned, Progress()).rows if row.name.startswith("packed"))
    assert row.targets == packed + kept


def test_the_command_unpacks(small, tmp_path, capsys, refused):
    assert main(["unpack", str(small), "--out", str(tmp_path / "back")]) == 0
    assert capsys.readouterr().out == f"unpacked: {tmp_path / 'back'}\n"
    assert content(tmp_path / "back") == content(small.parent / "pruned")
    assert "exists; choose a folder that does not exist yet" in refused("unpack", small, "--out", tmp_path / "back")
    assert "'nowhere' is not a folder; pass one" in refused("unpack", "nowhere", "--out", tmp_path / "x")
    assert "unipruning-export.json' cannot be read" in refused("unpack", tmp_path / "back", "--out", tmp_path / "x")


def test_pruned_weights_with_a_sign_are_refused(tmp_path):
    pruned = pruned_of(save_llama(tmp_path / "model"), tmp_path / "pruned")
    mask = unipruning.read_masks(pruned).read(name := "model.layers.0.mlp.up_proj.weight")

    def sign(tensors):
        tensors[name][~mask] = -0.0

    changed(pruned, sign)
    (pruned / "unipruning.json").unlink()
    with pytest.raises(CheckpointError, match=r"of '.*up_proj.weight' are -0, which has bits of its own; export to"):
        unipruning.export(pruned, tmp_path / "out", "packed", progress=False)


def rewritten(folder, change):
    """Change the tensors of a file of values, under the same metadata."""
    path = folder / VALUES_FILE
    tensors, raw = load_file(path), path.read_bytes()
    metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def first_changed(tensors, metadata):
    tensors["model.layers.0.mlp.up_proj.weight"][0] += 1


def one_lost(tensors, metadata):
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"][1:].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first_changed, "'model.safetensors' has other bytes than before; export again"),
        (one_lost, "it has 479 values of '.*up_proj.weight', and its mask keeps 480"),
        (lambda tensors, metadata: tensors.pop("model.norm.weight"), "it lacks 'model.norm.weight'"),
        (lambda tensors, metadata: metadata.update(format="x"), "its format is 'x', not"),
        (lambda tensors, metadata: metadata.update(headers="[]"), "'headers' are not texts by name"),
        (lambda tensors, metadata: metadata.update(headers='{"model.safetensors": "{"}'), "is damaged"),
        (lambda tensors, metadata: metadata.update(headers='{"../x.safetensors": "{}"}'), "names other shards"),
    ],
)
def test_damage_is_refused_and_nothing_is_left(change, message, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "copy")
    rewritten(folder, change)
    with pytest.raises(CheckpointError, match=message):
        unipruning.unpack(folder, tmp_path / "back", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@quick
@given(st.sampled_from([VALUES_FILE, RECORD_FILE, "unipruning.masks"]), damages)
def test_damage_of_any_kind_is_refused_or_changes_nothing(small, tmp_path, name, damage):
    folder = tmp_path / "copy"
    if not folder.exists():
        shutil.copytree(small, folder)
    whole = (small.parent / "pruned" / "model.safetensors").read_bytes()
    before = in_place_of(folder / name, damaged((small / name).read_bytes(), damage))
    try:
        unipruning.unpack(folder, tmp_path / "back", progress=False)
        assert content(tmp_path / "back")["model.safetensors"] == whole
    except CheckpointError:
        assert not (tmp_path / "back").exists()
    finally:
        shutil.rmtree(tmp_path / "back", ignore_errors=True)
        (folder / name).write_bytes(before)


def test_the_record_of_another_export_is_refused(small, tmp_path):
    pruned = small.parent / "pruned"
    unipruning.export(pruned, tmp_path / "plain", progress=False)
    with pytest.raises(CheckpointError, match=rf"{RECORD_FILE} tells of another format, 'safetensors'; pass a folder"):
        unipruning.unpack(tmp_path / "plain", tmp_path / "back", progress=False)


def test_what_is_beside_the_written_files_stays_there(small, tmp_path):
    pruned, folder = small.parent / "pruned", shutil.copytree(small, tmp_path / "packed")
    (folder / "model.safetensors").write_text("stray")
    (folder / "notes").mkdir()
    unipruning.unpack(folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "notes").exists()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (pruned / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("target", "said"), [(None, "it lacks 'config.json'"), ("outside", "leads outside the folder")]
)
def test_a_file_that_is_missing_or_leads_outside_is_refused(small, tmp_path, target, said):
    folder = shutil.copytree(small, tmp_path / "packed")
    (folder / "config.json").rename(tmp_path / "outside")
    if target:
        (folder / "config.json").symlink_to(tmp_path / target)
    with pytest.raises(CheckpointError, match=said):
        unipruning.unpack(folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
