"""How the CPU backend comes by its native library: compiled once, checked, rebuilt when damaged, done without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unipruning_core.backend import OPERATIONS
from unipruning_core.errors import BackendUnavailableError, ConfigError
from unipruning_cpu import compiler, unipruning_backend
from unipruning_cpu.backend import NATIVE_ENV, CpuBackend
from unipruning_kernels import reference

# what is compiled does not matter here, so it is compiled as fast as can be
QUICK = tuple(tuple(flag.replace("-O3", "-O0") for flag in flags) for flags in compiler.CHOICES)
USE = f"""
from unipruning_cpu import compiler
compiler.CHOICES = {QUICK}
print(compiler.load_library()._name)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "CHOICES", QUICK)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(NATIVE_ENV, raising=False)
    return tmp_path / "unipruning"


@pytest.fixture
def no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.delenv("CC", raising=False)


def works(backend: CpuBackend) -> bool:
    score = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    return torch.equal(backend.nm_mask(score, 2, 4), reference.nm_mask(score, 2, 4))


def use_in_new_process() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", USE], stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_the_library_is_compiled_once_and_kept(cache, monkeypatch):
    assert CpuBackend().tier == "native"
    (kept,) = cache.iterdir()
    monkeypatch.setattr(compiler, "_compile", lambda *_: pytest.fail("compiled although it was kept"))
    assert works(CpuBackend())
    assert list(cache.iterdir()) == [kept]


def test_a_library_cut_short_is_compiled_again(cache):
    assert CpuBackend().tier == "native"
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    key = kept.name.removeprefix("native-").split(".")[0]
    # a new file each time, since this process has the old one open
    kept.unlink()
    for length in (0, 100, 4096):
        kept.write_bytes(whole[:length])
        assert compiler._open_cached(key) is None
        assert list(cache.iterdir()) == []
    kept.write_bytes(whole[:-1])
    process = use_in_new_process()
    (again,) = map(Path, process.communicate()[0].splitlines())
    assert list(cache.iterdir()) == [again]
    assert compiler._content_digest(again) in again.name
    assert works(CpuBackend())


def test_processes_that_compile_at_once_do_not_disturb_each_other(cache):
    processes = [use_in_new_process() for _ in range(3)]
    opened = [Path(process.communicate()[0].strip()) for process in processes]
    assert {(path.parent, path.suffix) for path in opened} == {(cache, ".so")}
    assert not list(cache.glob("*.tmp"))
    assert works(CpuBackend())


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


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(NATIVE_ENV, raising=False)
    backend = CpuBackend()
    assert backend.tier == "native"
    assert works(backend)


def test_the_manifest_claims_every_operation_and_imports_nothing_heavy():
    assert unipruning_backend().optimised == set(OPERATIONS)
    check = "import sys, unipruning_cpu; unipruning_cpu.probe(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
