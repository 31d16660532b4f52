"""Progress as bars and lines on standard error; a part of the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unipruning_core.progress import Progress, Task


class Bar(Task):
    """A task shown as a bar with rate, time left and whatever the work wants shown."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, amount: int = 1, **shown: object) -> None:
        if shown:
            self._bar.set_postfix({key: _short(value) for key, value in shown.items()}, refresh=False)
        self._bar.update(amount)


class TerminalProgress(Progress):
    """Progress on standard error, so that standard output holds results alone."""

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        from tqdm import tqdm

        # a log file wants a line now and then, not ten a second
        interval = 0.1 if sys.stderr.isatty() else 10.0
        with tqdm(
            total=total,
            initial=done,
            desc=label,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            mininterval=interval,
            dynamic_ncols=True,
        ) as bar:
            yield Bar(bar)

    def note(self, message: str) -> None:
        from tqdm import tqdm

        tqdm.write(message, file=sys.stderr)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
