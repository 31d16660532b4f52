"""What each operation of the contract means, in plain PyTorch; runs on every torch device.

Written to be read and checked, not to be fast.  The docstrings are in ``unipruning_core/operations.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIGIT_BITS = (11, 10, 10)
MAGNITUDE_BITS = 0x7FFFFFFF
INFINITY_BITS = 0x7F800000
PROX_SWEEPS = 16


def accumulate_sumsq(x: Tensor, out: Tensor) -> None:
    out += x.float().square().sum(dim=0)


def abs_sums(weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
    magnitude = weight.float().abs()
    return input_factors @ magnitude.t(), output_factors @ magnitude


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
    w = weight.float()
    saliency = w.abs() * (r[:, None] * p + q)
    if gradient is not None:
        saliency = saliency + phi * (w * gradient.float()).square()
    gamma = dual.sign() * (dual.abs() - threshold).clamp_min(0.0)
    # the product is rounded before the sum: a fused multiply-add would round once less
    dual += step_size * (saliency - gamma)
    if rank is not None:
        threshold.copy_(_magnitude(dual).flatten().kthvalue(rank).values if rank else torch.zeros_like(threshold))


def feedback_scores(
    weight: Tensor,
    second: Tensor,
    drift: Tensor | None,
    r: Tensor,
    p: Tensor,
    q: Tensor,
    *,
    learning_rate: float,
    exponent: float,
    pull: float,
) -> Tensor:
    w = weight.float()
    local = _drifted(weight, drift, learning_rate).abs() * (r[:, None] * p + q)
    score = w.abs() * second.float().sqrt() * local.pow(exponent)
    if drift is not None:
        score = score * (pull * drift.float() * w.sign()).exp()
    return score.contiguous()


def mask_weight(
    weight: Tensor,
    second: Tensor,
    drift: Tensor | None,
    r: Tensor,
    p: Tensor,
    q: Tensor,
    threshold: Tensor,
    sample: Tensor,
    *,
    learning_rate: float,
    exponent: float,
    pull: float,
    first: int,
    stride: int,
    pattern: tuple[int, int] | None,
) -> tuple[Tensor, Tensor]:
    numbers = {"learning_rate": learning_rate, "exponent": exponent, "pull": pull}
    score = feedback_scores(weight, second, drift, r, p, q, **numbers)
    if pattern is not None:
        score = score.masked_fill(nm_mask(score, *pattern), torch.finfo(torch.float32).max)
    sample.copy_(score.flatten()[first::stride])
    kept = score >= threshold
    padded = torch.nn.functional.pad(kept, (0, -weight.shape[1] % 8)).unflatten(1, (-1, 8))
    bits = (padded << torch.arange(8, device=weight.device)).sum(dim=2).to(torch.uint8)
    return _masked(weight, drift, learning_rate, kept), bits


def remask_weight(weight: Tensor, drift: Tensor | None, kept: Tensor, *, learning_rate: float) -> Tensor:
    bits = (kept[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=kept.device)) & 1
    return _masked(weight, drift, learning_rate, bits.flatten(1)[:, : weight.shape[1]].bool())


def feedback_step(second: Tensor, drift: Tensor | None, gradient: Tensor, rate: Tensor, *, decay: float) -> None:
    g, old = gradient.float(), second.float()
    v = old + decay * (g * g - old)
    if drift is not None:
        drift.copy_(drift.float() - rate * torch.where(v == 0, 0.0, g / v.sqrt()))
    second.copy_(v)


def magnitude_histogram(score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
    key = _magnitude(score).contiguous().view(torch.int32)
    below = sum(DIGIT_BITS[level + 1 :])
    digit = (key >> below) & (2 ** DIGIT_BITS[level] - 1)
    inside = (key >> (below + DIGIT_BITS[level])) == prefix if level else torch.ones_like(key, dtype=torch.bool)
    counts.scatter_add_(0, digit.flatten().long(), inside.flatten().long())


def threshold_mask(score: Tensor, threshold: Tensor, ties: Tensor) -> Tensor:
    magnitude = _magnitude(score)
    equal = (magnitude == threshold).flatten()
    first = equal & (equal.long().cumsum(0) <= ties)
    return ((magnitude > threshold) | first.view(score.shape)).contiguous()


def topk_mask(score: Tensor, keep: int) -> Tensor:
    # a stable sort leaves equal elements in the order of their indices
    order = _magnitude(score).sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(score, dtype=torch.bool).contiguous().scatter_(1, order[:, :keep], True)


def nm_mask(score: Tensor, n: int, m: int) -> Tensor:
    groups = score.reshape(-1, m)
    return topk_mask(groups, n).view(score.shape)


def nm_prox(weight: Tensor, strength: float, n: int, m: int) -> None:
    """Replace each group by the best of one stationary point per support size n..m.

    Sort the magnitudes z of a group, descending.  For support size k the k-m smallest are zero and the rest follow by
    PROX_SWEEPS rounds of exact coordinate descent, smallest first, from z: the objective is linear-plus-square in each
    w_i, so ``w_i = max(z_i - lambda * e_n(w without i), 0)``.  The candidate with the lowest objective wins, and of
    equals the sparser.  Support n needs no descent: the regulariser is zero there.  A group that is not finite stays.
    """
    groups = weight.float().reshape(-1, m)
    magnitude, order = groups.abs().sort(dim=1, descending=True, stable=True)
    best, best_cost = torch.zeros_like(magnitude), torch.full_like(magnitude[:, 0], torch.inf)
    for support in range(n, m + 1):
        candidate = magnitude.clone()
        candidate[:, support:] = 0.0
        if support > n:
            _descend(candidate[:, :support], magnitude[:, :support], strength, n)
        cost = 0.5 * (candidate - magnitude).square().sum(dim=1)
        cost = cost + strength * _elementary(candidate[:, :support], n + 1)[:, n + 1]
        better = cost < best_cost
        best = torch.where(better[:, None], candidate, best)
        best_cost = torch.where(better, cost, best_cost)
    shrunk = torch.empty_like(best).scatter_(1, order, best) * groups.sign()
    finite = groups.isfinite().all(dim=1, keepdim=True)
    weight.copy_(torch.where(finite, shrunk, groups).view(weight.shape))


def adamw_step(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    scale: Tensor,
    *,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    beta1, beta2 = betas
    g = gradient.float() * scale
    m = first.float() + (1 - beta1) * (g - first.float())
    v = beta2 * second + (1 - beta2) * g.square()
    change = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + epsilon)
    weight.copy_(weight.float() - learning_rate * change)
    first.copy_(m)
    second.copy_(v)


class Operations:
    """All thirteen as a base class: ``class MyBackend(reference.Operations, Backend)`` overrides what it speeds up."""

    accumulate_sumsq = staticmethod(accumulate_sumsq)
    abs_sums = staticmethod(abs_sums)
    mirror_step = staticmethod(mirror_step)
    feedback_scores = staticmethod(feedback_scores)
    mask_weight = staticmethod(mask_weight)
    remask_weight = staticmethod(remask_weight)
    feedback_step = staticmethod(feedback_step)
    magnitude_histogram = staticmethod(magnitude_histogram)
    threshold_mask = staticmethod(threshold_mask)
    topk_mask = staticmethod(topk_mask)
    nm_mask = staticmethod(nm_mask)
    nm_prox = staticmethod(nm_prox)
    adamw_step = staticmethod(adamw_step)


def _magnitude(score: Tensor) -> Tensor:
    """Return abs(score), and infinity for NaN."""
    return score.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)


def _drifted(weight: Tensor, drift: Tensor | None, learning_rate: float) -> Tensor:
    """Return W + eta U in fp32; the product is rounded before the sum."""
    return weight.float() if drift is None else weight.float() + learning_rate * drift.float()


def _masked(weight: Tensor, drift: Tensor | None, learning_rate: float, kept: Tensor) -> Tensor:
    return torch.where(kept, _drifted(weight, drift, learning_rate), 0.0).to(weight.dtype).contiguous()


def _descend(w: Tensor, z: Tensor, strength: float, n: int) -> None:
    """Run coordinate descent on w (groups, k) in place.

    Without coordinate i, e_n is the n-th coefficient of (product of 1 + w_j x over j < i) * (the same over j > i):
    products of the untouched left side are made once per sweep, the right side grows as the sweep descends.
    """
    size = w.shape[1]
    for _ in range(PROX_SWEEPS):
        left = [_one(w, n)]
        for j in range(size - 1):
            left.append(_times(left[-1], w[:, j]))
        right = _one(w, n)
        for i in reversed(range(size)):
            others = (left[i] * right.flip(1)).sum(dim=1)
            w[:, i] = (z[:, i] - strength * others).clamp_min(0.0)
            right = _times(right, w[:, i])


def _elementary(w: Tensor, degree: int) -> Tensor:
    """Return the elementary symmetric polynomials e_0..e_degree of each row, (groups, degree + 1)."""
    polynomial = _one(w, degree)
    for j in range(w.shape[1]):
        polynomial = _times(polynomial, w[:, j])
    return polynomial


def _one(w: Tensor, degree: int) -> Tensor:
    """Return the polynomial 1 for each row, as coefficients up to ``degree``."""
    polynomial = w.new_zeros(w.shape[0], degree + 1)
    polynomial[:, 0] = 1.0
    return polynomial


def _times(polynomial: Tensor, root: Tensor) -> Tensor:
    """Multiply by (1 + root x), dropping the highest coefficient."""
    product = polynomial.clone()
    product[:, 1:] += root[:, None] * polynomial[:, :-1]
    return product
