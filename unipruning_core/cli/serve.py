"""Several commands in one process, which imports what they need once: what ``compare`` and ``demo`` run.

An order is a line on standard input: the words of a command as a JSON list, or a pickled function in an object.  Each
is answered by a line on standard output.  At the end of the orders the process ends; a command that is still at work,
whose caller is gone, is asked to stop.
"""

from __future__ import annotations

import base64
import gc
import io
import json
import os
import pickle
import signal
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from unipruning_core.cli.main import INTERRUPTED, main
from unipruning_core.cli.net import sentence
from unipruning_core.models.host_memory import give_back_freed_memory
from unipruning_core.tools.processes import most_resident

if TYPE_CHECKING:
    from collections.abc import Iterable

    Order = list[str] | dict[str, str]


def serve() -> int:
    """Answer orders until there are no more, or one was interrupted; return the exit code."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    orders: SimpleQueue[Order | None] = SimpleQueue()
    at_work = Event()
    Thread(target=_read, args=(sys.stdin, orders, at_work), daemon=True).start()
    _import()
    with suppress(BrokenPipeError):
        while (order := orders.get()) is not None:
            at_work.set()
            answer = _called(order["call"]) if isinstance(order, dict) else _answer(order)
            at_work.clear()
            print(json.dumps(answer), file=answers, flush=True)
            if answer["code"] > signal.NSIG:  # a signal ended it
                return int(answer["code"])
    return 0


def _read(lines: Iterable[str], orders: SimpleQueue[Order | None], at_work: Event) -> None:
    for line in lines:
        orders.put(json.loads(line))
    orders.put(None)
    if at_work.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _import() -> None:
    """Import what the commands need before the first is timed; what fails here fails there, with its sentence."""
    with suppress(Exception):
        import transformers  # noqa: F401

        from unipruning_core.jobs import api, results  # noqa: F401


def _answer(words: list[str]) -> dict[str, Any]:
    """Run one command; return its exit code, standard output, seconds and peak memory in bytes."""
    output = io.StringIO()
    # what the last one left does not count for this one
    gc.collect()
    give_back_freed_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    began = time.monotonic()
    with redirect_stdout(output):
        try:
            code = main(words)
        # the parser's
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
    return {"code": code, "output": output.getvalue(), "seconds": time.monotonic() - began, "peak": _peak()}


def _called(pickled: str) -> dict[str, Any]:
    """Call a function of the process that started this one; return its result, or the sentence about its error."""
    try:
        result = pickle.loads(base64.b64decode(pickled))()
    except Exception as error:
        return {"code": 0, "error": sentence(error)}
    return {"code": 0, "result": base64.b64encode(pickle.dumps(result)).decode()}


def _peak() -> int:
    """Return the most resident memory since it was last cleared, or of the whole process where that cannot be."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        import resource  # of POSIX systems, as are the descriptors that this process inherits

        return most_resident(resource.getrusage(resource.RUSAGE_SELF))


if __name__ == "__main__":
    try:
        sys.exit(serve())
    # between two commands
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
