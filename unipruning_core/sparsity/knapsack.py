"""The multiple-choice knapsack: one option for each item, a target total, and the least loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, gcd

LARGEST_TABLE = 1 << 26  # cells of the exact table, a byte each


@dataclass(frozen=True)
class Option:
    """What an option adds to the total, and what it costs."""

    size: int  # >= 0
    loss: float  # finite


def choose(items: Sequence[Sequence[Option]], wanted: int, largest_table: int = LARGEST_TABLE) -> list[int]:
    r"""Return the position of the option chosen for each item.

    .. math:: \min_{c} \Bigl(\bigl|\textstyle\sum_i s_{i c_i} - K\bigr|,\ \sum_i \ell_{i c_i}\Bigr)
              \quad\text{in lexicographic order}

    Sizes of matrices have a large common divisor, so the dynamic programme over totals is usually small, and then the
    choice is optimal: no choice comes closer to ``wanted``, and none equally close loses less (of two equally close
    totals the larger is taken).  If its table would exceed ``largest_table`` cells, the choice is greedy on the lower
    convex hulls of the items: every total it passes through is reached with the least loss possible for that total
    (it minimises loss + mu * size for some mu), and it stops at the closest total it passed, at most half the size of
    one step from ``wanted``.  Ties go to the lower position and the lower item.
    """
    least = [min(option.size for option in options) for options in items]
    excess = [[option.size - low for option in options] for options, low in zip(items, least, strict=True)]
    unit = gcd(*(size for sizes in excess for size in sizes)) or 1
    steps = [[size // unit for size in sizes] for sizes in excess]
    highest = max((max(sizes) for sizes in steps), default=0)
    aim = (wanted - sum(least)) / unit
    # beyond the aim the next reachable total is at most one step away
    cells = min(sum(map(max, steps)), max(0, ceil(aim)) + highest) + 1
    if cells * len(items) > largest_table:
        return _greedy(items, wanted)
    return _exact(items, steps, aim, cells)


def _exact(items: Sequence[Sequence[Option]], steps: list[list[int]], aim: float, cells: int) -> list[int]:
    import numpy as np  # imported here: the command line parses sparsities without it

    best = np.full(cells, np.inf)
    best[0] = 0.0
    taken = np.zeros((len(items), cells), dtype=np.uint8)
    for item, (options, sizes) in enumerate(zip(items, steps, strict=True)):
        extended = np.full(cells, np.inf)
        for position, (option, size) in enumerate(zip(options, sizes, strict=True)):
            if size >= cells:
                continue
            candidate = best[: cells - size] + option.loss
            better = candidate < extended[size:]
            extended[size:][better] = candidate[better]
            taken[item, size:][better] = position
        best = extended
    reachable = np.flatnonzero(np.isfinite(best))
    total = int(min(reachable, key=lambda cell: (abs(cell - aim), -cell)))
    chosen = []
    for item in reversed(range(len(items))):
        chosen.append(int(taken[item, total]))
        total -= steps[item][chosen[-1]]
    return chosen[::-1]


def _greedy(items: Sequence[Sequence[Option]], aim: int) -> list[int]:
    hulls = [_hull(options) for options in items]
    chosen = [hull[0] for hull in hulls]
    total = sum(options[first].size for options, first in zip(items, chosen, strict=True))
    slopes = [
        ((options[b].loss - options[a].loss) / (options[b].size - options[a].size), item, b)
        for item, (options, hull) in enumerate(zip(items, hulls, strict=True))
        for a, b in pairwise(hull)
    ]
    # sort is stable: equal slopes of one item stay in the order of its hull
    for _, item, position in sorted(slopes, key=lambda step: step[:2]):
        after = total + items[item][position].size - items[item][chosen[item]].size
        if abs(after - aim) > abs(total - aim):
            break
        chosen[item], total = position, after
    return chosen


def _hull(options: Sequence[Option]) -> list[int]:
    """Return the positions on the lower convex hull of (size, loss), by size; of equal sizes the cheapest."""
    hull: list[int] = []
    for position in sorted(range(len(options)), key=lambda p: (options[p].size, options[p].loss, p)):
        option = options[position]
        if hull and options[hull[-1]].size == option.size:
            continue
        while len(hull) > 1:
            a, b = options[hull[-2]], options[hull[-1]]
            if (b.loss - a.loss) * (option.size - b.size) < (option.loss - b.loss) * (b.size - a.size):
                break
            hull.pop()
        hull.append(position)
    return hull
