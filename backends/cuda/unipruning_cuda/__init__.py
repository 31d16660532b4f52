"""The CUDA backend's manifest."""

from unipruning_core import BackendSpec, Probe, hookimpl


@hookimpl
def unipruning_backend() -> BackendSpec:
    return BackendSpec("cuda", "cuda", priority=100, target="unipruning_cuda.backend:CudaBackend", probe=probe)


def probe() -> Probe:
    from importlib.util import find_spec

    # asked first, because it spares a machine without a GPU the import of torch
    if find_spec("triton") is None:
        return Probe(False, "triton is not installed; pip install 'unipruning[cuda]' on a machine with a GPU")
    import torch

    if not torch.cuda.is_available():
        return Probe(False, "torch sees no CUDA device; check nvidia-smi and that torch is a CUDA build")
    return Probe(True, torch.cuda.get_device_name())
