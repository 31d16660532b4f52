"""Triton kernel for the N:M mask on Ascend's vector cores: written for Triton-Ascend, opt-in, run by no backend."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.ascend_step import VECTOR_CORES

PAIRS = 4096  # comparisons in a tile, every element of a group with every other; bounded by on-chip memory
SHORTEST = 8  # floats: a shorter row of a tile takes the same on-chip memory


@triton.jit
def rank_groups(
    score,  # (groups * m,), float32
    mask,  # (groups * m,), int8
    groups,
    n: tl.constexpr,
    m: tl.constexpr,
    width: tl.constexpr,  # m, or the next power of two
    block: tl.constexpr,  # groups per tile
):
    """Keep an element if fewer than n of its group beat it; an equal one beats it if its index is lower."""
    place = tl.arange(0, width)
    earlier = (place[None, :, None] > place[None, None, :]).to(tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(groups, block), tl.num_programs(0)):
        group = tl.cast(tile, tl.int64) * block + tl.arange(0, block)
        index = group[:, None] * m + place[None, :]
        inside = (group[:, None] < groups) & (place[None, :] < m)
        # padding past the group must not beat anything
        magnitude = tl.abs(tl.load(score + index, mask=inside, other=0.0))
        # NaN counts as infinity
        magnitude = tl.where(magnitude == magnitude, magnitude, float("inf"))
        key = tl.where(inside, magnitude, -1.0)
        own, other = key[:, :, None], key[:, None, :]
        beaten = (other > own).to(tl.float32) + (other == own).to(tl.float32) * earlier
        tl.store(mask + index, (tl.sum(beaten, axis=2) < n).to(tl.int8), mask=inside)


def nm_mask(score: Tensor, n: int, m: int) -> Tensor:
    """Return the contract's ``nm_mask`` of a contiguous matrix."""
    mask = torch.empty_like(score, dtype=torch.bool)
    groups = score.numel() // m
    block = groups_of_tile(m)
    rank_groups[(min(VECTOR_CORES, triton.cdiv(groups, block)),)](
        *(score, mask.view(torch.int8), groups), n=n, m=m, width=triton.next_power_of_2(m), block=block
    )
    return mask


def groups_of_tile(m: int) -> Any:
    """Return how many groups a tile can hold in on-chip memory."""
    return PAIRS // max(SHORTEST, triton.next_power_of_2(m)) ** 2
