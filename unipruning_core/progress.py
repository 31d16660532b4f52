"""Progress of long work: silent, or shown as bars in a terminal or a notebook."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from unipruning_core.streams import Surviving

PAUSE = 1.0  # seconds between two lines about a task


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


class Lines(Task):
    """A task told in a line whenever a tenth of it is done, for a file or a pipe, where a bar cannot be redrawn."""

    def __init__(self, say: Callable[[str], None], label: str, total: int, unit: str, done: int) -> None:
        self._say, self._label, self._total = say, label, total
        self._in_bytes = unit == "B"
        self._units = "" if self._in_bytes else f" {unit}"
        self._first = self._done = done
        self._began = self._told = time.monotonic()
        self._shown = ""

    def advance(self, amount: int = 1, **shown: object) -> None:
        before, self._done = self._done, self._done + amount
        if shown:
            self._shown = "".join(f", {key} {_short(value)}" for key, value in shown.items())
        now = time.monotonic()
        new_tenth = 10 * self._done // max(self._total, 1) > 10 * before // max(self._total, 1)
        if new_tenth and self._done < self._total and now - self._told >= PAUSE:
            left = (now - self._began) * (self._total - self._done) / (self._done - self._first)
            self._tell(f" of {self._amount(self._total)}{self._units}, {_duration(left)} left")
            self._told = now

    def finish(self) -> None:
        """Tell of the whole task, and of its time."""
        self._tell(f"{self._units} in {_duration(time.monotonic() - self._began)}")

    def _tell(self, rest: str) -> None:
        self._say(f"{self._label}: {self._amount(self._done)}{rest}{self._shown}")

    def _amount(self, count: int) -> str:
        return size_text(count) if self._in_bytes else str(count)


class Bars(Progress):
    """Bars and notes on standard error, or as widgets in a notebook; standard output is for results only.

    Where standard error is no terminal, or one without a width, lines stand in for bars.  Where it is closed, full or a
    pipe that nobody reads, they go quiet and the work goes on.
    """

    def __init__(self) -> None:
        self._stream = Surviving(lambda: sys.stderr)

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        in_notebook = "ipykernel" in sys.modules
        if not in_notebook and not self._has_room():
            lines = Lines(self.note, label, total, unit, done)
            yield lines
            lines.finish()
            return
        from tqdm.auto import tqdm

        with tqdm(
            # a notebook's bars choose their own stream
            file=None if in_notebook else self._stream,
            total=total,
            initial=done,
            desc=label,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            dynamic_ncols=True,
        ) as bar:
            yield Bar(bar)

    def note(self, message: str) -> None:
        from tqdm import tqdm

        tqdm.write(message, file=self._stream)

    def _has_room(self) -> bool:
        """Return whether the stream is a terminal that knows its width; some have none and show blank lines."""
        if not self._stream.isatty():
            return False
        try:
            return os.get_terminal_size(self._stream.fileno()).columns > 0
        except (OSError, ValueError):
            return False


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size_text(count: int) -> str:
    """Return a number of bytes as people write it."""
    from tqdm import tqdm

    return str(tqdm.format_sizeof(count, "B"))


def _duration(seconds: float) -> str:
    from tqdm import tqdm

    return tqdm.format_interval(seconds) if seconds >= 60 else f"{seconds:.3g} s"


def as_progress(progress: bool | Progress) -> Progress:
    """Convert what Python users pass: True for bars, False for silence, or their own ``Progress``."""
    if isinstance(progress, Progress):
        return progress
    return Bars() if progress else Progress()
