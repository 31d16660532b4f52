"""The CPU backend in each of its two tiers."""

from __future__ import annotations

import pytest

from unipruning_cpu.backend import NATIVE_ENV, CpuBackend


@pytest.fixture(params=["native", "portable"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CpuBackend:
    monkeypatch.setenv(NATIVE_ENV, "1" if request.param == "native" else "0")
    backend = CpuBackend()
    assert backend.tier == request.param
    return backend
