"""The CPU backend's manifest."""

from unipruning_core import BackendSpec, Probe, hookimpl
from unipruning_core.backend import OPERATIONS


@hookimpl
def unipruning_backend() -> BackendSpec:
    return BackendSpec(
        "cpu",
        "cpu",
        priority=0,
        target="unipruning_cpu.backend:CpuBackend",
        probe=probe,
        optimised=frozenset(OPERATIONS),
    )


def probe() -> Probe:
    import platform

    return Probe(True, platform.processor() or platform.machine())
