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
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")

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


def run_command(
    arguments: Sequence[str], progress: Progress, keep_open: Sequence[int] = (), *, ranks: int = 1
) -> Stage:
    """Run one of our commands; its progress goes to the terminal as usual where this one's does, else nowhere.

    Args:
        arguments: the command's name and its options.
        progress: where this one's goes.
        keep_open: file descriptors that it inherits, such as that of a lock to hold until it ends.
        ranks: how many processes share it, which torchrun starts; the peak is that of the largest.

    Raises:
        UnipruningError: it failed, with its own message here or already on standard error.
    """
    launcher = [*TORCHRUN, "--nproc-per-node", str(ranks)] if ranks > 1 else []
    shown = ["torchrun", *launcher[len(TORCHRUN) - 1 :], "-m", "unipruning_core"] if launcher else ["unipruning"]
    progress.note(f"$ {shlex.join([*shown, *arguments])}")
    began = time.monotonic()
    with nullcontext() if isinstance(progress, Bars) else tempfile.TemporaryFile("w+", encoding="utf-8") as messages:
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "unipruning_core", *arguments],
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            pass_fds=tuple(keep_open),
            # torchrun would end after 30 seconds what saves a large state
            env={"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600", **os.environ} if launcher else None,
        )
        assert process.stdout is not None
        with process.stdout as pipe:
            try:
                output = pipe.read()
            except KeyboardInterrupt as interrupt:
                number = as_stopped(interrupt).number
                # signals that warn would end torchrun at once
                _pass_on(process, signal.SIGTERM if launcher and number in WARNING else number)
                raise
        # not wait(), which does not return the child's peak memory
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            reason = "the reason is above"
            if messages:
                messages.seek(0)
                reason = _last_error(messages.read().strip().split("\n"))
            raise UnipruningError(f"'unipruning {arguments[0]}' failed with exit code {process.returncode}; {reason}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return Stage(output, time.monotonic() - began, usage.ru_maxrss * unit / MIB)


def _last_error(lines: Sequence[str]) -> str:
    """Return the sentence about an error, after which torchrun prints a traceback of its own; else the last line."""
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1].removeprefix("error: ")


def _pass_on(process: subprocess.Popen[str], number: int) -> None:
    """Tell a command of the signal that interrupted this one, and wait while it saves what it has."""
    # a terminal tells every process that it runs, and a second time would mean to leave at once
    from_terminal = number not in (signal.SIGTERM, *WARNING) and sys.stdin is not None and sys.stdin.isatty()
    if not from_terminal:
        process.send_signal(number)
    process.wait()
