"""Triton kernel for the score of a search with feedback: what the loss and the local metric say, in one pass."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import widen
from unipruning_kernels.triton_launch import Launcher


@triton.jit(do_not_specialize=["exponent"])
def blend(
    feedback,  # (numel,), float32, F >= 0
    local,  # (numel,), float32, V >= 0
    weight,  # (numel,), any float, W, or anything where has_weight is False
    out,  # (numel,), float32
    numel,
    exponent,
    has_weight: tl.constexpr,
    block: tl.constexpr,
):
    r"""out = |W| F^(1/2) V^a, with V^a = 2^(a log2 V) and 0^0 = 1."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < numel
    root = tl.sqrt_rn(tl.load(feedback + index, mask=inside, other=0.0))
    if has_weight:
        root *= tl.abs(widen(tl.load(weight + index, mask=inside, other=0.0)))
    base = tl.load(local + index, mask=inside, other=1.0)
    zero = base == 0.0
    power = tl.exp2(exponent * tl.log2(tl.where(zero, 1.0, base)))
    power = tl.where(zero & (exponent > 0.0), 0.0, power)
    tl.store(out + index, root * power, mask=inside)


def blend_scores(
    launch: Launcher, feedback: Tensor, local: Tensor, exponent: float, weight: Tensor | None = None
) -> Tensor:
    feedback, local = feedback.contiguous(), local.contiguous()
    given = feedback if weight is None else weight.contiguous()
    out = torch.empty_like(feedback)
    numel = out.numel()
    block = launch.flat(1024, numel)
    launch(
        blend,
        triton.cdiv(numel, block),
        *(feedback, local, given, out, numel, float(exponent)),
        has_weight=weight is not None,
        block=block,
    )
    return out
