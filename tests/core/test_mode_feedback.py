"""The feedback mode against a plain transcription, and what its masks must be along the ramp."""

import math
import weakref

import pytest
import torch
from _modes import batches, keep_largest, run, start
from transformers import AutoModelForCausalLM, get_constant_schedule_with_warmup

from unipruning_core.models.substituted_weights import substituted_weights

DRIFT_WEIGHT = 0.3
RAMP = {"ramp_sparsity": 0.6, "ramp_fraction": 0.5, "second_moment_rate": 0.2, "drift_weight": DRIFT_WEIGHT}


def keep_in_groups(score, n, m):
    groups = score.reshape(-1, m)
    order = groups.sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :n], True).view_as(score)


def transcription(folder, data, exponent, learning_rate=1e-4, pattern=None):
    """The formulas of the mode as a reader would write them down; wanda as the local metric."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    reader = start(folder)
    paths = {
        layer.name: next(n for n, m in reader.model.named_modules() if m is layer.module) for layer in reader.layers
    }
    turned = {layer.name: layer.target.transposed for layer in reader.layers}
    modules = {name: model.get_submodule(path) for name, path in paths.items()}
    parameters = [module.weight for module in modules.values()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.8), eps=1e-10, weight_decay=0.0)
    schedule = get_constant_schedule_with_warmup(optimizer, math.ceil(0.1 * len(data)))

    def facing(name, x):
        return x.t() if turned[name] else x

    W0 = {name: facing(name, module.weight.detach().clone()) for name, module in modules.items()}
    V = {name: torch.zeros_like(w) for name, w in W0.items()}
    G = {name: torch.zeros_like(w) for name, w in W0.items()}
    F = {name: torch.zeros_like(w) for name, w in W0.items()}
    seen, losses = {}, []
    for name, module in modules.items():
        module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].detach()))
    sizes = [w.numel() for w in W0.values()]

    def score_of(name):
        score = F[name].sqrt() * V[name] ** exponent
        drift = facing(name, modules[name].weight.detach()) - W0[name]
        return score * torch.exp(DRIFT_WEIGHT * W0[name].sign() * drift / learning_rate) if learning_rate else score

    for t, ids in enumerate(data):
        most = min(0.6, 1 - pattern[0] / pattern[1]) if pattern else 0.6
        sparsity = most * min(1.0, t / (0.5 * len(data)))
        full = {name: module.weight.detach().clone() for name, module in modules.items()}
        if t:
            scores = [score_of(name) for name in W0]
            if pattern:
                scores = [s.masked_fill(keep_in_groups(s, *pattern), torch.inf) for s in scores]
            score = torch.cat([s.flatten() for s in scores])
            keep = sum(sizes) - round(sparsity * sum(sizes))
            mask = keep_largest(score, keep / sum(sizes)).split(sizes)
            for (name, module), part in zip(modules.items(), mask, strict=True):
                module.weight.data.mul_(facing(name, part.view_as(W0[name])))
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        for name, module in modules.items():
            module.weight.data.copy_(full[name])
            g = facing(name, module.weight.grad)
            F[name] = F[name] + 0.2 * ((W0[name] * g) ** 2 - F[name])
        for name, module in modules.items():
            W = facing(name, module.weight.detach())
            S = W.abs() * seen[name].flatten(0, -2).square().mean(0).sqrt()
            V[name] = V[name] + 0.01 * (S / S.mean() - G[name])
            k = int(0.001 * W.numel())
            tau = V[name].flatten().sort().values[k - 1] if k else 0.0
            G[name] = (V[name] - tau).clamp_min(0)
        optimizer.step()
        schedule.step()
    return {name: score_of(name) for name in W0}, losses


@pytest.mark.parametrize("learning_rate", [1e-4, 0.0])
@pytest.mark.parametrize(("exponent", "pattern"), [(0.5, None), (1.0, None), (1.0, (2, 4)), (1.0, (1, 8))])
def test_feedback_equals_a_plain_transcription(folder, exponent, learning_rate, pattern):
    expected, expected_losses = transcription(folder, batches(), exponent, learning_rate, pattern)
    options = {
        "local_exponent": exponent,
        "learning_rate": learning_rate,
        "pattern": "{}:{}".format(*pattern) if pattern else "",
    }
    actual, losses = run(folder, batches(), mode="feedback", metric="wanda", **options, **RAMP)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, outcome in actual.items():
        assert float(outcome.threshold) == 0.0
        torch.testing.assert_close(outcome.dual, expected[name], rtol=1e-3, atol=1e-8)
        assert torch.equal(keep_largest(outcome.dual, 0.5), keep_largest(expected[name], 0.5))


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


def test_each_sample_is_seen_at_exactly_the_sparsity_of_the_ramp(folder):
    search = start(folder, mode="feedback", **RAMP)
    zeros = zeros_seen(search)
    wanted = [round(search.sparsity_at(sample) * search.total) for sample in range(len(batches()))]
    assert wanted[0] == 0
    assert wanted[-1] == round(0.6 * search.total)
    already = sum(int((layer.weight == 0).sum()) for layer in search.layers)
    assert all(abs(zero - want) <= already for zero, want in zip(zeros, wanted, strict=True))


@pytest.mark.parametrize("pattern", ["", "2:4"])
def test_the_threshold_of_a_large_model_is_that_of_some_rows_drawn_anew_for_each_sample(folder, monkeypatch, pattern):
    monkeypatch.setattr("unipruning_core.search.modes.feedback.LEAST_WEIGHTS", 1)
    monkeypatch.setattr("unipruning_core.search.modes.feedback.ROWS_FRACTION", 0.5)
    search = start(folder, mode="feedback", pattern=pattern, **RAMP)
    drawn = [search._drawn_rows(0, sample).tolist() for sample in range(3)]
    assert all(len(set(rows)) == len(search.duals[0]) / 2 for rows in drawn)
    assert drawn[0] != drawn[1] != drawn[2]
    zeros = zeros_seen(search)
    wanted = [search.sparsity_at(sample) * search.total for sample in range(len(batches()))]
    assert zeros != [round(want) for want in wanted]
    assert all(abs(zero - want) <= 0.05 * search.total for zero, want in zip(zeros, wanted, strict=True))
    assert zeros == zeros_seen(start(folder, mode="feedback", pattern=pattern, **RAMP))


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
    with substituted_weights(search.layers, make):
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
