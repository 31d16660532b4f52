"""Triton kernel for the proximal step of the N:M regulariser, one group per thread.

A group of two, four or eight stays in registers with all the products that the descent needs.  A group of sixteen takes
213 of a thread's 255 registers and five times as long to compile, so it and all other sizes run the reference.
"""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disable-error-code="assignment, misc, var-annotated"
# ruff: noqa: RUF005 - Triton unrolls tuples of any length, and compiles no starred expressions

import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels import reference
from unipruning_kernels.triton_float import narrow, widen
from unipruning_kernels.triton_groups import apart, together
from unipruning_kernels.triton_launch import Launcher

SWEEPS = tl.constexpr(reference.PROX_SWEEPS)
INFINITY = tl.constexpr(float("inf"))
LARGEST = 8  # elements of a group


@triton.jit
def ranks_of(values):
    """Return the place of each in descending order, equals by their index."""
    ranks = ()
    for i in tl.static_range(len(values)):
        # count those before that are no smaller and those behind that are larger: one comparison per pair
        rank = tl.full(values[i].shape, i, tl.int32)
        for j in tl.static_range(i):
            rank -= (values[i] > values[j]).to(tl.int32)
        for j in tl.static_range(i + 1, len(values)):
            rank += (values[j] > values[i]).to(tl.int32)
        ranks = ranks + (rank,)
    return ranks


@triton.jit
def grown(polynomial, root, taken: tl.constexpr, total: tl.constexpr, degree: tl.constexpr):
    """Multiply a product of ``taken`` factors, of ``total`` in all, by (1 + root x).

    Keep only coefficients that can still contribute to that of x^degree in the full product: those from ``degree``
    less the missing factors upwards.
    """
    shift: tl.constexpr = 1 if degree > total - 1 - taken else 0
    longer: tl.constexpr = 1 if taken < degree else 0
    product = ()
    for i in tl.static_range(len(polynomial) + longer - shift):
        if i + shift == 0:
            product = product + (polynomial[0],)
        elif i + shift < len(polynomial):
            product = product + (polynomial[i + shift] + root * polynomial[i + shift - 1],)
        else:
            product = product + (root * polynomial[i + shift - 1],)
    return product


@triton.jit
def descended(w, z, strength, n: tl.constexpr):
    """Run one sweep of exact coordinate descent, smallest first: w_i = max(z_i - lambda e_n(w without i), 0)."""
    size: tl.constexpr = len(w)
    one = tl.zeros_like(z[0]) + 1.0
    # the products of all w before i, for every i, and of all after i, which are updated already
    before = ((one,),)
    for i in tl.static_range(size - 1):
        before = before + (grown(before[i], w[i], i, size - 1, n),)
    after = (one,)
    moved = ()
    for i in tl.static_range(size - 1, -1, -1):
        others = before[i][0] * after[len(after) - 1]
        for j in tl.static_range(1, len(after)):
            others += before[i][j] * after[len(after) - 1 - j]
        new = tl.maximum(z[i] - strength * others, 0.0)
        moved = (new,) + moved
        if i > 0:
            after = grown(after, new, size - 1 - i, size - 1, n)
    return moved


@triton.jit
def elementary(w, degree: tl.constexpr):
    """Return e_degree(w)."""
    product = (tl.zeros_like(w[0]) + 1.0,)
    for i in tl.static_range(len(w)):
        product = grown(product, w[i], i, len(w), degree)
    return product[0]


@triton.jit
def front(values, size: tl.constexpr):
    """Return the first ``size`` elements of a tuple."""
    kept = ()
    for i in tl.static_range(size):
        kept = kept + (values[i],)
    return kept


@triton.jit(do_not_specialize=["strength"])
def prox_groups(
    weight,  # (groups * m,), any float; updated in place
    numel,
    strength,
    n: tl.constexpr,
    m: tl.constexpr,
    depth: tl.constexpr,  # m = 2**depth
    block: tl.constexpr,  # groups per program
):
    """Sort each group, descend to the stationary point of each support, and take the best; of equals the sparser."""
    index = tl.program_id(0).to(tl.int64) * (block * m) + tl.arange(0, block * m)
    value = widen(tl.load(weight + index, mask=index < numel, other=0.0))
    columns = apart(value, block, m, depth)
    magnitudes = ()
    for i in tl.static_range(m):
        magnitudes = magnitudes + (tl.abs(columns[i]),)
    # a group that is not finite stays
    finite = magnitudes[0] < INFINITY
    for i in tl.static_range(1, m):
        finite &= magnitudes[i] < INFINITY
    ranks = ranks_of(magnitudes)
    z = ()
    for place in tl.static_range(m):
        sorted_one = magnitudes[m - 1]
        for i in tl.static_range(m - 1):
            sorted_one = tl.where(ranks[i] == place, magnitudes[i], sorted_one)
        z = z + (sorted_one,)
    # support n needs no descent: the regulariser is zero there
    best = front(z, n)
    cost = z[n] * z[n]
    for i in tl.static_range(n + 1, m):
        cost += z[i] * z[i]
    cost *= 0.5
    for _ in tl.static_range(n, m):
        best = best + (tl.zeros_like(z[0]),)
    for support in tl.static_range(n + 1, m + 1):
        target = front(z, support)
        w = target
        left = SWEEPS
        while left > 0:
            new = descended(w, target, strength, n)
            moved = new[0] != w[0]
            for i in tl.static_range(1, support):
                moved |= new[i] != w[i]
            w = new
            # a sweep that changes nothing would change nothing again
            left = tl.where(tl.max(moved.to(tl.int32)) > 0, left - 1, 0)
        tried = (w[0] - z[0]) * (w[0] - z[0])
        for i in tl.static_range(1, support):
            tried += (w[i] - z[i]) * (w[i] - z[i])
        for i in tl.static_range(support, m):
            tried += z[i] * z[i]
        tried = 0.5 * tried + strength * elementary(w, n + 1)
        better = tried < cost
        cost = tl.where(better, tried, cost)
        chosen = ()
        for i in tl.static_range(m):
            if i < support:
                chosen = chosen + (tl.where(better, w[i], best[i]),)
            else:
                chosen = chosen + (tl.where(better, 0.0, best[i]),)
        best = chosen
    shrunk = ()
    for i in tl.static_range(m):
        own = best[m - 1]
        for place in tl.static_range(m - 1):
            own = tl.where(ranks[i] == place, best[place], own)
        sign = tl.where(columns[i] > 0.0, 1.0, tl.where(columns[i] < 0.0, -1.0, 0.0))
        shrunk = shrunk + (tl.where(finite, own * sign, columns[i]),)
    result = together(shrunk, block, m, depth)
    tl.store(weight + index, narrow(result, weight.dtype.element_ty), mask=index < numel)


def nm_prox(launch: Launcher, weight: Tensor, strength: float, n: int, m: int) -> None:
    depth = m.bit_length() - 1
    if m > LARGEST or m != 1 << depth:
        reference.nm_prox(weight, strength, n, m)
        return
    moved = weight.contiguous()
    numel = moved.numel()
    block = max(1, launch.flat(256, numel) // m)
    constants = {"n": n, "m": m, "depth": depth, "block": block}
    launch(prox_groups, triton.cdiv(numel, block * m), moved, numel, float(strength), **constants, warps=1)
    if moved is not weight:
        weight.copy_(moved)
