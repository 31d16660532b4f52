"""The folder that keeps compiled libraries: used only where nobody else can have written to it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

LARGEST = 1 << 26  # bytes of a library; ours has some hundred thousand
KEPT = 8  # libraries of other compilers, processors or versions
LEFTOVER = 3600.0  # seconds after which nobody works on a temporary file any more

log = logging.getLogger(__name__)


class CacheError(Exception):
    """The cache cannot be used; the message says why."""


class Cache:
    """An open folder whose owner is the current user or root, and which nobody else can write to.

    The name of a library contains the key of what it was built from and a digest of its content.
    """

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor

    def find(self, key: str, functions: Collection[str]) -> ctypes.CDLL | None:
        """Open a library of this key; remove those that are damaged or lack one of these functions.

        Raises:
            CacheError: a library belongs to somebody else, others can write to it, or the system does not load it.
        """
        for name in self._names(f"native-{key}.", ".so"):
            # opening a damaged library can end the process, so its content is checked first
            if name.split(".")[1] != (found := digest(self._read(name))):
                log.info("%s is damaged (its digest is %s) and will be compiled again", self._folder / name, found)
            else:
                library = self._load(name)
                if not (missing := lacking(library, functions)):
                    return library
                log.info("%s lacks %s and will be compiled again", self._folder / name, missing)
            self._remove(name)
        return None

    def keep(self, built: Path, key: str) -> None:
        """Copy a library into the folder, in one step for those who look."""
        content = built.read_bytes()
        temporary = f"native-{os.urandom(8).hex()}.tmp"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=self._descriptor), "wb") as file:
                file.write(content)
            place = {"src_dir_fd": self._descriptor, "dst_dir_fd": self._descriptor}
            os.replace(temporary, f"native-{key}.{digest(content)}.so", **place)
        except OSError:
            self._remove(temporary)
            raise

    def tidy(self) -> None:
        """Remove what a killed compilation left, and all but the newest libraries."""
        now = time.time()
        dated = {}
        for name in self._names("native-", ".tmp") + self._names("native-", ".so"):
            with contextlib.suppress(OSError):
                dated[name] = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mtime
        libraries = sorted((name for name in dated if name.endswith(".so")), key=dated.__getitem__, reverse=True)
        for name in {*dated} - {*libraries[:KEPT]}:
            if now - dated[name] > LEFTOVER:
                self._remove(name)

    def _names(self, start: str, end: str) -> list[str]:
        return sorted(name for name in os.listdir(self._descriptor) if name.startswith(start) and name.endswith(end))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        try:
            # O_NONBLOCK: opening a pipe that nobody writes to would wait
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with os.fdopen(os.open(name, flags, dir_fd=self._descriptor), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise CacheError(f"{path} is not a regular file")
                check_trusted(path, status)
                return file.read(LARGEST)
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror})") from error

    def _load(self, name: str) -> ctypes.CDLL:
        # through the open folder, so that no other folder can be put in its place meanwhile
        through = Path("/proc/self/fd") / str(self._descriptor)
        try:
            return ctypes.CDLL(str((through if through.is_dir() else self._folder) / name))
        except OSError as error:
            raise CacheError(f"{self._folder / name} cannot be loaded ({error})") from error


@contextlib.contextmanager
def open_cache() -> Iterator[Cache]:
    """Open the folder, made for its owner alone where it is missing, and tidy it.

    Raises:
        CacheError: there is no such folder and none can be made, it is a link, or others own it or can write to it.
    """
    folder = cache_folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        what = "is a link" if os.path.islink(folder) else f"cannot be used ({error.strerror})"
        raise CacheError(f"{folder} {what}") from error
    try:
        check_trusted(folder, os.fstat(descriptor))
        cache = Cache(folder, descriptor)
        cache.tidy()
        yield cache
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return ``unipruning`` in ``$XDG_CACHE_HOME``, which counts only if absolute, or in ``~/.cache``."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        root = Path(os.path.expanduser("~/.cache"))
    if not root.is_absolute():
        raise CacheError("this user has no home folder")
    return root / "unipruning"


def check_trusted(path: Path, status: os.stat_result) -> None:
    """Check that a file or folder belongs to the current user or root, and that nobody else can write to it."""
    if status.st_uid not in (0, os.geteuid()):
        raise CacheError(f"{path} belongs to another user (uid {status.st_uid})")
    if status.st_mode & 0o022:
        raise CacheError(f"others can write to {path} (mode {stat.S_IMODE(status.st_mode):03o})")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def lacking(library: ctypes.CDLL, functions: Collection[str]) -> str | None:
    """Return the first of these functions that the library does not have."""
    return next((name for name in functions if not hasattr(library, name)), None)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a temporary folder for the owner alone, and remove it and those that killed processes left."""
    prefix = "unipruning-native-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            status = left.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > LEFTOVER:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        yield Path(folder)
