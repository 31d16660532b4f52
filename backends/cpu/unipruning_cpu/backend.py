"""The CPU backend: compiled C where a compiler is installed, else torch and numpy, with the same results."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import Tensor

from unipruning_core import Backend
from unipruning_core.errors import BackendUnavailableError, ConfigError
from unipruning_cpu.allocator import keep_freed_memory
from unipruning_cpu.compiler import CompilationError, load_library
from unipruning_cpu.native import SIGNATURES, NativeOperations
from unipruning_cpu.portable import PortableOperations

NATIVE_ENV = "UNIPRUNING_CPU_NATIVE"  # 0: never compile; 1: fail if compiling is impossible

log = logging.getLogger(__name__)


class CpuBackend(Backend):
    """Operations of one tier, native or portable, chosen once here; ``detail`` says why."""

    name = "cpu"
    device_type = "cpu"

    def __init__(self) -> None:
        setting = os.environ.get(NATIVE_ENV, "")
        if setting not in ("", "0", "1"):
            raise ConfigError(f"{NATIVE_ENV} must be 0 or 1: {setting!r}; unset it to let the backend choose")
        self._operations: PortableOperations = PortableOperations()
        self.tier, self.detail = "portable", f"{NATIVE_ENV} is 0"
        if setting != "0":
            try:
                self._operations, self.tier, self.detail = (
                    NativeOperations(load_library(SIGNATURES)),
                    "native",
                    "compiled C",
                )
            except CompilationError as error:
                if setting == "1":
                    raise BackendUnavailableError(self.name, f"{NATIVE_ENV} is 1, but {error}") from error
                self.detail = str(error)
        self.malloc = keep_freed_memory()
        log.info("the CPU backend uses its %s operations: %s; malloc %s", self.tier, self.detail, self.malloc)

    def loading_dtype(self, stored: torch.dtype) -> torch.dtype:
        """Return float32 in place of a half-precision dtype that this CPU has no instructions for.

        Without them a backward pass takes some 16 times as long as in float32.
        """
        # what torch checks before it uses oneDNN's fast matrix products, which make the difference
        fast = {
            torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
            torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
        }
        return stored if stored not in fast or fast[stored]() else torch.float32

    def accumulate_sumsq(self, x: Tensor, out: Tensor) -> None:
        self._operations.accumulate_sumsq(x, out)

    def abs_sums(self, weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
        return self._operations.abs_sums(weight, input_factors, output_factors)

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
        self._operations.mirror_step(
            dual, weight, r, p, q, threshold, step_size=step_size, rank=rank, gradient=gradient, phi=phi
        )

    def feedback_scores(self, *tensors: Any, **numbers: Any) -> Tensor:
        return self._operations.feedback_scores(*tensors, **numbers)

    def mask_weight(self, *tensors: Any, **numbers: Any) -> tuple[Tensor, Tensor]:
        return self._operations.mask_weight(*tensors, **numbers)

    def remask_weight(self, *tensors: Any, **numbers: Any) -> Tensor:
        return self._operations.remask_weight(*tensors, **numbers)

    def feedback_step(self, *tensors: Any, **numbers: Any) -> None:
        self._operations.feedback_step(*tensors, **numbers)

    def magnitude_histogram(self, score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
        self._operations.magnitude_histogram(score, prefix, level, counts)

    def threshold_mask(self, score: Tensor, threshold: Tensor, ties: Tensor) -> Tensor:
        return self._operations.threshold_mask(score, threshold, ties)

    def topk_mask(self, score: Tensor, keep: int) -> Tensor:
        return self._operations.topk_mask(score, keep)

    def nm_mask(self, score: Tensor, n: int, m: int) -> Tensor:
        return self._operations.nm_mask(score, n, m)

    def nm_prox(self, weight: Tensor, strength: float, n: int, m: int) -> None:
        self._operations.nm_prox(weight, strength, n, m)

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
        self._operations.adamw_step(
            *(weight, gradient, first, second, scale),
            step=step,
            learning_rate=learning_rate,
            betas=betas,
            epsilon=epsilon,
        )
