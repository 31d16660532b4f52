"""Bytes that a list of calls moves between a card's memory and its second-level cache, by a model of that cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

PAGE = 4096
OVERWRITES = ("InplaceCopy", "InplaceZero", "InplaceFillScalar")  # these alone change what they do not read


def moved(
    lines: Sequence[str],  # as calls.trace gives them
    cache: int,  # bytes
) -> int:
    """What is fetched and written back when the cache lets go of what was used longest ago.

    Each operator reads its operands whole and writes its result whole: the first operand where its name says that it
    works in place, else the last.  What lies in the cache at the end counts as written back where it was changed.
    """
    held: OrderedDict[int, bool] = OrderedDict()  # by page, whether it was changed
    total = 0
    for line in lines:
        name, *operands = line.split("\t")
        # operands come from the last to the first
        in_place = "Inplace" in name
        result = len(operands) - 1 if in_place else 0
        read = in_place and not name.endswith(OVERWRITES)
        for position, operand in enumerate(operands):
            begin, size = operand.split()
            start = int(begin, 16)
            for page in range(start // PAGE, -(-(start + int(size)) // PAGE)):
                changed = held.pop(page, None)
                if changed is None and (read or position != result):
                    total += PAGE
                held[page] = bool(changed) or position == result
                if len(held) > cache // PAGE:
                    total += PAGE * held.popitem(last=False)[1]
    return total + PAGE * sum(held.values())
