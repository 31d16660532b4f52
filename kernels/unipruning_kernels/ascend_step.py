"""Triton kernel for the mirror step on Ascend's vector cores: written for Triton-Ascend, opt-in, run by no backend."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import widen

VECTOR_CORES = 48  # of an Ascend910B: a grid has at most this many programs, each of which loops over its tiles
BLOCK = 2048  # columns of a tile; its temporaries, held twice to hide the loads, share 192 KiB of on-chip memory
CHUNK = 64  # rows of a tile, so that a column's two factors are read once for 64 weights


@triton.jit(do_not_specialize=["step_size", "phi"])
def mirror(
    dual,  # (height, width), float32, V; updated in place
    weight,  # (height, width), any float, W
    gradient,  # (height, width), any float, g; not read unless has_gradient
    r,  # (height,), float32
    p,  # (width,), float32
    q,  # (width,), float32
    threshold,  # 0-D, float32, tau
    height,
    width,
    step_size,
    phi,
    has_gradient: tl.constexpr,
    chunk: tl.constexpr,
    block: tl.constexpr,
):
    r"""V += kappa (S - sign(V) max(|V| - tau, 0)) with S = |W| (r p + q) + phi (W g)^2."""
    tau = tl.load(threshold)
    blocks = tl.cdiv(width, block)
    tiles = tl.cdiv(height, chunk) * blocks
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        column = (tile % blocks) * block + tl.arange(0, block)
        inside = column < width
        factor = tl.load(p + column, mask=inside, other=0.0)
        shift = tl.load(q + column, mask=inside, other=0.0)
        first = (tile // blocks) * chunk
        for row in range(first, tl.minimum(first + chunk, height)):
            offset = tl.cast(row, tl.int64) * width + column
            w = widen(tl.load(weight + offset, mask=inside, other=0.0))
            v = tl.load(dual + offset, mask=inside, other=0.0)
            saliency = tl.abs(w) * (tl.load(r + row) * factor + shift)
            if has_gradient:
                product = w * widen(tl.load(gradient + offset, mask=inside, other=0.0))
                saliency += phi * (product * product)
            gamma = tl.where(v > 0.0, 1.0, tl.where(v < 0.0, -1.0, 0.0)) * (tl.abs(v) - tl.minimum(tl.abs(v), tau))
            tl.store(dual + offset, v + step_size * (saliency - gamma), mask=inside)


def move_dual(
    dual: Tensor,
    weight: Tensor,
    r: Tensor,
    p: Tensor,
    q: Tensor,
    threshold: Tensor,
    *,
    step_size: float,
    gradient: Tensor | None = None,
    phi: float = 0.0,
) -> None:
    """Update V as ``mirror_step`` does and leave tau unchanged; the matrices are contiguous."""
    height, width = dual.shape
    tiles = triton.cdiv(height, CHUNK) * triton.cdiv(width, BLOCK)
    mirror[(min(VECTOR_CORES, tiles),)](
        *(dual, weight, weight if gradient is None else gradient, r, p, q, threshold),
        *(height, width, float(step_size), float(phi)),
        has_gradient=gradient is not None,
        chunk=CHUNK,
        block=BLOCK,
    )
