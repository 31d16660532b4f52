"""The Ascend backend's manifest."""

from unipruning_core import BackendSpec, Probe, hookimpl


@hookimpl
def unipruning_backend() -> BackendSpec:
    return BackendSpec("npu", "npu", priority=100, target="unipruning_npu.backend:NpuBackend", probe=probe)


def probe() -> Probe:
    """Look without touching: asking a device for its name would initialise it, and forbid a later fork."""
    from importlib.util import find_spec

    if find_spec("torch_npu") is None:
        return Probe(False, "torch_npu is not installed; pip install 'unipruning[npu]' on an Ascend server")
    try:
        import torch
        import torch_npu  # noqa: F401
    # a missing CANN is an ImportError or, through torch's own autoload, a RuntimeError
    except Exception as error:
        return Probe(False, f"torch_npu does not load: {error}; source the set_env.sh of the CANN that matches it")
    npu = torch.get_device_module("npu")
    if not npu.is_available():
        return Probe(False, "torch_npu sees no device; check npu-smi info")
    return Probe(True, f"{npu.device_count()} Ascend device(s)")
