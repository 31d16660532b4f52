"""Triton kernels for the N:M mask: rank each element of a group by comparing it with the others in registers."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005 - Triton unrolls tuples of any length, and compiles no starred expressions

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import key_of
from unipruning_kernels.triton_groups import apart, together
from unipruning_kernels.triton_launch import Launcher


@triton.jit
def keep_column(columns, place: tl.constexpr, n: tl.constexpr):
    """Return whether fewer than n of the group beat this element; an equal one does if its index is lower."""
    own = columns[place]
    beaten = (own < 0).to(tl.int32)
    for other in tl.static_range(len(columns)):
        if other < place:
            beaten += (columns[other] >= own).to(tl.int32)
        if other > place:
            beaten += (columns[other] > own).to(tl.int32)
    return (beaten < n).to(tl.uint8)


@triton.jit
def nm_powers(
    score,  # (numel,), float32
    mask,  # (numel,), uint8
    numel,
    n: tl.constexpr,
    m: tl.constexpr,
    depth: tl.constexpr,  # m = 2**depth
    block: tl.constexpr,  # groups per program
):
    """Load whole groups side by side, split them into columns, and join the answers again."""
    index = tl.program_id(0).to(tl.int64) * (block * m) + tl.arange(0, block * m)
    inside = index < numel
    key = key_of(tl.load(score + index, mask=inside, other=0.0))
    columns = apart(key, block, m, depth)
    kept = ()
    for i in tl.static_range(m):
        kept = kept + (keep_column(columns, i, n),)
    tl.store(mask + index, together(kept, block, m, depth), mask=inside)


@triton.jit
def nm_any(
    score,  # (groups * m,), float32
    mask,  # (groups * m,), uint8
    groups,
    n: tl.constexpr,
    m: tl.constexpr,
    block: tl.constexpr,  # groups per program
):
    """Do the same for an m that is not a power of two: one column at a time, strided."""
    group = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    columns = ()
    for i in tl.static_range(m):
        key = key_of(tl.load(score + group * m + i, mask=group < groups, other=0.0))
        columns = columns + (key,)
    for i in tl.static_range(m):
        tl.store(mask + group * m + i, keep_column(columns, i, n), mask=group < groups)


def nm_mask(launch: Launcher, score: Tensor, n: int, m: int) -> Tensor:
    score = score.contiguous()
    mask = torch.empty_like(score, dtype=torch.bool)
    groups = score.numel() // m
    arguments = score, mask.view(torch.uint8)
    depth = m.bit_length() - 1
    if m == 1 << depth:
        # a thread holds a whole group, so that no data crosses threads; four warps of the longest would need a stack
        warps = 1 if m == 32 else 4
        block = max(1, launch.flat(max(1024, 32 * warps * m), score.numel()) // m)
        launch(
            nm_powers,
            triton.cdiv(groups, block),
            *arguments,
            score.numel(),
            n=n,
            m=m,
            depth=depth,
            block=block,
            warps=warps,
        )
    else:
        block = launch.flat(128, groups)
        launch(nm_any, triton.cdiv(groups, block), *arguments, groups, n=n, m=m, block=block)
    return mask
