"""Masks held in a model while it is trained, by any optimizer and within any wrapper."""

from __future__ import annotations

import gc

import bitsandbytes
import pytest
import torch
from _launched import launch
from _tuning import SAVED, TOKENS, left_of, loaded, prune, train
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import clip_grad_norm_

import unipruning

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "8 bits": lambda p: bitsandbytes.optim.AdamW8bit(p, lr=1e-2, weight_decay=0.1, min_8bit_size=16),
}
# trains a divided model, and saves it whole
DIVIDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
import unipruning

pruned, out = sys.argv[1:]
dist.init_process_group("gloo")
model = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32)
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
unipruning.hold_masks(model, pruned, False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
tokens = torch.arange(32).view(2, 16) + dist.get_rank()
for _ in range(3):
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if dist.get_rank() == 0:
    AutoModelForCausalLM.from_pretrained(pruned).save_pretrained(out, state_dict=state)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned Llama, never changed."""
    return prune(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("kind", [kind for kind in SAVED if kind != "llama"])
def test_zeros_are_held_wherever_a_model_keeps_its_matrices(tmp_path, kind):
    folder = prune(tmp_path, kind)
    model = loaded(folder)
    with unipruning.hold_masks(model, folder, False):
        train(model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1), accumulated=2)
    model.save_pretrained(tmp_path / "tuned")
    lost, still = left_of(tmp_path / "tuned", folder)
    assert lost == 0
    # what no token was routed to only decays
    assert still < 0.01 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zeros_are_held_under_every_optimizer(pruned, tmp_path, optimizer):
    model = loaded(pruned)
    held = unipruning.hold_masks(model, pruned, False)
    train(model, OPTIMIZERS[optimizer](model.parameters()), accumulated=2)
    model.save_pretrained(tmp_path / "tuned")
    lost, still = left_of(tmp_path / "tuned", pruned)
    assert lost == 0
    assert still < 20
    held.remove()


def test_masks_that_are_removed_are_held_no_longer(pruned, tmp_path):
    model = loaded(pruned)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with unipruning.hold_masks(model, pruned, False) as held:
        train(model, optimizer, 1)
    train(model, optimizer, 1)
    model.save_pretrained(tmp_path / "tuned")
    assert left_of(tmp_path / "tuned", pruned)[0] > 1000
    assert held.masks == ()


def test_a_model_that_is_gone_has_no_masks_in_memory(pruned):
    model = loaded(pruned)
    held = unipruning.hold_masks(model, pruned, False)
    assert len(held.masks) == 14
    del model
    gc.collect()
    assert held.masks == ()


def test_clipping_sees_the_gradients_of_kept_weights_alone(pruned):
    model = loaded(pruned)
    with unipruning.hold_masks(model, pruned, False):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    squares = 0.0
    for name, parameter in model.named_parameters():
        kept = parameter != 0 if "_proj" in name else torch.ones_like(parameter, dtype=torch.bool)
        assert not parameter.grad[~kept].any()
        squares += float(parameter.grad[kept].square().sum())
    assert float(clip_grad_norm_(model.parameters(), 1.0)) == pytest.approx(squares**0.5)


def test_weights_that_are_loaded_later_are_masked_on_demand(pruned, tmp_path):
    model, dense = loaded(pruned), loaded(pruned.parent / "model")
    with unipruning.hold_masks(model, pruned, False) as held:
        model.load_state_dict(dense.state_dict())
        held.apply()
    model.save_pretrained(tmp_path / "tuned")
    lost, still = left_of(tmp_path / "tuned", pruned)
    assert lost == 0
    assert still > 1000


def compiled_block(model):
    model.model.layers[0] = torch.compile(model.model.layers[0], backend="eager")
    return model


def recomputed_block(model):
    model.model.layers[0] = checkpoint_wrapper(model.model.layers[0])
    return model


WRAPPED = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "a compiled block": compiled_block,
    "a recomputed block": recomputed_block,
    "data parallel": torch.nn.DataParallel,
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_masks_find_their_matrices_in_wrapped_models(pruned, wrapper):
    model = loaded(pruned)
    before = {name: parameter.detach() == 0 for name, parameter in model.named_parameters() if "_proj" in name}
    parameters = dict(model.named_parameters())
    with unipruning.hold_masks(WRAPPED[wrapper](model), pruned, False) as held:
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD(parameters.values(), lr=0.1).step()
    assert len(before) == 14
    assert held.masks == ()
    for name, pruned_before in before.items():
        assert not parameters[name][pruned_before].any()
        assert parameters[name].count_nonzero() > 0


def test_zeros_are_held_in_a_model_that_is_divided_over_ranks(pruned, tmp_path):
    ranks = launch([pruned, tmp_path / "tuned"], 2, program=["-c", DIVIDED])
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].err
    lost, still = left_of(tmp_path / "tuned", pruned)
    assert lost == 0
    assert still < 20


def other_kind(model, pruned, tmp_path):
    return prune(tmp_path, "gpt2")


def other_shape(model, pruned, tmp_path):
    wide = torch.nn.Linear(48, 24, bias=False)
    model.model.layers[1].self_attn.o_proj = wide
    return pruned


def dense(model, pruned, tmp_path):
    model.load_state_dict(loaded(pruned.parent / "model").state_dict())
    return pruned


def quantised(model, pruned, tmp_path):
    projection = model.model.layers[0].mlp.up_proj
    projection.weight = torch.nn.Parameter(projection.weight.to(torch.int8), requires_grad=False)
    return pruned


REFUSED = {
    other_kind: "LlamaForCausalLM has no parameter for the mask of 'transformer.h.0.attn.c_attn.weight' and 7 more",
    other_shape: "the mask of 'model.layers.1.self_attn.o_proj.weight' has the shape (24, 16), but the model's",
    dense: "576 of 576 weights that '.*pruned' prunes are not zero in 'model.layers.0.mlp.down_proj.weight'; load the",
    quantised: "the weights of 'model.layers.0.mlp.up_proj.weight' are stored as torch.int8, whose zeros",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_a_model_that_the_masks_do_not_fit_is_refused(pruned, tmp_path, change):
    model = loaded(pruned)
    folder = change(model, pruned, tmp_path)
    with pytest.raises(unipruning.UnipruningError, match=REFUSED[change].replace("(24, 16)", r"\(24, 16\)")):
        unipruning.hold_masks(model, folder, False)


def test_a_module_that_holds_no_model_of_transformers_is_refused(pruned):
    with pytest.raises(unipruning.UnipruningError, match=r"not in a Linear; pass such a model"):
        unipruning.hold_masks(torch.nn.Linear(2, 2), pruned, False)


def test_a_parameter_that_is_replaced_afterwards_is_told_at_the_first_step(pruned):
    model = loaded(pruned)
    with unipruning.hold_masks(model, pruned, False):
        projection = model.model.layers[0].mlp.up_proj
        projection.weight = torch.nn.Parameter(projection.weight.detach().clone())
        with pytest.raises(unipruning.UnipruningError, match=r"up_proj.weight' was replaced after its mask was held"):
            train(model, torch.optim.SGD(model.parameters(), lr=0.1))
