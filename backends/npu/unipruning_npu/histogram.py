"""Digit counts by matrix product, and the exact k-th magnitude that three such counts give.

Counting by scattering would add to one place at a time.  Instead a digit is split into two halves, each half becomes a
row of a one-hot matrix, and the product of the two matrices counts every pair of halves at once on the cube cores.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from unipruning_kernels.reference import DIGIT_BITS, INFINITY_BITS, MAGNITUDE_BITS
from unipruning_npu.chunks import row_chunks

LOW_BITS = 5  # of a digit; the rest form its upper half
LONGEST = 2048  # a half-precision product of this many terms still counts exactly
# bytes per element: 64 + 32 one-hot rows, as bool and in half precision, for this tile and the one before it
TILE_BYTES = 400


def magnitude_histogram(score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
    _count(score, prefix, level, counts, ranked=True)


def _count(score: Tensor, prefix: Tensor, level: int, counts: Tensor, *, ranked: bool) -> None:
    """Count a digit; ``ranked``, NaN counts as infinity, else by its own bits."""
    below = sum(DIGIT_BITS[level + 1 :])
    split = below + LOW_BITS
    # masks instead of shifts; the upper one holds the prefix too, so that one comparison does both
    upper_mask, lower_mask = MAGNITUDE_BITS >> split << split, (1 << split) - (1 << below)
    upper = _multiples(1 << (DIGIT_BITS[level] - LOW_BITS), 1 << split, score.device)
    if level:
        upper = upper + prefix * (1 << (below + DIGIT_BITS[level]))
    lower = _multiples(1 << LOW_BITS, 1 << below, score.device)
    for bits in _tiles(score.view(torch.int32)):
        key = (bits & MAGNITUDE_BITS).clamp_(max=INFINITY_BITS) if ranked else bits
        upper_hot = ((key & upper_mask) == upper[:, None]).half()
        lower_hot = ((key & lower_mask) == lower[:, None]).half()
        pairs = torch.matmul(upper_hot, lower_hot.transpose(1, 2))
        counts.add_(pairs.sum(dim=0, dtype=torch.float32).flatten().to(counts.dtype))


def kth_magnitude(matrix: Tensor, rank: int) -> Tensor:  # 0-D, float32
    """Return the ``rank``-th smallest abs(matrix), counted from 1; no value reaches the host."""
    prefix = torch.zeros((), dtype=torch.int32, device=matrix.device)
    left = torch.full_like(prefix, rank)
    for level, width in enumerate(DIGIT_BITS):
        counts = torch.zeros(1 << width, dtype=torch.int32, device=matrix.device)
        _count(matrix, prefix, level, counts, ranked=False)
        passed = (counts.cumsum(0, dtype=torch.int32) < left).int()
        prefix = prefix * (1 << width) + passed.sum(dtype=torch.int32)
        left = left - (counts * passed).sum(dtype=torch.int32)
    return prefix.clamp_(max=INFINITY_BITS).view(torch.float32)


def _multiples(count: int, step: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device) * step


def _tiles(keys: Tensor) -> Iterator[Tensor]:
    """Yield pieces of the keys, each (rows, 1, columns)."""
    for start in range(0, keys.shape[1], LONGEST):
        columns = keys[:, start : start + LONGEST]
        for rows in row_chunks(columns, TILE_BYTES):
            yield columns[rows, None]
