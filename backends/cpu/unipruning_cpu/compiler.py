"""The native library: compiled once per machine by the C compiler found there, and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from unipruning_cpu.cache import Cache, CacheError, lacking, open_cache, private_folder

# one translation unit, in this order
SOURCES = ("matrix.c", "sums.c", "select.c", "mirror.c", "groups.c", "powers.c", "feedback.c")
# every operation rounds once; errno and exception flags, which nothing reads, would prevent vectorised loops
ARITHMETIC = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
REQUIRED = ("-std=gnu11", "-shared", "-fPIC", *ARITHMETIC, "-fno-strict-aliasing", "-x", "c", "-")
# the first set that compiles is used; without OpenMP one thread does the work
CHOICES = (
    ("-O3", "-march=native", "-fopenmp"),
    ("-O3", "-mcpu=native", "-fopenmp"),
    ("-O3", "-fopenmp"),
    ("-O3", "-march=native"),
    ("-O3",),
)
TIME_LIMIT = 120.0  # seconds for one run of the compiler

log = logging.getLogger(__name__)


class CompilationError(Exception):
    """No native library can be built here; the message says why."""


def load_library(functions: Collection[str]) -> ctypes.CDLL:
    """Open the cached library that has these functions, or compile it.

    Raises:
        CompilationError: no compiler is installed, or none of them can compile the sources.
    """
    if sys.platform == "win32":
        raise CompilationError("the C library is not built on Windows")
    try:
        with open_cache() as cache:
            return _load(functions, cache)
    except CacheError as error:
        log.warning(
            "the C library cannot be kept in the cache and is compiled for this process alone: %s; "
            "correct that, or set XDG_CACHE_HOME to a folder that only you can write to",
            error,
        )
        return _load(functions, None)


def _load(functions: Collection[str], cache: Cache | None) -> ctypes.CDLL:
    reasons: list[str] = []
    for command, identity in _compilers(reasons):
        key = _digest(source(), identity, repr((REQUIRED, CHOICES)), _processor())
        if cache and (library := cache.find(key, functions)):
            return library
        try:
            return _compile(command, key, functions, cache)
        except (CompilationError, OSError) as error:
            reasons.append(f"{command[0]}: {error}")
    raise CompilationError("; ".join(reasons) or "no C compiler was found; install gcc or clang, or name one in CC")


def source() -> str:
    """Return the C text, with each file's own name and line numbers for the compiler's messages."""
    here = Path(__file__).parent
    return "\n".join(f'#line 1 "{name}"\n{(here / name).read_text(encoding="utf-8")}' for name in SOURCES)


def _compilers(reasons: list[str]) -> Iterator[tuple[list[str], str]]:
    """Yield the compilers that are installed, each with what identifies it; none is run.  Say what is wrong with CC."""
    chosen = os.environ.get("CC", "")
    for name in dict.fromkeys((chosen, "cc", "gcc", "clang")):
        try:
            command = shlex.split(name)
            program = shutil.which(command[0]) if command else None
            if program:
                path = Path(program).resolve(strict=True)
                status = path.stat()
                yield command, repr((command, str(path), status.st_size, status.st_mtime_ns))
            elif name == chosen and command:
                reasons.append(f"CC is {name!r}, which is not installed")
        except ValueError as error:
            reasons.append(f"CC is {name!r}, which is not a command ({str(error).lower()})")
        except OSError as error:
            reasons.append(f"{name} cannot be used ({error.strerror})")


def _processor() -> str:
    """Return what -march=native depends on: machines of several kinds may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    known = {line for line in lines if line.lower().startswith(("model", "flags", "features", "cpu part"))}
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *sorted(known)])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(command: list[str], key: str, functions: Collection[str], cache: Cache | None) -> ctypes.CDLL:
    with private_folder() as folder:
        built = folder / "native.so"
        _build(command, built)
        if cache:
            try:
                # another process may have been faster
                library = cache.find(key, functions)
                if library is None:
                    cache.keep(built, key)
                    library = cache.find(key, functions)
                if library is not None:
                    return library
            except OSError as error:
                raise CacheError(str(error)) from error
        library = ctypes.CDLL(str(built))
        if missing := lacking(library, functions):
            raise CompilationError(f"the compiled library lacks {missing}")
        return library


def _build(command: list[str], built: Path) -> None:
    """Run the compiler with the first set of flags that it accepts; its own temporary files lie beside ``built``."""
    environment = {**os.environ, "TMPDIR": str(built.parent)}
    reason = "no set of flags was accepted"
    for flags in CHOICES:
        line = [*command, *flags, "-o", str(built), *REQUIRED, "-lm"]
        try:
            run = subprocess.run(
                line, input=source(), capture_output=True, text=True, timeout=TIME_LIMIT, env=environment
            )
        except subprocess.TimeoutExpired:
            raise CompilationError(f"compilation timed out after {TIME_LIMIT:.0f} s") from None
        if run.returncode == 0 and built.is_file():
            log.info("compiled the native library: %s", shlex.join(line))
            return
        reason = (run.stderr.strip().splitlines() or [reason])[0]
    raise CompilationError(reason)
