"""A manifest whose hook imports torch, which the conformance suite must not let pass."""

from unipruning_core import BackendSpec, Probe, hookimpl


@hookimpl
def unipruning_backend() -> BackendSpec:
    import torch

    there = torch.cpu.is_available()
    return BackendSpec("subject", "cpu", 0, "wrong_backends:Control", lambda: Probe(there, "here"))
