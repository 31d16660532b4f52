"""Triton kernel for the largest of each row: keeps the row in registers while it narrows down its threshold."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import key_of
from unipruning_kernels.triton_kth import EQUAL, RANK, kth_magnitude, new_state
from unipruning_kernels.triton_launch import Launcher, power_of_two
from unipruning_kernels.triton_threshold import threshold_mask

LONGEST = 2**15  # elements of the longest row that fits in the registers of 1024 threads
HALVING = tl.constexpr(8)  # one guess in this many halves the distance


@triton.jit(do_not_specialize=["keep"])
def keep_largest(
    score,  # (height, width), float32
    mask,  # (height, width), uint8
    height,
    width,
    keep,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    """Narrow down the keep-th largest magnitude until the bound parts the row; then resolve ties by index.

    At least ``keep`` keys reach ``low``, fewer reach ``high``.  A guess takes the number that reach a magnitude as
    linear between the two, and trusts an end that stays a second time only half (the Illinois method); every eighth
    halves the distance instead, whatever the magnitudes.
    """
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    column = tl.arange(0, block)
    inside = (row < height)[:, None] & (column < width)[None, :]
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    # padding is smaller than every key
    key = key_of(tl.load(score + offset, mask=inside, other=0.0))
    key = tl.where(inside, key, -1)
    low = tl.zeros([tile_rows], tl.int32)
    high = tl.max(key, axis=1) + 1
    reach = tl.zeros([tile_rows], tl.int32) + width  # how many reach low
    # by how many the ends are off the goal, with what the method makes of it
    over = (reach - keep).to(tl.float32)
    under = tl.zeros_like(over) - keep
    stays = tl.zeros([tile_rows], tl.int32)  # the end that stayed in the last round: 1 for low, -1 for high
    searching = (row < height) & (reach != keep) & (high - low > 1)
    turn = 1
    while tl.max(searching.to(tl.int32)) > 0:
        tried = low + (high - low) // 2
        if turn % HALVING != 0:
            bottom, top = low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)
            guess = bottom + over / (over - under) * (top - bottom)
            tried = tl.minimum(tl.maximum(guess.to(tl.int32, bitcast=True), low + 1), high - 1)
        turn += 1
        # by the sign of the difference, which a single instruction adds up
        short = (key - tried[:, None]).to(tl.uint32, bitcast=True) >> 31
        found = block - tl.sum(short, axis=1).to(tl.int32)
        off = (found - keep).to(tl.float32)
        rises, falls = searching & (found >= keep), searching & (found < keep)
        over = tl.where(rises, off, tl.where(falls & (stays == 1), over * 0.5, over))
        under = tl.where(falls, off, tl.where(rises & (stays == -1), under * 0.5, under))
        stays = tl.where(rises, -1, tl.where(falls, 1, stays))
        low, reach = tl.where(rises, tried, low), tl.where(rises, found, reach)
        high = tl.where(falls, tried, high)
        searching &= (reach != keep) & (high - low > 1)
    if tl.max(tl.where(row < height, reach - keep, 0)) > 0:
        # more are equal to the bound than are to be kept
        above = key > low[:, None]
        equal = (key == low[:, None]).to(tl.int32)
        ties = keep - tl.sum(above.to(tl.int32), axis=1)
        chosen = above | ((equal > 0) & (tl.cumsum(equal, axis=1) <= ties[:, None]))
        tl.store(mask + offset, chosen.to(tl.uint8), mask=inside)
    else:
        tl.store(mask + offset, (key >= low[:, None]).to(tl.uint8), mask=inside)


def topk_mask(launch: Launcher, score: Tensor, keep: int) -> Tensor:
    height, width = score.shape
    if keep in (0, width):
        return torch.full((height, width), keep > 0, dtype=torch.bool, device=score.device)
    score = score.contiguous()
    if width > LONGEST:
        return torch.cat([_long_row(launch, row, keep) for row in score.split(1)])
    block = power_of_two(width)
    # 32 elements per thread; narrow rows share a program
    rows = min(power_of_two(height), max(1, (2**17 if launch.interpreted else 1024) // block))
    mask = torch.empty_like(score, dtype=torch.bool)
    warps = min(32, max(1, rows * block // 1024))
    arguments = score, mask.view(torch.uint8), height, width, keep
    launch(keep_largest, triton.cdiv(height, rows), *arguments, tile_rows=rows, block=block, warps=warps)
    return mask


def _long_row(launch: Launcher, row: Tensor, keep: int) -> Tensor:
    """Mask a row, (1, width), that no program can hold: find its exact threshold, then the mask."""
    # the search tells NaN apart by their bits
    row = row.abs().nan_to_num_(nan=torch.inf, posinf=torch.inf)
    state = new_state(launch, row.device)
    threshold = torch.empty((), dtype=torch.float32, device=row.device)
    rank = row.numel() - keep + 1
    kth_magnitude(launch, row.flatten(), row.new_empty(0), state, rank, threshold)
    # of the equal elements, those ranked at or above the threshold's own rank are kept
    return threshold_mask(launch, row, threshold, state[EQUAL] - state[RANK] + 1)
