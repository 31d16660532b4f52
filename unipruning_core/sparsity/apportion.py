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
    r"""Return whole k_i with :math:`\sum_i k_i` = ``total``, as close to proportional as the bounds allow.

    .. math:: q_i = \min(\max(c\, w_i, l_i), u_i) \text{ with } c \ge 0 \text{ such that } \sum_i q_i = K

    k_i is q_i rounded by largest remainders (Hamilton's method): down, then up by one for the largest fractional parts
    until the total is met, ties to the lower index.  The arithmetic is exact, so every machine gets the same result.
    An entry of proportion 0 stays at its lower bound.

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
    """Return the same proportions without denominators, since sums of fractions are slow."""
    common = lcm(*(weight.denominator for weight in proportions))
    return [weight.numerator * (common // weight.denominator) for weight in proportions]


def _quotas(factor: Fraction, weights: Sequence[int], lower: Sequence[int], upper: Sequence[int]) -> list[int]:
    """Return q_i for c = ``factor``, times its denominator: whole numbers, since fractions are slow."""
    a, b = factor.numerator, factor.denominator
    return [min(max(a * w, low * b), high * b) for w, low, high in zip(weights, lower, upper, strict=True)]


def _factor(weights: Sequence[int], total: int, lower: Sequence[int], upper: Sequence[int]) -> Fraction:
    """Find c between the two breakpoints around the total, where the sum of q_i is linear."""
    breakpoints = {
        Fraction(bound, weight)
        for weight, low, high in zip(weights, lower, upper, strict=True)
        if weight
        for bound in (0, low, high)
    }
    # floats keep the order, and compare faster than fractions where they differ
    ordered = sorted(breakpoints or {Fraction(0)}, key=lambda point: (float(point), point))
    index = bisect_left(
        ordered, True, key=lambda point: sum(_quotas(point, weights, lower, upper)) >= total * point.denominator
    )
    start, end = ordered[max(0, index - 1)], ordered[index]
    # entries between their bounds over the whole segment grow with c; the others stay at a bound
    grows = [
        bool(w) and low <= start * w and end * w <= high and start < end
        for w, low, high in zip(weights, lower, upper, strict=True)
    ]
    growth = sum(w for w, growing in zip(weights, grows, strict=True) if growing)
    if not growth:
        return end
    fixed = [quota for quota, growing in zip(_quotas(end, weights, lower, upper), grows, strict=True) if not growing]
    return (total - Fraction(sum(fixed), end.denominator)) / growth
