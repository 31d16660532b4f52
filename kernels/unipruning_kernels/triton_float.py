"""Functions shared by kernels: conversions that are exact in the interpreter too, and a split into four columns."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl


@triton.jit
def widen(x):
    """Convert any float to float32."""
    if x.dtype == tl.bfloat16:
        # by its bits: the interpreter's own conversion loses subnormals
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """Convert float32 to any float, rounding to nearest, ties to even."""
    if dtype == tl.bfloat16:
        # by its bits: the interpreter's own conversion truncates
        bits = x.to(tl.uint32, bitcast=True)
        # rounding could carry out of a NaN, which is cut instead, with a bit set that lasts
        bits = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), bits | 0x400000)
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def key_of(x):
    """Return the bits by which the magnitudes of float32 are ranked, NaN as infinity."""
    return tl.minimum(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0x7F800000)


@triton.jit
def columns_of(x, groups: tl.constexpr):
    """Return the four columns of (groups, 4), each (groups,)."""
    even, odd = tl.split(tl.reshape(x, [groups, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth
