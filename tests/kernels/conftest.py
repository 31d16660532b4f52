"""Which kernel tests run here: those of Triton's kernels need triton, and its interpreter or else its compiler."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from unipruning_cuda.backend import CudaBackend

if find_spec("triton") is None:
    collect_ignore_glob = ["test_triton_*.py"]
elif os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_triton_compile.py"]
else:
    collect_ignore_glob = ["test_triton_interpret*.py", "test_triton_traffic.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "triton_interpret: runs Triton's kernels in its interpreter, on the CPU")
    config.addinivalue_line("markers", "triton_compile: compiles Triton's kernels for GPUs that need not be there")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(42)


@pytest.fixture(params=["interpreter", "gpu"])
def backend(request: pytest.FixtureRequest) -> CudaBackend:
    """The backend in the interpreter's large tiles, and in those that a GPU gets."""
    from unipruning_cuda.backend import CudaBackend

    backend = CudaBackend()
    backend.launcher.interpreted = request.param == "interpreter"
    return backend
