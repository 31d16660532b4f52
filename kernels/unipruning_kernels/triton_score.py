"""Triton kernel of the scores of ``feedback``, and what the kernel that masks by them shares with it."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import widen
from unipruning_kernels.triton_launch import Launcher

CHUNK = 32  # rows per program, so that a column's two factors are read once for 32 weights
TILE = (2, 512)  # a thread holds eight weights in a row
LOG_4 = math.log(4)
SMALL = tl.constexpr(2.0**-64)
FAR = tl.constexpr(2**30)  # offsets inside a program are 32 bits wide and smaller; a chunk past that is one row


@triton.jit
def drifted(weight, drift, offset, inside, rate, has_drift: tl.constexpr):
    """Return W, U and W + eta U in float32; the product is rounded before the sum."""
    w = widen(tl.load(weight + offset, mask=inside, other=0.0))
    if has_drift:
        u = widen(tl.load(drift + offset, mask=inside, other=0.0))
        moved = w + rate * u
    else:
        u = tl.zeros_like(w)
        moved = w
    return w, u, moved


# The fast root, logarithm and power of a GPU take subnormals for zero, so they neither get nor give any.


@triton.jit
def root_of(x):
    """Return x^(1/2) for x >= 0."""
    small = x < SMALL
    root = tl.sqrt(tl.where(small, x * 2.0**32, x))
    return tl.where(small, root * 2.0**-16, root)


@triton.jit
def log2_of(x):
    """Return the logarithm of x > 0."""
    small = x < SMALL
    return tl.log2(tl.where(small, x * 2.0**32, x)) - tl.where(small, 32.0, 0.0)


@triton.jit
def four_to(x):
    """Return 4^x."""
    root = tl.exp2(x)
    return root * root


@triton.jit
def score_of(w, u, moved, v, factor, exponent, pull, has_drift: tl.constexpr, power: tl.constexpr):
    r"""|W| v^(1/2) (|W + eta U| factor)^(2 exponent) 4^(pull U sign(W)), where 0^0 = 1."""
    score = tl.abs(w) * root_of(v)
    if power != 0:
        local = tl.abs(moved) * factor
        if power == 2:
            zero = local == 0.0
            local = tl.where(zero, 0.0, four_to(exponent * log2_of(tl.where(zero, 1.0, local))))
        score *= local
    if has_drift:
        # a drift of infinity has made the local metric infinite, if there is one
        unsigned = u * 0.0 if power == 0 else 0.0
        score *= four_to(pull * tl.where(w > 0.0, u, tl.where(w < 0.0, -u, unsigned)))
    return score


@triton.jit(do_not_specialize=["rate", "exponent", "pull"])
def scores(
    weight,  # (height, width), any float, W
    second,  # (height, width), bfloat16, v
    drift,  # (height, width), float16, U; not read unless has_drift
    r,  # (height,), float32
    p,  # (width,), float32
    q,  # (width,), float32
    out,  # (height, width), float32
    height,
    width,
    rate,  # eta
    exponent,  # a / 2
    pull,  # b / log(4)
    has_drift: tl.constexpr,
    power: tl.constexpr,  # 0 or 1 where a is that, else 2
    chunk: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    """Write the scores."""
    blocks = tl.cdiv(width, block)
    first = (tl.program_id(0) // blocks) * chunk
    column = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    scale = tl.load(p + column, mask=column < width, other=0.0)[None, :]
    shift = tl.load(q + column, mask=column < width, other=0.0)[None, :]
    for start in range(0, chunk, tile_rows):
        row = first + start + tl.arange(0, tile_rows)
        inside = (row < height)[:, None] & (column < width)[None, :]
        offset = row.to(tl.int64)[:, None] * width + column[None, :]
        w, u, moved = drifted(weight, drift, offset, inside, rate, has_drift)
        v = widen(tl.load(second + offset, mask=inside, other=0.0))
        factor = tl.load(r + row, mask=row < height, other=0.0)[:, None] * scale + shift
        score = score_of(w, u, moved, v, factor, exponent, pull, has_drift, power)
        tl.store(out + offset, score, mask=inside)


def feedback_scores(
    launch: Launcher,
    weight: Tensor,
    second: Tensor,
    drift: Tensor | None,
    r: Tensor,
    p: Tensor,
    q: Tensor,
    *,
    learning_rate: float,
    exponent: float,
    pull: float,
) -> Tensor:
    programs, sizes = tiles(launch, *weight.shape)
    out = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    launch(
        scores,
        programs,
        *contiguous_state(weight, second, drift, r, p, q),
        *(out, *weight.shape, float(learning_rate), exponent / 2, pull / LOG_4),
        has_drift=drift is not None,
        power=power_of(exponent),
        **sizes,
    )
    return out


def power_of(exponent: float) -> int:
    """Return what the kernels take for ``power``."""
    return int(exponent) if exponent in (0.0, 1.0) else 2


def contiguous_state(
    weight: Tensor, second: Tensor, drift: Tensor | None, r: Tensor, p: Tensor, q: Tensor
) -> tuple[Tensor, ...]:
    """Return all six contiguous, the weight also in the place of a drift that is not there."""
    w = weight.contiguous()
    u = w if drift is None else drift.contiguous()
    return w, second.contiguous(), u, r.contiguous(), p.contiguous(), q.contiguous()


def tile(launch: Launcher, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of a tile, whole bytes of the mask."""
    rows, block = launch.tile(TILE, (height, width))
    return rows, max(8, block)


def tiles(launch: Launcher, height: int, width: int) -> tuple[int, dict[str, int]]:
    """Return the number of programs that work in chunks of rows, and their sizes."""
    chunk = CHUNK if CHUNK * width < FAR.value else 1
    rows, block = tile(launch, chunk, width)
    programs = triton.cdiv(height, chunk) * triton.cdiv(width, block)
    return programs, {"chunk": chunk, "tile_rows": min(rows, chunk), "block": block}
