"""Triton kernel for the mirror step: forms the saliency on the fly and brackets the next threshold in the same pass."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import columns_of, widen
from unipruning_kernels.triton_kth import kth_magnitude, new_state
from unipruning_kernels.triton_launch import Launcher

CHUNK = 64  # rows per program, so that a column's two factors are read once for 64 weights
# the bracket holds about one weight in this many above and below the old threshold, which is more likely to grow
ONE_IN_UP, ONE_IN_DOWN = 185, 370
DOUBLING = 2**23  # steps of a float's bits
WIDEST = 8 * DOUBLING
LARGEST = tl.constexpr(0x7F800000 - WIDEST)  # so that no end of a bracket overflows; above it there is no bracket
CAPACITY = 16  # room for one candidate in this many weights; a fuller bracket is abandoned


@triton.jit(do_not_specialize=["step_size", "phi", "steps_down", "steps_up"])
def mirror(
    dual,  # (height, width), float32, V; updated in place
    weight,  # (height, width), any float, W
    gradient,  # (height, width), any float, g; not read unless has_gradient
    r,  # (height,), float32
    p,  # (width,), float32
    q,  # (width,), float32
    threshold,  # 0-D, float32, tau
    candidates,  # (capacity,), float32; the new magnitudes inside the bracket, in any order
    state,  # int64: how many lie below the bracket and inside; added to
    height,
    width,
    capacity,
    step_size,
    phi,
    steps_down,  # from the old threshold's bits to the start of the bracket
    steps_up,  # and to its end
    has_gradient: tl.constexpr,
    bracket: tl.constexpr,
    chunk: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    r"""V += kappa (S - sign(V) max(|V| - tau, 0)) with S = |W| (r p + q) + phi (W g)^2."""
    blocks = tl.cdiv(width, block)
    first = (tl.program_id(0) // blocks) * chunk
    column = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    factor = tl.load(p + column, mask=column < width, other=0.0)[None, :]
    shift = tl.load(q + column, mask=column < width, other=0.0)[None, :]
    tau = tl.load(threshold)
    old = tau.to(tl.int32, bitcast=True)
    low = tl.maximum(old - steps_down, 0)
    high = tl.minimum(old, LARGEST) + steps_up
    under = tl.zeros([tile_rows, block], tl.int32)
    for start in range(0, chunk, tile_rows):
        row = first + start + tl.arange(0, tile_rows)
        inside = (row < height)[:, None] & (column < width)[None, :]
        offset = row.to(tl.int64)[:, None] * width + column[None, :]
        w = widen(tl.load(weight + offset, mask=inside, other=0.0))
        v = tl.load(dual + offset, mask=inside, other=0.0)
        saliency = tl.abs(w) * (tl.load(r + row, mask=row < height, other=0.0)[:, None] * factor + shift)
        if has_gradient:
            product = w * widen(tl.load(gradient + offset, mask=inside, other=0.0))
            saliency += phi * (product * product)
        gamma = tl.where(v > 0.0, 1.0, tl.where(v < 0.0, -1.0, 0.0)) * (tl.abs(v) - tl.minimum(tl.abs(v), tau))
        v += step_size * (saliency - gamma)
        tl.store(dual + offset, v, mask=inside)
        if bracket:
            key = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
            under += (inside & (key < low)).to(tl.int32)
            caught = (inside & (key >= low) & (key < high)).to(tl.int32)
            each = tl.sum(caught, axis=1)
            many = tl.sum(each)
            if many > 0:
                taken = tl.minimum(tl.atomic_add(state + 1, many.to(tl.int64), sem="relaxed"), capacity).to(tl.int32)
                place = (taken + tl.cumsum(each, axis=0) - each)[:, None] + tl.cumsum(caught, axis=1) - 1
                place = tl.where((caught > 0) & (place < capacity), place, -1)
                # a thread holds four in a row; stored as they are, they need not change threads
                p0, p1, p2, p3 = columns_of(place, tile_rows * block // 4)
                k0, k1, k2, k3 = columns_of(key.to(tl.float32, bitcast=True), tile_rows * block // 4)
                tl.store(candidates + p0, k0, mask=p0 >= 0)
                tl.store(candidates + p1, k1, mask=p1 >= 0)
                tl.store(candidates + p2, k2, mask=p2 >= 0)
                tl.store(candidates + p3, k3, mask=p3 >= 0)
    if bracket:
        tl.atomic_add(state, tl.sum(under).to(tl.int64), sem="relaxed")


def bracket_steps(rank: int, numel: int) -> tuple[int, int]:
    """Return how far a bracket reaches below and above the old threshold, in steps of its bits.

    Where magnitudes are distributed evenly from zero, a threshold at the quantile q has q d of them between itself and
    (1 + d) times itself: the smaller the quantile, the wider the bracket, so that a search with a small quantile
    catches the threshold from the second step on, although it doubles there.
    """
    quantile = rank / numel
    lowest, highest = 1 - 1 / (ONE_IN_DOWN * quantile), 1 + 1 / (ONE_IN_UP * quantile)
    down = round(-math.log2(lowest) * DOUBLING) if lowest > 0 else 2**31 - 1
    return down, min(WIDEST, round(math.log2(highest) * DOUBLING))


def mirror_step(
    launch: Launcher,
    dual: Tensor,
    weight: Tensor,
    r: Tensor,
    p: Tensor,
    q: Tensor,
    threshold: Tensor,
    *,
    step_size: float,
    rank: int | None,
    gradient: Tensor | None = None,
    phi: float = 0.0,
) -> None:
    height, width = dual.shape
    v, w = dual.contiguous(), weight.contiguous()
    g = w if gradient is None else gradient.contiguous()
    rows, block = launch.tile((1, 512), (CHUNK, width))
    state = new_state(launch, dual.device)
    capacity = min(v.numel() // CAPACITY, 2**30) if rank else 0
    down, up = bracket_steps(rank, v.numel()) if rank else (0, 0)
    candidates = torch.empty(capacity, dtype=torch.float32, device=dual.device)
    launch(
        mirror,
        triton.cdiv(height, CHUNK) * triton.cdiv(width, block),
        *(v, w, g, r.contiguous(), p.contiguous(), q.contiguous(), threshold, candidates, state),
        *(height, width, capacity, float(step_size), float(phi), down, up),
        has_gradient=gradient is not None,
        bracket=bool(rank),
        chunk=CHUNK,
        tile_rows=min(rows, CHUNK),
        block=block,
    )
    if v is not dual:
        dual.copy_(v)
    if rank:
        kth_magnitude(launch, v.flatten(), candidates, state, rank, threshold)
    elif rank == 0:
        threshold.zero_()
