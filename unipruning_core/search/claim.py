"""A run folder that one command holds: whose it is, what it already holds, and how a result gets there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from unipruning_core.errors import OutputError
from unipruning_core.search.finished import RUN_FILE
from unipruning_core.search.resume import OFFLOADED, PARTIAL, STATES
from unipruning_core.search.run_document import DUAL_FILE, FORMAT, FORMAT_1, INPUTS_FILE
from unipruning_core.storage.documents import read_object
from unipruning_core.storage.outputs import check_apart, errors_as_output_errors, listed
from unipruning_core.storage.ownership import BOOKKEEPING, MARKER, is_marked, is_ours, mark, remove, remove_marked
from unipruning_core.storage.staging import NEW, UNFINISHED, Work, working

KEPT = f"{STATES}|{PARTIAL}|{OFFLOADED}-[0-9]{{5}}"  # in its folder of unfinished work
FILES = (RUN_FILE, DUAL_FILE, INPUTS_FILE, MARKER)  # of a finished run
# of a version that wrote them into the run folder itself
FORMER = tuple(f"{name}.partial" for name in (RUN_FILE, DUAL_FILE, INPUTS_FILE))


@dataclass(frozen=True)
class ClaimedRun:
    """A run folder that this command holds."""

    folder: Path
    work: Work
    finished: bool  # it holds a finished search

    @property
    def was_killed(self) -> bool:
        """Whether an earlier command was killed in it, perhaps when all was done."""
        return self.work.existed

    def start(self) -> Path:
        """Return an empty folder for the files of the result."""
        folder = self.work.start()
        mark(folder, "run")
        return folder

    def publish(self) -> None:
        """Put the result in the place of an earlier one."""
        self.work.publish([name for name in FILES if (self.folder / name).exists()])


@contextmanager
def claimed_run(
    folder: Path,
    *,
    overwrite: bool,
    finished_ok: bool = False,
    apart: Iterable[tuple[str, Path]] = (),  # what is read, by what it is
) -> Iterator[ClaimedRun]:
    """Look at a run folder before any work, complete what a killed command had all but done, and hold it.

    ``finished_ok`` accepts a finished search, for a command that can continue from it.  So is one in a folder where a
    command was killed, which may have been about to say so.

    Raises:
        OutputError: it is in use, a file, cannot be written, overlaps what is read, or holds something else.
    """
    with ExitStack() as stack:
        with errors_as_output_errors(folder):
            for what, path in apart:
                check_apart(folder, what, [path])
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"output {str(folder)!r} is a file; choose a folder")
            # before anything is made in it, and again when nobody else can change it
            inner = folder / UNFINISHED
            if not (inner.is_dir() and is_ours(inner, "run")):
                _look_at(folder, overwrite=overwrite, finished_ok=finished_ok)
            work = stack.enter_context(_working(folder))
            finished = _look_at(folder, overwrite=overwrite, finished_ok=finished_ok or work.existed)
            remove(work.folder / PARTIAL)
            for name in FORMER if is_run_folder(folder) else ():
                remove(folder / name)
        yield ClaimedRun(folder, work, finished)


def _working(folder: Path) -> AbstractContextManager[Work]:
    return working(folder / UNFINISHED, folder, "run", last=(RUN_FILE,), kept=KEPT)


def tidy_run(folder: Path) -> None:
    """Complete, or remove, what a killed command left in a run folder, unless another command is at work in it."""
    if is_marked(folder / UNFINISHED, "run"):
        with suppress(OutputError), _working(folder):
            pass


def _look_at(folder: Path, *, overwrite: bool, finished_ok: bool) -> bool:
    """Return whether a folder holds a finished search, or refuse what it holds."""
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    inner = folder / UNFINISHED
    begun = inner.is_dir() and not inner.is_symlink() and is_ours(inner, "run")
    strangers = [name for name in present if name not in (*FILES, *FORMER) and not (name == UNFINISHED and begun)]
    finished = RUN_FILE in present
    if not present or (present == [UNFINISHED] and begun):
        return False
    if not (is_run_folder(folder) or begun):
        if overwrite:
            raise OutputError(f"{str(folder)!r} was not made by a search, so it is not overwritten; remove it yourself")
        raise OutputError(f"output folder {str(folder)!r} is not empty; choose another")
    if overwrite and strangers:
        raise OutputError(
            f"{str(folder)!r} is not overwritten, since it holds more than a search: {listed(strangers)}; "
            "move that elsewhere"
        )
    if finished and not overwrite and not finished_ok:
        raise OutputError(
            f"{str(folder)!r} already holds a finished search; use it, choose another folder, or pass --overwrite"
        )
    return finished


def is_under_way(folder: Path) -> bool:
    """Whether an unfinished search in a run folder has saved anything, or has all but ended."""
    inner = folder / UNFINISHED
    return inner.is_dir() and any(path.name not in (*BOOKKEEPING, NEW) for path in inner.iterdir())


def discard_run(folder: Path) -> None:
    """Remove a run folder that no command works in, but for what else is in it."""
    if is_marked(folder / UNFINISHED, "run"):
        remove_marked(folder / UNFINISHED)
    if is_run_folder(folder):
        for name in (*FORMER, *FILES):  # the marker last
            (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else
        folder.rmdir()


def is_run_folder(folder: Path) -> bool:
    """Return whether a search made a folder: it is marked, or of a version that marked none."""
    if is_marked(folder, "run"):
        return True
    try:
        return read_object(folder / RUN_FILE).get("format") in (FORMAT, FORMAT_1)
    except (OSError, ValueError):
        return False
