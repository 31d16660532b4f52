"""Progress of long work: silent, or shown as bars in a terminal or a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unipruning_core.streams import Surviving


class Task:
    """One piece of work with a known number of units; this one is silent."""

    def advance(self, amount: int = 1, **shown: object) -> None:
        """Report ``amount`` more units as done, with values to show beside the bar (loss=... and so on)."""


class Progress:
    """A source of tasks; this one is silent, and the default for library users."""

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Open a task of ``total`` units, ``done`` of which an earlier process finished."""
        yield Task()

    def note(self, message: str) -> None:
        """Show the user one line: what was decided, and why."""


class Bar(Task):
    """A task shown as a bar with rate, time left and the values that the work reports."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, amount: int = 1, **shown: object) -> None:
        if shown:
            self._bar.set_postfix({key: _short(value) for key, value in shown.items()}, refresh=False)
        self._bar.update(amount)


class Bars(Progress):
    """Bars and notes on standard error, or as widgets in a notebook; standard output is for results only.

    Where standard error is closed, full or a pipe that nobody reads, they go quiet and the work goes on.
    """

    def __init__(self) -> None:
        self._stream = Surviving(lambda: sys.stderr)

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        from tqdm.auto import tqdm

        in_notebook = "ipykernel" in sys.modules
        # a log file needs a line now and then, not ten a second
        watched = in_notebook or self._stream.isatty()
        with tqdm(
            # a notebook's bars choose their own stream
            file=None if in_notebook else self._stream,
            total=total,
            initial=done,
            desc=label,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            mininterval=0.1 if watched else 10.0,
            dynamic_ncols=True,
        ) as bar:
            yield Bar(bar)

    def note(self, message: str) -> None:
        from tqdm import tqdm

        tqdm.write(message, file=self._stream)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_progress(progress: bool | Progress) -> Progress:
    """Convert what Python users pass: True for bars, False for silence, or their own ``Progress``."""
    if isinstance(progress, Progress):
        return progress
    return Bars() if progress else Progress()
