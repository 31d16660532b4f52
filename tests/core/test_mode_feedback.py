"""The feedback mode against a plain transcription, and what its masks must be along the ramp."""

import math
import weakref

import pytest
import torch
from _modes import batches, start
from transformers import AutoModelForCausalLM

from unipruning_core.models.substituted_weights import substituted_weights
from unipruning_core.search.drawn import DRAWN, stride_for

DRIFT_WEIGHT = 0.3
RAMP = {"ramp_sparsity": 0.6, "ramp_fraction": 0.5, "second_moment_rate": 0.2, "drift_weight": DRIFT_WEIGHT}


def keep_in_groups(score, n, m):
    groups = score.reshape(-1, m)
    order = groups.sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :n], True).view_as(score)


def weights_of(search):
    return sum(layer.target.size for layer in search.layers)


def transcription(folder, data, exponent, learning_rate=1e-4, pattern=None):
    """The formulas of the mode as a reader would write them down; wanda as the local metric."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    reader = start(folder)
    paths = {
        layer.name: next(n for n, m in reader.model.named_modules() if m is layer.module) for layer in reader.layers
    }
    turned = {layer.name: layer.target.transposed for layer in reader.layers}
    modules = {name: model.get_submodule(path) for name, path in paths.items()}

    def facing(name, x):
        return x.t() if turned[name] else x

    W0 = {name: facing(name, module.weight.detach().clone()) for name, module in modules.items()}
    v, U = ({name: torch.zeros_like(w) for name, w in W0.items()} for _ in range(2))
    inputs = {name: [] for name in W0}
    for name, module in modules.items():
        module.register_forward_pre_hook(
            lambda _, args, name=name: inputs[name].append(args[0].detach().flatten(0, -2))
        )
    sizes = [w.numel() for w in W0.values()]
    drawn, losses, thresholds = None, [], []

    def moved(name):
        return W0[name] + learning_rate * U[name]

    def score_of(name):
        n = torch.cat(inputs[name]).square().mean(0).sqrt() if inputs[name] else torch.zeros(W0[name].shape[1])
        S = moved(name).abs() * n / ((W0[name].abs() * n).mean() or 1.0)
        score = W0[name].abs() * v[name].sqrt() * S**exponent
        return score * torch.exp(DRIFT_WEIGHT * W0[name].sign() * U[name])

    for t, ids in enumerate(data):
        most = min(0.6, 1 - pattern[0] / pattern[1]) if pattern else 0.6
        sparsity = most * min(1.0, t / (0.5 * len(data)))
        scores = {name: score_of(name) for name in W0}
        if pattern:
            scores = {name: s.masked_fill(keep_in_groups(s, *pattern), 3e38) for name, s in scores.items()}
        flat = torch.cat([s.flatten() for s in scores.values()])
        # the threshold comes from the scores of the sample before, but for sample 1, which has none
        ranked = (flat if t <= 1 else drawn).sort().values
        growth = math.sqrt((1 - 0.8**t) / (1 - 0.8 ** max(1, t - 1)))
        threshold = min(ranked[round(sparsity * sum(sizes))] * growth, 3e38) if t else 0.0
        drawn = flat
        thresholds.append(float(threshold))
        for name, module in modules.items():
            module.weight.data.copy_(facing(name, moved(name) * (scores[name] >= threshold)))
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        rate = min(1.0, t / math.ceil(0.1 * len(data)))
        for name, module in modules.items():
            g = facing(name, module.weight.grad)
            v[name] = v[name] + 0.2 * (g**2 - v[name])
            if learning_rate:
                U[name] = (U[name] - rate * g / (v[name] / (1 - 0.8 ** (t + 1))).sqrt()).half().float()
            v[name] = v[name].bfloat16().float()
    return {name: score_of(name) for name in W0}, losses, thresholds


@pytest.mark.parametrize("learning_rate", [1e-4, 0.0])
@pytest.mark.parametrize(("exponent", "pattern"), [(0.5, None), (1.0, None), (1.0, (2, 4)), (1.0, (1, 8))])
def test_feedback_equals_a_plain_transcription(folder, exponent, learning_rate, pattern):
    expected, expected_losses, thresholds = transcription(folder, batches(), exponent, learning_rate, pattern)
    options = {
        "local_exponent": exponent,
        "learning_rate": learning_rate,
        "pattern": "{}:{}".format(*pattern) if pattern else "",
    }
    search = start(folder, mode="feedback", metric="wanda", **options, **RAMP)
    losses = [search.step(sample, ids) for sample, ids in enumerate(batches())]
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    # where the pattern keeps all that is left, the largest float, which is 3e38 above
    assert [min(tau, 3e38) for tau in search.thresholds_of(len(losses))] == pytest.approx(thresholds, rel=2e-2)
    for outcome in search.outcomes():
        name = outcome.target.name
        assert float(outcome.threshold) == 0.0
        # a value between two of half precision may round to either
        torch.testing.assert_close(outcome.dual, expected[name], rtol=2e-2, atol=1e-8)
        close = (outcome.dual - expected[name]).abs() <= 1e-3 * expected[name]
        assert close.float().mean() > 0.98


def zeros_seen(search):
    """Count the zero weights of all targets in each sample's forward pass."""
    zeros = [0] * len(batches())
    for sample, ids in enumerate(batches()):

        def count(module, *_, sample=sample):
            zeros[sample] += int((module.weight == 0).sum())

        handles = [layer.module.register_forward_hook(count) for layer in search.layers]
        search.step(sample, ids)
        for handle in handles:
            handle.remove()
    return zeros


