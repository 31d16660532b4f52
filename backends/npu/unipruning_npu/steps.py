"""The sums and the mirror step, a few rows at a time.

Weights are converted to fp32 before anything but taking the magnitude, which is exact in every format.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unipruning_npu.chunks import row_chunks
from unipruning_npu.histogram import kth_magnitude


def accumulate_sumsq(x: Tensor, out: Tensor) -> None:
    for rows in row_chunks(x, 10):
        part = x[rows].float()
        out.add_((part * part).sum(dim=0))


def abs_sums(weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
    """Sum by matrix products, one for all factors of a side."""
    row_sums = weight.new_empty(len(input_factors), weight.shape[0], dtype=torch.float32)
    column_sums = weight.new_zeros(len(output_factors), weight.shape[1], dtype=torch.float32)
    for rows in row_chunks(weight, 12):
        magnitude = weight[rows].abs().float()
        row_sums[:, rows] = input_factors @ magnitude.t()
        column_sums.add_(output_factors[:, rows] @ magnitude)
    return row_sums, column_sums


def mirror_step(
    dual: Tensor,
    weight: Tensor,
    r: Tensor,
    p: Tensor,
    q: Tensor,
    threshold: Tensor,
    *,
    step_size: float,
    rank: int | None,
    gradient: Tensor | None = None,
    phi: float = 0.0,
) -> None:
    # in a function of its own, so that its temporaries are freed before the next ones are allocated
    _move(dual, weight, r, p, q, threshold, step_size, gradient, phi)
    if rank == 0:
        threshold.zero_()
    elif rank is not None:
        threshold.copy_(kth_magnitude(dual, rank))


def _move(
    dual: Tensor,
    weight: Tensor,
    r: Tensor,
    p: Tensor,
    q: Tensor,
    threshold: Tensor,
    step_size: float,
    gradient: Tensor | None,
    phi: float,
) -> None:
    """Update V.  Every operator rounds once, in the reference's order: none may fuse a product with a sum."""
    below = -threshold
    for rows in row_chunks(dual, 24):
        v, magnitude = dual[rows], weight[rows].abs()
        saliency = (r[rows, None] * p).add_(q)
        if gradient is None:
            saliency.mul_(magnitude)
        else:
            magnitude = magnitude.float()
            term = magnitude * gradient[rows]
            # one operator for both products
            torch._foreach_mul_([saliency, term], [magnitude, term])
            saliency.add_(term if phi == 1 else term.mul_(phi))
        # shrinkage subtracts V clamped to [-tau, tau], and that difference rounds as |V| - tau does
        gamma = v - torch.clamp(v, below, threshold)
        v.add_(saliency.sub_(gamma).mul_(step_size))
