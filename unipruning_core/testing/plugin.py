"""Options and fixtures of the conformance suite; loaded with -p, never by entry point."""

from __future__ import annotations

import pytest
import torch

from unipruning_core.backend import BackendSpec
from unipruning_core.errors import UnipruningError
from unipruning_core.registry import Catalogue
from unipruning_core.testing.subject import Subject

SUBJECT = pytest.StashKey[Subject]()
SPEC = pytest.StashKey[BackendSpec]()
PLACE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", help="the backend to hold to the contract; as everywhere, auto when not given")


def pytest_configure(config: pytest.Config) -> None:
    # of numpy, in which Triton's interpreter computes
    config.addinivalue_line("filterwarnings", "ignore:invalid value encountered:RuntimeWarning")
    catalogue = Catalogue()
    try:
        backend = catalogue.select(config.getoption("--backend"))
    except UnipruningError as error:
        raise pytest.UsageError(str(error)) from error
    if backend.name not in catalogue.specs:
        raise pytest.UsageError(f"{type(backend).__name__}.name must be its plugin's, not {backend.name!r}; rename one")
    config.stash[SUBJECT] = Subject(backend)
    config.stash[SPEC] = catalogue.specs[backend.name]
    config.stash[PLACE] = catalogue.places[backend.name]


def pytest_report_header(config: pytest.Config) -> str:
    return f"unipruning conformance: backend {config.stash[SPEC].name}, oracle unipruning_kernels.reference on cpu"


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.config.stash[SUBJECT]


@pytest.fixture
def spec(request: pytest.FixtureRequest) -> BackendSpec:
    return request.config.stash[SPEC]


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    """What the backend's entry point names."""
    return request.config.stash[PLACE]


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(42)
