"""Kills by count: a forked process ends without a word just before its n-th change on disk."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

# a thread of a bar that holds a lock while the process forks would hold it for ever in the fork
tqdm.monitor_interval = 0

KILLED, FAILED = 9, 7
# each changes the disk; shutil.rmtree and Path use these of os too
CHANGES = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "ftruncate")


def in_a_fork(work: Callable[[], object], before_change: int = 0) -> int:
    """Run ``work`` in a fork, killed before that change on disk (0: never); return 0, KILLED or FAILED."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = FAILED
    try:
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            _count_down(before_change)
            try:
                work()
                code = 0
            except BaseException:
                print(traceback.format_exc(), errors.getvalue(), file=sys.__stderr__, flush=True)
    finally:
        os._exit(code)


def _count_down(before_change: int) -> None:
    left = [before_change]

    def counted(change, writes=lambda *args: True):
        def wrapper(*args, **options):
            if writes(*args):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(KILLED)
            return change(*args, **options)

        return wrapper

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    os.open = counted(os.open, lambda path, flags, *rest: flags & (os.O_CREAT | os.O_TRUNC))
    io.open = builtins.open = counted(builtins.open, lambda path, mode="r", *rest: mode[0] in "wxa" or "+" in mode)
    shutil.copyfile = counted(shutil.copyfile)


def kills(work: Callable[[], object], look: Callable[[], object], reset: Callable[[], object]) -> int:
    """Kill ``work`` before each of its changes in turn, run it again, and ``look``; return how often it was killed."""
    for number in range(1, 1000):
        reset()
        code = in_a_fork(work, number)
        if code == 0:
            return number - 1
        assert code == KILLED, number
        assert in_a_fork(work) == 0, f"after a kill before change {number}"
        look()
    raise AssertionError("it never ends")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
