"""The Ascend backend's manifest."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from unipruning_core import BackendSpec, Probe, hookimpl
from unipruning_core.backend import OPERATIONS

# torch_npu numbers chips: Ascend910B from 220, the Ascend310B family from 240, Ascend910_93 from 250, then Ascend950
ASCEND_910B, ASCEND_310B, ASCEND_910_93 = 220, 240, 250
WITHOUT = "set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to work without an NPU"


@hookimpl
def unipruning_backend() -> BackendSpec:
    return BackendSpec(
        "npu",
        "npu",
        priority=100,
        target="unipruning_npu.backend:NpuBackend",
        probe=probe,
        optimised=frozenset(OPERATIONS),
    )


def probe() -> Probe:
    """Look for a device without touching it: asking for its name would initialise it and forbid a later fork."""
    if find_spec("torch_npu") is None:
        return Probe(False, "torch_npu is not installed; on an Ascend server, install the torch-npu for its CANN")
    if mismatch := _mismatch():
        return Probe(False, mismatch)
    try:
        import torch
        import torch_npu

        npu = torch.get_device_module("npu")
        if not npu.is_available():
            return Probe(False, "torch_npu sees no device; check npu-smi info and ASCEND_RT_VISIBLE_DEVICES")
        # the public get_soc_version initialises the device first
        chip = int(torch_npu._C._npu_get_soc_version())
        if chip < ASCEND_910B or ASCEND_310B <= chip < ASCEND_910_93:
            return Probe(False, f"torch_npu's chip number {chip} is not supported; use an Ascend910B or a later chip")
        return Probe(True, f"{npu.device_count()} Ascend device(s)")
    # a vendor's import can raise anything, and by contract a probe must not raise
    except Exception as error:
        return Probe(False, _why(error))


def _mismatch() -> str | None:
    """Return what is wrong if torch_npu is built for another torch: torch's C++ interface changes with every minor."""
    try:
        torch, torch_npu = version("torch"), version("torch_npu")
    # built in place, without metadata: loading it will tell
    except PackageNotFoundError:
        return None
    wanted = ".".join(torch_npu.split(".")[:2])
    if torch.split(".")[:2] == wanted.split("."):
        return None
    return (
        f"torch_npu {torch_npu} is built for torch {wanted}, but torch {torch} is installed; install the pair that "
        f"matches the CANN of this server, or {WITHOUT}"
    )


def _why(error: BaseException) -> str:
    """Return the root cause of torch_npu's failure as one sentence; torch's autoload wraps it once or twice."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "cannot open shared object file" in cause:
        return (
            f"torch_npu is installed but finds no CANN ({cause}); source the set_env.sh of the CANN that matches it, "
            f"or {WITHOUT}"
        )
    if "Two accelerators" in cause:
        return (
            "torch_npu does not load where torch finds a CUDA device; install the CPU build of torch to use an NPU, "
            f"or {WITHOUT}"
        )
    return f"torch_npu does not load: {cause}; match the versions of torch, torch_npu and CANN, or {WITHOUT}"
