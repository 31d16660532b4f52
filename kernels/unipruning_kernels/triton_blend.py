"""Triton kernel for the score of ``feedback``: combines the loss and the local metric in one pass."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import widen
from unipruning_kernels.triton_launch import Launcher


@triton.jit(do_not_specialize=["exponent", "pull"])
def blend(
    feedback,  # (numel,), float32, F >= 0
    local,  # (numel,), float32, V >= 0
    weight,  # (numel,), any float, W, or anything where has_weight is False
    drift,  # (numel,), any float, D, or anything where has_drift is False
    out,  # (numel,), float32
    numel,
    exponent,
    pull,
    has_weight: tl.constexpr,
    has_drift: tl.constexpr,
    block: tl.constexpr,
):
    r"""out = |W| F^(1/2) V^a e^(b D sign(W)), with V^a = 2^(a log2 V) and 0^0 = 1."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < numel
    root = tl.sqrt_rn(tl.load(feedback + index, mask=inside, other=0.0))
    if has_weight:
        w = widen(tl.load(weight + index, mask=inside, other=0.0))
        root *= tl.abs(w)
        if has_drift:
            d = widen(tl.load(drift + index, mask=inside, other=0.0))
            root *= tl.exp(pull * tl.where(w < 0.0, -d, d))
    base = tl.load(local + index, mask=inside, other=1.0)
    zero = base == 0.0
    power = tl.exp2(exponent * tl.log2(tl.where(zero, 1.0, base)))
    power = tl.where(zero & (exponent > 0.0), 0.0, power)
    tl.store(out + index, root * power, mask=inside)


def blend_scores(
    launch: Launcher,
    feedback: Tensor,
    local: Tensor,
    exponent: float,
    weight: Tensor | None = None,
    drift: Tensor | None = None,
    pull: float = 0.0,
) -> Tensor:
    feedback, local = feedback.contiguous(), local.contiguous()
    w, d = (feedback if given is None else given.contiguous() for given in (weight, drift))
    out = torch.empty_like(feedback)
    numel = out.numel()
    block = launch.flat(1024, numel)
    launch(
        blend,
        triton.cdiv(numel, block),
        *(feedback, local, w, d, out, numel, float(exponent), float(pull)),
        has_weight=weight is not None,
        has_drift=weight is not None and drift is not None,
        block=block,
    )
    return out
