"""Our commands run as separate processes, with the time and peak memory of each."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeVar

from unipruning_core.errors import UnipruningError
from unipruning_core.progress import Bars, Progress
from unipruning_core.stopping import WARNING, as_stopped

MIB = 2**20

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage:
    """One finished command."""

    output: str  # its standard output
    seconds: float
    peak_mib: float


def run_in_subprocess(work: Callable[[], Result]) -> Result:
    """Call ``work`` in another process, since this one's memory counts towards the peak of commands it starts."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work).result()


def run_command(arguments: Sequence[str], progress: Progress, keep_open: Sequence[int] = ()) -> Stage:
    """Run one of our commands; its progress goes to the terminal as usual where this one's does, else nowhere.

    ``keep_open`` are file descriptors that it inherits, such as that of a lock to hold until it ends.

    Raises:
        UnipruningError: it failed, with its own message here or already on standard error.
    """
    progress.note(f"$ unipruning {shlex.join(arguments)}")
    began = time.monotonic()
    with nullcontext() if isinstance(progress, Bars) else tempfile.TemporaryFile("w+", encoding="utf-8") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "unipruning_core.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            pass_fds=tuple(keep_open),
        )
        assert process.stdout is not None
        with process.stdout as pipe:
            try:
                output = pipe.read()
            except KeyboardInterrupt as interrupt:
                _pass_on(process, as_stopped(interrupt).number)
                raise
        # not wait(), which does not return the child's peak memory
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            reason = "the reason is above"
            if messages:
                messages.seek(0)
                reason = messages.read().strip().rpartition("\n")[2].removeprefix("error: ")
            raise UnipruningError(f"'unipruning {arguments[0]}' failed with exit code {process.returncode}; {reason}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return Stage(output, time.monotonic() - began, usage.ru_maxrss * unit / MIB)


def _pass_on(process: subprocess.Popen[str], number: int) -> None:
    """Tell a command of the signal that interrupted this one, and wait while it saves what it has."""
    # a terminal tells every process that it runs, and a second time would mean to leave at once
    from_terminal = number not in (signal.SIGTERM, *WARNING) and sys.stdin is not None and sys.stdin.isatty()
    if not from_terminal:
        process.send_signal(number)
    process.wait()
