"""How the CPU backend comes by its native library: which compiler and flags, what is asked for, done without."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _native import works

from unipruning_core.backend import OPERATIONS
from unipruning_core.errors import BackendUnavailableError, ConfigError
from unipruning_cpu import unipruning_backend
from unipruning_cpu.backend import NATIVE_ENV, CpuBackend

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.delenv("CC", raising=False)


@pytest.mark.parametrize(
    ("name", "why"),
    [("gcc '", "which is not a command (no closing quotation)"), ("no-such-compiler", "which is not installed")],
)
def test_a_wrong_cc_is_a_reason_and_no_error(no_compiler, monkeypatch, name, why):
    monkeypatch.setenv("CC", name)
    backend = CpuBackend()
    assert backend.tier == "portable"
    assert backend.detail == f"CC is {name!r}, {why}"


def test_without_a_compiler_the_portable_operations_are_used(no_compiler):
    backend = CpuBackend()
    assert backend.tier == "portable"
    assert "no C compiler was found" in backend.detail
    assert works(backend)


def test_asking_for_native_without_a_compiler_is_an_error(no_compiler, monkeypatch):
    monkeypatch.setenv(NATIVE_ENV, "1")
    with pytest.raises(BackendUnavailableError, match="install gcc or clang"):
        CpuBackend()


def test_zero_means_portable_and_compiles_nothing(cache, monkeypatch):
    monkeypatch.setenv(NATIVE_ENV, "0")
    assert CpuBackend().tier == "portable"
    assert not cache.exists()


def test_another_wish_is_refused_with_the_two_that_exist(cache, monkeypatch):
    monkeypatch.setenv(NATIVE_ENV, "yes")
    with pytest.raises(ConfigError, match="must be 0 or 1: 'yes'"):
        CpuBackend()


def test_a_compiler_that_refuses_every_flag_leads_to_portable(cache, tmp_path, monkeypatch):
    refusing = tmp_path / "cc"
    refusing.write_text(f'#!{shutil.which("sh")}\n[ "$1" = --version ] && exit 0\necho no such target >&2; exit 1\n')
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    backend = CpuBackend()
    assert backend.tier == "portable"
    assert "no such target" in backend.detail


def test_flags_the_compiler_does_not_know_are_left_out(cache, tmp_path, monkeypatch):
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    picky = tmp_path / "picky"
    picky.write_text(f'#!/bin/sh\ncase "$*" in *native*|*openmp*) exit 1;; esac\nexec {real} "$@"\n')
    picky.chmod(0o755)
    monkeypatch.setenv("CC", str(picky))
    backend = CpuBackend()
    assert backend.tier == "native"
    assert works(backend)


def test_the_manifest_claims_every_operation_and_imports_nothing_heavy():
    assert unipruning_backend().optimised == set(OPERATIONS)
    check = "import sys, unipruning_cpu; unipruning_cpu.probe(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
