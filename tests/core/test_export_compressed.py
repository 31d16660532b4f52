"""Codes of compressed-tensors: what that package and transformers read back, and that every zero is still one."""

from __future__ import annotations

import json

import pytest
import torch
from _checkpoints import changed, content, save_gpt2
from _exported import VOCABULARY, pruned_of, save_model

import unipruning
from unipruning_core.errors import ConfigError
from unipruning_core.export.builtin import compressed_tensors as plugin
from unipruning_core.storage.checkpoint import Checkpoint

pytest.importorskip("compressed_tensors")
TYPES = plugin.unipruning_exporter().types
IDS = torch.arange(24)[None] * 7 % VOCABULARY
NAME = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module", params=[False, True], ids=["one file", "shards"])
def pruned(request, tmp_path_factory):
    """A pruned llama in which a row is pruned whole, never changed."""
    from transformers import AutoModelForCausalLM

    place = tmp_path_factory.mktemp("compressed")
    folder = save_model(place / "model", hidden=128, tie_word_embeddings=request.param)
    if request.param:
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="200KB")
        (folder / "model.safetensors").unlink()
    else:
        changed(folder, lambda tensors: tensors[f"{NAME}.weight"][0].zero_())
    return pruned_of(folder, place / "pruned")


def export(pruned, out, type):
    return unipruning.export(pruned, out, "compressed-tensors", type=type, progress=False)


@pytest.mark.parametrize("name", TYPES)
def test_every_zero_is_kept_and_transformers_reads_the_codes(name, pruned, tmp_path):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from transformers import AutoModelForCausalLM

    export(pruned, tmp_path / "out", name)
    overall = unipruning.check_zeros(pruned, tmp_path / "out", progress=False).overall
    assert (overall.fraction, overall.broken_groups) == (1.0, 0)
    section = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(section).config_groups["group_0"]
    written, before = Checkpoint.open(tmp_path / "out"), Checkpoint.open(pruned)
    parts = {key.rpartition(".")[2]: written.read(key) for key in written.tensors if key.startswith(f"{NAME}.")}
    back = BaseCompressor.get_value_from_registry(section["format"]).decompress(parts, scheme)["weight"].float()
    weight = before.read(f"{NAME}.weight").float()
    assert back.isfinite().all()
    assert (back - weight).norm() < (0.2 if name == "W4A16" else 0.05) * weight.norm()
    dense = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    with torch.no_grad():
        here, there = model(IDS).logits.float(), dense(IDS).logits.float()
    assert (here - there).norm() < (0.3 if name == "W4A16" else 0.08) * there.norm()
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight.float(), back), "what the package decompresses"


@pytest.mark.parametrize(("name", "part"), [("W8A16", 0.51), ("W4A16", 0.27), ("W8A8", 0.51), ("FP8_DYNAMIC", 0.51)])
def test_codes_take_their_bits_and_two_exports_are_alike(name, part, pruned, tmp_path):
    for out in ("one", "other"):
        export(pruned, tmp_path / out, name)
    assert content(tmp_path / "one") == content(tmp_path / "other")
    written, before = Checkpoint.open(tmp_path / "one"), Checkpoint.open(pruned)
    stems = [target.name.removesuffix("weight") for target in unipruning.read_masks(pruned).targets]
    here, there = (
        sum(info.nbytes for key, info in checkpoint.tensors.items() if key.startswith(tuple(stems)))
        for checkpoint in (written, before)
    )
    assert here < (part + 0.02) * there
    rest = set(written.tensors) & set(before.tensors) - {f"{stem}weight" for stem in stems}
    assert all(torch.equal(written.read(key), before.read(key)) for key in rest)
    assert len(rest) == len(before.tensors) - len(stems)


def test_rows_that_do_not_divide_into_groups_are_refused(tmp_path):
    pruned = pruned_of(save_model(tmp_path / "model"), tmp_path / "pruned")
    with pytest.raises(ConfigError, match="has 64 inputs, which do not divide into the groups of 128 of W4A16; choose"):
        export(pruned, tmp_path / "out", "W4A16")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_no_linear_layer_by_itself_is_refused(tmp_path):
    pruned = pruned_of(save_gpt2(tmp_path / "model"), tmp_path / "pruned", "50%")
    with pytest.raises(ConfigError, match="is not the weight of a linear layer by itself; use llmcompressor on the"):
        export(pruned, tmp_path / "out", "W8A8")
