"""The folder of a comparison: whose it is, and one comparison at a time in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from unipruning_core.errors import OutputError
from unipruning_core.search.claim import discard_run, is_under_way, tidy_run
from unipruning_core.search.finished import RUN_FILE
from unipruning_core.storage.outputs import check_apart, errors_as_output_errors
from unipruning_core.storage.ownership import BOOKKEEPING, LOCK, MARKER, is_marked, locked, mark, remove_marked

SEARCHES, EVALUATIONS, CHECKPOINTS = "searches", "evaluations", "checkpoints"
FORMER_LOCK = "lock"  # of a version that wrote no marker
# files that were being written when their command was killed
PARTIAL = (f"{EVALUATIONS}/*.json.partial", f"{SEARCHES}/*/*.json.partial", "results.*.partial")


@contextmanager
def held(folder: Path, apart: Iterable[tuple[str, Path]] = ()) -> Iterator[int]:
    """Hold a folder for this comparison and every command that inherits the descriptor, until the last of them ends.

    Raises:
        OutputError: it is a file, cannot be written, holds something else, overlaps what is read, or is in use.
    """
    with ExitStack() as stack:
        with errors_as_output_errors(folder):
            for what, path in apart:
                check_apart(folder, what, [path])
            _look_at(folder)
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_if_empty, missing)
            lock = stack.enter_context(locked(folder / LOCK, folder))
            _look_at(folder)
            if not is_marked(folder, "comparison"):
                mark(folder, "comparison")
            stack.callback(_forget_if_empty, folder)
            _tidy(folder)
        yield lock.descriptor


def _look_at(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"output {str(folder)!r} is a file; choose a folder")
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    former = (folder / FORMER_LOCK).is_file() and {SEARCHES, EVALUATIONS} <= present
    if not (present <= {LOCK} or former or is_marked(folder, "comparison")):
        raise OutputError(f"output folder {str(folder)!r} holds something other than a comparison; choose another")


def _tidy(folder: Path) -> None:
    """Remove what killed commands left, and no later one would look for."""
    for pattern in PARTIAL:
        for path in folder.glob(pattern):
            path.unlink()
    for path in folder.glob(f"{CHECKPOINTS}/*.partial"):
        if is_marked(path, "checkpoint"):
            remove_marked(path)
    for run in folder.glob(f"{SEARCHES}/*/run"):
        tidy_run(run)
        if not (run / RUN_FILE).exists() and not is_under_way(run):
            discard_run(run)


def _forget_if_empty(folder: Path) -> None:
    """Remove the marker of a comparison that ended before it had anything."""
    for name in (SEARCHES, EVALUATIONS):
        with suppress(OSError):
            (folder / name).rmdir()
    if set(os.listdir(folder)) <= BOOKKEEPING:
        (folder / MARKER).unlink(missing_ok=True)


def _remove_if_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
