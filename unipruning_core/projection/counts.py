"""Zeros counted, a piece of a matrix at a time, so that each piece stays in the caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 1 << 17  # elements
HALF = (2, 4)  # what semi-structured formats keep
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def nonzero(values: Tensor) -> int:
    """Return how many elements of floats on the host are not zero, of either sign."""
    if values.dtype.itemsize == 1:  # of which some formats have no negative zero
        return sum(int(piece.float().count_nonzero()) for piece in values.flatten().split(PIECE))
    bits = values.view(INTEGERS[values.dtype.itemsize])
    # doubled, the sign is gone
    return sum(int(np.count_nonzero((piece + piece).numpy())) for piece in bits.flatten().split(PIECE))


def kept(mask: Tensor) -> int:
    """Return how many elements of a bool tensor on the host are True."""
    return int(np.count_nonzero(mask.numpy()))


def is_half(mask: Tensor) -> bool:
    """Return whether a mask, (out, in), keeps at most two of every four inputs."""
    most, group = HALF
    return mask.shape[1] % group == 0 and bool((mask.view(-1, group).sum(dim=1) <= most).all())