@pytest.mark.parametrize("pattern", ["", "2:4"])
def test_each_sample_is_seen_near_the_sparsity_of_the_ramp(folder, pattern):
    search = start(folder, mode="feedback", pattern=pattern, **RAMP)
    zeros = zeros_seen(search)
    wanted = [search.sparsity_at(sample) * weights_of(search) for sample in range(len(batches()))]
    assert wanted[0] == 0
    assert wanted[-1] == pytest.approx((0.5 if pattern else 0.6) * weights_of(search))
    already = sum(int((layer.weight == 0).sum()) for layer in search.layers)
    assert zeros[0] == already
    # few samples with large steps: a real search comes closer
    assert all(
        abs(zero - want) <= already + 0.07 * weights_of(search) for zero, want in zip(zeros, wanted, strict=True)
    )


def test_a_ramp_to_nearly_everything_stays_within_the_drawn_scores(folder):
    search = start(folder, mode="feedback", ramp_sparsity=0.9999999, ramp_fraction=0.5)
    zeros = zeros_seen(search)
    assert zeros[-1] == pytest.approx(weights_of(search), abs=2)


def test_the_first_threshold_comes_from_scores_drawn_for_it(folder):
    search = start(folder, mode="feedback", **RAMP)
    zeros = zeros_seen(search)
    assert zeros[1] == pytest.approx(search.sparsity_at(1) * weights_of(search), abs=2)


@pytest.mark.parametrize("shapes", [[(576, 576), (1536, 576), (576, 1536)], [(4096, 4096), (11008, 4096)]], ids=str)
def test_drawn_scores_are_enough_and_lie_in_every_column(shapes):
    shapes = shapes * 30
    stride = stride_for(shapes)
    total = sum(rows * columns for rows, columns in shapes)
    assert DRAWN <= total // stride <= 1.3 * DRAWN
    for rows, columns in shapes[:3]:
        assert len({index % columns for index in range(0, rows * columns, stride)}) == min(
            columns, -(-rows * columns // stride)
        )


def test_a_small_model_draws_every_score(folder):
    search = start(folder, mode="feedback")
    assert search.drawn.stride == 1
    assert sum(map(len, search.drawn.scores)) == weights_of(search)


def test_the_state_is_four_bytes_a_weight(folder):
    search = start(folder, mode="feedback")
    held = sum(tensor.nbytes for name, tensor in search.tensors().items() if "second" in name or "drift" in name)
    assert held == 4 * weights_of(search)
    held = start(folder, mode="feedback", learning_rate=0.0).tensors()
    assert sum(tensor.nbytes for name, tensor in held.items() if "second" in name) == 2 * weights_of(search)
    assert not any("drift" in name for name in held)


@pytest.mark.parametrize("learning_rate", [1e-4, 0.0])
def test_the_weights_of_the_model_stay(folder, learning_rate):
    search = start(folder, mode="feedback", learning_rate=learning_rate, **RAMP)
    before = [layer.weight.clone() for layer in search.layers]
    for sample, ids in enumerate(batches()):
        search.step(sample, ids)
    for layer, weight in zip(search.layers, before, strict=True):
        assert torch.equal(layer.weight, weight)


def test_a_forward_that_fails_leaves_the_weights_unmasked(folder):
    search = start(folder, mode="feedback", **RAMP)
    before = [layer.weight.clone() for layer in search.layers]
    for sample, ids in enumerate(batches()[:4]):
        search.step(sample, ids)
    with pytest.raises(IndexError):
        search.step(4, torch.tensor([[10_000]]))
    for layer, weight in zip(search.layers, before, strict=True):
        assert torch.equal(layer.weight, weight)


def test_one_substitute_is_held_at_a_time_and_the_backward_pass_sees_it_too(folder):
    search = start(folder, mode="feedback", **RAMP)
    originals, made = [layer.parameter.data for layer in search.layers], []

    def make(position):
        kept = torch.arange(originals[position].numel()).view(originals[position].shape) % 3 > 0
        weight = originals[position] * kept
        made.append(weakref.ref(weight.untyped_storage()))
        assert sum(reference() is not None for reference in made) <= 2, (
            "the previous one is freed when the next is made"
        )
        return weight

    ids = batches()[0]
    with substituted_weights(search.layers, make, make):
        loss = search.model(input_ids=ids, labels=ids).loss
        assert all(
            layer.parameter.data_ptr() == data.data_ptr() for layer, data in zip(search.layers, originals, strict=True)
        )
        loss.backward()
    gradients = [layer.parameter.grad.clone() for layer in search.layers]
    assert len(made) > len(search.layers), "the backward pass makes them again, except for inputs that need no gradient"

    search.model.zero_grad()
    made.clear()
    for position, layer in enumerate(search.layers):
        layer.parameter.data.copy_(make(position))
    search.model(input_ids=ids, labels=ids).loss.backward()
    for gradient, layer in zip(gradients, search.layers, strict=True):
        assert torch.equal(gradient, layer.parameter.grad)
