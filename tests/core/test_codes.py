"""Checkpoints in eight-bit codes with scales: read as numbers, searched so, and pruned where they are stored."""

import json

import pytest
import torch
from _checkpoints import changed, save_llama, save_text, save_tokenizer
from _mixtures import save_mixture
from _quantised import FP8, as_fp8, as_rows, as_whole, in_blocks
from transformers import AutoModelForCausalLM

import unipruning
from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.models.loading import load_model
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.codes import decoded

LAYOUTS = {
    "blocks": as_fp8,
    "odd blocks": lambda folder: as_fp8(folder, (7, 16)),
    "rows": as_rows,
    "whole": as_whole,
    "int8": lambda folder: as_rows(folder, torch.int8, 127.0),
}
MODELS = {"llama": save_llama, "experts": save_mixture, "stacked": lambda f: save_mixture(f, "of_one_tensor_for_all")}


def made(folder, model, layout):
    """A model in codes with a tokenizer and, beside it, a text."""
    MODELS[model](folder / "model")
    LAYOUTS[layout](folder / "model")
    save_tokenizer(folder / "model")
    save_text(folder / "text.txt")
    return folder / "model"


def options(folder, **more):
    return {"data": str(folder / "text.txt"), "samples": 4, "seq_len": 16, "progress": False} | more


def as_bytes(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize(
    ("model", "layout", "mode"),
    [
        *(("llama", layout, "frozen") for layout in LAYOUTS),
        ("llama", "blocks", "feedback"),
        ("experts", "blocks", "feedback"),
        ("stacked", "blocks", "frozen"),
        ("stacked", "whole", "frozen"),
    ],
)
def test_pruned_weights_become_the_code_zero_and_no_other_byte_changes(model, layout, mode, tmp_path):
    source = made(tmp_path, model, layout)
    pruned = unipruning.prune(
        str(source), sparsity=["50%", "2:4"], out=tmp_path / "out", mode=mode, **options(tmp_path)
    )
    before = Checkpoint.open(source)
    for result in pruned:
        after, masks = Checkpoint.open(result.path), unipruning.read_masks(result.path, False)
        expected = {name: as_bytes(before.read(name)) for name in before.tensors}
        for target in masks.targets:
            assert before.tensors[target.tensor].dtype.itemsize == 1
            expected[target.tensor][target.start : target.start + target.size] *= masks.read(target.name).flatten()
        assert all(torch.equal(as_bytes(after.read(name)), expected[name]) for name in expected)
        assert (result.path / "config.json").read_bytes() == (source / "config.json").read_bytes()
        assert result.zero_fraction >= 0.5


def test_the_pruned_folder_loads_in_transformers_with_exact_zeros(tmp_path):
    source = made(tmp_path, "llama", "blocks")
    (result,) = unipruning.prune(str(source), sparsity="2:4", out=tmp_path / "out", mode="frozen", **options(tmp_path))
    model, masks = AutoModelForCausalLM.from_pretrained(result.path), unipruning.read_masks(result.path, False)
    weights = dict(model.named_parameters())
    for target in masks.targets:
        assert bool((weights[target.name][~masks.read(target.name)] == 0).all())


@pytest.mark.parametrize("model", ["llama", "experts"])
def test_the_search_runs_on_the_weights_that_codes_and_scales_stand_for(model, tmp_path):
    source = made(tmp_path, model, "blocks")
    ours = load_model(source, torch.float32, "cpu")
    theirs = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for (name, weight), (other, expected) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(weight, expected), name
    assert not hasattr(ours.config, "quantization_config")


def test_perplexity_is_of_the_decoded_weights(tmp_path):
    source = made(tmp_path, "llama", "whole")
    loaded = load_model(source, torch.float32, "cpu")
    checkpoint = Checkpoint.open(source)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(loaded.state_dict()[name], checkpoint.read(name).float() * checkpoint.read(f"{name}_scale"))
    assert unipruning.perplexity(str(source), data=str(tmp_path / "text.txt"), seq_len=16, progress=False).perplexity


def test_codes_of_a_model_that_names_no_scales_stand_for_themselves(tmp_path):
    folder = as_fp8(save_llama(tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    name = "model.layers.0.mlp.up_proj.weight"
    checkpoint = Checkpoint.open(folder)
    del checkpoint.tensors[f"{name}_scale_inv"]
    assert torch.equal(checkpoint.codes.values(name), checkpoint.read(name).float())


@pytest.mark.parametrize("scales", [(3, 2), (3, 1), (1, 2), (6, 1), (6,), (1,), ()])
def test_scales_spread_over_blocks_rows_or_everything(scales):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(6, 8, generator=generator).to(torch.float8_e4m3fn)
    grid = torch.rand(scales, generator=generator)
    rows, columns = (*grid.shape, 1, 1)[:2] if grid.dim() < 2 else grid.shape
    expected = codes.float().clone()
    for row in range(6):
        for column in range(8):
            expected[row, column] *= grid.reshape(rows, columns)[row * rows // 6, column * columns // 8]
    assert torch.equal(decoded(codes, grid, None, "w"), expected)


def test_last_blocks_may_be_narrower():
    tensor = torch.randn(10, 13)
    codes, scales = in_blocks(tensor, 4, 8)
    assert scales.shape == (3, 2)
    assert torch.equal(
        decoded(codes, scales, (4, 8), "w"),
        codes.float() * scales.repeat_interleave(4, 0)[:10].repeat_interleave(8, 1)[:, :13],
    )


@pytest.mark.parametrize("shape", [(3, 3), (5, 1), (2, 3, 2), (0, 2)])
def test_scales_that_do_not_fit_are_refused(shape):
    with pytest.raises(CheckpointError, match="the scales of 'w' are"):
        decoded(torch.ones(6, 8, dtype=torch.int8), torch.ones(shape), None, "w")


def test_codes_without_their_scales_are_refused_before_the_text_is_read(tmp_path, monkeypatch):
    source = made(tmp_path, "llama", "blocks")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": FP8}))
    name = "model.layers.1.mlp.up_proj.weight"
    changed(source, lambda tensors: tensors.pop(f"{name}_scale_inv"))
    monkeypatch.delattr("unipruning_core.data.text.TextChoice.load")
    with pytest.raises(CheckpointError, match=f"'{name}'.*'{name}_scale_inv'"):
        unipruning.search(str(source), out=tmp_path / "run", **options(tmp_path))
    with pytest.raises(CheckpointError, match=f"'{name}'.*'{name}_scale_inv'"):
        load_model(source, torch.float32, "cpu")


def test_sparsegpt_is_refused_since_it_changes_kept_weights(tmp_path):
    from unipruning_core.compare.sparsegpt_job import check_plain
    from unipruning_core.storage.checkpoint import Target

    checkpoint = Checkpoint.open(as_fp8(save_llama(tmp_path / "m")))
    with pytest.raises(ConfigError, match="unipruning dequantize"):
        check_plain(checkpoint, [Target("model.layers.0.mlp.up_proj.weight", (40, 24))])
    check_plain(checkpoint, [Target("lm_head.weight", (48, 24))])
