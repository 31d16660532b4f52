"""Our commands run in processes of their own, with the time and peak memory of each."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import IO, TYPE_CHECKING, Any, TypeVar

from unipruning_core.errors import UnipruningError
from unipruning_core.progress import Bars, Progress
from unipruning_core.stopping import WARNING, as_stopped

if TYPE_CHECKING:
    from resource import struct_rusage

MIB = 2**20
OURS, SERVER = "unipruning_core", "unipruning_core.cli.serve"
TORCHRUN = ("torch.distributed.run", "--standalone")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage:
    """One finished command."""

    output: str  # its standard output
    seconds: float
    peak_mib: float


def run_in_subprocess(work: Callable[[], Result]) -> Result:
    """Call ``work`` in another process, which gives back all of its memory when it ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work).result()


class Commands:
    """Our commands, one after the other in one process that imports once what they need.

    It begins with the first of them, and ends with the block, or with this process, even if that is killed.  Over ranks
    a command is a torchrun of its own.  Progress of all goes to the terminal where this one's does, else nowhere.
    """

    def __init__(self, progress: Progress, keep_open: Sequence[int] = ()) -> None:
        self._progress = progress
        self._keep_open = tuple(keep_open)  # file descriptors that each inherits, such as that of a lock to hold
        self._stack = ExitStack()
        self._server: subprocess.Popen[str] | None = None
        # each command's last line there is the reason of its failure
        self._messages: IO[str] | None = None
        if not isinstance(progress, Bars):
            self._messages = self._stack.enter_context(tempfile.TemporaryFile("a+", encoding="utf-8"))  # noqa: SIM115

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            # an order may be left that it died of
            with suppress(BrokenPipeError), self._server:
                pass
        self._stack.close()

    def run(self, arguments: Sequence[str], *, ranks: int = 1) -> Stage:
        """Run one command; over ranks, the peak of memory is that of the largest process.

        Raises:
            UnipruningError: it failed, with its own message here or already on standard error.
        """
        began = time.monotonic()
        if ranks > 1:
            return self._over_ranks(arguments, ranks, began)
        self._progress.note(f"$ unipruning {shlex.join(arguments)}")
        answer = self._answer_to(list(arguments))
        self._check(arguments[0], answer["code"])
        return Stage(answer["output"], answer["seconds"], answer["peak"] / MIB)

    def call(self, work: Callable[[], Result]) -> Result:
        """Call a function in the process of the commands, which has imported what it needs and lives on.

        Raises:
            UnipruningError: the function raised it.
        """
        answer = self._answer_to({"call": base64.b64encode(pickle.dumps(work)).decode()})
        if "result" not in answer:
            raise UnipruningError(answer.get("error") or f"a process ended with exit code {answer['code']}")
        result: Result = pickle.loads(base64.b64decode(answer["result"]))
        return result

    def _answer_to(self, order: object) -> dict[str, Any]:
        """Return the answer to an order, or the exit code alone of a process that ended without one."""
        server = self._server or self._start([SERVER], stdin=subprocess.PIPE)
        self._server = server
        assert server.stdin is not None
        assert server.stdout is not None
        self._forget_messages()
        try:
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            line = server.stdout.readline()
        except KeyboardInterrupt as interrupt:
            _pass_on(server, as_stopped(interrupt).number)
            raise
        # it ended without an answer
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"code": server.wait()}
        return answer

    def _over_ranks(self, arguments: Sequence[str], ranks: int, began: float) -> Stage:
        launcher = [*TORCHRUN, "--nproc-per-node", str(ranks)]
        self._progress.note(f"$ {shlex.join(['torchrun', *launcher[1:], '-m', OURS, *arguments])}")
        self._forget_messages()
        # torchrun would end after 30 seconds what saves a large state
        patient = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600", **os.environ}
        process = self._start([*launcher, "-m", OURS, *arguments], env=patient)
        assert process.stdout is not None
        with process.stdout as pipe:
            try:
                output = pipe.read()
            except KeyboardInterrupt as interrupt:
                number = as_stopped(interrupt).number
                # signals that warn would end torchrun at once
                _pass_on(process, signal.SIGTERM if number in WARNING else number)
                raise
        # not wait(), which does not return the peak memory of the ranks
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self._check(arguments[0], process.returncode)
        return Stage(output, time.monotonic() - began, most_resident(usage) / MIB)

    def _start(self, words: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            pass_fds=self._keep_open,
            **more,
        )

    def _forget_messages(self) -> None:
        if self._messages is not None:
            # the offset is that of the command too, which would go on behind a gap
            self._messages.seek(0)
            self._messages.truncate()

    def _check(self, command: str, code: int) -> None:
        if not code:
            return
        reason = "the reason is above"
        if self._messages is not None:
            self._messages.seek(0)
            reason = _last_error(self._messages.read().strip().split("\n"))
        raise UnipruningError(f"'unipruning {command}' failed with exit code {code}; {reason}")


def most_resident(usage: struct_rusage) -> int:
    """Return the peak of resident memory in what a system says of a process, in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes there, KiB elsewhere


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
