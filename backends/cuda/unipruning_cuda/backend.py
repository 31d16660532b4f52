"""The CUDA backend: every operation launches Triton kernels; also serves ROCm, whose devices torch calls cuda."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unipruning_core import Backend
from unipruning_cuda import recording
from unipruning_kernels import (
    triton_adamw,
    triton_feedback,
    triton_histogram,
    triton_nm,
    triton_prox,
    triton_score,
    triton_step,
    triton_sums,
    triton_threshold,
    triton_topk,
)
from unipruning_kernels.triton_launch import Launcher, interpreted


class CudaBackend(Backend):
    """``launcher`` counts the kernels it launched.  Under Triton's interpreter tensors live on the CPU."""

    name = "cuda"
    device_type = "cpu" if interpreted() else "cuda"

    def __init__(self) -> None:
        self.launcher = Launcher()

    def recorded(self, work: Callable[[], None]) -> Callable[[], None] | None:
        return None if self.launcher.interpreted else recording.recorded(work)

    def accumulate_sumsq(self, x: Tensor, out: Tensor) -> None:
        triton_sums.accumulate_sumsq(self.launcher, x, out)

    def abs_sums(self, weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
        return triton_sums.abs_sums(self.launcher, weight, input_factors, output_factors)

    def mirror_step(
        self,
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
        triton_step.mirror_step(
            *(self.launcher, dual, weight, r, p, q, threshold),
            step_size=step_size,
            rank=rank,
            gradient=gradient,
            phi=phi,
        )

    def feedback_scores(self, *tensors: Any, **numbers: Any) -> Tensor:
        return triton_score.feedback_scores(self.launcher, *tensors, **numbers)

    def mask_weight(self, *tensors: Any, **numbers: Any) -> tuple[Tensor, Tensor]:
        return triton_feedback.mask_weight(self.launcher, *tensors, **numbers)

    def remask_weight(self, *tensors: Any, **numbers: Any) -> Tensor:
        return triton_feedback.remask_weight(self.launcher, *tensors, **numbers)

    def feedback_step(self, *tensors: Any, **numbers: Any) -> None:
        triton_feedback.feedback_step(self.launcher, *tensors, **numbers)

    def magnitude_histogram(self, score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
        triton_histogram.magnitude_histogram(self.launcher, score, prefix, level, counts)

    def threshold_mask(self, score: Tensor, threshold: Tensor, ties: Tensor) -> Tensor:
        return triton_threshold.threshold_mask(self.launcher, score, threshold, ties)

    def topk_mask(self, score: Tensor, keep: int) -> Tensor:
        return triton_topk.topk_mask(self.launcher, score, keep)

    def nm_mask(self, score: Tensor, n: int, m: int) -> Tensor:
        return triton_nm.nm_mask(self.launcher, score, n, m)

    def nm_prox(self, weight: Tensor, strength: float, n: int, m: int) -> None:
        triton_prox.nm_prox(self.launcher, weight, strength, n, m)

    def adamw_step(
        self,
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
        triton_adamw.adamw_step(
            *(self.launcher, weight, gradient, first, second, scale),
            step=step,
            learning_rate=learning_rate,
            betas=betas,
            epsilon=epsilon,
        )
