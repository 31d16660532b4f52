"""AdamW in torch, one tile of rows at a time; used by the compiled tier too, since torch's loops are as fast."""

from __future__ import annotations

from torch import Tensor

TILE = 1 << 18  # elements processed at a time, so that temporaries stay in a cache


def adamw_step(
    weight: Tensor,  # (out, in), any float; updated in place
    gradient: Tensor,  # (out, in), any float
    first: Tensor,  # (out, in), the weight's dtype; updated in place
    second: Tensor,  # (out, in), float32; updated in place
    scale: Tensor,  # 0-D, float32
    *,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    beta1, beta2 = betas
    root = (1 - beta2**step) ** 0.5
    rows = max(1, TILE // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = slice(start, start + rows)
        g = gradient[part].float() * scale
        m = first[part].float().lerp_(g, 1 - beta1)
        first[part] = m
        v = second[part].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        # not in place: for a float32 weight m is the stored moment itself
        change = m / v.sqrt().div_(root).add_(epsilon)
        weight[part] = weight[part].float().sub_(change, alpha=learning_rate / (1 - beta1**step))
