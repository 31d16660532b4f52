"""Triton kernel for the histogram of one radix digit of abs(score): the building block of every exact selection."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.reference import DIGIT_BITS
from unipruning_kernels.triton_launch import Launcher

PROGRAMS = 1024  # at most, so that few programs add their counts to the same memory
SHARE = 2**17  # elements a program counts at least: its adds to memory are then under one in a hundred elements


@triton.jit
def count_digits(
    values,  # (numel,), float32
    numel,  # int64
    prefix,  # int32 scalar
    counts,  # (2**bits,), int64; added to
    below: tl.constexpr,  # how many bits lie below the digit
    bits: tl.constexpr,
    block: tl.constexpr,
):
    """Count the digit among this program's part of the values, of those whose bits above it equal ``prefix``."""
    bins: tl.constexpr = 1 << bits
    total = tl.zeros([bins], tl.int32)
    stride = tl.num_programs(0).to(tl.int64) * block
    for start in range(tl.program_id(0).to(tl.int64) * block, numel, stride):
        index = start + tl.arange(0, block)
        inside = index < numel
        key = tl.load(values + index, mask=inside, other=0.0).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        if below + bits < 31:
            inside &= (key >> (below + bits)) == prefix
        total += tl.histogram((key >> below) & (bins - 1), bins, mask=inside)
    digit = tl.arange(0, bins)
    # relaxed: only the sums matter, and integer sums are the same in every order
    tl.atomic_add(counts + digit, total.to(tl.int64), mask=total > 0, sem="relaxed")


@triton.jit
def histogram(
    score,  # (numel,), float32
    prefix,  # 0-D, int32
    counts,  # (2**bits,), int64; added to
    numel,
    below: tl.constexpr,
    bits: tl.constexpr,
    block: tl.constexpr,
):
    """One digit's counts of a whole matrix."""
    count_digits(score, numel.to(tl.int64), tl.load(prefix), counts, below, bits, block)


def programs_for(launch: Launcher, numel: int) -> int:
    return 1 if launch.interpreted else min(PROGRAMS, triton.cdiv(numel, SHARE))


def magnitude_histogram(launch: Launcher, score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
    score, total = score.contiguous(), counts.contiguous()
    numel = score.numel()
    constants = {"below": sum(DIGIT_BITS[level + 1 :]), "bits": DIGIT_BITS[level], "block": launch.flat(2048, numel)}
    launch(histogram, programs_for(launch, numel), score, prefix, total, numel, **constants)
    if total is not counts:
        counts.copy_(total)
