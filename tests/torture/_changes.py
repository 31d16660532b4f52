"""Changes on disk, counted just before each, and a kill at one of them."""

from __future__ import annotations

import mmap
import os
import signal
import sys
from pathlib import Path


class Changes:
    """A count of the changes on disk, shared with the processes that make them; one of them may be the last.

    It counts openings for writing, renames, removals, folders made and syncs below ``folder``, just before each.
    """

    CALLS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"})

    def __init__(self, folder: Path, kill_at: int | None = None) -> None:
        self._folder, self._kill_at = str(folder), kill_at
        self._shared = mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        return int.from_bytes(self._shared[:8], "little")

    def watch(self) -> None:
        """Count what this process and those it forks do from now on."""
        sys.addaudithook(self._event)
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            self._change()
            sync(descriptor)

        os.fsync = fsync

    def _event(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            base: object = -1
        elif event in self.CALLS:
            path, base = arguments[0], arguments[-1]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and self._is_inside(os.fsdecode(path), base):
            self._change()

    def _is_inside(self, path: str, base: object) -> bool:
        # relative to an open folder, as shutil.rmtree removes
        relative = isinstance(base, int) and base >= 0 and not os.path.isabs(path)
        start = os.readlink(f"/proc/self/fd/{base}") if relative else os.getcwd()
        return os.path.join(start, path).startswith(self._folder)

    def _change(self) -> None:
        count = self.count + 1
        self._shared[:8] = count.to_bytes(8, "little")
        if count == self._kill_at:
            os.killpg(0, signal.SIGKILL)
