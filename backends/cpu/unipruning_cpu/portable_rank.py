"""The rank-th smallest magnitude in numpy: a bracket placed by a sample, filled tile by tile, verified by counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unipruning_kernels.reference import INFINITY_BITS, MAGNITUDE_BITS

TILE = 1 << 16  # elements of a tile: a few such fp32 buffers fit in the second-level cache
SAMPLE_ROWS, SAMPLE_COLUMNS = 128, 512
SPREAD = 6.0  # the bracket's half width in standard deviations of the sample
HOLDS_ONE_IN = 8  # a bracket holds at most one in this many elements; beyond that the histograms take over
HALF = 16  # numpy counts the magnitude bits of an fp32 in two halves


def tiles(matrix: Tensor) -> Iterator[slice]:
    rows, columns = matrix.shape
    step = max(1, TILE // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


def keys(tile: Tensor) -> np.ndarray:
    """Return the bits of the magnitude, which sort like the magnitude; NaN counts as infinity."""
    key: np.ndarray = tile.contiguous().view(torch.int32).numpy() & MAGNITUDE_BITS
    np.minimum(key, INFINITY_BITS, out=key)
    return key


@dataclass
class Bracket:
    """An interval [low, high] of keys: keys inside are kept, those below are counted; the counts reveal a miss."""

    rank: int
    low: int
    high: int
    capacity: int
    below: int = 0
    inside: int = 0
    kept: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def around(cls, rank: int, matrix: Tensor, stepped: Callable[[Tensor, slice, slice], Tensor]) -> Bracket:
        """Place the bracket by a sample of the matrix as ``stepped`` will leave it."""
        rows = slice(None, None, max(1, matrix.shape[0] // SAMPLE_ROWS))
        columns = slice(None, None, max(1, matrix.shape[1] // SAMPLE_COLUMNS))
        sample = np.sort(keys(stepped(matrix[rows, columns], rows, columns)).ravel())
        quantile = rank / matrix.numel()
        margin = SPREAD * (len(sample) * quantile * (1.0 - quantile)) ** 0.5 + 1.0
        first, last = int(len(sample) * quantile - margin), int(len(sample) * quantile + margin)
        low = int(sample[first]) if first > 0 else 0
        high = int(sample[last]) if last < len(sample) else MAGNITUDE_BITS
        return cls(rank, low, high, max(TILE, matrix.numel() // HOLDS_ONE_IN))

    def add(self, key: np.ndarray) -> None:
        chosen = key <= self.high
        if self.low:
            reached = key >= self.low
            self.below += len(key) - int(np.count_nonzero(reached))
            chosen &= reached
        caught = key[chosen]
        self.inside += len(caught)
        if self.inside <= self.capacity and self.low < self.high:
            self.kept.append(caught)

    def value(self, matrix: Tensor) -> float:
        """Return the rank-th magnitude once every key has been added; read ``matrix`` again after a miss."""
        place = self.rank - self.below
        if not 1 <= place <= self.inside:
            return _select(matrix, self.rank)
        if self.low == self.high:
            return _as_float(self.low)
        if self.inside > self.capacity:
            return _select(matrix, self.rank)
        return _as_float(int(np.partition(np.concatenate(self.kept), place - 1)[place - 1]))


def _select(matrix: Tensor, rank: int) -> float:
    """Select by two histograms: of the upper half of the bits, then of the lower half within the bin found."""
    upper = np.zeros(1 << HALF, dtype=np.int64)
    for tile in tiles(matrix):
        upper += np.bincount(keys(matrix[tile]).ravel() >> HALF, minlength=len(upper))
    high = int(np.searchsorted(upper.cumsum(), rank))
    rank -= int(upper[:high].sum())
    lower = np.zeros(1 << HALF, dtype=np.int64)
    for tile in tiles(matrix):
        key = keys(matrix[tile]).ravel()
        lower += np.bincount(key[key >> HALF == high] & 0xFFFF, minlength=len(lower))
    return _as_float(high << HALF | int(np.searchsorted(lower.cumsum(), rank)))


def _as_float(bits: int) -> float:
    return float(np.int32(bits).view(np.float32))
