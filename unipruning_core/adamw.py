"""One AdamW step on one matrix, for a weight that may be half precision and a second moment that may not."""

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
TILE = 1 << 18  # elements worked on at a time, so that temporaries stay in a cache


def schedule(step: int, steps: int) -> float:
    """The learning rate's factor at ``step`` (from 0): linear from 0 over the first 10 %, then linear down to 0."""
    warm_up = ceil(WARM_UP_SHARE * steps)
    return step / warm_up if step < warm_up else (steps - step) / max(1, steps - warm_up)


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


def adamw_step(
    weight: Tensor,  # (out, in), any float, updated in place
    gradient: Tensor,  # (out, in), any float
    moments: Moments,  # updated in place
    *,
    step: int,  # counted from 1
    learning_rate: float,
    gradient_scale: Tensor,  # 0-D, float32: the clipping factor
) -> None:
    r"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) without weight decay, in fp32 arithmetic.

    .. math:: m \leftarrow \beta_1 m + (1-\beta_1) c g, \quad v \leftarrow \beta_2 v + (1-\beta_2) (c g)^2, \quad
              W \leftarrow W - \eta \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}
    """
    beta1, beta2 = BETAS
    root = (1 - beta2**step) ** 0.5
    rows = max(1, TILE // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = slice(start, start + rows)
        g = gradient[part].float() * gradient_scale
        m = moments.first[part].float().lerp_(g, 1 - beta1)
        moments.first[part] = m
        v = moments.second[part].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        # not in place: for a float32 weight m is the stored moment itself
        change = m / v.sqrt().div_(root).add_(EPSILON)
        weight[part] = weight[part].float().sub_(change, alpha=learning_rate / (1 - beta1**step))
