import math

import pytest
import torch
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from unipruning_core.search.adamw import BETAS, EPSILON, Moments, schedule
from unipruning_cpu.backend import CpuBackend

OPTIONS = {"betas": BETAS, "epsilon": EPSILON}


@pytest.mark.parametrize("shape", [(3, 5), (700, 900)], ids=["one tile", "several tiles"])
def test_steps_equal_the_optimizer_of_torch(shape):
    generator = torch.Generator().manual_seed(2)
    mine = torch.randn(shape, generator=generator)
    theirs = torch.nn.Parameter(mine.clone())
    optimizer = torch.optim.AdamW([theirs], lr=1e-3, betas=BETAS, eps=EPSILON, weight_decay=0.0)
    moments = Moments.zeros_like(mine)
    for step in range(1, 5):
        gradient = torch.randn(shape, generator=generator)
        theirs.grad = 0.5 * gradient
        optimizer.step()
        state = mine, gradient, moments.first, moments.second, torch.tensor(0.5)
        CpuBackend().adamw_step(*state, step=step, learning_rate=1e-3, **OPTIONS)
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-6, atol=1e-7)


def test_the_second_moment_of_a_half_precision_weight_does_not_stall():
    weight, backend = torch.ones(4, 4, dtype=torch.bfloat16), CpuBackend()
    moments = Moments.zeros_like(weight)
    state = weight, torch.ones_like(weight), moments.first, moments.second, torch.tensor(1.0)
    for step in range(1, 401):
        backend.adamw_step(*state, step=step, learning_rate=0.0, **OPTIONS)
    assert moments.first.dtype == torch.bfloat16
    torch.testing.assert_close(moments.second, torch.full((4, 4), 1 - BETAS[1] ** 400), rtol=1e-4, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 10, 25, 128])
@pytest.mark.parametrize("decay", [True, False])
def test_the_schedule_is_the_linear_or_the_constant_one_of_transformers(steps, decay):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warm_up = math.ceil(0.1 * steps)
    linear, constant = get_linear_schedule_with_warmup, get_constant_schedule_with_warmup
    theirs = linear(optimizer, warm_up, steps) if decay else constant(optimizer, warm_up)
    for step in range(steps):
        assert schedule(step, steps, decay=decay) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
