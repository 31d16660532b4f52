"""The CPU backend's compiled library in its cache: compiled once, checked, trusted or not, leftovers removed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _native import QUICK, works

from unipruning_cpu import cache as caches
from unipruning_cpu import compiler
from unipruning_cpu.backend import NATIVE_ENV, CpuBackend
from unipruning_cpu.native import SIGNATURES

pytestmark = pytest.mark.usefixtures("quick")

USE = f"""
from unipruning_cpu import compiler
compiler.CHOICES = {QUICK}
compiler.load_library({tuple(SIGNATURES)})
"""


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was warned of so far."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture
def never_compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, a compiler that starts fails the test."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("a compiler was run")

    return lambda: monkeypatch.setattr(compiler.subprocess, "run", fail)


def native() -> CpuBackend:
    backend = CpuBackend()
    assert backend.tier == "native", backend.detail
    assert works(backend)
    return backend


def opened() -> set[Path]:
    """The native libraries that this process has mapped, those of deleted files included."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in maps if "/native" in line}


def use_in_new_process() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", USE], text=True, env=dict(os.environ))


def compiled_elsewhere(folder: Path, text: str) -> Path:
    """A library made of another source."""
    (folder / "source.c").write_text(text)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "made.so"), str(folder / "source.c")], check=True)
    return folder / "made.so"


def planted(cache: Path, library: Path, like: Path) -> Path:
    """Put a library where that of this key is looked for."""
    key = like.name.split(".")[0]
    like.unlink()
    return Path(shutil.copy(library, cache / f"{key}.{caches.digest(library.read_bytes())}.so"))


def test_the_library_is_compiled_once_and_kept_for_its_owner_alone(cache, never_compiled, said):
    native()
    (kept,) = cache.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (cache, kept)] == [0o700, 0o600]
    never_compiled()
    native()
    assert list(cache.iterdir()) == [kept]
    assert kept in opened()
    assert said() == []


@pytest.mark.parametrize("length", [0, 100, 4096, -1])
def test_a_library_cut_short_is_compiled_again(cache, length):
    native()
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    # a new file, since this process has the old one open
    kept.unlink()
    kept.write_bytes(whole[:length])
    assert use_in_new_process().wait() == 0
    (again,) = cache.iterdir()
    assert caches.digest(again.read_bytes()) == again.name.split(".")[1]
    native()


def test_processes_that_compile_at_once_make_one_library(cache):
    processes = [use_in_new_process() for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert len(list(cache.iterdir())) == 1
    native()


def test_a_library_without_the_functions_is_compiled_again_once(cache, tmp_path, monkeypatch, said):
    native()
    (kept,) = cache.iterdir()
    wrong = planted(cache, compiled_elsewhere(tmp_path, "int nm_mask(void) { return 0; }"), kept)
    native()
    assert list(cache.iterdir()) == [kept]
    assert not wrong.exists()
    runs = []
    monkeypatch.setattr(compiler, "_build", lambda _, built: runs.append(shutil.copy(tmp_path / "made.so", built)))
    kept.unlink()
    backend = CpuBackend()
    assert (backend.tier, len(runs)) == ("portable", len(list(compiler._compilers([]))))
    assert "the compiled library lacks accumulate_sumsq" in backend.detail
    assert works(backend)
    assert list(cache.iterdir()) == []
    assert said() == []


CONSTRUCTOR = "__attribute__((constructor)) static void run(void) { __builtin_trap(); }"


def mode(path: Path, _: Path, __: pytest.MonkeyPatch) -> None:
    path.chmod(0o622 if path.is_file() else 0o720)


def owner(path: Path, _: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
        return
    # only root can give a file away; for anybody else its inode counts as another user's
    given, really = path.lstat().st_ino, os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = really(descriptor)
        return status if status.st_ino != given else os.stat_result((*status[:4], 65534, *status[5:]))

    monkeypatch.setattr(caches.os, "fstat", fstat)


def link(path: Path, elsewhere: Path, _: pytest.MonkeyPatch) -> None:
    path.rename(elsewhere / "moved")
    path.symlink_to(elsewhere / "moved")


def pipe(path: Path, _: Path, __: pytest.MonkeyPatch) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "of_folder", "why"),
    [
        (mode, True, "others can write to"),
        (mode, False, "others can write to"),
        (owner, True, "belongs to another user"),
        (owner, False, "belongs to another user"),
        (link, True, "is a link"),
        (link, False, "cannot be read"),
        (pipe, False, "is not a regular file"),
    ],
)
def test_what_others_can_have_written_is_not_loaded(cache, tmp_path, said, monkeypatch, change, of_folder, why):
    native()
    (kept,) = cache.iterdir()
    # loading it would end this process
    harmful = planted(cache, compiled_elsewhere(tmp_path, CONSTRUCTOR), kept)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    change(cache if of_folder else harmful, elsewhere, monkeypatch)
    before = {path: path.lstat().st_ino for path in (cache, *cache.iterdir())}
    native()
    assert {path: path.lstat().st_ino for path in (cache, *cache.iterdir())} == before
    (warning,) = said()
    assert why in warning
    assert str(cache if of_folder else harmful) in warning
    assert "set XDG_CACHE_HOME to a folder that only you can write to" in warning
    # and nothing stays of the private one
    assert not list(Path(tempfile.gettempdir()).glob(f"unipruning-native-*/{kept.name}"))


@pytest.mark.parametrize("harmless", [None, 0o755])
def test_a_folder_that_others_can_only_read_is_trusted(cache, said, harmless):
    if harmless:
        cache.mkdir(mode=harmless)
    native()
    assert said() == []


def test_what_killed_compilations_left_is_removed_after_an_hour(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache.mkdir(mode=0o700)
    (tmp_path / "unipruning-native-old").mkdir()
    (tmp_path / "unipruning-native-new").mkdir()
    others = [cache / f"native-{number:02}.0123.so" for number in range(12)]
    for path in [*others, cache / "native-old.tmp", cache / "native-new.tmp", cache / "users.txt"]:
        path.write_bytes(b"")
    now = time.time()
    for age, path in enumerate([*others, cache / "native-old.tmp", tmp_path / "unipruning-native-old"], 1):
        os.utime(path, (now - 3600 * age - 60,) * 2)
    native()
    left = {path.name for path in cache.iterdir()}
    assert left >= {"native-new.tmp", "users.txt", *(path.name for path in others[:8])}
    assert "native-old.tmp" not in left
    assert not left & {path.name for path in others[8:]}
    assert [path.name for path in tmp_path.glob("unipruning-native-*")] == ["unipruning-native-new"]


@pytest.mark.parametrize(("variable", "home"), [("not/absolute", "home"), ("", "home"), (None, "home")])
def test_a_cache_that_is_not_absolute_is_that_of_the_home_folder(tmp_path, monkeypatch, variable, home):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / home))
    if variable is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert caches.cache_folder() == tmp_path / home / ".cache" / "unipruning"


def test_without_a_home_folder_the_library_is_compiled_for_this_process(tmp_path, monkeypatch, said):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "~")
    monkeypatch.delenv(NATIVE_ENV, raising=False)
    monkeypatch.chdir(tmp_path)
    native()
    assert ["this user has no home folder" in warning for warning in said()] == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without_and_said_once(tmp_path, monkeypatch, said):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(NATIVE_ENV, raising=False)
    native()
    (warning,) = said()
    assert "is compiled for this process alone" in warning


def test_a_full_cache_is_done_without_and_said_once(cache, monkeypatch, said):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches.os, "replace", full)
    native()
    (warning,) = said()
    assert "No space left on device" in warning
    assert list(cache.iterdir()) == []
