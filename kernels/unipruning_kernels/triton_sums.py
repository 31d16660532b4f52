"""Triton kernels for the operations that sum: squares of activations, magnitudes of weights."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import widen
from unipruning_kernels.triton_launch import Launcher

CHUNK = 256  # rows summed by one program, which thus writes little compared with what it reads


@triton.jit
def sumsq_partials(
    x,  # (tokens, width), any float
    partials,  # (chunks, width), float32
    tokens,
    width,
    chunk: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    r"""partials[c, j] = sum of x[t, j]^2 over the tokens t of chunk c."""
    blocks = tl.cdiv(width, block)
    piece = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    total = tl.zeros([tile_rows, block], tl.float32)
    for start in range(0, chunk, tile_rows):
        row = piece * chunk + start + tl.arange(0, tile_rows)
        inside = (row < tokens)[:, None] & (column < width)[None, :]
        value = tl.load(x + row.to(tl.int64)[:, None] * width + column[None, :], mask=inside, other=0.0)
        value = widen(value)
        total += value * value
    tl.store(partials + piece.to(tl.int64) * width + column, tl.sum(total, axis=0), mask=column < width)


@triton.jit
def abs_sum_partials(
    weight,  # (height, width), any float
    factor,  # (width,), float32
    row_partials,  # (2, blocks, height), float32: plain, then weighted
    column_partials,  # (chunks, width), float32
    height,
    width,
    chunk: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    r"""Sum |W| over one chunk of rows and one block of columns, each way, and |W| f along the rows."""
    blocks = tl.cdiv(width, block)
    piece, part = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    column = part * block + tl.arange(0, block)
    weighting = tl.load(factor + column, mask=column < width, other=0.0)
    total = tl.zeros([tile_rows, block], tl.float32)
    for start in range(0, chunk, tile_rows):
        row = piece * chunk + start + tl.arange(0, tile_rows)
        inside = (row < height)[:, None] & (column < width)[None, :]
        value = tl.load(weight + row.to(tl.int64)[:, None] * width + column[None, :], mask=inside, other=0.0)
        magnitude = tl.abs(widen(value))
        total += magnitude
        place = row_partials + part.to(tl.int64) * height + row
        tl.store(place, tl.sum(magnitude, axis=1), mask=row < height)
        place = row_partials + (part.to(tl.int64) + blocks) * height + row
        tl.store(place, tl.sum(magnitude * weighting[None, :], axis=1), mask=row < height)
    tl.store(column_partials + piece.to(tl.int64) * width + column, tl.sum(total, axis=0), mask=column < width)


@triton.jit
def fold_partials(
    partials,  # (pieces, width), float32
    out,  # (width,), float32; added to if ``add``, else written
    pieces,
    width,
    add: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    r"""out[j] = sum of partials[c, j] over the pieces c, in an order that never changes."""
    column = tl.program_id(0) * block + tl.arange(0, block)
    total = tl.zeros([tile_rows, block], tl.float32)
    for start in range(0, pieces, tile_rows):
        row = start + tl.arange(0, tile_rows)
        inside = (row < pieces)[:, None] & (column < width)[None, :]
        total += tl.load(partials + row.to(tl.int64)[:, None] * width + column[None, :], mask=inside, other=0.0)
    result = tl.sum(total, axis=0)
    if add:
        result += tl.load(out + column, mask=column < width, other=0.0)
    tl.store(out + column, result, mask=column < width)


def accumulate_sumsq(launch: Launcher, x: Tensor, out: Tensor) -> None:
    x = x.contiguous()
    tokens, width = x.shape
    if tokens == 0:
        return
    rows, block = launch.tile((4, 512), (CHUNK, width))
    chunks = triton.cdiv(tokens, CHUNK)
    partials = torch.empty(chunks, width, dtype=torch.float32, device=x.device)
    programs = chunks * triton.cdiv(width, block)
    launch(sumsq_partials, programs, x, partials, tokens, width, chunk=CHUNK, tile_rows=min(rows, CHUNK), block=block)
    total = out.contiguous()
    _fold(launch, partials, total, add=True)
    if total is not out:
        out.copy_(total)


def abs_sums(launch: Launcher, weight: Tensor, input_factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weight, factor = weight.contiguous(), input_factor.contiguous()
    height, width = weight.shape
    rows, block = launch.tile((8, 512), (CHUNK, width))
    chunks, blocks = triton.cdiv(height, CHUNK), triton.cdiv(width, block)
    empty = torch.empty(2 * blocks * height + chunks * width, dtype=torch.float32, device=weight.device)
    along, across = empty[: 2 * blocks * height], empty[2 * blocks * height :]
    constants = {"chunk": CHUNK, "tile_rows": min(rows, CHUNK), "block": block}
    launch(abs_sum_partials, chunks * blocks, weight, factor, along, across, height, width, **constants)
    plain, weighted = along.view(2, blocks, height)
    sums = [torch.empty(size, dtype=torch.float32, device=weight.device) for size in (height, width, height)]
    for partials, total in zip((plain, across.view(chunks, width), weighted), sums, strict=True):
        _fold(launch, partials, total, add=False)
    return sums[0], sums[1], sums[2]


def _fold(launch: Launcher, partials: Tensor, out: Tensor, *, add: bool) -> None:
    pieces, width = partials.shape
    rows, block = launch.tile((8, 128), (pieces, width))
    programs = triton.cdiv(width, block)
    launch(fold_partials, programs, partials, out, pieces, width, add=add, tile_rows=rows, block=block)
