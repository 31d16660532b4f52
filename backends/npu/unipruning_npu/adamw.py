"""AdamW, element by element, a few rows at a time."""

from __future__ import annotations

from torch import Tensor

from unipruning_npu.chunks import row_chunks


def adamw_step(
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
    root = (1 - beta2**step) ** 0.5
    # m / (v^(1/2) / root + epsilon) with root factored out, so that one operator divides and subtracts
    rate = learning_rate * root / (1 - beta1**step)
    for rows in row_chunks(weight, 16):
        g = gradient[rows].float() * scale
        m = first[rows].float().lerp_(g, 1 - beta1)
        first[rows] = m
        v = second[rows].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        weight[rows] = weight[rows].float().addcdiv_(m, v.sqrt().add_(epsilon * root), value=-rate)
