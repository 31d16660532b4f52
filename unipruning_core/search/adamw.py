"""What a search keeps and sets of AdamW; the step itself is an operation of the backend."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-10
WARM_UP_SHARE = 0.1


def schedule(step: int, steps: int, *, decay: bool = True) -> float:
    """The learning rate's factor at ``step``, from 0: it rises over the first 10 %, then falls to 0 or stays 1."""
    warm_up = ceil(WARM_UP_SHARE * steps)
    if step < warm_up:
        return step / warm_up
    return (steps - step) / max(1, steps - warm_up) if decay else 1.0


@dataclass
class Moments:
    """AdamW's state for one matrix, 6 bytes a weight in bfloat16."""

    first: Tensor  # (out, in), the weight's dtype: its increments are a tenth of it, so half precision suffices
    second: Tensor  # (out, in), float32: its increments are a thousandth of it, which bfloat16 would round away

    @classmethod
    def zeros_like(cls, weight: Tensor) -> Moments:
        return cls(
            torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device),
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device),
        )
