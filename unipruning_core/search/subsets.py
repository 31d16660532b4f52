"""Random subsets of the rows and columns of matrices, the same on every device.

A subset takes the indices with the smallest keys.  A key hashes the seed, the sample, the matrix and the index, in
integer arithmetic, so subsets are drawn on the device, in any order, and a resumed search needs no random state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from unipruning_core.search.metrics import SUBSET_FRACTION

WORD = (1 << 31) - 1  # no product of two words leaves an int64
ODD = (0x7FEB352D, 0x5BD1E995, 0x9E3779B1 >> 1 | 1)
INDEX_BITS = 24  # below the hash, so that no two keys are equal
PADDING = 1 << 62  # above every key

Whole = TypeVar("Whole", int, Tensor)


class Draws:
    """The subsets of some matrices, as zeros and ones in rows that are padded with zeros."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],  # (out, in) of each
        streams: Sequence[int],  # one a matrix
        seed: int,
        device: torch.device,
    ) -> None:
        self.shapes, self.streams, self.seed, self.device = shapes, streams, seed, device
        self.every_output, self.every_input = (
            (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).float().to(device)
            for lengths in zip(*shapes, strict=True)
        )

    def of_sample(self, sample: int) -> tuple[Tensor, Tensor]:
        """Return a subset of each matrix's inputs, (matrices, most inputs), and outputs, (matrices, most outputs)."""
        sizes = [subset_size(shape) for shape in self.shapes]
        return self._side(1, [sample] * len(sizes), self.streams, self.every_input, sizes), self._side(
            0, [sample] * len(sizes), self.streams, self.every_output, sizes
        )

    def of_matrix(self, position: int, samples: int) -> tuple[Tensor, Tensor]:
        """Return one matrix's subsets for the first samples: of inputs, (samples, in), and outputs, (samples, out)."""
        height, width = self.shapes[position]
        streams, sizes = [self.streams[position]] * samples, [subset_size((height, width))] * samples
        inside = torch.ones(samples, max(height, width), device=self.device)
        return self._side(1, range(samples), streams, inside[:, :width], sizes), self._side(
            0, range(samples), streams, inside[:, :height], sizes
        )

    def _side(
        self, side: int, samples: Sequence[int], streams: Sequence[int], inside: Tensor, sizes: Sequence[int]
    ) -> Tensor:
        seed = mixed(mixed(self.seed) + (self.seed >> WORD.bit_length()))
        bases = [
            mixed(mixed(seed + sample) + 2 * stream + side) for sample, stream in zip(samples, streams, strict=True)
        ]
        index = torch.arange(inside.shape[1], device=self.device)
        keys = mixed(torch.tensor(bases, device=self.device)[:, None] + index)
        keys = torch.where(inside > 0, keys * (1 << INDEX_BITS) + index, PADDING)
        last = torch.tensor(sizes, device=self.device)[:, None] - 1
        return (keys <= keys.sort(dim=1).values.gather(1, last)).float()


def subset_size(shape: Sequence[int]) -> int:
    """Return how many indices a subset of a matrix's rows or columns holds."""
    return max(1, round(SUBSET_FRACTION * min(shape)))


def mixed(x: Whole) -> Whole:
    """Hash the lowest 31 bits of whole numbers to 31 bits, with operators that every device has for int64.

    x (2 x + 1) is a permutation of them whose highest bits depend on all, as in RC6; halves are then exchanged.
    """
    x = x & WORD
    for odd in ODD:
        x = (x * (2 * x + 1)) & WORD
        x = (x // (1 << 15) + (x & 0x7FFF) * (1 << 16)) * odd & WORD
    return x
