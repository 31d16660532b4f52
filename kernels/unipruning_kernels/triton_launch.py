"""How the Triton kernels are launched: counted, with no fused multiply-add, in tiles for the GPU or the interpreter."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETER_ENV = "TRITON_INTERPRET"
INTERPRETER_LANES = 2**17  # lanes of a whole tile there; a program costs more than its lanes do


def interpreted() -> bool:
    """Whether Triton runs kernels as Python on the CPU; Triton itself reads this once, when it is imported."""
    return os.environ.get(INTERPRETER_ENV, "").lower() in ("1", "true", "on", "yes", "y")


def version() -> tuple[int, int]:
    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)


def power_of_two(size: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << max(0, size - 1).bit_length()


class Launcher:
    """Launches kernels on one-dimensional grids; ``launches`` says how often each one ran."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.interpreted = interpreted()
        # 2048 bins cost 16 times the instructions before 3.8
        self.wide_histogram = version() >= (3, 8)

    def __call__(
        self,
        kernel: Any,  # a triton.jit function
        programs: int,
        *arguments: Tensor | int | float,
        warps: int = 4,
        **constants: int | bool,
    ) -> None:
        """Run ``programs`` instances; ``constants`` are the kernel's compile-time parameters."""
        self.launches[kernel.fn.__name__] += 1
        tensor = next(argument for argument in arguments if isinstance(argument, Tensor))
        with torch.cuda.device_of(tensor):
            # fused multiply-adds round once less, and masks must equal those of every other device
            kernel[(programs,)](*arguments, **constants, num_warps=warps, enable_fp_fusion=False)

    def flat(self, gpu: int, size: int) -> int:
        """The length of a one-dimensional tile."""
        return min(INTERPRETER_LANES, power_of_two(size)) if self.interpreted else gpu

    def tile(self, gpu: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
        """The rows and columns of a two-dimensional tile."""
        if not self.interpreted:
            return gpu
        columns = min(512, power_of_two(shape[1]))
        return min(INTERPRETER_LANES // columns, power_of_two(shape[0])), columns
