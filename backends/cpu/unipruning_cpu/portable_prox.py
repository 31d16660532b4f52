"""The N:M proximal step in plain torch: many groups side by side, as a short list with one vector per element."""

from __future__ import annotations

import torch
from torch import Tensor

from unipruning_kernels.reference import PROX_SWEEPS

Polynomial = list[Tensor]  # coefficients from the lowest, each (groups,); zeros above the last are left out


def prox_groups(groups: Tensor, strength: float, n: int) -> Tensor:
    """Return the minimiser for each row of ``groups`` (groups, m), float32: the best candidate over support sizes.

    A group that is not finite stays.
    """
    magnitude, order = groups.abs().sort(dim=1, descending=True, stable=True)
    z = list(magnitude.T.contiguous())
    zero, one = torch.zeros_like(z[0]), torch.ones_like(z[0])
    best = z[:n] + [zero] * (len(z) - n)
    best_cost = _distance(best, z)
    for support in range(n + 1, len(z) + 1):
        candidate = z[:support]
        _descend(candidate, z, strength, n, one)
        polynomial = [one]
        for root in candidate:
            polynomial = _times(polynomial, root, n + 1)
        candidate += [zero] * (len(z) - support)
        cost = _distance(candidate, z).add_(polynomial[n + 1].mul_(strength))
        better = cost < best_cost
        best = [torch.where(better, new, old) for new, old in zip(candidate, best, strict=True)]
        best_cost = torch.where(better, cost, best_cost)
    shrunk = torch.empty_like(magnitude).scatter_(1, order, torch.stack(best, dim=1)).mul_(groups.sign())
    return torch.where(groups.isfinite().all(dim=1, keepdim=True), shrunk, groups)


def _descend(w: list[Tensor], z: list[Tensor], strength: float, n: int, one: Tensor) -> None:
    """Run coordinate descent on the list w, as in the reference; stop after a sweep that changes nothing."""
    for _ in range(PROX_SWEEPS):
        left = [[one]]
        for root in w[:-1]:
            left.append(_times(left[-1], root, n))
        right, moved = [one], False
        for i in reversed(range(len(w))):
            others = _coefficient(left[i], right, n)
            new = (z[i] - others.mul_(strength)).clamp_min_(0.0)
            moved = moved or not torch.equal(new, w[i])
            w[i] = new
            right = _times(right, new, n)
        if not moved:
            return


def _distance(w: list[Tensor], z: list[Tensor]) -> Tensor:
    total = torch.zeros_like(z[0])
    for new, old in zip(w, z, strict=True):
        total += (new - old).square_()
    return total.mul_(0.5)


def _times(polynomial: Polynomial, root: Tensor, degree: int) -> Polynomial:
    """Multiply by (1 + root x), dropping what is above ``degree``."""
    shifted = [root * coefficient for coefficient in polynomial[:degree]]
    same = polynomial[1 : len(shifted) + 1]
    for d, coefficient in enumerate(same):
        shifted[d] += coefficient
    return [polynomial[0], *shifted]


def _coefficient(left: Polynomial, right: Polynomial, degree: int) -> Tensor:
    """Return one coefficient of the product of two polynomials."""
    lowest = max(0, degree - len(right) + 1)
    total = left[lowest] * right[degree - lowest]
    for d in range(lowest + 1, min(degree, len(left) - 1) + 1):
        total += left[d] * right[degree - d]
    return total
