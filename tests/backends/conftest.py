"""The CPU backend in each of its two tiers, and its compiler and cache to try."""

from __future__ import annotations

from pathlib import Path

import pytest
from _native import QUICK

from unipruning_cpu import compiler
from unipruning_cpu.backend import NATIVE_ENV, CpuBackend


@pytest.fixture(params=["native", "portable"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CpuBackend:
    monkeypatch.setenv(NATIVE_ENV, "1" if request.param == "native" else "0")
    backend = CpuBackend()
    assert backend.tier == request.param
    return backend


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "CHOICES", QUICK)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(NATIVE_ENV, raising=False)
    return tmp_path / "unipruning"
