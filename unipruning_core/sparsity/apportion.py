"""Exact division of a whole number of weights among matrices or rows, in proportion and within bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from math import lcm


def apportion(
    proportions: Sequence[Fraction | int],  # >= 0
    total: int,
    lower: Sequence[int],  # 0 <= lower <= upper
    upper: Sequence[int],
) -> list[int]:
    r"""Whole numbers k_i with :math:`\sum_i k_i` = ``total``, as near to proportional as the bounds allow.

    .. math:: q_i = \min(\max(c\, w_i, l_i), u_i) \text{ with the one } c \ge 0 \text{ that makes } \sum_i q_i = K

    k_i is q_i rounded by largest remainders (Hamilton's method): down, and then up by one for the largest fractional
    parts until the total is met, ties to the lower index.  The arithmetic is exact, so the result is the same on every
    machine.  A part of proportion 0 stays at its lower bound.

    Raises:
        ValueError: the bounds leave no room for ``total``.
    """
    weights = _as_integers(proportions)
    upper = [high if weight else low for weight, low, high in zip(weights, lower, upper, strict=True)]
    if not sum(lower) <= total <= sum(upper):
        raise ValueError(f"{total} lies outside what the bounds allow")
    factor = _factor(weights, total, lower, upper)
    parts = [divmod(quota, factor.denominator) for quota in _quotas(factor, weights, lower, upper)]
    kept = [whole for whole, _ in parts]
    by_remainder = sorted(range(len(kept)), key=lambda index: (-parts[index][1], index))
    for index in by_remainder[: total - sum(kept)]:
        kept[index] += 1
    return kept


def _as_integers(proportions: Sequence[Fraction | int]) -> list[int]:
    """The same proportions without denominators, since sums of fractions are slow."""
    common = lcm(*(weight.denominator for weight in proportions))
    return [weight.numerator * (common // weight.denominator) for weight in proportions]


def _quotas(factor: Fraction, weights: Sequence[int], lower: Sequence[int], upper: Sequence[int]) -> list[int]:
    """q_i for c = ``factor``, times its denominator: whole numbers, since fractions are slow."""
    a, b = factor.numerator, factor.denominator
    return [min(max(a * w, low * b), high * b) for w, low, high in zip(weights, lower, upper, strict=True)]


def _factor(weights: Sequence[int], total: int, lower: Sequence[int], upper: Sequence[int]) -> Fraction:
    """The c: between the two bends of the sum of q_i where it comes to the total, there it is linear."""
    bends = {
        Fraction(bound, weight)
        for weight, low, high in zip(weights, lower, upper, strict=True)
        if weight
        for bound in (0, low, high)
    }
    # a float rounds in order, and compares fast where it differs
    ordered = sorted(bends or {Fraction(0)}, key=lambda bend: (float(bend), bend))
    found = bisect_left(
        ordered, True, key=lambda bend: sum(_quotas(bend, weights, lower, upper)) >= total * bend.denominator
    )
    start, end = ordered[max(0, found - 1)], ordered[found]
    # what lies between its bounds in the whole segment grows with c, the rest stands at one of them
    rises = [
        bool(w) and low <= start * w and end * w <= high and start < end
        for w, low, high in zip(weights, lower, upper, strict=True)
    ]
    growth = sum(w for w, rising in zip(weights, rises, strict=True) if rising)
    if not growth:
        return end
    standing = [quota for quota, rising in zip(_quotas(end, weights, lower, upper), rises, strict=True) if not rising]
    return (total - Fraction(sum(standing), end.denominator)) / growth
