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
    quotas = _quotas(weights, total, lower, upper)
    kept = [quota.numerator // quota.denominator for quota in quotas]
    by_remainder = sorted(range(len(kept)), key=lambda index: (kept[index] - quotas[index], index))
    for index in by_remainder[: total - sum(kept)]:
        kept[index] += 1
    return kept


def _as_integers(proportions: Sequence[Fraction | int]) -> list[int]:
    """The same proportions without denominators, since sums of fractions are slow."""
    common = lcm(*(weight.denominator for weight in proportions))
    return [weight.numerator * (common // weight.denominator) for weight in proportions]


def _quotas(weights: Sequence[int], total: int, lower: Sequence[int], upper: Sequence[int]) -> list[Fraction]:
    """The q_i: c is in the segment between two bends of the sum, which is linear there."""

    def at(factor: Fraction) -> list[int]:
        """q_i times the factor's denominator."""
        a, b = factor.numerator, factor.denominator
        return [min(max(a * w, low * b), high * b) for w, low, high in zip(weights, lower, upper, strict=True)]

    bends = {
        Fraction(bound, weight)
        for weight, low, high in zip(weights, lower, upper, strict=True)
        if weight
        for bound in (0, low, high)
    }
    # a float rounds in order, and compares fast where it differs
    ordered = sorted(bends or {Fraction(0)}, key=lambda bend: (float(bend), bend))
    end = ordered[bisect_left(ordered, True, key=lambda bend: sum(at(bend)) >= total * bend.denominator)]
    start = ordered[max(0, ordered.index(end) - 1)]
    first = [Fraction(part, start.denominator) for part in at(start)]
    last = [Fraction(part, end.denominator) for part in at(end)]
    reached = Fraction(sum(at(start)), start.denominator)
    rise = Fraction(sum(at(end)), end.denominator) - reached
    share = (total - reached) / rise if rise else Fraction(0)
    return [one + share * (other - one) for one, other in zip(first, last, strict=True)]
