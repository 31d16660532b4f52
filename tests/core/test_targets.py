from math import prod
from pathlib import Path

import pytest
import torch
from _checkpoints import save_gpt2, save_llama
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from unipruning_core.errors import CheckpointError
from unipruning_core.models.targets import find_targets
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.tensorfile import TensorInfo


def targets_in(folder):
    layers, left_out = find_targets(AutoModelForCausalLM.from_pretrained(folder), Checkpoint.open(folder))
    return layers, {part.name: part.why for part in left_out}


def test_every_linear_layer_of_the_blocks_is_a_target_in_checkpoint_order(tmp_path):
    layers, left_out = targets_in(save_llama(tmp_path / "m", shards=True))
    checkpoint = Checkpoint.open(tmp_path / "m")
    assert len(layers) == 14
    assert [layer.name for layer in layers] == [name for name in checkpoint.tensors if "_proj" in name]
    assert all(tuple(layer.weight.shape) == layer.target.shape for layer in layers)
    assert left_out == {"model.embed_tokens.weight": "an embedding", "lm_head.weight": "the output layer"}


def test_conv1d_is_a_target_seen_as_out_by_in(tmp_path):
    layers, left_out = targets_in(save_gpt2(tmp_path / "m"))
    assert len(layers) == 8
    fc = next(layer for layer in layers if layer.name == "transformer.h.0.mlp.c_fc.weight")
    assert fc.target.transposed
    assert fc.target.shape == (96, 24) == tuple(fc.weight.shape)
    assert fc.weight.data_ptr() == fc.module.weight.data_ptr()
    assert set(left_out.values()) == {"an embedding", "the output layer"}


def test_a_checkpoint_of_the_bare_decoder_gives_its_own_names(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(save_gpt2(tmp_path / "whole"))
    model.transformer.save_pretrained(tmp_path / "bare")
    layers, _ = find_targets(model, Checkpoint.open(tmp_path / "bare"))
    assert layers[0].name.startswith("h.0.")


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        (
            lambda: OPTForCausalLM(
                OPTConfig(vocab_size=48, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2)
            ),
            12,
        ),
        (
            lambda: GPTNeoXForCausalLM(
                GPTNeoXConfig(
                    vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
                )
            ),
            8,
        ),
    ],
    ids=["opt", "neox"],
)
def test_architectures_with_other_names_are_found_by_position(tmp_path, model, targets):
    torch.manual_seed(0)
    model().save_pretrained(tmp_path / "m")
    assert len(targets_in(tmp_path / "m")[0]) == targets


def test_experts_are_targets_and_routers_are_not(tmp_path):
    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
    )
    Qwen2MoeForCausalLM(config).save_pretrained(tmp_path / "m")
    layers, left_out = targets_in(tmp_path / "m")
    assert len(layers) == 2 * (4 + 3 + 4 * 3)  # attention, the shared expert, and four experts
    assert {layer.name for layer in layers if ".experts." in layer.name} == {
        f"model.layers.{block}.mlp.experts.{expert}.{kind}_proj.weight"
        for block in range(2)
        for expert in range(4)
        for kind in ("gate", "up", "down")
    }
    assert "a router" in left_out["model.layers.0.mlp.gate.weight"]
    assert "too few outputs, 1" in left_out["model.layers.0.mlp.shared_expert_gate.weight"]


class Shared(nn.Module):
    """Two blocks around one weight."""

    base_model_prefix = "model"

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8))])
        self.blocks[1][0].weight = self.blocks[0][0].weight


def header(shapes):
    """Return a checkpoint that holds float32 tensors of these shapes, without values."""
    infos = {name: TensorInfo(Path("x"), "F32", shape, 0, 4 * prod(shape)) for name, shape in shapes.items()}
    return Checkpoint(Path("x"), (), infos)


def test_layers_that_share_a_weight_are_one_target_of_all_their_uses():
    model = Shared()
    (layer,), _ = find_targets(model, header({"blocks.1.0.weight": (8, 8)}))
    assert layer.name == "blocks.1.0.weight"
    assert layer.modules == (model.blocks[0][0], model.blocks[1][0])


def test_a_shared_weight_that_the_checkpoint_holds_twice_is_refused():
    with pytest.raises(CheckpointError, match=r"one weight for 'blocks.0.0.weight' and 'blocks.1.0.weight'"):
        find_targets(Shared(), header({"blocks.0.0.weight": (8, 8), "blocks.1.0.weight": (8, 8)}))


def test_a_layer_the_checkpoint_does_not_hold_is_refused(tmp_path):
    folder = save_llama(tmp_path / "m")
    checkpoint = Checkpoint.open(folder)
    del checkpoint.tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"no tensor for layer 'model.layers.1.mlp.up_proj.weight'"):
        find_targets(AutoModelForCausalLM.from_pretrained(folder), checkpoint)


def test_a_model_without_repeated_blocks_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(CheckpointError, match="no list of repeated blocks"):
        find_targets(model, Checkpoint.open(save_llama(tmp_path / "m")))


class Routed(nn.Module):
    """A block whose router is an MLP in a module of its own, beside its experts and attention."""

    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({"qkv": nn.Linear(16, 48), "out": nn.Linear(16, 16)})
        self.router = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))
        self.experts = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)])


def test_all_of_a_router_stays_dense_and_nothing_beside_it():
    model = nn.Module()
    model.base_model_prefix, model.layers = "model", nn.ModuleList([Routed(), Routed()])
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    layers, left_out = find_targets(model, header(shapes))
    assert {part.name for part in left_out} == {f"layers.{n}.router.{m}.weight" for n in (0, 1) for m in (0, 2)}
    assert len(layers) == 2 * (2 + 4)


def test_a_head_that_is_called_the_decoder_does_not_hide_the_blocks():
    model = nn.Module()
    model.base_model_prefix, model.decoder = "model", nn.Linear(8, 8)
    model.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    model.get_decoder = lambda: model.decoder
    layers, _ = find_targets(model, header({f"layers.{n}.weight": (8, 8) for n in (0, 1)}))
    assert len(layers) == 2
