"""Triton kernels for the mask above a threshold, with a limited number of ties kept by index."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import key_of
from unipruning_kernels.triton_launch import Launcher

CHUNK = 2**15  # elements whose ties are counted together, and reread if the budget of ties ends among them


@triton.jit
def keep_at_least(
    score,  # (numel,), float32
    threshold,  # 0-D, float32
    mask,  # (numel,), uint8
    equals,  # (chunks,), int64
    numel,
    chunk: tl.constexpr,
    block: tl.constexpr,
):
    """Write the mask abs(score) >= threshold, and how many are equal in each chunk."""
    first = tl.program_id(0).to(tl.int64) * chunk
    bound = key_of(tl.load(threshold))
    count = tl.zeros([block], tl.int32)
    for start in range(0, chunk, block):
        index = first + start + tl.arange(0, block)
        inside = index < numel
        magnitude = key_of(tl.load(score + index, mask=inside, other=0.0))
        tl.store(mask + index, (magnitude >= bound).to(tl.uint8), mask=inside)
        count += ((magnitude == bound) & inside).to(tl.int32)
    tl.store(equals + tl.program_id(0), tl.sum(count).to(tl.int64))


@triton.jit
def drop_excess_ties(
    score,  # (numel,), float32
    threshold,  # 0-D, float32
    ties,  # 0-D, int64
    mask,  # (numel,), uint8; updated in place
    equals,  # (chunks,), int64
    numel,
    chunk: tl.constexpr,
    block: tl.constexpr,
):
    """Remove the equals beyond the budget again; a chunk without any returns at once."""
    first = tl.program_id(0).to(tl.int64) * chunk
    count = tl.load(equals + tl.program_id(0))
    if count == 0:
        return
    budget = tl.load(ties)
    before = tl.zeros([block], tl.int64)
    for start in range(0, tl.program_id(0), block):
        other = start + tl.arange(0, block)
        before += tl.load(equals + other, mask=other < tl.program_id(0), other=0)
    seen = tl.sum(before)
    if seen + count > budget:
        bound = key_of(tl.load(threshold))
        for start in range(0, chunk, block):
            index = first + start + tl.arange(0, block)
            magnitude = key_of(tl.load(score + index, mask=index < numel, other=0.0))
            equal = ((magnitude == bound) & (index < numel)).to(tl.int32)
            rank = seen + tl.cumsum(equal, axis=0)
            tl.store(mask + index, tl.zeros([block], tl.uint8), mask=(equal > 0) & (rank > budget))
            seen += tl.sum(equal)


def threshold_mask(launch: Launcher, score: Tensor, threshold: Tensor, ties: Tensor) -> Tensor:
    score = score.contiguous()
    mask = torch.empty_like(score, dtype=torch.bool)
    numel, chunk = score.numel(), launch.flat(CHUNK, score.numel())
    block, chunks = launch.flat(1024, chunk), triton.cdiv(numel, chunk)
    equals = torch.empty(chunks, dtype=torch.int64, device=score.device)
    written = mask.view(torch.uint8)
    launch(keep_at_least, chunks, score, threshold, written, equals, numel, chunk=chunk, block=block)
    sizes = {"chunk": chunk, "block": block}
    launch(drop_excess_ties, chunks, score, threshold, ties, written, equals, numel, **sizes)
    return mask
