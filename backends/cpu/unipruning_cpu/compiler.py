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
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


def load_library() -> ctypes.CDLL:
    """Open the cached library, or compile it.

    The file's name contains a digest of its content: a truncated or overwritten file does not match and is rebuilt.

    Raises:
        CompilationError: no compiler is installed, or none of them can compile the sources.
    """
    compilers = list(_compilers())
    if not compilers:
        raise CompilationError("no C compiler was found; install gcc or clang, or name one in CC")
    reasons = []
    for command, version in compilers:
        key = _digest(source(), version, repr((REQUIRED, CHOICES)), _processor())
        if library := _open_cached(key):
            return library
        try:
            return _compile(command, key)
        except (CompilationError, OSError) as error:
            reasons.append(f"{command[0]}: {error}")
    raise CompilationError("; ".join(reasons))


def source() -> str:
    """Return the C text, with each file's own name and line numbers for the compiler's messages."""
    here = Path(__file__).parent
    return "\n".join(f'#line 1 "{name}"\n{(here / name).read_text(encoding="utf-8")}' for name in SOURCES)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unipruning"


def _compilers() -> Iterator[tuple[list[str], str]]:
    """Yield the compilers that answer to ``--version``, each with its answer."""
    for name in dict.fromkeys((os.environ.get("CC", ""), "cc", "gcc", "clang")):
        command = shlex.split(name)
        if not command or shutil.which(command[0]) is None:
            continue
        try:
            answer = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=TIME_LIMIT)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.info("compiler %s does not start: %s", name, error)
            continue
        if answer.returncode == 0:
            yield command, answer.stdout


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


def _open_cached(key: str) -> ctypes.CDLL | None:
    for path in sorted(cache_folder().glob(f"native-{key}.*.so")):
        try:
            # opening a damaged library can end the process, so its content is checked first
            if path.suffixes[-2] != f".{_content_digest(path)}":
                log.info("%s is damaged and will be compiled again", path)
                path.unlink(missing_ok=True)
                continue
            return ctypes.CDLL(str(path))
        except OSError as error:
            log.info("%s does not open: %s", path, error)
    return None


def _content_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _compile(command: list[str], key: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="unipruning-") as folder:
        built = Path(folder) / "native.so"
        reason = "no set of flags was accepted"
        for flags in CHOICES:
            line = [*command, *flags, "-o", str(built), *REQUIRED, "-lm"]
            try:
                run = subprocess.run(line, input=source(), capture_output=True, text=True, timeout=TIME_LIMIT)
            except subprocess.TimeoutExpired:
                raise CompilationError(f"compilation timed out after {TIME_LIMIT:.0f} s") from None
            if run.returncode == 0 and built.is_file():
                log.info("compiled the native library: %s", shlex.join(line))
                return ctypes.CDLL(str(_keep(built, key)))
            reason = (run.stderr.strip().splitlines() or [reason])[0]
        raise CompilationError(reason)


def _keep(built: Path, key: str) -> Path:
    """Move the library into the cache atomically; without a writable cache, use it where it is."""
    target = cache_folder() / f"native-{key}.{_content_digest(built)}.so"
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix="native-", suffix=".tmp")
        os.close(handle)
        shutil.copyfile(built, temporary)
        os.replace(temporary, target)
    except OSError as error:
        log.info("the native library is not kept: %s", error)
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return built
    return target
