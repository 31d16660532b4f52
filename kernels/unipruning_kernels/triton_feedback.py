"""Triton kernels of ``feedback``: mask and move the weights, each in one pass over the matrix."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import narrow, widen
from unipruning_kernels.triton_launch import Launcher
from unipruning_kernels.triton_nm import nm_mask
from unipruning_kernels.triton_score import (
    FAR,
    LOG_4,
    contiguous_state,
    drifted,
    feedback_scores,
    power_of,
    root_of,
    score_of,
    tile,
    tiles,
)

LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


@triton.jit(do_not_specialize=["rate", "exponent", "pull", "first", "stride"])
def mask_scored(
    weight,  # as in triton_score.scores, and so are second to q
    second,
    drift,
    r,
    p,
    q,
    pattern,  # (height, width), uint8: what the pattern keeps; not read unless has_pattern
    threshold,  # 0-D, float32
    sample,  # (max(0, ceil((height * width - first) / stride)),), float32
    out,  # (height, width), as the weight
    bits,  # (height, ceil(width / 8)), uint8; the first of eight weights in the lowest bit
    height,
    width,
    rate,
    exponent,
    pull,
    first,
    stride,
    has_drift: tl.constexpr,
    has_pattern: tl.constexpr,
    power: tl.constexpr,
    draws: tl.constexpr,  # how many of eight weights in a row can be drawn
    chunk: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    """Write the drifting weight where its score reaches the threshold, else +0, the packed mask, and some scores."""
    blocks = tl.cdiv(width, block)
    top = (tl.program_id(0) // blocks) * chunk
    left = (tl.program_id(0) % blocks) * block
    column = left + tl.arange(0, block)
    byte = left // 8 + tl.arange(0, block // 8)
    bit = tl.arange(0, 8)[None, None, :]
    pitch = (width + 7) // 8
    scale = tl.load(p + column, mask=column < width, other=0.0)[None, :]
    shift = tl.load(q + column, mask=column < width, other=0.0)[None, :]
    bound = tl.load(threshold)
    # the chunk's first weight to be drawn lies this far behind its first, and has this place in the sample
    begin = top.to(tl.int64) * width - first
    # a division of signed numbers takes more instructions
    place = (tl.maximum(begin + stride - 1, 0).to(tl.uint64) // stride.to(tl.uint64)).to(tl.int64)
    lead = tl.minimum(place * stride - begin, FAR).to(tl.int32)
    step = tl.minimum(stride, FAR).to(tl.int32)
    for start in range(0, chunk, tile_rows):
        local = start + tl.arange(0, tile_rows)
        row = top + local
        inside = (row < height)[:, None] & (column < width)[None, :]
        offset = row.to(tl.int64)[:, None] * width + column[None, :]
        w, u, moved = drifted(weight, drift, offset, inside, rate, has_drift)
        v = widen(tl.load(second + offset, mask=inside, other=0.0))
        factor = tl.load(r + row, mask=row < height, other=0.0)[:, None] * scale + shift
        score = score_of(w, u, moved, v, factor, exponent, pull, has_drift, power)
        if has_pattern:
            score = tl.where(tl.load(pattern + offset, mask=inside, other=0) != 0, LARGEST, score)
        kept = inside & (score >= bound)
        # selected, not multiplied: a product could be -0.0
        tl.store(out + offset, narrow(tl.where(kept, moved, 0.0), weight.dtype.element_ty), mask=inside)
        whole = (row < height)[:, None] & (byte < pitch)[None, :]
        eight = tl.reshape(kept.to(tl.int32), [tile_rows, block // 8, 8]) << bit
        packed = tl.sum(eight, axis=2).to(tl.uint8)
        tl.store(bits + row.to(tl.int64)[:, None] * pitch + byte[None, :], packed, mask=whole)
        # eight weights start this far behind the first that is drawn; found for all eight, the division is cheap
        behind = local[:, None] * width + byte[None, :] * 8 - lead
        near = (tl.maximum(behind + step - 1, 0).to(tl.uint32) // step.to(tl.uint32)).to(tl.int32)
        for more in tl.static_range(draws):
            ahead = (near + more) * step - behind
            drawn = whole & (ahead < tl.minimum(width - byte * 8, 8)[None, :])
            chosen = tl.where(bit == ahead[:, :, None], tl.reshape(score, [tile_rows, block // 8, 8]), 0.0)
            tl.store(sample + place + near + more, tl.sum(chosen, axis=2), mask=drawn)


def mask_weight(
    launch: Launcher,
    weight: Tensor,
    second: Tensor,
    drift: Tensor | None,
    r: Tensor,
    p: Tensor,
    q: Tensor,
    threshold: Tensor,
    sample: Tensor,
    *,
    learning_rate: float,
    exponent: float,
    pull: float,
    first: int,
    stride: int,
    pattern: tuple[int, int] | None,
) -> tuple[Tensor, Tensor]:
    height, width = weight.shape
    w, v, u, *vectors = contiguous_state(weight, second, drift, r, p, q)
    programs, sizes = tiles(launch, height, width)
    always = w
    if pattern is not None:
        numbers = {"learning_rate": learning_rate, "exponent": exponent, "pull": pull}
        score = feedback_scores(launch, w, v, None if drift is None else u, r, p, q, **numbers)
        always = nm_mask(launch, score, *pattern).view(torch.uint8)
    drawn, out = sample.contiguous(), torch.empty_like(w)
    bits = torch.empty(height, triton.cdiv(width, 8), dtype=torch.uint8, device=weight.device)
    launch(
        mask_scored,
        programs,
        *(w, v, u, *vectors, always, threshold, drawn, out, bits),
        *(height, width, float(learning_rate), exponent / 2, pull / LOG_4, first, stride),
        has_drift=drift is not None,
        has_pattern=pattern is not None,
        power=power_of(exponent),
        draws=triton.cdiv(8, stride),
        **sizes,
    )
    if drawn is not sample:
        sample.copy_(drawn)
    return out, bits


@triton.jit(do_not_specialize=["rate"])
def mask_again(
    weight,  # (height, width), any float, W
    drift,  # (height, width), float16, U; not read unless has_drift
    bits,  # (height, ceil(width / 8)), uint8
    out,  # (height, width), as the weight
    height,
    width,
    rate,
    has_drift: tl.constexpr,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    """Write the drifting weight where the packed mask keeps it, else +0."""
    blocks = tl.cdiv(width, block)
    row = (tl.program_id(0) // blocks) * tile_rows + tl.arange(0, tile_rows)
    left = (tl.program_id(0) % blocks) * block
    column = left + tl.arange(0, block)
    byte = left // 8 + tl.arange(0, block // 8)
    pitch = (width + 7) // 8
    inside = (row < height)[:, None] & (column < width)[None, :]
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    packed = tl.load(
        bits + row.to(tl.int64)[:, None] * pitch + byte[None, :],
        mask=(row < height)[:, None] & (byte < pitch)[None, :],
        other=0,
    )
    eight = (packed.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    kept = tl.reshape(eight, [tile_rows, block]) != 0
    _, _, moved = drifted(weight, drift, offset, inside, rate, has_drift)
    tl.store(out + offset, narrow(tl.where(kept, moved, 0.0), weight.dtype.element_ty), mask=inside)


def remask_weight(
    launch: Launcher, weight: Tensor, drift: Tensor | None, kept: Tensor, *, learning_rate: float
) -> Tensor:
    height, width = weight.shape
    w = weight.contiguous()
    u = w if drift is None else drift.contiguous()
    out = torch.empty_like(w)
    rows, block = tile(launch, height, width)
    launch(
        mask_again,
        triton.cdiv(height, rows) * triton.cdiv(width, block),
        *(w, u, kept.contiguous(), out, height, width, float(learning_rate)),
        has_drift=drift is not None,
        tile_rows=rows,
        block=block,
    )
    return out


@triton.jit(do_not_specialize=["decay"])
def step(
    second,  # (numel,), bfloat16, v; updated in place
    drift,  # (numel,), float16, U; updated in place if has_drift
    gradient,  # (numel,), any float, g
    rate,  # 0-D, float32, rho
    numel,
    decay,  # gamma
    has_drift: tl.constexpr,
    block: tl.constexpr,
):
    r"""v += gamma (g^2 - v); U -= rho g / v^(1/2) where v > 0."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < numel
    g = widen(tl.load(gradient + index, mask=inside, other=0.0))
    v = widen(tl.load(second + index, mask=inside, other=0.0))
    v += decay * (g * g - v)
    # before anything is stored, for a compiler cannot tell that it may load earlier
    if has_drift:
        u = widen(tl.load(drift + index, mask=inside, other=0.0))
        u -= tl.load(rate) * tl.where(v == 0.0, 0.0, g / root_of(tl.where(v == 0.0, 1.0, v)))
        tl.store(drift + index, narrow(u, tl.float16), mask=inside)
    tl.store(second + index, narrow(v, tl.bfloat16), mask=inside)


def feedback_step(
    launch: Launcher, second: Tensor, drift: Tensor | None, gradient: Tensor, rate: Tensor, *, decay: float
) -> None:
    v, g = second.contiguous(), gradient.contiguous()
    u = v if drift is None else drift.contiguous()
    numel = v.numel()
    block = launch.flat(1024, numel)
    arguments = v, u, g, rate, numel, float(decay)
    launch(step, triton.cdiv(numel, block), *arguments, has_drift=drift is not None, block=block)
    if v is not second:
        second.copy_(v)
    if drift is not None and u is not drift:
        drift.copy_(u)
