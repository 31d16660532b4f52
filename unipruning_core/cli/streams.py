"""The command's own standard streams, in whatever state it was given them."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TextIO, cast

from unipruning_core.streams import Surviving

USAGE_ERROR = 2
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports a program whose reader has left


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let no state of the standard streams end the work: closed, full, read by nobody, or of few characters."""
    _occupy_closed_descriptors()
    before = sys.stdout, sys.stderr
    for stream in before:
        # symbols in results and names of files that are not UTF-8 are written as escapes where they must be
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (cast(TextIO, Surviving(partial(_same, stream))) for stream in before)
    try:
        yield
    finally:
        for surviving, stream in zip((sys.stdout, sys.stderr), before, strict=True):
            surviving.flush()
            if getattr(surviving, "failure", None) is not None:
                _discard(stream)
        sys.stdout, sys.stderr = before


def exit_code(code: int) -> int:
    """Return a command's exit code, which tells whether its result could be written to standard output."""
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    if failure is None or code:
        return code
    if isinstance(failure, OSError) and failure.errno == errno.EPIPE:
        return BROKEN_PIPE
    reason = getattr(failure, "strerror", None) or failure
    print(
        f"error: the work is done, but its result cannot be written to standard output: {reason}; redirect it to "
        "a file on a disk with space",
        file=sys.stderr,
    )
    return USAGE_ERROR


def _same(stream: TextIO | None) -> TextIO | None:
    return stream


def _occupy_closed_descriptors() -> None:
    """Open what the three descriptors lack, or the next file would get one, and messages meant for it with it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # the lowest that is free, which is this one
            os.open(os.devnull, os.O_RDWR)


def _discard(stream: TextIO | None) -> None:
    """Let what a failed stream still buffers go nowhere, or the interpreter would fail with it once more at its end."""
    # in a test or a notebook the stream is none of the process's own
    if stream is None or stream.closed or not any(stream is own for own in (sys.__stdout__, sys.__stderr__)):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
