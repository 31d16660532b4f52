"""A result that appears whole or not at all: made in a folder of ours, synced to disk, then put in its place.

What appears anew is made in ``<name>.partial`` beside it and renamed.  What replaces something, or fills a folder that
exists, is made in ``unfinished`` inside it and moved up: so nothing outside the folder is touched, which may be a mount
point, or lie where nobody may write.  The order of the steps makes every moment clear to whoever comes after a kill:

    new       is being made; the old result is whole
    whole     is complete, and the files named in old.json are being removed
    placing   is being moved up

From ``whole`` on, the next command completes the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from unipruning_core.errors import OutputError
from unipruning_core.storage.documents import member, read_object, sealed, unsealed
from unipruning_core.storage.files import bytes_in, sync, write_json
from unipruning_core.storage.outputs import listed
from unipruning_core.storage.ownership import (
    BOOKKEEPING,
    LOCK,
    Kind,
    Lock,
    acquire,
    is_marked,
    is_ours,
    mark,
    remove,
    remove_marked,
)

UNFINISHED = "unfinished"
NEW, WHOLE, PLACING, OLD = "new", "whole", "placing", "old.json"
TRIES = 20  # to begin in a folder that another command is just removing


@dataclass(frozen=True)
class Work:
    """A locked folder in which a result of ``out`` is made."""

    folder: Path
    out: Path
    last: tuple[str, ...]  # names of the files that make a result one, put in place after all others
    kept: re.Pattern[str]  # names in the folder that outlast a command, until there is a result
    existed: bool  # an earlier command was killed or has failed

    @property
    def is_inside(self) -> bool:
        return self.folder.parent == self.out

    def start(self) -> Path:
        """Return an empty folder to fill."""
        remove(self.folder / NEW)
        (self.folder / OLD).unlink(missing_ok=True)
        (self.folder / NEW).mkdir()
        return self.folder / NEW

    def publish(self, old: Collection[str] = ()) -> None:
        """Put the folder that was filled in its place; ``old`` are the files below ``out`` that it replaces.

        Raises:
            OSError: something has come in its way.
        """
        _sync(self.folder / NEW)
        write_json(self.folder / OLD, sealed({"files": sorted(old)}))
        (self.folder / NEW).rename(self.folder / WHOLE)
        sync(self.folder)
        self._place()

    def settle(self) -> None:
        """Complete what a killed command had begun to put in its place, and remove what else it left."""
        if not self.is_inside and self.out.exists():
            remove(self.folder / WHOLE)  # something has come meanwhile
        self._place()
        remove(self.folder / NEW)

    def states(self) -> list[Path]:
        """What outlasts a command, in order."""
        return sorted(path for path in self.folder.iterdir() if self.kept.fullmatch(path.name))

    def size(self) -> int:
        """The bytes of what is in the folder."""
        return bytes_in(self.folder)

    def is_pending(self) -> bool:
        """Whether the folder must stay: for its states, or for a result that is not in its place yet."""
        halfway = self.is_inside and ((self.folder / WHOLE).exists() or (self.folder / PLACING).exists())
        return halfway or bool(self.states())

    def _place(self) -> None:
        whole, placing = self.folder / WHOLE, self.folder / PLACING
        if whole.is_dir() and not self.is_inside:
            whole.rename(self.out)
            sync(self.out.parent)
        elif whole.is_dir():
            # what is saved could only lead to the same result again
            for state in self.states():
                remove(state)
            self._remove_old()
            whole.rename(placing)
        if placing.is_dir():
            self._move_up(placing)

    def _remove_old(self) -> None:
        old = _old_files(self.folder / OLD)
        for path in sorted(old, key=lambda path: path.name not in self.last):
            (self.out / path).unlink(missing_ok=True)
        for parent in sorted({parent for path in old for parent in path.parents if parent.name}, reverse=True):
            with suppress(OSError):  # it holds something else
                (self.out / parent).rmdir()
        sync(self.out)

    def _move_up(self, placing: Path) -> None:
        inner = sorted(placing.rglob("*"))
        for path in sorted((path for path in inner if not path.is_dir()), key=lambda path: path.name in self.last):
            target = self.out / path.relative_to(placing)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        for folder in [self.out / path.relative_to(placing) for path in inner if path.is_dir()] + [self.out]:
            sync(folder)
        remove(placing)


@contextmanager
def working(folder: Path, out: Path, kind: Kind, *, last: tuple[str, ...], kept: str = "") -> Iterator[Work]:
    """Make or take over the folder in which a result of ``out`` is made, and hold its lock.

    In the end it is removed, but for what ``Work.is_pending`` knows, and so is ``out`` if nothing is in it and it was
    made for this.

    Raises:
        OutputError: another command works in it, it is not ours, or holds something that is not.
        OSError: it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    existed = folder not in missing
    if existed and folder.parent == out and os.listdir(out) == [folder.name]:
        missing.append(out)  # made by the command that was killed
    lock: Lock | None = None
    try:
        lock = _enter(folder, out, kind)
        work = Work(folder, out, last, re.compile(kept), existed)
        _refuse_strangers(work, kind)
        if not is_marked(folder, kind):
            mark(folder, kind)
        work.settle()
        try:
            yield work
        finally:
            # the first error is the one to show; what cannot be removed now is removed at the next start
            with suppress(OSError):
                if not work.is_pending():
                    remove_marked(folder)
    finally:
        if lock is not None:
            lock.release()
        for path in missing:
            with suppress(OSError):
                if not os.listdir(path):
                    path.rmdir()


def _enter(folder: Path, out: Path, kind: Kind) -> Lock:
    for _ in range(TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed by the command that has just ended
            if folder.is_symlink() or not is_ours(folder, kind):
                raise OutputError(f"{str(folder)!r} is in the way and was not made here; move it elsewhere")
            return acquire(folder / LOCK, out)
    raise OutputError(f"{str(folder)!r} cannot be kept, as other commands remove it; choose another folder")


def _refuse_strangers(work: Work, kind: Kind) -> None:
    own = BOOKKEEPING | {NEW, WHOLE, PLACING, OLD, f"{OLD}.partial"}
    names = sorted(set(os.listdir(work.folder)) - own)
    if strangers := [name for name in names if not work.kept.fullmatch(name)]:
        raise OutputError(f"{str(work.folder)!r} holds what was not made here, {listed(strangers)}; move it elsewhere")


def _old_files(path: Path) -> list[Path]:
    """Return the files that a result replaces, all below its folder."""
    try:
        found = member(unsealed(read_object(path)), "files", list)
        if not all(isinstance(name, str) for name in found):
            raise ValueError("a file is no name")
        names = [Path(name) for name in found]
        if any(name.is_absolute() or ".." in name.parts for name in names):
            raise ValueError("a file is not below the folder")
    except ValueError as error:
        raise OutputError(f"{str(path)!r} is damaged ({error}); remove {str(path.parent)!r} and start again") from error
    return names


def _sync(folder: Path) -> None:
    """Sync a folder to disk; without this a power cut after the rename could leave empty files."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync(Path(root) / name)
        sync(Path(root))
