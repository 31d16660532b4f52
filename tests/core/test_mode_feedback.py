"""The feedback mode against a plain transcription, and what its masks must be along the ramp."""

import math

import pytest
import torch
from test_modes import batches, keep_largest, run, start
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

RAMP = {"ramp_sparsity": 0.6, "ramp_share": 0.5, "feedback_step": 0.2}


def transcription(folder, data, exponent):
    """The formulas of the mode as a reader would write them down; wanda as the local metric."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    reader = start(folder)
    paths = {
        layer.name: next(n for n, m in reader.model.named_modules() if m is layer.module) for layer in reader.layers
    }
    turned = {layer.name: layer.target.transposed for layer in reader.layers}
    modules = {name: model.get_submodule(path) for name, path in paths.items()}
    parameters = [module.weight for module in modules.values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.999), eps=1e-10, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * len(data)), len(data))

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
    for t, ids in enumerate(data):
        sparsity = 0.6 * min(1.0, t / (0.5 * len(data)))
        full = {name: module.weight.detach().clone() for name, module in modules.items()}
        if t:
            score = torch.cat([(F[name].sqrt() * V[name] ** exponent).flatten() for name in W0])
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
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for name, module in modules.items():
            W = facing(name, module.weight.detach())
            S = W.abs() * seen[name].flatten(0, -2).square().mean(0).sqrt()
            V[name] = V[name] + 0.01 * (S / S.mean() - G[name])
            k = int(0.001 * W.numel())
            tau = V[name].flatten().sort().values[k - 1] if k else 0.0
            G[name] = (V[name] - tau).clamp_min(0)
        optimizer.step()
        schedule.step()
    return {name: F[name].sqrt() * V[name] ** exponent for name in W0}, losses


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_feedback_equals_a_plain_transcription(folder, exponent):
    expected, expected_losses = transcription(folder, batches(), exponent)
    actual, losses = run(folder, batches(), mode="feedback", metric="wanda", exponent=exponent, **RAMP)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, outcome in actual.items():
        assert float(outcome.threshold) == 0.0
        torch.testing.assert_close(outcome.dual, expected[name], rtol=1e-3, atol=1e-8)
        assert torch.equal(keep_largest(outcome.dual, 0.5), keep_largest(expected[name], 0.5))


def test_each_sample_is_seen_at_exactly_the_sparsity_of_the_ramp(folder):
    search = start(folder, mode="feedback", **RAMP)
    total = sum(layer.weight.numel() for layer in search.layers)
    zeros = []
    search.layers[0].module.register_forward_hook(
        lambda *_: zeros.append(sum(int((layer.weight == 0).sum()) for layer in search.layers))
    )
    for sample, ids in enumerate(batches()):
        search.consume(sample, ids)
    wanted = [round(search.sparsity_at(sample) * total) for sample in range(len(batches()))]
    assert wanted[0] == 0
    assert wanted[-1] == round(0.6 * total)
    already = sum(int((w == 0).sum()) for w in search.original)
    assert all(abs(zero - want) <= already for zero, want in zip(zeros, wanted, strict=True))


def test_masks_leave_no_trace_in_the_scratch_weights(folder):
    search = start(folder, mode="feedback", learning_rate=0.0, **RAMP)
    for sample, ids in enumerate(batches()):
        search.consume(sample, ids)
    for layer, original in zip(search.layers, search.original, strict=True):
        assert torch.equal(layer.weight, original)


def test_a_forward_that_fails_leaves_the_weights_unmasked(folder):
    search = start(folder, mode="feedback", **RAMP)
    for sample, ids in enumerate(batches()[:4]):
        search.consume(sample, ids)
    before = [layer.weight.clone() for layer in search.layers]
    with pytest.raises(IndexError):
        search.consume(4, torch.tensor([[10_000]]))
    for layer, weight in zip(search.layers, before, strict=True):
        assert torch.equal(layer.weight, weight)
