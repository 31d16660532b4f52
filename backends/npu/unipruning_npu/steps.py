"""The sums, the mirror step and the blend: element by element, a few rows at a time.

Weights are converted to fp32 before anything but taking the magnitude, which is exact in every format.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unipruning_npu.chunks import row_chunks
from unipruning_npu.histogram import kth_magnitude


def accumulate_sumsq(x: Tensor, out: Tensor) -> None:
    for rows in row_chunks(x, 12):
        part = x[rows].float()
        out.add_((part * part).sum(dim=0))


def abs_sums(weight: Tensor, input_factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sums, weighted = (input_factor.new_empty(weight.shape[0]) for _ in range(2))
    columns = torch.zeros_like(input_factor, memory_format=torch.contiguous_format)
    for rows in row_chunks(weight, 12):
        magnitude = weight[rows].abs().float()
        torch.sum(magnitude, dim=1, out=sums[rows])
        columns.add_(magnitude.sum(dim=0))
        torch.sum(magnitude.mul_(input_factor), dim=1, out=weighted[rows])
    return sums, columns, weighted


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


def blend_scores(
    feedback: Tensor,
    local: Tensor,
    exponent: float,
    weight: Tensor | None = None,
    drift: Tensor | None = None,
    pull: float = 0.0,
) -> Tensor:
    score = torch.empty(feedback.shape, dtype=feedback.dtype, device=feedback.device)
    for rows in row_chunks(score, 16):
        torch.sqrt(feedback[rows], out=score[rows])
        # a power function built on a logarithm cannot give 0 to the power of 0
        if exponent != 0:
            score[rows].mul_(local[rows].pow(exponent))
        if weight is not None:
            w = weight[rows].float()
            score[rows].mul_(w.abs())
            if drift is not None:
                score[rows].mul_(w.sign().mul_(drift[rows].float()).mul_(pull).exp_())
    return score
