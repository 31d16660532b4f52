"""The progress of a comparison and its estimated remaining time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from unipruning_core.progress import Progress


class Countdown:
    """Steps of several kinds; one not yet timed is estimated from related kinds, such as other methods' searches."""

    def __init__(self, searches: Sequence[str], evaluations: Sequence[str], found: int, progress: Progress) -> None:
        self.left = [*searches, *evaluations]
        self.total = len(self.left)
        self.taken: dict[str, list[float]] = {}
        self.progress = progress
        progress.note(
            f"to do: {len(searches)} searches and {len(evaluations)} evaluations; {found} evaluations already done"
        )

    @contextmanager
    def step(self, kind: str, what: str) -> Iterator[None]:
        """Announce one step of a kind, then time it."""
        number = self.total - len(self.left) + 1
        self.progress.note(f"[{number}/{self.total}] {kind}, {what}{self._rest()}")
        began = time.monotonic()
        yield
        self.taken.setdefault(kind, []).append(time.monotonic() - began)
        # a search that was removed after its last use may be repeated
        if kind in self.left:
            self.left.remove(kind)

    def _rest(self) -> str:
        """Return the time left, if every remaining kind or a related one was timed."""
        seconds = 0.0
        for kind in self.left:
            times = self.taken.get(kind) or [
                time for other, taken in self.taken.items() if other.split()[0] == kind.split()[0] for time in taken
            ]
            if not times:
                return ""
            seconds += sum(times) / len(times)
        return f"; about {seconds / 60:.0f} min left" if seconds >= 90 else f"; about {seconds:.0f} s left"
