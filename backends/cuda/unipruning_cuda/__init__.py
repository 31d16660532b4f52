"""The CUDA backend's manifest."""

from unipruning_core import BackendSpec, Probe, hookimpl
from unipruning_core.backend import OPERATIONS

INTERPRETER_ENV = "TRITON_INTERPRET"
OLDEST_TRITON, NEWEST_TRITON = (3, 6), (4, 0)  # the newest is excluded
OLDEST_CAPABILITY = (8, 0)


@hookimpl
def unipruning_backend() -> BackendSpec:
    interpreted = _interpreted()
    return BackendSpec(
        "cuda",
        "cpu" if interpreted else "cuda",
        # the interpreter is for testing and has to be named: some CPU backend always ranks higher
        priority=-100 if interpreted else 100,
        target="unipruning_cuda.backend:CudaBackend",
        probe=probe,
        optimised=frozenset(OPERATIONS),
    )


def probe() -> Probe:
    from importlib.metadata import version
    from importlib.util import find_spec

    # checked first, which spares a machine without triton the import of torch
    if find_spec("triton") is None:
        return Probe(False, "triton is not installed; pip install 'triton>=3.6,<4' on a machine with a GPU")
    triton = version("triton")
    if not OLDEST_TRITON <= tuple(map(int, triton.split(".")[:2])) < NEWEST_TRITON:
        return Probe(False, f"triton {triton} is installed, but 3.6 to 3.x is needed; pip install 'triton>=3.6,<4'")
    if _interpreted():
        return Probe(True, f"interpreter: kernels run on the CPU, for testing; triton {triton}")
    if (fault := _distrusted(_cache())) is not None:
        return Probe(False, f"{fault}, and would be run as this user; set TRITON_CACHE_DIR to a folder of your own")
    import torch

    if not torch.cuda.is_available():
        return Probe(False, "torch sees no CUDA device; check nvidia-smi and that torch is a CUDA build")
    name = torch.cuda.get_device_name()
    if torch.version.hip:
        return Probe(True, f"{name}, ROCm {torch.version.hip}, triton {triton}")
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CAPABILITY:
        actual, needed = (".".join(map(str, numbers)) for numbers in (capability, OLDEST_CAPABILITY))
        return Probe(False, f"{name} has compute capability {actual}, but {needed} is needed; use --backend cpu")
    return Probe(True, f"{name}, capability {capability[0]}.{capability[1]}, driver {_driver()}, triton {triton}")


def _interpreted() -> bool:
    import os

    return os.environ.get(INTERPRETER_ENV, "").lower() in ("1", "true", "on", "yes", "y")


def _cache() -> str:
    """Return the folder from which triton loads what it once compiled."""
    import os

    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~/")
    return os.environ.get("TRITON_CACHE_DIR") or os.path.join(home, ".triton", "cache")


def _distrusted(folder: str) -> str | None:
    """Return why others may have put code in a folder; root may use what others own, as in a container."""
    import os
    import stat

    try:
        status = os.stat(folder)
    except OSError:  # not there yet
        return None
    if not hasattr(os, "geteuid"):  # where modes and owners say nothing of who can write
        return None
    if status.st_uid not in (0, os.geteuid()) and os.geteuid():
        return f"triton's cache {folder!r} belongs to another user (uid {status.st_uid})"
    return f"triton's cache {folder!r} can be written to by everybody" if status.st_mode & stat.S_IWOTH else None


def _driver() -> str:
    """Return the CUDA version of the driver, which torch does not report."""
    import ctypes

    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return "unknown"
    return "unknown" if failed else f"for CUDA {number.value // 1000}.{number.value % 1000 // 10}"
