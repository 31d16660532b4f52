"""The toy backend's manifest, which every command reads: it imports neither torch nor a device's own package."""

from unipruning_core import BackendSpec, Probe, hookimpl


@hookimpl
def unipruning_backend() -> BackendSpec:
    return BackendSpec(
        "toy",
        "cpu",
        priority=-1,
        target="unipruning_toy.backend:ToyBackend",
        probe=lambda: Probe(True, "the host CPU, slowly"),
        optimised=frozenset({"nm_mask"}),
    )
