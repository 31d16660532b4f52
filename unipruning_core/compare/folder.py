"""The folder of a comparison: whose it is, and what killed commands left in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unipruning_core.search.claim import discard_run, is_under_way, tidy_run
from unipruning_core.search.finished import RUN_FILE
from unipruning_core.storage.holding import holding
from unipruning_core.storage.outputs import errors_as_output_errors
from unipruning_core.storage.ownership import is_marked, remove_marked

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
    with holding(folder, "comparison", "a comparison", is_former=_is_former, apart=apart) as descriptor:
        with errors_as_output_errors(folder):
            _tidy(folder)
        try:
            yield descriptor
        finally:
            for name in (SEARCHES, EVALUATIONS):  # of a comparison that ended before it had anything
                with suppress(OSError):
                    (folder / name).rmdir()


def _is_former(folder: Path) -> bool:
    return (folder / FORMER_LOCK).is_file() and all((folder / name).is_dir() for name in (SEARCHES, EVALUATIONS))


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
