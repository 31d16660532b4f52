"""What a launcher such as torchrun says to the processes that it starts, read without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Return whether a launcher started this process as one of several."""
    return _number("WORLD_SIZE", 1) > 1


def launched_rank() -> int:
    """Return the rank that a launcher gave this process, 0 if none did."""
    return _number("RANK", 0) if launched() else 0


def processes_here() -> int:
    """Return how many processes of the command run on this machine, all of them if the launcher does not say."""
    return _number("LOCAL_WORLD_SIZE", _number("WORLD_SIZE", 1)) if launched() else 1


def speaks_for_its_machine() -> bool:
    """Return whether this process is the first on its machine, and so tells what is wrong there."""
    return not launched() or _number("LOCAL_RANK", 0) == 0


@contextmanager
def only_the_first_speaks() -> Iterator[None]:
    """Print no results inside where another process prints them."""
    if not launched_rank():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
