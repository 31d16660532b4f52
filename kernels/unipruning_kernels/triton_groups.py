"""Functions shared by the N:M kernels: groups of consecutive elements split into columns, and joined again."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005 - Triton unrolls tuples of any length, and compiles no starred expressions

import triton
import triton.language as tl


@triton.jit
def apart(x, groups: tl.constexpr, m: tl.constexpr, depth: tl.constexpr):
    """Return the m = 2**depth columns of (groups * m,), each (groups,), in the order of their indices."""
    columns = (tl.reshape(x, [groups, m]),)
    for level in tl.static_range(depth):
        halves = ()
        for i in tl.static_range(1 << level):
            # lower half first, so that the order of the columns is that of the indices
            pair = tl.permute(tl.reshape(columns[i], [groups, 2, m >> (level + 1)]), (0, 2, 1))
            lower, upper = tl.split(pair)
            halves = halves + (lower, upper)
        columns = halves
    return columns


@triton.jit
def together(columns, groups: tl.constexpr, m: tl.constexpr, depth: tl.constexpr):
    """Invert ``apart``."""
    for level in tl.static_range(depth):
        joined = ()
        for i in tl.static_range(m >> (level + 1)):
            pair = tl.permute(tl.join(columns[2 * i], columns[2 * i + 1]), (0, 2, 1))
            joined = joined + (tl.reshape(pair, [groups, 2 << level]),)
        columns = joined
    return tl.reshape(columns[0], [groups * m])
