"""Load the simulation once, which takes seconds, and run pieces of code on it, each in a process forked from there.

_server.py SIMULATION reads an order a line: the code, environment variables and the file for what it prints; it answers
with the exit status.  Nothing has started a thread or touched a device by the time of a fork.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

from preload import preload


def serve(answers: TextIO) -> None:
    """Return in each child, with its code run; in the server at the end of the orders."""
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run(**order)
            return
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


def run(code: str, knobs: dict[str, str], output: str) -> None:
    os.environ.update(knobs)
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(printed, stream)
    exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    to_tests = os.fdopen(os.dup(1), "w")
    # torch_npu prints warnings
    os.dup2(2, 1)
    preload(sys.argv[1])
    serve(to_tests)
