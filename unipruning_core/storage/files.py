"""Files written so that nobody ever sees half of one, even after a process was killed, and read only if regular."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threading import Event

BLOCK_BYTES = 1 << 20


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, as ``write_text``."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    # the name of a file that is not UTF-8 becomes an escape of JSON, which gives the same name when read
    write_text(path, f"{text}\n", errors="backslashreplace")


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write UTF-8 atomically, its line ends as given: under a temporary name, synced to disk, then renamed."""
    partial = partial_name(path)
    try:
        with partial.open("w", encoding="utf-8", errors=errors, newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def partial_name(path: Path) -> Path:
    """Return the name under which a file is written before it is whole."""
    return path.with_name(f"{path.name}.partial")


def flags(*names: str) -> int:
    """Return those flags of ``os.open`` that this system has."""
    return sum(getattr(os, name, 0) for name in names)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened, or is a folder, a device or a pipe, which would never end.
    """
    # without waiting for somebody to open the other end of a pipe
    descriptor = os.open(path, os.O_RDONLY | flags("O_NONBLOCK", "O_BINARY"))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, largest: int) -> bytes:
    """Read a regular file of at most ``largest`` bytes.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        ValueError: it is larger.
    """
    with open_regular(path) as file:
        content = file.read(largest + 1) if os.fstat(file.fileno()).st_size <= largest else None
    if content is None or len(content) > largest:
        raise ValueError(f"it has more than {largest} bytes")
    return content


def sha256(path: Path, stop: Event | None = None) -> str:
    """Return the checksum of a regular file of any size, or of what was read of it when the event was set."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while not (stop and stop.is_set()) and (block := file.read(BLOCK_BYTES)):
            digest.update(block)
    return digest.hexdigest()


def bytes_in(folder: Path) -> int:
    """Return the bytes of the files in a folder and below it; one that goes meanwhile, such as a lock, has none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def sync(path: Path) -> None:
    """Make a file's bytes, or the renames inside a folder, survive a power cut."""
    is_posix = hasattr(os, "O_DIRECTORY")
    if not is_posix and path.is_dir():  # which only POSIX opens
        return
    descriptor = os.open(path, os.O_RDONLY if is_posix else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
