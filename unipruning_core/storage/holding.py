"""A marked folder that one command fills by others, which inherit its lock; and one that is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from unipruning_core.errors import OutputError
from unipruning_core.storage.outputs import check_apart, errors_as_output_errors
from unipruning_core.storage.ownership import BOOKKEEPING, LOCK, MARKER, Kind, is_marked, locked, mark, remove_marked


@contextmanager
def holding(
    folder: Path,
    kind: Kind,
    what: str,  # for messages: "a comparison"
    *,
    is_former: Callable[[Path], bool] = lambda folder: False,  # made by a version that wrote no marker
    apart: Iterable[tuple[str, Path]] = (),  # what is read, by what it is
) -> Iterator[int]:
    """Hold a folder for this command and every one that inherits the descriptor, until the last of them ends.

    Raises:
        OutputError: it is a file, cannot be written, holds something else, overlaps what is read, or is in use.
    """

    def look() -> None:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"output {str(folder)!r} is a file; choose a folder")
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        if not (present <= {LOCK} or is_former(folder) or is_marked(folder, kind)):
            raise OutputError(f"output folder {str(folder)!r} holds something other than {what}; choose another")

    with ExitStack() as stack:
        with errors_as_output_errors(folder):
            for name, path in apart:
                check_apart(folder, name, [path])
            # before anything is made in it, and again when nobody else can change it
            look()
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_if_empty, missing)
            lock = stack.enter_context(locked(folder / LOCK, folder))
            look()
            if not is_marked(folder, kind):
                mark(folder, kind)
            stack.callback(_forget_if_empty, folder)
        yield lock.descriptor


@contextmanager
def scratch(kind: Kind, prefix: str) -> Iterator[tuple[Path, int]]:
    """Yield a temporary folder, and the descriptor of its lock; remove it, and those that killed commands left.

    Raises:
        OutputError: there is no temporary folder to write to.
    """
    with errors_as_output_errors(Path("temporary"), "folder"):
        parent = Path(tempfile.gettempdir())
        for folder in sorted(parent.glob(f"{prefix}*")):
            _remove_if_dead(folder, kind)
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with holding(folder, kind, "a temporary result") as descriptor:
            yield folder, descriptor
            remove_marked(folder)
    finally:
        with suppress(OSError):  # what cannot be removed now is removed by the next command
            remove_marked(folder)


def _remove_if_dead(folder: Path, kind: Kind) -> None:
    # of another user, or still in use
    with suppress(OSError, OutputError):
        # without users every file is of number 0
        user = os.getuid() if hasattr(os, "getuid") else 0
        if not folder.is_symlink() and folder.stat().st_uid == user and is_marked(folder, kind):
            with locked(folder / LOCK, folder):
                remove_marked(folder)


def _forget_if_empty(folder: Path) -> None:
    """Remove the marker of a command that ended before it had anything."""
    with suppress(OSError):
        if set(os.listdir(folder)) <= BOOKKEEPING:
            (folder / MARKER).unlink(missing_ok=True)


def _remove_if_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
