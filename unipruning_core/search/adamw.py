"""AdamW for the modes that move tensors; the step itself is an operation of the backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.backend import Backend

BETAS = (0.9, 0.999)
EPSILON = 1e-10
WARM_UP_FRACTION = 0.1


def schedule(step: int, steps: int, *, decay: bool = True) -> float:
    """Return the learning rate's factor at ``step``: from 0 up to 1 over the first 10 %, then down to 0 or constant."""
    warm_up = ceil(WARM_UP_FRACTION * steps)
    if step < warm_up:
        return step / warm_up
    return (steps - step) / max(1, steps - warm_up) if decay else 1.0


@dataclass
class Moments:
    """AdamW's state for one matrix, 6 bytes per weight in bfloat16."""

    first: Tensor  # (out, in), the weight's dtype: its increments are a tenth of it, so half precision suffices
    second: Tensor  # (out, in), float32: its increments are a thousandth of it, which bfloat16 would round away

    @classmethod
    def zeros_like(cls, weight: Tensor) -> Moments:
        return cls(
            torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device),
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device),
        )


class AdamW:
    r"""AdamW without weight decay, on a schedule over all samples.

    .. math:: x \leftarrow x - \eta_t \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \varepsilon}

    m and v are the moments of the gradient, times ``scale`` if it is clipped.
    """

    def __init__(
        self,
        like: Sequence[Tensor],  # one per tensor to move, of its shape and dtype
        learning_rate: float,  # eta
        samples: int,
        backend: Backend,
        *,
        betas: tuple[float, float] = BETAS,
        decays: bool = True,  # whether eta falls to 0 after the warm-up or stays
    ) -> None:
        self.learning_rate, self.samples, self.backend = learning_rate, samples, backend
        self.betas, self.decays = betas, decays
        self.moments = [Moments.zeros_like(tensor) for tensor in like]

    def step(
        self,
        position: int,
        tensor: Tensor,  # moved in place
        gradient: Tensor,  # of the tensor's shape and dtype
        sample: int,
        scale: Tensor,  # 0-D float32, on any device
    ) -> None:
        """Move one tensor for one sample."""
        moments = self.moments[position]
        self.backend.adamw_step(
            tensor,
            gradient,
            moments.first,
            moments.second,
            scale.to(gradient.device),
            step=sample + 1,
            learning_rate=self.learning_rate * schedule(sample, self.samples, decay=self.decays),
            betas=self.betas,
            epsilon=EPSILON,
        )

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return its state, by the names of the tensors that it moves."""
        return {
            f"{name}.{kind}": moment
            for name, moments in zip(names, self.moments, strict=True)
            for kind, moment in (("first", moments.first), ("second", moments.second))
        }
