"""Triton kernel for AdamW: reads weight, gradient and both moments once, writes all but the gradient once."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_float import narrow, widen
from unipruning_kernels.triton_launch import Launcher


@triton.jit(do_not_specialize=["fresh1", "beta2", "fresh2", "root", "rate", "epsilon"])
def adamw(
    weight,  # (numel,), any float, W; updated in place
    gradient,  # (numel,), any float, g
    first,  # (numel,), the weight's dtype, m; updated in place
    second,  # (numel,), float32, v; updated in place
    scale,  # 0-D, float32, c
    numel,
    fresh1,  # 1 - beta1
    beta2,
    fresh2,  # 1 - beta2
    root,  # (1 - beta2^t)^(1/2)
    rate,  # eta / (1 - beta1^t)
    epsilon,
    block: tl.constexpr,
):
    r"""m += (1 - beta1)(c g - m); v = beta2 v + (1 - beta2)(c g)^2; W -= rate m / (v^(1/2) / root + epsilon)."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < numel
    g = widen(tl.load(gradient + index, mask=inside, other=0.0)) * tl.load(scale)
    m = widen(tl.load(first + index, mask=inside, other=0.0))
    m += fresh1 * (g - m)
    v = beta2 * tl.load(second + index, mask=inside, other=0.0) + fresh2 * g * g
    tl.store(first + index, narrow(m, first.dtype.element_ty), mask=inside)
    tl.store(second + index, v, mask=inside)
    change = tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root) + epsilon)
    w = widen(tl.load(weight + index, mask=inside, other=0.0)) - rate * change
    tl.store(weight + index, narrow(w, weight.dtype.element_ty), mask=inside)


def adamw_step(
    launch: Launcher,
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    scale: Tensor,
    *,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    beta1, beta2 = betas
    w, g, m, v = (tensor.contiguous() for tensor in (weight, gradient, first, second))
    numel = w.numel()
    block = launch.flat(512, numel)
    launch(
        adamw,
        triton.cdiv(numel, block),
        *(w, g, m, v, scale, numel),
        *(1 - beta1, beta2, 1 - beta2, (1 - beta2**step) ** 0.5, learning_rate / (1 - beta1**step), epsilon),
        block=block,
    )
    for moved, given in ((w, weight), (m, first), (v, second)):
        if moved is not given:
            given.copy_(moved)
