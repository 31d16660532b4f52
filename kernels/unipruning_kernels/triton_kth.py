"""Triton kernels for an exact order statistic of magnitudes, decided on the device from start to end.

The values searched are a matrix or, if a bracket has caught the answer, the few candidates that fell inside it.  Every
kernel reads from memory which of the two it is, so the host never waits to find out.
"""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.reference import DIGIT_BITS
from unipruning_kernels.triton_histogram import count_digits, programs_for
from unipruning_kernels.triton_launch import Launcher

NARROW_DIGITS = (8, 8, 8, 7)  # where wide histograms are slow
# layout of ``state``, int64: how many values lie below the bracket, how many inside, the digits found so far, the rank
# among the values that share them, how many do, and then the counts of each level
BELOW, INSIDE, PREFIX, RANK, EQUAL, COUNTS = 0, 1, 2, 3, 4, 8


@triton.jit
def caught(state, rank, capacity):
    """Return whether the answer is among the candidates and all of them were kept."""
    below, inside = tl.load(state), tl.load(state + 1)
    return (below < rank) & (rank <= below + inside) & (inside <= capacity)


@triton.jit(do_not_specialize=["rank"])
def kth_count(
    values,  # (numel,), float32
    candidates,  # (capacity,), float32
    state,  # int64; the counts of this level are added to
    numel,
    capacity,
    rank,  # counted from 1, the smallest magnitude first
    counts_at: tl.constexpr,
    below: tl.constexpr,
    bits: tl.constexpr,
    block: tl.constexpr,
):
    """Count one digit of the candidates if they hold the answer, else of all values."""
    prefix = tl.load(state + 2).to(tl.int32)
    if caught(state, rank, capacity):
        count_digits(candidates, tl.load(state + 1), prefix, state + counts_at, below, bits, bits, block)
    else:
        count_digits(values, numel, prefix, state + counts_at, below, bits, bits, block)


@triton.jit(do_not_specialize=["rank"])
def kth_choose(
    state,  # int64; prefix, rank and equals are updated
    threshold,  # 0-D, float32; written at the last level
    capacity,
    rank,
    counts_at: tl.constexpr,
    below: tl.constexpr,
    bits: tl.constexpr,
):
    """Choose the digit of the answer: the first whose cumulative count reaches the rank."""
    bins: tl.constexpr = 1 << bits
    if below + bits == 31:
        wanted = rank - tl.where(caught(state, rank, capacity), tl.load(state), 0)
    else:
        wanted = tl.load(state + 3)
    digit = tl.arange(0, bins)
    counts = tl.load(state + counts_at + digit)
    upto = tl.cumsum(counts, axis=0)
    before = upto < wanted
    found = tl.sum(before.to(tl.int32))
    prefix = (tl.load(state + 2).to(tl.int32) << bits) | found
    tl.store(state + 2, prefix.to(tl.int64))
    tl.store(state + 3, wanted - tl.sum(tl.where(before, counts, 0)))
    tl.store(state + 4, tl.sum(tl.where(digit == found, counts, 0)))
    if below == 0:
        tl.store(threshold, prefix.to(tl.float32, bitcast=True))


def digits_for(launch: Launcher) -> tuple[int, ...]:
    return DIGIT_BITS if launch.wide_histogram else NARROW_DIGITS


def new_state(launch: Launcher, device: torch.device) -> Tensor:
    counts = sum(2**bits for bits in digits_for(launch))
    return torch.zeros(COUNTS + counts, dtype=torch.int64, device=device)


def kth_magnitude(
    launch: Launcher,
    values: Tensor,  # (numel,), float32
    candidates: Tensor,  # (capacity,), float32; empty if there was no bracket
    state: Tensor,  # from new_state; below and inside as the bracket left them
    rank: int,  # counted from 1
    threshold: Tensor,  # 0-D, float32; written
) -> None:
    """Find the exact rank-th smallest abs(values); ``state`` ends with how many equal it and the rank among them."""
    numel, capacity = values.numel(), candidates.numel()
    below, counts_at = 31, COUNTS
    for bits in digits_for(launch):
        below -= bits
        digit = {"counts_at": counts_at, "below": below, "bits": bits}
        arguments = values, candidates, state, numel, capacity, rank
        launch(kth_count, programs_for(launch, numel), *arguments, **digit, block=launch.flat(2048, numel))
        launch(kth_choose, 1, state, threshold, capacity, rank, **digit)
        counts_at += 2**bits
