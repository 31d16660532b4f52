"""Experts of mixtures: targets, products, gradients, inputs, and masks in every layout."""

from contextlib import contextmanager
from math import prod

import pytest
import torch
from _mixtures import EXPERTS, LAYOUTS, save_mixture
from _modes import batches, chosen
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

from unipruning_core.errors import CheckpointError
from unipruning_core.models import experts
from unipruning_core.models.experts import apart
from unipruning_core.models.targets import check_values, find_targets
from unipruning_core.progress import Progress
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_cpu.backend import CpuBackend

IDS = batches(1, length=24)[0]


def opened(folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    layers, left_out = find_targets(model, Checkpoint.open(folder))
    return model, layers, {part.name: part.why for part in left_out}


@contextmanager
def searching(folder, samples, **settings):
    model, layers, _ = opened(folder)
    with apart(layers):
        yield chosen(**settings).start(model, layers, CpuBackend(), samples)


@pytest.fixture(params=LAYOUTS)
def folder(request, tmp_path):
    return save_mixture(tmp_path / "m", request.param)


def test_all_but_routers_norms_and_embeddings_are_targets(folder):
    _, layers, left_out = opened(folder)
    of_experts = [layer for layer in layers if layer.siblings]
    matrices = {layer.siblings for layer in of_experts}
    assert len(of_experts) == EXPERTS * len(matrices)
    assert sum(layer.target.size for layer in of_experts) == 2 * EXPERTS * 3 * 24 * 32
    assert all(
        "router" in why or "embedding" in why or "output" in why or name.endswith("bias")
        for name, why in left_out.items()
    )
    assert sum("router" in why for why in left_out.values()) == 2


def test_targets_hold_what_the_model_holds(folder):
    checkpoint = Checkpoint.open(folder)
    _, layers, _ = opened(folder)
    check_values(layers, checkpoint, Progress())
    for layer in layers:
        assert torch.equal(checkpoint.read_target(layer.target), layer.as_stored(layer.weight))
    ends = {}
    for layer in layers:  # in the order of the file, without overlap
        assert layer.target.start >= ends.get(layer.target.tensor, 0)
        ends[layer.target.tensor] = layer.target.start + layer.target.size
    assert all(end == prod(checkpoint.tensors[name].shape) for name, end in ends.items())


def test_a_model_apart_computes_the_same_and_is_put_together_again(folder):
    model, layers, _ = opened(folder)
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        whole = model(input_ids=IDS).logits
        with apart(layers):
            torch.testing.assert_close(model(input_ids=IDS).logits, whole, rtol=1e-5, atol=1e-6)
        assert torch.equal(model(input_ids=IDS).logits, whole)
    assert [name for name, _ in model.named_parameters()] == names


def test_an_expert_has_the_gradient_of_its_part_of_the_parameter(folder):
    model, layers, _ = opened(folder)
    model(input_ids=IDS, labels=IDS).loss.backward()
    whole = dict(model.named_parameters())
    expected = [
        whole[layer.name_in_model].grad.as_strided(
            layer.parameter.shape, layer.parameter.stride(), layer.parameter.storage_offset()
        )
        for layer in layers
    ]
    with apart(layers):
        for layer in layers:
            layer.parameter.grad = None
            layer.parameter.requires_grad_(True)
        model(input_ids=IDS, labels=IDS).loss.backward()
    for layer, gradient in zip(layers, expected, strict=True):
        found = torch.zeros_like(gradient) if layer.parameter.grad is None else layer.parameter.grad
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled", "frozen"])
def test_every_mode_scores_every_expert(folder, mode):
    data = batches(3, length=48)
    with searching(folder, len(data), mode=mode) as search:
        for sample, ids in enumerate(data):
            search.step(sample, ids)
        outcomes = list(search.outcomes())
    assert [outcome.target for outcome in outcomes] == [layer.target for layer in search.layers]
    for outcome in outcomes:
        assert outcome.dual.shape == outcome.target.shape
        assert bool(outcome.dual.isfinite().all())
        assert float(outcome.dual.abs().sum()) > 0


def test_inputs_of_an_expert_are_the_tokens_routed_to_it(tmp_path):
    model, layers, _ = opened(save_mixture(tmp_path / "m"))
    routed = []
    first = model.model.layers[0].mlp.experts
    first.register_forward_pre_hook(lambda _, args: routed.append((args[0].detach(), args[1])))
    with torch.no_grad():
        model(input_ids=IDS)
    (hidden, chosen_experts), *_ = routed
    with apart(layers):
        search = chosen(mode="frozen").start(model, layers, CpuBackend(), 1)
        search.step(0, IDS)
    for position, layer in enumerate(search.layers):
        if layer.name.startswith("model.layers.0.") and ".experts." in layer.name and ".w2." not in layer.name:
            expert = int(layer.name.split(".experts.")[1].split(".")[0])
            mine = hidden[(chosen_experts == expert).any(-1)]
            row = search.positions[0].index(position)
            assert int(search.tokens[position]) == len(mine)
            torch.testing.assert_close(search.sums[0][row, :32], mine.square().sum(0), rtol=1e-5, atol=1e-6)


def test_a_wrong_order_in_the_table_of_names_is_caught(tmp_path, monkeypatch):
    swapped = [
        WeightConverter(
            source_patterns=[".experts.*.w3.weight", ".experts.*.w1.weight"],
            target_patterns=".experts.gate_up_proj",
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(
            source_patterns=".experts.*.w2.weight",
            target_patterns=".experts.down_proj",
            operations=[MergeModulelist(dim=0)],
        ),
    ]
    from transformers import conversion_mapping

    folder = save_mixture(tmp_path / "m")
    real = conversion_mapping.get_model_conversion_mapping
    model = AutoModelForCausalLM.from_pretrained(folder)
    renamings = [part for part in real(model) if not isinstance(part, WeightConverter)]
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda _: [*renamings, *swapped])
    layers, _ = find_targets(model, Checkpoint.open(folder))
    with pytest.raises(CheckpointError, match=r"w[13].weight' of the checkpoint is not what the model holds"):
        check_values(layers, Checkpoint.open(folder), Progress())


def test_a_product_that_is_not_with_one_matrix_is_refused(tmp_path):
    model, layers, _ = opened(save_mixture(tmp_path / "m"))
    with apart(layers), pytest.raises(CheckpointError, match="is used by 'einsum'"):
        torch.einsum("eoi,ti->to", model.model.layers[0].mlp.experts.gate_up_proj, torch.ones(3, 32))


def test_a_product_the_other_way_round_is_refused(tmp_path):
    model, layers, _ = opened(save_mixture(tmp_path / "m"))
    with apart(layers), pytest.raises(CheckpointError, match="the other way round"):
        _ = torch.ones(3, 48) @ model.model.layers[0].mlp.experts.gate_up_proj[0]


def test_a_router_is_no_stack_of_experts():
    class Router(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.num_experts, self.num_experts_per_tok = 8, 2
            self.weight = torch.nn.Parameter(torch.zeros(8, 32))

    assert experts.stacked_in("router", Router(), 32) == []


@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled", "frozen"])
def test_an_expert_that_no_token_reaches_takes_over_from_its_siblings(tmp_path, mode):
    folder = save_mixture(tmp_path / "m")
    with searching(folder, 3, mode=mode) as search:
        for block in search.model.model.layers:
            block.mlp.gate.register_forward_hook(_never(EXPERTS - 1))
        for sample, ids in enumerate(batches(3, length=48)):
            search.step(sample, ids)
        reach = search.reach()
        outcomes = {outcome.target.name: outcome for outcome in search.outcomes()}
    unreached = {search.layers[position].name for position in reach.siblings}
    assert unreached == {layer.name for layer in search.layers if f".experts.{EXPERTS - 1}." in layer.name}
    assert len(outcomes) == len(search.layers)
    for name in unreached:
        score = outcomes[name].dual.abs()
        others = [outcomes[name.replace(f".{EXPERTS - 1}.", f".{other}.")].dual.abs() for other in range(EXPERTS - 1)]
        assert float(score.count_nonzero()) > 0.9 * score.numel()
        mean = sum(float(other.mean()) for other in others) / len(others)
        assert mean / 4 < float(score.mean()) < 4 * mean
    (note,) = reach.note()
    assert note.startswith(f"{len(unreached)} of {len(search.layers)} matrices are of experts that no token reached")


def _never(expert):
    """Return a hook on a router that sends what it would send to one expert to the first other."""

    def hook(_, __, output):
        *others, index = output
        taken = [[e for e in row if e != expert] for row in index.tolist()]
        rows = [row if len(row) == 2 else [*row, next(e for e in range(expert) if e not in row)] for row in taken]
        return (*others, torch.tensor(rows))

    return hook
