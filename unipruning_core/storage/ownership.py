"""Who owns a folder: a marker says that it was made here, a lock that a command is at work in it.

A marker is a small file with a fixed content.  It is written before anything else and removed after everything else.
A lock is a file that exists while a command works.  Where the file system has locks, ``flock`` decides, so that
whatever a killed command leaves is free at once.  Elsewhere, and on systems without ``fcntl``, its content does: the
host and the process that hold it.  Locks of the package filelock are not inherited by the commands that one starts, and
know no file system without locks.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unipruning_core.errors import OutputError
from unipruning_core.storage.files import flags, sync

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

MARKER = ".unipruning.json"
LOCK = ".unipruning.lock"
BOOKKEEPING = frozenset((MARKER, LOCK))
FORMAT = "unipruning-folder/1"
LARGEST_LOCK = 4096  # bytes
# what flock raises where the file system has no locks
UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
PATIENCE = 20  # tries, a twentieth of a second apart, until a file that another command is making or removing is clear

Kind = Literal["run", "checkpoint", "comparison", "evaluation", "demo", "scratch"]


def mark(folder: Path, kind: Kind) -> None:
    """Write the marker of a folder of this kind."""
    path = folder / MARKER
    path.write_text(_marker(kind), encoding="utf-8")
    sync(path)
    sync(folder)


def is_marked(folder: Path, kind: Kind) -> bool:
    """Return whether a folder has the marker of this kind; one that is empty was being written when it was killed."""
    path = folder / MARKER
    expected = _marker(kind)
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size not in (0, len(expected)):
            return False
        return path.read_text(encoding="utf-8") in ("", expected)
    except (OSError, ValueError):
        return False


def is_ours(folder: Path, kind: Kind) -> bool:
    """Return whether a folder is marked, or holds at most the files that are written before and removed after it."""
    return is_marked(folder, kind) or (set(os.listdir(folder)) <= {LOCK} and not (folder / LOCK).is_dir())


def remove_marked(folder: Path) -> None:
    """Remove a folder of ours, its marker after everything else, so that what a kill leaves can be recognised."""
    for path in sorted(folder.iterdir()):
        if path.name not in BOOKKEEPING:
            remove(path)
    for name in (MARKER, LOCK):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # another command may have begun in it
        folder.rmdir()


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds, and every process that inherits its descriptor."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """Remove the file, if it is still the one that is held."""
        if fcntl is None:  # where what is open cannot be removed, and nobody takes a file that is there
            os.close(self.descriptor)
            with suppress(OSError):
                self.path.unlink()
            return
        with suppress(OSError):
            if _is_at(self.descriptor, self.path):
                self.path.unlink()
        os.close(self.descriptor)


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[Lock]:
    """Hold a lock; ``folder`` is what it protects, in messages.

    Raises:
        OutputError: another command holds it.
        OSError: the file cannot be made.
    """
    lock = acquire(path, folder)
    try:
        yield lock
    finally:
        lock.release()


def acquire(path: Path, folder: Path) -> Lock:
    """Take a lock, or refuse; as ``locked``."""
    for attempt in range(PATIENCE):
        if attempt:
            time.sleep(0.05)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            made = True
        except FileExistsError:
            try:
                descriptor = os.open(path, os.O_RDWR | flags("O_NOFOLLOW", "O_NONBLOCK"))
            except FileNotFoundError:  # its holder has just removed it
                continue
            made = False
        try:
            if _take(descriptor, path, folder, made):
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, _holder().encode())
                return Lock(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise _busy(path, folder, "")


def _take(descriptor: int, path: Path, folder: Path, made: bool) -> bool:
    """Return whether the lock is taken; if not, the file has changed, or must change, and is to be opened again."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OutputError(f"{str(path)!r} is not a file; remove it by hand")
    try:
        _lock(descriptor)
    except BlockingIOError as error:
        raise _busy(path, folder, _content(descriptor)) from error
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return made or _cleared(descriptor, path, folder)
    # it may have been removed between opening and locking, and another made in its place
    return _is_at(descriptor, path)


def _lock(descriptor: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _cleared(descriptor: int, path: Path, folder: Path) -> bool:
    """Without locks: remove the file of a process of this host that has ended; always False, as it is then made anew.

    Raises:
        OutputError: the process is alive, or on another host.
    """
    content = _content(descriptor)
    holder = _parsed(content)
    if holder is None:  # being written
        return False
    if holder[0] != socket.gethostname() or _is_alive(holder[1]):
        raise _busy(path, folder, content, certain=False)
    if _is_at(descriptor, path):
        path.unlink(missing_ok=True)
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _content(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, LARGEST_LOCK).decode(errors="replace")


def _holder() -> str:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "command": command}) + "\n"


def _parsed(content: str) -> tuple[str, int, str] | None:
    """Return the host, the process and the command of a lock's content, or None if it is not whole."""
    try:
        match json.loads(content):
            case {"host": str(host), "process": int(process), "command": str(command)} if 0 < process < 2**31:
                return host, process, command
    except (ValueError, RecursionError):
        return None
    return None


def _busy(path: Path, folder: Path, content: str, *, certain: bool = True) -> OutputError:
    holder = _parsed(content)
    who = "another command"
    if holder is not None:
        host, process, command = holder
        who = f"process {process} on {host} ({command}), or a command that it started"
    remedy = "wait for it, end it, or choose another folder"
    if not certain or holder is None:
        remedy += f"; if nothing runs there any more, remove {str(path)!r}"
    return OutputError(f"{str(folder)!r} is in use by {who}; {remedy}")


def _is_alive(process: int) -> bool:
    # a killed process and its successor in a container often have the same number
    if process == os.getpid():
        return False
    if fcntl is None:  # where this call would not ask, but send a signal
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _marker(kind: Kind) -> str:
    return json.dumps({"format": FORMAT, "kind": kind}) + "\n"
