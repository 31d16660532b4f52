"""Load a built simulation by SONAME and the unmodified torch_npu wheel on top of it; no loader path has to be set."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# in this order: each is linked against those before it
LIBRARIES = (
    "libascendcl",
    "libacl_op_compiler",
    "libhccl",
    "libge_runner",
    "libgraph",
    "libacl_tdt_channel",
    "libopapi",
)


def preload(folder: str | Path) -> None:
    """After this ``torch.npu`` works in this process; call it before anything imports torch."""
    # torch would import torch_npu by itself, before the libraries are there
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    # an operator that would quietly run on the CPU is an error
    os.environ.setdefault("TORCH_NPU_FALLBACK_CPU_DISABLE", "1")
    import torch  # noqa: F401  # libopapi is linked against its libraries

    for library in LIBRARIES:
        ctypes.CDLL(str(Path(folder) / f"{library}.so"), mode=ctypes.RTLD_GLOBAL)
    import torch_npu  # noqa: F401
