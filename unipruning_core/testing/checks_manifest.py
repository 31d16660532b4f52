"""Conformance of the manifest: what the plugin says is what the class does."""

from __future__ import annotations

import pytest
import torch

from unipruning_core.backend import OPERATIONS, BackendSpec, Probe
from unipruning_core.testing.inputs import FLOATS
from unipruning_core.testing.subject import Subject
from unipruning_kernels import reference


def test_manifest_names_the_device_type_of_the_backend(subject: Subject, spec: BackendSpec) -> None:
    assert (subject.backend.name, subject.backend.device_type) == (spec.name, spec.device_type)


def test_manifest_probe_says_in_words_that_the_backend_is_available(spec: BackendSpec) -> None:
    probe = spec.probe()
    assert isinstance(probe, Probe)
    assert probe.available
    assert probe.detail


@pytest.mark.parametrize("operation", OPERATIONS)
def test_manifest_declares_what_is_optimised(subject: Subject, spec: BackendSpec, operation: str) -> None:
    own = getattr(subject.backend, operation) is not getattr(reference, operation)
    declared = operation in spec.optimised
    assert own == declared, (
        f"{operation} {'has an implementation of its own' if own else 'is the reference'}, "
        f"but the manifest {'declares' if declared else 'does not declare'} it optimised"
    )


@pytest.mark.parametrize("stored", FLOATS, ids=str)
def test_manifest_loads_a_model_in_a_float_of_the_contract(subject: Subject, stored: torch.dtype) -> None:
    assert subject.backend.loading_dtype(stored) in FLOATS
