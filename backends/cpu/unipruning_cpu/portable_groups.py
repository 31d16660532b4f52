"""The largest of each row or group in numpy."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from unipruning_cpu.portable_rank import keys


def keep_in_groups(
    score: Tensor,  # (rows, cols), float32
    n: int,
    m: int,
    mask: Tensor,  # (rows, cols), bool, written
) -> None:
    """Keep the ``n`` largest magnitudes of every ``m`` neighbours of a tile."""
    key, groups = keys(score).reshape(-1, m), mask.view(-1, m).numpy()
    if m <= 8:
        _rank_pairs(np.ascontiguousarray(key.T), n, groups)
    else:
        keep_largest(key, n, groups)


def keep_largest(
    key: np.ndarray,  # (rows, cols), int32, magnitude bits
    keep: int,  # 0 < keep < cols
    mask: np.ndarray,  # (rows, cols), bool, written
) -> None:
    cut = key.shape[1] - keep
    bound = np.partition(key, cut, axis=1)[:, cut : cut + 1]
    np.greater_equal(key, bound, out=mask)
    # of those equal to the bound, keep only the first
    surplus = mask.sum(axis=1) != keep
    if surplus.any():
        rows, bounds = key[surplus], bound[surplus]
        above, equal = rows > bounds, rows == bounds
        mask[surplus] = above | (equal & (equal.cumsum(axis=1) <= keep - above.sum(axis=1, keepdims=True)))


def _rank_pairs(
    key: np.ndarray,  # (m, groups), int32, magnitude bits
    n: int,
    mask: np.ndarray,  # (groups, m), bool, written
) -> None:
    """Rank each element by the number of elements ahead of it; of equals the earlier one is ahead."""
    rank = np.zeros(key.shape, dtype=np.int8)
    for i in range(len(key)):
        for j in range(i + 1, len(key)):
            ahead = key[i] >= key[j]
            rank[j] += ahead
            rank[i] += ~ahead
    np.less(rank.T, n, out=mask)
