"""Exact division of a whole number of weights among matrices or rows, in proportion and within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


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
    parts = [
        (Fraction(weight), low, high if weight else low)
        for weight, low, high in zip(proportions, lower, upper, strict=True)
    ]
    if not sum(low for _, low, _ in parts) <= total <= sum(high for _, _, high in parts):
        raise ValueError(f"{total} lies outside what the bounds allow")
    quotas = _quotas(parts, total)
    kept = [quota.numerator // quota.denominator for quota in quotas]
    by_remainder = sorted(range(len(kept)), key=lambda index: (kept[index] - quotas[index], index))
    for index in by_remainder[: total - sum(kept)]:
        kept[index] += 1
    return kept


def _quotas(parts: Sequence[tuple[Fraction, int, int]], total: int) -> list[Fraction]:
    """The q_i: c is in the segment between two bends of the sum, which is linear there."""
    bends = sorted({Fraction(bound) / weight for weight, low, high in parts if weight for bound in (low, high)})

    def at(factor: Fraction) -> list[Fraction]:
        return [min(max(factor * weight, Fraction(low)), Fraction(high)) for weight, low, high in parts]

    # the first bend at which the sum reaches the total
    below, reached = -1, len(bends) - 1
    while reached - below > 1:
        middle = (below + reached) // 2
        below, reached = (below, middle) if sum(at(bends[middle])) >= total else (middle, reached)
    if reached < 0:
        return at(Fraction(0))
    start, end = bends[below] if below >= 0 else Fraction(0), bends[reached]
    first, last = at(start), at(end)
    reached_first, rise = sum(first, Fraction(0)), sum(last, Fraction(0)) - sum(first, Fraction(0))
    share = (total - reached_first) / rise if rise else Fraction(0)
    return [one + share * (other - one) for one, other in zip(first, last, strict=True)]
