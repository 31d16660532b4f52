"""Triton kernels for the operations that sum: squares of activations, magnitudes of weights.

No thread reduces more than it must: each keeps running sums, and threads meet once a program, or once a row that a warp
has to itself.  Every order of summation is fixed.
"""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disable-error-code="assignment, misc, var-annotated"
# ruff: noqa: RUF005, SIM102 - Triton unrolls tuples but stars none of them, and its "and" evaluates both sides

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels import reference
from unipruning_kernels.triton_arrival import last_to_arrive
from unipruning_kernels.triton_float import widen
from unipruning_kernels.triton_launch import Launcher

STRIP = 32  # columns of squares summed by one program: few, so that a few thousand make enough programs
CHUNK = 256  # rows of magnitudes summed by one program, which thus writes little compared with what it reads
STAGES = tl.constexpr(3)  # of the pipelines: two tiles are on their way while one is summed
MOST_FACTORS = 3  # of each side that the threads of a program keep in registers
MATMUL_ELEMENTS = 2**24  # that more factors multiply at once, in float32


@triton.jit
def sumsq(
    x,  # (tokens, width), any float
    out,  # (width,), float32; added to
    tokens,
    width,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    r"""out[j] += sum over t of x[t, j]^2."""
    column = tl.program_id(0) * block + tl.arange(0, block)
    within = column < width
    total = tl.zeros([tile_rows, block], tl.float32)
    for start in tl.range(0, tokens, tile_rows, num_stages=STAGES):
        row = start + tl.arange(0, tile_rows)
        inside = (row < tokens)[:, None] & within[None, :]
        value = widen(tl.load(x + row.to(tl.int64)[:, None] * width + column[None, :], mask=inside, other=0.0))
        total = tl.fma(value, value, total)
    result = tl.load(out + column, mask=within, other=0.0) + tl.sum(total, axis=0)
    tl.store(out + column, result, mask=within)


@triton.jit
def fold(
    partials,  # (pieces, width), float32
    out,  # (width,), float32; written
    pieces,
    width,
    first,  # the first column to fold
    tile_rows: tl.constexpr,
    block: tl.constexpr,  # columns to fold
):
    r"""out[j] = sum of partials[c, j] over the pieces c, in an order that never changes."""
    column = first + tl.arange(0, block)
    total = tl.zeros([tile_rows, block], tl.float32)
    for start in range(0, pieces, tile_rows):
        row = start + tl.arange(0, tile_rows)
        inside = (row < pieces)[:, None] & (column < width)[None, :]
        total += tl.load(partials + row.to(tl.int64)[:, None] * width + column[None, :], mask=inside, other=0.0)
    tl.store(out + column, tl.sum(total, axis=0), mask=column < width)


@triton.jit
def magnitude_of(x):
    """Return abs(x) in float32."""
    if x.dtype == tl.bfloat16:
        # the sign goes before the conversion, where one instruction takes two of them
        return ((x.to(tl.uint16, bitcast=True) & 0x7FFF).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return tl.abs(widen(x))


@triton.jit
def abs_sum(
    weight,  # (height, width), any float
    inputs,  # (k, width), float32, f
    outputs,  # (l, height), float32, h
    row_partials,  # (k, parts, height), float32; scratch, or if there is one part, rows
    column_partials,  # (l, chunks, width), float32; scratch, or if there is one chunk, columns
    arrived,  # (chunks + parts,), int32, zeros
    rows,  # (k, height), float32; written
    columns,  # (l, width), float32; written
    height,
    width,
    k: tl.constexpr,
    l: tl.constexpr,  # noqa: E741 - the contract's name
    chunk: tl.constexpr,
    tile_rows: tl.constexpr,
    pieces: tl.constexpr,  # blocks of columns of one program
    block: tl.constexpr,
    fold_rows: tl.constexpr,
):
    r"""Sum |W| f and |W| h over a chunk of rows and a part of the columns; the last of either folds the sums."""
    span: tl.constexpr = pieces * block
    parts, chunks = tl.cdiv(width, span), tl.cdiv(height, chunk)
    piece, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    place = ()
    factors = ()
    totals = ()
    for i in tl.static_range(pieces):
        column = part * span + i * block + tl.arange(0, block)
        place = place + (column,)
        for a in tl.static_range(k):
            factors = factors + (tl.load(inputs + a * width + column, mask=column < width, other=0.0)[None, :],)
        for _ in tl.static_range(l):
            totals = totals + (tl.zeros([tile_rows, block], tl.float32),)
    for start in tl.range(0, chunk, tile_rows, num_stages=STAGES):
        row = piece * chunk + start + tl.arange(0, tile_rows)
        within = row < height
        magnitudes = ()
        for i in tl.static_range(pieces):
            inside = within[:, None] & (place[i] < width)[None, :]
            offset = row.to(tl.int64)[:, None] * width + place[i][None, :]
            magnitudes = magnitudes + (magnitude_of(tl.load(weight + offset, mask=inside, other=0.0)),)
        for a in tl.static_range(k):
            total = magnitudes[0] * factors[a]
            for i in tl.static_range(1, pieces):
                total = tl.fma(magnitudes[i], factors[i * k + a], total)
            to = row_partials + (a * parts + part).to(tl.int64) * height + row
            tl.store(to, tl.sum(total, axis=1), mask=within)
        grown = ()
        for b in tl.static_range(l):
            factor = tl.load(outputs + b * height + row, mask=within, other=0.0)[:, None]
            for i in tl.static_range(pieces):
                grown = grown + (tl.fma(magnitudes[i], factor, totals[b * pieces + i]),)
        totals = grown
    for i in tl.static_range(pieces):
        for b in tl.static_range(l):
            to = column_partials + (b * chunks + piece).to(tl.int64) * width + place[i]
            tl.store(to, tl.sum(totals[b * pieces + i], axis=0), mask=place[i] < width)
    if (k > 0) & (parts > 1):
        if last_to_arrive(arrived + piece, parts):
            for a in tl.static_range(k):
                source = row_partials + a * parts.to(tl.int64) * height
                fold(source, rows + a * height, parts, height, piece * chunk, fold_rows, chunk)
    if (l > 0) & (chunks > 1):
        if last_to_arrive(arrived + chunks + part, chunks):
            for b in tl.static_range(l):
                source = column_partials + b * chunks.to(tl.int64) * width
                fold(source, columns + b * width, chunks, width, part * span, fold_rows, span)


def accumulate_sumsq(launch: Launcher, x: Tensor, out: Tensor) -> None:
    x = x.contiguous()
    tokens, width = x.shape
    if tokens == 0:
        return
    rows, block = launch.tile((256, STRIP), (tokens, width))
    total = out.contiguous()
    launch(sumsq, triton.cdiv(width, block), x, total, tokens, width, tile_rows=rows, block=block, warps=8)
    if total is not out:
        out.copy_(total)


def abs_sums(launch: Launcher, weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
    height, width = weight.shape
    k, l = len(input_factors), len(output_factors)  # noqa: E741 - the contract's names
    if max(k, l) > MOST_FACTORS:
        return _many_sums(weight, input_factors, output_factors)
    made = torch.empty(k * height + l * width, dtype=torch.float32, device=weight.device)
    rows, columns = made[: k * height].view(k, height), made[k * height :].view(l, width)
    if k == l == 0:
        return rows, columns
    # a warp has whole rows of a block, sixteen bytes a thread
    tile_rows, block = launch.tile((8, 512 // weight.itemsize), (CHUNK, width))
    pieces = 1 if launch.interpreted else 2
    chunks, parts = triton.cdiv(height, CHUNK), triton.cdiv(width, pieces * block)
    scratch = torch.empty(k * parts * height + l * chunks * width, dtype=torch.float32, device=weight.device)
    launch(
        abs_sum,
        chunks * parts,
        *(weight.contiguous(), input_factors.contiguous(), output_factors.contiguous()),
        scratch[: k * parts * height] if parts > 1 else rows,
        scratch[k * parts * height :] if chunks > 1 else columns,
        torch.zeros(chunks + parts, dtype=torch.int32, device=weight.device),
        *(rows, columns, height, width),
        k=k,
        l=l,
        chunk=CHUNK,
        tile_rows=min(tile_rows, CHUNK),
        pieces=pieces,
        block=block,
        fold_rows=8,
    )
    return rows, columns


def _many_sums(weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
    """Take the definition's matrix products chunk by chunk, so that |W| is never whole in float32."""
    columns = torch.zeros(len(output_factors), weight.shape[1], dtype=torch.float32, device=weight.device)
    height = max(1, MATMUL_ELEMENTS // weight.shape[1])
    rows = []
    for part, factors in zip(weight.split(height), output_factors.split(height, dim=1), strict=True):
        own, across = reference.abs_sums(part, input_factors, factors)
        rows.append(own)
        columns += across
    return torch.cat(rows, dim=1), columns
