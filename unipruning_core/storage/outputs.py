"""Looking at an output before anything expensive: can it be written, is there room, does it overlap what is read?"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from unipruning_core.errors import OutputError, reason_and_remedy
from unipruning_core.storage.files import flags, partial_name, write_text

NAMES_SHOWN = 5


@contextmanager
def errors_as_output_errors(out: Path, what: str = "output folder") -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    # ValueError for a NUL, RuntimeError for links in a circle
    except (OSError, ValueError, RuntimeError) as error:
        reason = reason_and_remedy(error, f"choose another {what.rpartition(' ')[2]}", out)
        raise OutputError(f"{what} {str(out)!r} could not be written: {reason}") from error


def folder_beside(out: Path) -> Path:
    """Return the folder that keeps the search of an output, unless another is named: ``DIR-run``.

    Raises:
        OutputError: there can be no folder beside it.
    """
    with errors_as_output_errors(out):
        # "." and ".." have no name of their own
        named = out if out.name not in ("", "..") else out.resolve()
    if not named.name:
        raise OutputError(f"output {str(out)!r} is the whole disk; choose a folder in it")
    return named.with_name(f"{named.name}-run")


def check_space(out: Path, wanted: int) -> None:
    """Refuse to start if ``wanted`` bytes do not fit on the disk of ``out``."""
    existing = next(folder for folder in (out, *out.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if wanted > free:
        raise OutputError(
            f"output folder {str(out)!r} needs {wanted} bytes, but its disk has {free} free; free some space there"
        )


def check_new(out: Path) -> None:
    """Refuse an output folder that exists.

    Raises:
        OutputError: it does.
    """
    with errors_as_output_errors(out):
        if os.path.lexists(out):
            raise OutputError(f"output {str(out)!r} exists; choose a folder that does not exist yet")


def check_apart(out: Path, what: str, paths: Iterable[Path]) -> None:
    """Refuse an output that is, contains or lies in one of ``paths``, through links too; ``what`` they are, to say so.

    Raises:
        OutputError: they overlap.
    """
    for path in paths:
        if _overlap(out.resolve(), path.resolve()):
            raise OutputError(f"output {str(out)!r} and {what} {str(path)!r} overlap; choose another output")


def check_file(path: Path) -> None:
    """Refuse a file that could not be written, by making and removing one beside it.

    Raises:
        OutputError: it is a folder, or nothing can be written there.
    """
    with errors_as_output_errors(path, "file"):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists():
            os.close(os.open(path, os.O_WRONLY | flags("O_NONBLOCK")))
        # what is not a file, such as a terminal, is written to as it is
        if not path.exists() or path.is_file():
            probe = partial_name(path.resolve())
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o666))
            probe.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it holds the old text or the new one, whatever happens.

    Raises:
        OutputError: it cannot be written.
    """
    with errors_as_output_errors(path, "file"):
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        # a link stays one
        write_text(path.resolve(), text)


def listed(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + (" and more" if len(names) > NAMES_SHOWN else "")


def _overlap(first: Path, second: Path) -> bool:
    if first.is_relative_to(second) or second.is_relative_to(first):
        return True
    # the same folder may have two names: mounted twice, or where capital letters make no difference
    return _is_within(first, second) or _is_within(second, first)


def _is_within(inner: Path, outer: Path) -> bool:
    try:
        status = outer.stat()
    except FileNotFoundError:
        return False
    for path in (inner, *inner.parents):
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), status):
                return True
    return False
