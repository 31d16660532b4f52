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
from unipruning_kernels.triton_arrival import last_to_arrive
from unipruning_kernels.triton_histogram import count_digits, digit_of, programs_for
from unipruning_kernels.triton_launch import Launcher

NARROW_DIGITS = (8, 8, 8, 7)  # where wide histograms are slow
# layout of ``state``, int64: how many values lie below the bracket, how many inside, the digits found so far, the rank
# among the values that share them, how many do, for each level how many programs have counted, and then its counts
BELOW, INSIDE, PREFIX, RANK, EQUAL, ARRIVED, COUNTS = 0, 1, 2, 3, 4, 5, 16


@triton.jit
def caught(state, rank, capacity):
    """Return whether the answer is among the candidates and all of them were kept."""
    below, inside = tl.load(state), tl.load(state + 1)
    return (below < rank) & (rank <= below + inside) & (inside <= capacity)


@triton.jit(do_not_specialize=["rank"])
def kth_digit(
    values,  # (numel,), float32
    candidates,  # (capacity,), float32
    state,  # int64; updated
    threshold,  # 0-D, float32; written at the last level
    numel,
    capacity,
    rank,  # counted from 1, the smallest magnitude first
    level: tl.constexpr,
    counts_at: tl.constexpr,
    below: tl.constexpr,
    bits: tl.constexpr,
    wide: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    """Count a digit of the candidates if they hold the answer, else of all values; the last program chooses it."""
    prefix = tl.load(state + 2).to(tl.int32)
    counts = state + counts_at
    # not one call for either: a number of values that is not known to be even would forbid wide loads
    if caught(state, rank, capacity):
        count_digits(candidates, tl.load(state + 1), prefix, counts, below, bits, wide, tile_rows, block, False)
    else:
        count_digits(values, numel, prefix, counts, below, bits, wide, tile_rows, block, False)
    if last_to_arrive(state + 5 + level, tl.num_programs(0)):
        choose(state, counts, threshold, capacity, rank, below, bits)


@triton.jit
def choose(state, counts, threshold, capacity, rank, below: tl.constexpr, bits: tl.constexpr):
    """Choose the digit of the answer: the first whose cumulative count reaches the rank."""
    if below + bits == 31:
        wanted = rank - tl.where(caught(state, rank, capacity), tl.load(state), 0)
    else:
        wanted = tl.load(state + 3)
    digit = tl.arange(0, 1 << bits)
    own = tl.load(counts + digit)
    upto = tl.cumsum(own, axis=0)
    before = upto < wanted
    found = tl.sum(before.to(tl.int32))
    prefix = (tl.load(state + 2).to(tl.int32) << bits) | found
    tl.store(state + 2, prefix.to(tl.int64))
    tl.store(state + 3, wanted - tl.sum(tl.where(before, own, 0)))
    tl.store(state + 4, tl.sum(tl.where(digit == found, own, 0)))
    if below == 0:
        # of NaN, which were counted by their own bits, the magnitude is infinity
        tl.store(threshold, tl.minimum(prefix, 0x7F800000).to(tl.float32, bitcast=True))


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
    numel, digits = values.numel(), digits_for(launch)
    counts_at = COUNTS
    for level, bits in enumerate(digits):
        place = {"level": level, "counts_at": counts_at}
        arguments = values, candidates, state, threshold, numel, candidates.numel(), rank
        constants = place | digit_of(launch, numel, digits, level)
        launch(kth_digit, programs_for(launch, numel, digits, level), *arguments, **constants)
        counts_at += 2**bits
