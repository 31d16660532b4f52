"""Which kernel tests run here: those of Triton's kernels need triton, and its interpreter or else its compiler."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    collect_ignore_glob = ["test_triton_*.py"]
elif os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_triton_compile.py"]
else:
    collect_ignore_glob = ["test_triton_interpret*.py", "test_triton_traffic.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "triton_interpret: runs Triton's kernels in its interpreter, on the CPU")
    config.addinivalue_line("markers", "triton_compile: compiles Triton's kernels for GPUs that need not be there")
