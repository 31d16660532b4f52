"""The search modes against plain transcriptions of the method, on tiny random models."""

import math
from itertools import pairwise

import pytest
import torch
from _checkpoints import save_llama
from _modes import SAMPLES, batches, gamma, keep_largest, run, start
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

from unipruning_core.models.targets import find_targets
from unipruning_core.storage.checkpoint import Checkpoint


def transcription(folder, data, metric, coupled=None):
    """`drift` or `coupled` as a reader would write it down, sharing nothing with the program."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    reader = start(folder)
    modules = {}
    for layer in reader.layers:
        path = next(n for n, m in reader.model.named_modules() if m is layer.module)
        modules[layer.name] = (model.get_submodule(path), layer.target.transposed)
    parameters = [module.weight for module, _ in modules.values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.999), eps=1e-10, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * len(data)), len(data))
    V = {name: 0.0 for name in modules}
    G = {name: 0.0 for name in modules}
    seen = {}
    for name, (module, _) in modules.items():
        module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].detach()))
    losses = []
    for ids in data:
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0 if coupled is None else 1e9)
        for name, (module, transposed) in modules.items():
            W = module.weight.detach().t() if transposed else module.weight.detach()
            n = seen[name].flatten(0, -2).square().mean(0).sqrt()
            if metric == "wanda":
                factor = n.expand_as(W)
            else:
                factor = n**0.5 / W.abs().sum(1, keepdim=True) + n**0.5 / W.abs().sum(0, keepdim=True)
            mean = (W.abs() * factor).mean()
            S = W.abs() * factor / mean
            if coupled is not None:
                grad = module.weight.grad.t() if transposed else module.weight.grad
                total = grad + coupled["rho"] * (S - G[name]) * W.sign() * factor / mean
            V[name] = V[name] + 0.01 * (S - G[name])
            k = int(0.001 * W.numel())
            if coupled is not None:
                tau = coupled["threshold"]
            else:
                tau = V[name].abs().flatten().sort().values[k - 1] if k else 0.0
            G[name] = V[name].sign() * (V[name].abs() - tau).clamp_min(0)
            if coupled is not None:
                new = W - coupled["rate"] * total
                module.weight.data.copy_(new.t() if transposed else new)
        if coupled is None:
            optimizer.step()
            schedule.step()
    return G, losses


@pytest.mark.parametrize("metric", ["wanda", "ria"])
def test_drift_equals_a_plain_transcription(folder, metric):
    expected, expected_losses = transcription(folder, batches(), metric)
    actual, losses = run(folder, batches(), mode="drift", metric=metric)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, outcome in actual.items():
        torch.testing.assert_close(gamma(outcome), expected[name], rtol=2e-4, atol=1e-6)
        for ratio in (0.5, 0.4):
            assert torch.equal(keep_largest(gamma(outcome).abs(), ratio), keep_largest(expected[name].abs(), ratio))


def test_coupled_equals_a_plain_transcription(folder):
    # a rate and a coupling large enough to have an effect in six steps
    coupled = {"rate": 0.05, "rho": 0.001, "threshold": 0.002}
    expected, expected_losses = transcription(folder, batches(), "ria", coupled)
    actual, losses = run(
        folder, batches(), mode="coupled", metric="ria", learning_rate=0.05, coupling=0.001, soft_threshold=0.002
    )
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, outcome in actual.items():
        assert float(outcome.threshold) == pytest.approx(0.002)
        torch.testing.assert_close(gamma(outcome), expected[name], rtol=2e-4, atol=1e-6)
        assert torch.equal(keep_largest(gamma(outcome).abs(), 0.5), keep_largest(expected[name].abs(), 0.5))


def test_drift_without_clipping_frees_gradients_during_the_backward_pass_and_gives_the_same(folder, monkeypatch):
    clipped, _ = run(folder, batches(), mode="drift", max_grad_norm=1e9)
    search = start(folder, mode="drift", max_grad_norm=0.0)
    held = []
    step = search._step
    monkeypatch.setattr(
        search,
        "_step",
        lambda position, *rest: (
            held.append(sum(layer.parameter.grad is not None for layer in search.layers)),
            step(position, *rest),
        ),
    )
    for sample, ids in enumerate(batches()):
        search.step(sample, ids)
    assert set(held) == {1}
    for outcome in search.outcomes():
        assert torch.equal(outcome.dual, clipped[outcome.target.name].dual)


@pytest.mark.parametrize("metric", ["magnitude", "wanda", "ria"])
def test_frozen_ranks_as_the_metric_on_norms_pooled_over_all_samples(folder, metric):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    layers, _ = find_targets(model, Checkpoint.open(folder))
    inputs = {layer.name: [] for layer in layers}
    for layer in layers:
        layer.module.register_forward_pre_hook(
            lambda _, args, seen=inputs[layer.name]: seen.append(args[0].flatten(0, -2))
        )
    with torch.no_grad():
        for ids in batches():
            model(ids)
    actual, losses = run(folder, batches(), mode="frozen", metric=metric)
    assert losses == [None] * SAMPLES
    for layer in layers:
        W = layer.weight.abs()
        n = torch.cat(inputs[layer.name]).square().mean(0).sqrt()
        ria = (W / W.sum(0) + W / W.sum(1, keepdim=True)) * n**0.5
        score = {"magnitude": W, "wanda": W * n, "ria": ria}[metric]
        assert torch.equal(keep_largest(actual[layer.name].dual.abs(), 0.5), keep_largest(score, 0.5))


def test_frozen_averages_the_random_subsets_of_stochria_over_the_samples(folder):
    actual, _ = run(folder, batches(), mode="frozen", metric="stochria")
    assert {outcome.steps for outcome in actual.values()} == {SAMPLES}
    again, _ = run(folder, batches(), mode="frozen", metric="stochria")
    other, _ = run(folder, batches(), mode="frozen", metric="stochria", seed=1)
    for name, outcome in actual.items():
        assert torch.equal(outcome.dual, again[name].dual)
        assert not torch.equal(outcome.dual, other[name].dual)


@pytest.mark.parametrize("mode", ["drift", "frozen", "coupled", "feedback"])
def test_one_sample_gives_a_gamma_that_is_not_zero(folder, mode):
    outcomes, _ = run(folder, batches(1), mode=mode)
    # coupled has a true threshold, below which some weights stay after one step
    assert all(gamma(outcome).count_nonzero() > 0.7 * outcome.dual.numel() for outcome in outcomes.values())


@pytest.mark.parametrize("mode", ["drift", "frozen", "coupled", "feedback"])
def test_each_sample_costs_one_forward(folder, mode):
    search = start(folder, mode=mode)
    calls = []
    search.layers[0].module.register_forward_hook(lambda *_: calls.append(1))
    for sample, ids in enumerate(batches()):
        search.step(sample, ids)
    list(search.outcomes())
    assert len(calls) == SAMPLES


@pytest.mark.parametrize("mode", ["drift", "frozen", "coupled", "feedback"])
def test_a_search_resumed_from_its_tensors_ends_the_same(folder, mode):
    whole, _ = run(folder, batches(), mode=mode, metric="stochria")
    first = start(folder, mode=mode, metric="stochria")
    for sample in range(3):
        first.step(sample, batches()[sample])
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = start(folder, mode=mode, metric="stochria")
    for name, tensor in second.tensors().items():
        tensor.copy_(saved[name])
    for sample in range(3, SAMPLES):
        second.step(sample, batches()[sample])
    for outcome in second.outcomes():
        assert torch.equal(outcome.dual, whole[outcome.target.name].dual)
        assert torch.equal(outcome.threshold, whole[outcome.target.name].threshold)


@pytest.mark.parametrize("settings", [{"mode": "drift", "quantile": 0.1}, {"mode": "coupled"}])
def test_a_search_keeps_the_median_threshold_of_each_step(folder, settings):
    search = start(folder, **settings)
    medians = []
    for sample, ids in enumerate(batches()):
        search.step(sample, ids)
        medians.append(float(torch.stack(search.thresholds).median()))
    assert search.thresholds_of(SAMPLES) == medians
    assert max(medians) > 0


def test_the_state_is_float32_for_weights_in_half_precision(tmp_path):
    folder = save_llama(tmp_path / "half", dtype=torch.bfloat16)
    search = start(folder, mode="drift")
    search.step(0, batches()[0])
    assert search.model.dtype == torch.bfloat16
    assert all(outcome.dual.dtype == torch.float32 for outcome in search.outcomes())


def test_drift_holds_what_it_states_and_no_gradient_between_samples(tmp_path):
    search = start(save_llama(tmp_path / "half", dtype=torch.bfloat16), mode="drift")
    search.step(0, batches()[0])
    weights = sum(layer.weight.numel() for layer in search.layers)
    held = sum(tensor.nbytes for tensor in search.tensors().values())
    assert all(parameter.grad is None for parameter in search.model.parameters())
    assert held == pytest.approx(12 * weights, rel=0.01)  # W 2, V 4, first moment 2, second moment 4


def test_the_regulariser_makes_the_scratch_weights_two_of_four(tmp_path):
    search = start(save_llama(tmp_path / "m", dtype=torch.float32), mode="drift", prox_strength=1e4)
    search.step(0, batches()[0])
    groups = search.layers[0].weight.unflatten(1, (-1, 4))
    assert (groups.count_nonzero(dim=-1) <= 2).all()


def test_a_regulariser_that_acts_falls_sample_by_sample_and_makes_groups_two_of_four(tmp_path):
    search = start(save_llama(tmp_path / "m", dtype=torch.float32), mode="drift", prox_strength=30.0)

    def state():
        groups = [layer.weight.double().abs().unflatten(1, (-1, 4)) for layer in search.layers]
        # each triple is all but one of the four
        triples = sum(
            float(g[..., [i for i in range(4) if i != out]].prod(-1).sum()) for g in groups for out in range(4)
        )
        done = sum(int((g.count_nonzero(dim=-1) <= 2).sum()) for g in groups)
        return triples, done / sum(g.numel() // 4 for g in groups)

    states = [state()]
    for sample, ids in enumerate(batches()):
        search.step(sample, ids)
        states.append(state())
    falling, rising = zip(*states, strict=True)
    assert all(after < before for before, after in pairwise(falling))
    assert falling[-1] < 0.05 * falling[0]
    assert rising[0] == 0
    assert rising[-1] > 0.9
