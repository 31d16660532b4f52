"""The N:M proximal step: every group and every support size side by side, one operator for all of them.

Tensors are laid out (polynomial degree,) element of the group, support size, group, so operands are contiguous.
Supports that end in nearly the same minimiser differ in cost by rounding alone, and rounding then picks one.  So every
product and sum here is an operator of its own, in the order that torch uses on the host: not ``addcmul``, not ``sub``
with a factor, and no reduction operator, whose order each device chooses for itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unipruning_kernels.reference import PROX_SWEEPS
from unipruning_npu.chunks import row_chunks


def nm_prox(weight: Tensor, strength: float, n: int, m: int) -> None:
    """Replace each group by the best of one stationary point per support size n..m, as the reference does."""
    # the products to the left of each element, and a few temporaries of the same size
    for rows in row_chunks(weight, 8 * (m - n) * (n + 4) + 48):
        groups = weight[rows].float().reshape(-1, m)
        magnitude, order = groups.abs().sort(dim=1, descending=True, stable=True)
        best = _best(magnitude.t().contiguous(), strength, n).t().contiguous()
        shrunk = torch.empty_like(best).scatter_(1, order, best)
        finite = groups.isfinite().all(dim=1, keepdim=True)
        weight[rows] = torch.where(finite, shrunk.mul_(groups.sign()), groups).view(-1, weight.shape[1])


def _best(
    z: Tensor,  # (m, groups), float32, magnitudes in descending order
    strength: float,
    n: int,
) -> Tensor:  # (m, groups), float32
    m = len(z)
    index = torch.arange(m, dtype=torch.int32, device=z.device)
    # for support sizes n + 1 to m; an element beyond the support starts at zero and the descent keeps it there
    inside = (index[:, None] <= index[n:]).float()
    w = _descend(z[:, None] * inside[:, :, None], strength, n)
    elementary = _one(w[0], n + 1)
    for i in range(m):
        elementary = _times(elementary, w[i])
    cost = _distance(w, z[:, None]).add_(elementary[n + 1] * strength)
    # support n just keeps the n largest, at a penalty of zero
    best = z.clone()
    best[n:] = 0.0
    best_cost = _distance(best, z)
    for support in range(m - n):
        better = cost[support] < best_cost
        best = torch.where(better, w[:, support], best)
        best_cost = torch.where(better, cost[support], best_cost)
    return best


def _descend(
    start: Tensor,  # (m, supports, groups)
    strength: float,
    n: int,
) -> Tensor:  # (m, supports, groups)
    """Run PROX_SWEEPS rounds of exact coordinate descent, smallest first, as in the reference.

    They stop before converging, so the result depends on the path and no formula replaces it: there are
    PROX_SWEEPS * m updates, each of which depends on those before it.
    """
    w = start.clone()
    if (n, len(w)) == (2, 4):
        for _ in range(PROX_SWEEPS):
            _sweep_2_4(w, start, strength)
        return w
    one = _one(w[0], n)
    for _ in range(PROX_SWEEPS):
        left = [one]
        for i in range(len(w) - 1):
            left.append(_times(left[-1], w[i]))
        # stored from the highest degree down, so that a coefficient of the product is a plain sum of products
        right = one.flip(0)
        for i in reversed(range(len(w))):
            others = _total(left[i] * right)
            torch.clamp_min(start[i] - others.mul_(strength), 0.0, out=w[i])
            longer = right.clone()
            longer[:-1].add_(right[1:] * w[i])
            right = longer
    return w


def _sweep_2_4(
    w: Tensor,  # (4, supports, groups), changed
    start: Tensor,  # as w
    strength: float,
) -> None:
    """Run one round for 2:4 with half the operators and the same rounding.

    Of three elements e_2 is ab + (a + b) c, and two updates in a row share a and b.
    """
    for moving, still in ((slice(2, 4), slice(0, 2)), (slice(0, 2), slice(2, 4))):
        (a, b), pair = w[still], w[moving]
        product, both = a * b, a + b
        for i in (1, 0):
            others = (both * pair[1 - i]).add_(product)
            torch.clamp_min(start[moving][i] - others.mul_(strength), 0.0, out=pair[i])


def _one(like: Tensor, degree: int) -> Tensor:
    """Return the polynomial 1, (degree + 1, *like)."""
    polynomial = like.new_zeros(degree + 1, *like.shape)
    polynomial[0] = 1.0
    return polynomial


def _times(polynomial: Tensor, root: Tensor) -> Tensor:
    """Multiply by (1 + root x), dropping the highest coefficient."""
    product = polynomial.clone()
    product[1:].add_(polynomial[:-1] * root)
    return product


def _distance(w: Tensor, z: Tensor) -> Tensor:
    difference = w - z
    return _total(difference.mul_(difference)).mul_(0.5)


def _total(terms: Tensor) -> Tensor:
    """Sum along the first dimension in torch's order on the host: four running sums, or eight from eight terms up."""
    width = 4 if len(terms) < 8 else 8
    whole = len(terms) // width * width
    running = terms[:width] if whole else terms[:0]
    for start in range(width, whole, width):
        running = running + terms[start : start + width]
    lanes, tail = list(running), list(terms[whole:])
    ordered = [*lanes[:1], *tail, *lanes[1:]] if width == 4 else [*tail, *lanes]
    total: Tensor = ordered[0]
    for term in ordered[1:]:
        total = total + term
    return total
