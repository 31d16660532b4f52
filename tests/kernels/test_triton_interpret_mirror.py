"""The threshold of the CUDA mirror step in Triton's interpreter: with its bracket, without, and at the ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unipruning_kernels import triton_step
from unipruning_kernels.triton_launch import Launcher

pytestmark = pytest.mark.triton_interpret


class Watched(Launcher):
    """Keeps what the mirror step's bracket wrote."""

    state: Tensor
    capacity: int

    def __call__(self, kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
        super().__call__(kernel, programs, *arguments, **options)
        if kernel is triton_step.mirror:
            self.capacity, state = arguments[7].numel(), arguments[8]
            self.state = state.clone()

    def caught(self, rank: int) -> bool:
        below, inside = self.state[:2].tolist()
        return below < rank <= below + inside and inside <= self.capacity


def one_step(launch: Launcher, dual: Tensor, tau: Tensor, rank: int) -> Tensor:
    """A step that pulls V by little; the threshold of the new V, as the reference finds it."""
    ones = torch.ones(dual.shape)
    zeros = torch.zeros(dual.shape[1])
    factors = torch.ones(dual.shape[0]), zeros, zeros + 1.0
    triton_step.mirror_step(launch, dual, ones, *factors, tau, step_size=0.001, rank=rank)
    return dual.abs().flatten().kthvalue(rank).values


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.9])
def test_mirror_step_finds_the_threshold_with_and_without_its_bracket(
    share: float, wide: bool, rng: torch.Generator
) -> None:
    launch = Watched()
    launch.wide_histogram = wide
    dual, tau = torch.randn(96, 320, generator=rng), torch.tensor(0.0)
    rank = max(1, round(share * dual.numel()))
    assert torch.equal(one_step(launch, dual, tau, rank), tau)
    assert not launch.caught(rank), "a threshold of zero brackets nothing"
    assert torch.equal(one_step(launch, dual, tau, rank), tau)
    assert launch.caught(rank)


# from nothing, a threshold doubles in the second step
@pytest.mark.parametrize(("share", "bracketed"), [(0.001, True), (0.003, True), (0.1, False), (0.5, False)])
def test_mirror_step_of_a_small_quantile_catches_a_threshold_that_doubles(
    share: float, bracketed: bool, rng: torch.Generator
) -> None:
    launch, weight = Watched(), torch.rand(96, 320, generator=rng)
    dual, tau, rank = torch.zeros(96, 320), torch.tensor(0.0), round(share * weight.numel())
    for _ in range(2):
        factors = torch.ones(96), torch.zeros(320), torch.ones(320)
        triton_step.mirror_step(launch, dual, weight, *factors, tau, step_size=0.01, rank=rank)
        assert torch.equal(tau, dual.flatten().kthvalue(rank).values)
    assert launch.caught(rank) == bracketed


@pytest.mark.parametrize("largest", [1e-45, 1e30, 3e38])
def test_mirror_step_takes_a_threshold_at_the_ends_of_the_range(largest: float, rng: torch.Generator) -> None:
    dual = torch.full((8, 64), largest)
    tau = torch.tensor(largest)
    assert torch.equal(one_step(Launcher(), dual, tau, 256), tau)


@pytest.mark.parametrize("bracketed", [1, 2000])
def test_mirror_step_gives_up_a_bracket_that_overflows(bracketed: int, rng: torch.Generator) -> None:
    launch = Watched()
    dual = torch.randn(64, 320, generator=rng)
    dual.view(-1)[:bracketed] = 0.5
    rank = int((dual.abs() < 0.5).sum()) + 1
    tau = torch.tensor(0.5)
    assert torch.equal(one_step(launch, dual, tau, rank), tau)
    assert launch.caught(rank) == (bracketed == 1)
