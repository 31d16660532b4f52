"""Triton kernel for the histogram of one radix digit of abs(score): the building block of every exact selection."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.reference import DIGIT_BITS
from unipruning_kernels.triton_launch import Launcher

PROGRAMS = 1024  # upper limit, so that few programs add their counts to the same memory
LEAST_ELEMENTS = 2**17  # that a program counts, so that it adds to memory less than once in a hundred elements


@triton.jit
def count_digits(
    values,  # (numel,), float32
    numel,
    prefix,  # int32 scalar
    counts,  # (2**bits,), int64; added to
    below: tl.constexpr,  # how many bits lie below the digit
    bits: tl.constexpr,
    group_bits: tl.constexpr,  # how many of the digit's bits are counted at once
    block: tl.constexpr,
):
    """Count the digit in this program's part of the values, among those whose higher bits equal ``prefix``."""
    bins: tl.constexpr = 1 << group_bits
    groups: tl.constexpr = 1 << (bits - group_bits)
    group = tl.arange(0, groups)[:, None]
    total = tl.zeros([groups, bins], tl.int32)
    stride = tl.num_programs(0).to(tl.int64) * block
    for start in range(tl.program_id(0).to(tl.int64) * block, numel, stride):
        index = start + tl.arange(0, block)
        inside = index < numel
        key = tl.load(values + index, mask=inside, other=0.0).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        if below + bits < 31:
            inside &= (key >> (below + bits)) == prefix
        digit = (key >> below) & (groups * bins - 1)
        if groups > 1:
            # neighbouring magnitudes fall into few groups
            least = tl.min(tl.where(inside, digit >> group_bits, groups))
            most = tl.max(tl.where(inside, digit >> group_bits, -1))
            for present in range(least, most + 1):
                counted = tl.histogram(digit & (bins - 1), bins, mask=inside & ((digit >> group_bits) == present))
                total += tl.where(group == present, counted[None, :], 0)
        # with a long prefix most tiles have nothing to count
        elif tl.max(inside.to(tl.int32)) > 0:
            total += tl.histogram(digit, bins, mask=inside)[None, :]
    place = counts + group * bins + tl.arange(0, bins)[None, :]
    # relaxed: only the sums matter, and integer sums are the same in every order
    tl.atomic_add(place, total.to(tl.int64), mask=total > 0, sem="relaxed")


@triton.jit
def histogram(
    score,  # (numel,), float32
    prefix,  # 0-D, int32
    counts,  # (2**bits,), int64; added to
    numel,
    below: tl.constexpr,
    bits: tl.constexpr,
    group_bits: tl.constexpr,
    block: tl.constexpr,
):
    """Count one digit of a whole matrix."""
    count_digits(score, numel, tl.load(prefix), counts, below, bits, group_bits, block)


def group_bits_for(launch: Launcher, bits: int) -> int:
    """Return how many bits to count at once: 11, 2048 bins, only where that is fast."""
    return bits if launch.wide_histogram or bits <= 10 else 8


def programs_for(launch: Launcher, numel: int) -> int:
    return 1 if launch.interpreted else min(PROGRAMS, triton.cdiv(numel, LEAST_ELEMENTS))


def magnitude_histogram(launch: Launcher, score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
    score, total = score.contiguous(), counts.contiguous()
    numel = score.numel()
    bits = DIGIT_BITS[level]
    constants = {"below": sum(DIGIT_BITS[level + 1 :]), "bits": bits, "group_bits": group_bits_for(launch, bits)}
    constants |= {"block": launch.flat(2048, numel)}
    launch(histogram, programs_for(launch, numel), score, prefix, total, numel, **constants)
    if total is not counts:
        counts.copy_(total)
