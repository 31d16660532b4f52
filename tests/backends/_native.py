"""The CPU backend's native library, compiled fast, and a check that the backend works."""

from __future__ import annotations

import torch

from unipruning_cpu import compiler
from unipruning_cpu.backend import CpuBackend
from unipruning_kernels import reference

# what is compiled does not matter here, so it is compiled as fast as can be
QUICK = tuple(tuple(flag.replace("-O3", "-O0") for flag in flags) for flags in compiler.CHOICES)


def works(backend: CpuBackend) -> bool:
    score = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    return torch.equal(backend.nm_mask(score, 2, 4), reference.nm_mask(score, 2, 4))
