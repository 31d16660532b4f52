"""The launcher of the Triton kernels: counts launches, forbids fused multiply-adds, and chooses tile sizes."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETER_ENV = "TRITON_INTERPRET"
INTERPRETER_LANES = 2**17  # lanes per tile in the interpreter, where a program costs more than its lanes


def interpreted() -> bool:
    """Return whether Triton runs kernels as Python on the CPU; Triton reads this once, on import."""
    return os.environ.get(INTERPRETER_ENV, "").lower() in ("1", "true", "on", "yes", "y")


def version() -> tuple[int, int]:
    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least ``size``."""
    return 1 << max(0, size - 1).bit_length()


class Launcher:
    """Launches kernels on one-dimensional grids; ``launches`` counts how often each one ran."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.interpreted = interpreted()
        # before 3.8, 2048 bins cost 16 times the instructions
        self.wide_histogram = version() >= (3, 8)

    def __call__(
        self,
        kernel: Any,  # a triton.jit function
        programs: int,
        *arguments: Tensor | int | float,
        warps: int = 4,
        **constants: int | bool,
    ) -> None:
        """Run ``programs`` instances, if any; ``constants`` are the kernel's compile-time parameters."""
        if not programs:
            return
        self.launches[kernel.fn.__name__] += 1
        tensor = next(argument for argument in arguments if isinstance(argument, Tensor))
        with torch.cuda.device_of(tensor):
            # fused multiply-adds round once less, and masks must equal those of every other device
            kernel[(programs,)](*arguments, **constants, num_warps=warps, enable_fp_fusion=False)

    def flat(self, gpu: int, size: int) -> int:
        """Return the length of a one-dimensional tile."""
        return min(INTERPRETER_LANES, power_of_two(size)) if self.interpreted else gpu

    def tile(self, gpu: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the rows and columns of a two-dimensional tile."""
        if not self.interpreted:
            return gpu
        columns = min(512, power_of_two(shape[1]))
        return min(INTERPRETER_LANES // columns, power_of_two(shape[0])), columns
