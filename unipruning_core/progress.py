"""How long work reports that it is alive: the core counts, the command line decides how it looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Task:
    """One piece of work with a known number of units; this one is silent."""

    def advance(self, amount: int = 1, **shown: object) -> None:
        """Say that ``amount`` more units are done, and what to show beside the bar (loss=..., and so on)."""


class Progress:
    """Opens tasks; this one is silent, and is what library users get unless they pass their own."""

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """A task of ``total`` units, ``done`` of which were finished in an earlier life of the process."""
        yield Task()

    def note(self, message: str) -> None:
        """One line for the user: what was decided, and why."""
