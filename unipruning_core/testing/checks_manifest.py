"""Conformance of the manifest: what the plugin says is what the class does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from unipruning_core.backend import OPERATIONS, BackendSpec, Probe
from unipruning_core.testing.inputs import FLOATS
from unipruning_core.testing.subject import Subject
from unipruning_kernels import reference

# reads one manifest, and ends with 3 where that has imported torch
READER = """
import sys
from importlib.metadata import EntryPoint
from unipruning_core.registry import ENTRY_POINT_GROUP, described_by, new_manager
there_before = "torch" in sys.modules
described_by(EntryPoint("backend", sys.argv[1], ENTRY_POINT_GROUP).load(), new_manager())
raise SystemExit(3 if "torch" in sys.modules and not there_before else 0)
"""


def test_manifest_names_the_device_type_of_the_backend(subject: Subject, spec: BackendSpec) -> None:
    assert (subject.backend.name, subject.backend.device_type) == (spec.name, spec.device_type)


def test_manifest_probe_says_in_words_that_the_backend_is_available(spec: BackendSpec) -> None:
    probe = spec.probe()
    assert isinstance(probe, Probe)
    assert probe.available
    assert probe.detail


def test_manifest_is_read_without_importing_torch(place: str) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    read = subprocess.run(
        [sys.executable, "-c", READER, place],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode != 3, (
        f"{place!r}, which every command reads, imports torch; put the class into a module of its own, named by target"
    )
    assert read.returncode == 0, read.stderr


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
