"""Triton kernel for the proximal step of the 2:4 regulariser; other patterns are the reference, on the device."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels import reference
from unipruning_kernels.triton_float import columns_of, narrow, widen
from unipruning_kernels.triton_launch import Launcher

SWEEPS = tl.constexpr(reference.PROX_SWEEPS)


@triton.jit
def larger_first(a, b, i, j):
    """The two magnitudes in descending order, equals by their index, each with its index."""
    swap = (b > a) | ((b == a) & (j < i))
    return tl.where(swap, b, a), tl.where(swap, a, b), tl.where(swap, j, i), tl.where(swap, i, j)


@triton.jit
def pick(which, w0, w1, w2, w3, i0, i1, i2):
    """The magnitude of rank k that belongs to index ``which``."""
    return tl.where(i0 == which, w0, tl.where(i1 == which, w1, tl.where(i2 == which, w2, w3)))


@triton.jit(do_not_specialize=["strength"])
def prox_two_of_four(
    weight,  # (4 groups,), any float; updated in place
    numel,
    strength,
    block: tl.constexpr,
):
    """Sort each group, descend to the stationary point of support 3 and of 4, and take the best of them and 2."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    groups: tl.constexpr = block // 4
    value = widen(tl.load(weight + index, mask=index < numel, other=0.0))
    a, b, c, d = columns_of(tl.abs(value), groups)
    ia = tl.zeros([groups], tl.int32)
    ib, ic, ie = ia + 1, ia + 2, ia + 3
    a, b, ia, ib = larger_first(a, b, ia, ib)
    c, d, ic, ie = larger_first(c, d, ic, ie)
    a, c, ia, ic = larger_first(a, c, ia, ic)
    b, d, ib, ie = larger_first(b, d, ib, ie)
    b, c, ib, ic = larger_first(b, c, ib, ic)
    t0, t1, t2 = a, b, c
    w0, w1, w2, w3 = a, b, c, d
    for _ in tl.static_range(SWEEPS):
        t2 = tl.maximum(c - strength * (t0 * t1), 0.0)
        t1 = tl.maximum(b - strength * (t0 * t2), 0.0)
        t0 = tl.maximum(a - strength * (t1 * t2), 0.0)
        w3 = tl.maximum(d - strength * (w0 * w1 + (w0 + w1) * w2), 0.0)
        w2 = tl.maximum(c - strength * (w0 * w1 + (w0 + w1) * w3), 0.0)
        w1 = tl.maximum(b - strength * (w2 * w3 + (w2 + w3) * w0), 0.0)
        w0 = tl.maximum(a - strength * (w2 * w3 + (w2 + w3) * w1), 0.0)
    two = 0.5 * (c * c + d * d)
    three = 0.5 * ((t0 - a) * (t0 - a) + (t1 - b) * (t1 - b) + (t2 - c) * (t2 - c) + d * d)
    three += strength * (t0 * t1 * t2)
    four = 0.5 * ((w0 - a) * (w0 - a) + (w1 - b) * (w1 - b) + (w2 - c) * (w2 - c) + (w3 - d) * (w3 - d))
    four += strength * (w0 * w1 * (w2 + w3) + (w0 + w1) * w2 * w3)
    # of equals the sparser
    use_three = three < two
    best = tl.where(use_three, three, two)
    w0 = tl.where(four < best, w0, tl.where(use_three, t0, a))
    w1 = tl.where(four < best, w1, tl.where(use_three, t1, b))
    w2 = tl.where(four < best, w2, tl.where(use_three, t2, 0.0))
    w3 = tl.where(four < best, w3, 0.0)
    even = tl.join(pick(0, w0, w1, w2, w3, ia, ib, ic), pick(2, w0, w1, w2, w3, ia, ib, ic))
    odd = tl.join(pick(1, w0, w1, w2, w3, ia, ib, ic), pick(3, w0, w1, w2, w3, ia, ib, ic))
    shrunk = tl.reshape(tl.join(even, odd), [block])
    sign = tl.where(value > 0.0, 1.0, tl.where(value < 0.0, -1.0, 0.0))
    tl.store(weight + index, narrow(shrunk * sign, weight.dtype.element_ty), mask=index < numel)


def nm_prox(launch: Launcher, weight: Tensor, strength: float, n: int, m: int) -> None:
    if (n, m) != (2, 4):
        reference.nm_prox(weight, strength, n, m)
        return
    moved = weight.contiguous()
    block = launch.flat(1024, moved.numel())
    launch(prox_two_of_four, triton.cdiv(moved.numel(), block), moved, moved.numel(), float(strength), block=block)
    if moved is not weight:
        weight.copy_(moved)
