"""Triton kernel for the histogram of one radix digit of abs(score): the building block of every exact selection.

Before triton 3.8 a histogram costs as many instructions as it has bins, shared by the 32 threads of a warp.  So there
the first digit, by which magnitudes cluster, is counted in a window of few bins, and what a prefix admits to the others
is gathered before it is counted.
"""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.reference import DIGIT_BITS
from unipruning_kernels.triton_float import key_of
from unipruning_kernels.triton_launch import Launcher, power_of_two

PROGRAMS = 1024  # upper limit, so that few programs add their counts to the same memory
FEW = tl.constexpr(128)  # one element in this many is added to memory by itself
SPARSE = tl.constexpr(8)  # and up to one in this many is gathered
PART = tl.constexpr(1024)  # elements that are counted at once where that takes registers


@triton.jit
def bits_of(x, ranked: tl.constexpr):
    """Return the bits of the magnitude; ``ranked``, those of a NaN are those of infinity."""
    return key_of(x) if ranked else x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def count_digits(
    values,  # (numel,), float32
    numel,
    prefix,  # int32 scalar
    counts,  # (2**bits,), int64; added to
    below: tl.constexpr,  # how many bits lie below the digit
    bits: tl.constexpr,
    wide: tl.constexpr,  # whether a histogram of all bins is fast
    tile_rows: tl.constexpr,
    block: tl.constexpr,
    ranked: tl.constexpr,  # whether NaN counts as infinity; else its own bits do
):
    """Count the digit in this program's part of the values, among those whose higher bits equal ``prefix``."""
    if wide:
        count_at_once(values, numel, prefix, counts, below, bits, tile_rows * block, ranked)
    elif below + bits == 31:
        count_in_window(values, numel, counts, below, bits, tile_rows, block, ranked)
    else:
        count_gathered(values, numel, prefix, counts, below, bits, tile_rows, block, ranked)


@triton.jit
def count_at_once(
    values,
    numel,
    prefix,
    counts,
    below: tl.constexpr,
    bits: tl.constexpr,
    block: tl.constexpr,
    ranked: tl.constexpr,
):
    """Count all bins together."""
    bins: tl.constexpr = 1 << bits
    total = tl.zeros([bins], tl.int32)
    stride = tl.num_programs(0).to(tl.int64) * block
    for start in range(tl.program_id(0).to(tl.int64) * block, numel, stride):
        index = start + tl.arange(0, block)
        inside = index < numel
        key = bits_of(tl.load(values + index, mask=inside, other=0.0), ranked)
        if below + bits < 31:
            inside &= (key >> (below + bits)) == prefix
        # with a long prefix most tiles have nothing to count
        if tl.max(inside.to(tl.int32)) > 0:
            total += tl.histogram((key >> below) & (bins - 1), bins, mask=inside)
    # relaxed: only the sums matter, and integer sums are the same in every order
    tl.atomic_add(counts + tl.arange(0, bins), total.to(tl.int64), mask=total > 0, sem="relaxed")


@triton.jit
def count_in_window(
    values,
    numel,
    counts,
    below: tl.constexpr,
    bits: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
    ranked: tl.constexpr,
):
    """Count the bins below the largest of the first tile in registers, and the others in memory.

    Bin 0 of a window collects what lies outside, so that a tile needs neither a mask nor a second reduction.
    """
    numbers: tl.constexpr = tile_rows * block
    nothing: tl.constexpr = tile_rows << bits
    # sixteen octaves or more, of which one or more above the largest of the first tile
    window: tl.constexpr = 128 if bits > 8 else 32
    near = tl.arange(0, window)
    row = tl.arange(0, tile_rows)[:, None]
    total = tl.zeros([window], tl.int32)
    first = tl.program_id(0).to(tl.int64) * numbers
    stride = tl.num_programs(0).to(tl.int64) * numbers
    base = -1
    for start in range(first, numel, stride):
        index = start + row * block + tl.arange(0, block)[None, :]
        key = bits_of(tl.load(values + index, mask=index < numel, other=0.0), ranked)
        digit = tl.where(index < numel, key >> below, -1)
        if start == first:
            base = tl.maximum(tl.max(digit) + window // 16 - (window - 1), -1)
        place = placed(digit, base, window)
        counted = tl.histogram(tl.reshape(place, [numbers]), window)
        total += counted
        outside = tl.sum(tl.where(near == 0, counted, 0))
        while outside > numbers // FEW:
            digit = tl.where(place > 0, -1, digit)
            other = tl.maximum(tl.max(digit) - (window - 1), -1)
            place = placed(digit, other, window)
            counted = tl.histogram(tl.reshape(place, [numbers]), window)
            mask = (counted > 0) & (near > 0)
            tl.atomic_add(counts + other + near, counted.to(tl.int64), mask=mask, sem="relaxed")
            outside = tl.sum(((digit >= 0) & (place == 0)).to(tl.int32))
        if outside > 0:
            ordered = tl.where((digit >= 0) & (place == 0), digit * tile_rows + row, nothing)
            add_singly(ordered, counts, nothing, tile_rows)
    tl.atomic_add(counts + base + near, total.to(tl.int64), mask=(total > 0) & (near > 0), sem="relaxed")


@triton.jit
def placed(digit, base, window: tl.constexpr):
    """Return the places of digits in the window that starts after ``base``, and 0 for those outside."""
    place = digit - base
    return tl.where((place > 0) & (place < window), place, 0)


@triton.jit
def count_gathered(
    values,
    numel,
    prefix,
    counts,
    below: tl.constexpr,
    bits: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
    ranked: tl.constexpr,
):
    """Count up to two of each thread's column, which are most of what a prefix admits, and the others in memory."""
    bins: tl.constexpr = 1 << bits
    numbers: tl.constexpr = tile_rows * block
    nothing: tl.constexpr = bins * tile_rows
    total = tl.zeros([bins], tl.int32)
    row = tl.arange(0, tile_rows)[:, None]
    stride = tl.num_programs(0).to(tl.int64) * numbers
    for start in range(tl.program_id(0).to(tl.int64) * numbers, numel, stride):
        index = start + row * block + tl.arange(0, block)[None, :]
        inside = index < numel
        key = bits_of(tl.load(values + index, mask=inside, other=0.0), ranked)
        inside &= (key >> (below + bits)) == prefix
        many = tl.sum(inside.to(tl.int32))
        if many > numbers // SPARSE:
            for part in range(start, start + numbers, PART):
                total += counted_again(values, numel, prefix, part, below, bits, ranked)
        elif many > 0:
            ordered = tl.where(inside, ((key >> below) & (bins - 1)) * tile_rows + row, nothing)
            if many > numbers // FEW:
                lowest = tl.min(ordered, axis=0)
                ordered = tl.where(ordered > lowest[None, :], ordered, nothing)
                second = tl.min(ordered, axis=0)
                ordered = tl.where(ordered > second[None, :], ordered, nothing)
                gathered = tl.reshape(tl.join(lowest, second), [2 * block])
                total += tl.histogram(gathered // tile_rows % bins, bins, mask=gathered < nothing)
            add_singly(ordered, counts, nothing, tile_rows)
    tl.atomic_add(counts + tl.arange(0, bins), total.to(tl.int64), mask=total > 0, sem="relaxed")


@triton.jit
def add_singly(
    ordered,  # (tile_rows, block), int32: the digit times tile_rows, plus the row, which tells equals apart
    counts,
    nothing: tl.constexpr,  # larger than any of them
    tile_rows: tl.constexpr,
):
    """Add one to the counts of every digit, the lowest of each column first."""
    lowest = tl.min(ordered, axis=0)
    while tl.min(lowest) < nothing:
        one = tl.where(lowest < nothing, 1, 0).to(tl.int64)
        tl.atomic_add(counts + lowest // tile_rows, one, mask=lowest < nothing, sem="relaxed")
        ordered = tl.where(ordered > lowest[None, :], ordered, nothing)
        lowest = tl.min(ordered, axis=0)


@triton.jit
def counted_again(values, numel, prefix, start, below: tl.constexpr, bits: tl.constexpr, ranked: tl.constexpr):
    """Return the counts of some values; read again, for all of a tile would not fit in registers."""
    bins: tl.constexpr = 1 << bits
    index = start + tl.arange(0, PART)
    key = bits_of(tl.load(values + index, mask=index < numel, other=0.0), ranked)
    return tl.histogram((key >> below) & (bins - 1), bins, mask=(index < numel) & ((key >> (below + bits)) == prefix))


@triton.jit
def histogram(
    score,  # (numel,), float32
    prefix,  # 0-D, int32
    counts,  # (2**bits,), int64; added to
    numel,
    below: tl.constexpr,
    bits: tl.constexpr,
    wide: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    """Count one digit of a whole matrix."""
    count_digits(score, numel, tl.load(prefix), counts, below, bits, wide, tile_rows, block, True)


@dataclass(frozen=True)
class Tile:
    """How a program takes its values; it counts at least ``least``, so that it adds to memory seldom."""

    rows: int
    block: int
    least: int
    warps: int = 4


AT_ONCE = Tile(1, 2048, 2**17)
IN_WINDOW = Tile(8, 512, 2**15)
GATHERED = Tile(16, 1024, 2**18, warps=8)


def tile_for(launch: Launcher, digits: tuple[int, ...], level: int) -> Tile:
    if launch.wide_histogram or (level and digits[level] <= 8):
        return AT_ONCE
    return GATHERED if level else IN_WINDOW


def programs_for(launch: Launcher, numel: int, digits: tuple[int, ...], level: int) -> int:
    return 1 if launch.interpreted else min(PROGRAMS, triton.cdiv(numel, tile_for(launch, digits, level).least))


def digit_of(launch: Launcher, numel: int, digits: tuple[int, ...], level: int) -> dict[str, int | bool]:
    """Return the constants of ``count_digits`` for one of the digits, and the number of warps."""
    tile = tile_for(launch, digits, level)
    block = tile.block
    if launch.interpreted:
        block = max(PART.value // tile.rows, min(2**13, power_of_two(triton.cdiv(numel, tile.rows))))
    digit = {"below": sum(digits[level + 1 :]), "bits": digits[level], "wide": tile is AT_ONCE}
    return digit | {"tile_rows": tile.rows, "block": block, "warps": tile.warps}


def magnitude_histogram(launch: Launcher, score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
    score, total = score.contiguous(), counts.contiguous()
    numel = score.numel()
    constants = digit_of(launch, numel, DIGIT_BITS, level)
    launch(histogram, programs_for(launch, numel, DIGIT_BITS, level), score, prefix, total, numel, **constants)
    if total is not counts:
        counts.copy_(total)
