"""How far a comparison is, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from unipruning_core.progress import Progress


class Countdown:
    """Steps of several kinds; the time of one not yet seen is guessed from its kin, ``search`` of any method say."""

    def __init__(self, searches: Sequence[str], evaluations: Sequence[str], found: int, progress: Progress) -> None:
        self.left = [*searches, *evaluations]
        self.total = len(self.left)
        self.taken: dict[str, list[float]] = {}
        self.progress = progress
        progress.note(
            f"to do: {len(searches)} searches and {len(evaluations)} evaluations; {found} evaluations were found done"
        )

    @contextmanager
    def step(self, kind: str, what: str) -> Iterator[None]:
        """Do one step of a kind, said before it begins."""
        number = self.total - len(self.left) + 1
        self.progress.note(f"[{number}/{self.total}] {kind}, {what}{self._rest()}")
        began = time.monotonic()
        yield
        self.taken.setdefault(kind, []).append(time.monotonic() - began)
        # a search that was removed with its last use may be made once more
        if kind in self.left:
            self.left.remove(kind)

    def _rest(self) -> str:
        """The time left, where every kind that is left has a kin that was seen."""
        seconds = 0.0
        for kind in self.left:
            kin = self.taken.get(kind) or [
                second for other, taken in self.taken.items() if other.split()[0] == kind.split()[0] for second in taken
            ]
            if not kin:
                return ""
            seconds += sum(kin) / len(kin)
        return f"; about {seconds / 60:.0f} min left" if seconds >= 90 else f"; about {seconds:.0f} s left"
