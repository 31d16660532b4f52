"""When an unfinished search saves its state: after so much time or so many samples, in a small part of the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from string import ascii_lowercase

from unipruning_core.errors import ConfigError
from unipruning_core.storage.documents import quoted

SAVE_EVERY = "5min"
SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600}  # in each unit of time
SAMPLES = ("sample", "samples")
RATIO = 0.03  # of the time of a search that saving may take
RATE = 5e8  # bytes a second that a disk is taken to write, until the first save shows what it does


@dataclass(frozen=True)
class Interval:
    """The time between two saved states, or else the number of samples."""

    seconds: float = 0.0
    samples: int = 0

    @classmethod
    def of(cls, value: float | str) -> Interval:
        """Return the interval that ``--save-every`` means; 0 is after every sample.

        Raises:
            ConfigError: it means none.
        """
        text = str(value).strip()
        number = text.rstrip(ascii_lowercase)
        unit = text[len(number) :]
        try:
            if unit in SAMPLES and (samples := int(number)) > 0:
                return cls(samples=samples)
            seconds = float(number) * SECONDS[unit]
        except (KeyError, ValueError):
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise ConfigError(
                "--save-every must be 0 or more seconds, or have a unit, such as 90s, 10min, 2h or 32samples, not "
                f"{quoted(value)}"
            )
        return cls(seconds=seconds) if seconds else cls(samples=1)


class Pace:
    """The interval kept over one search, whose samples and saves take time.

    Between two saves lies at least the interval.  Where that is a time, a save also waits until all of them together,
    with what the next one is expected to take, come to no more than ``RATIO`` of the time of the search.
    """

    def __init__(
        self,
        interval: Interval,
        size: int,  # bytes of a state
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval, self._clock = interval, clock
        self._began = self._saved = clock()
        self._spent, self._expected = 0.0, size / RATE
        self._done = 0

    def is_due(self, done: int) -> bool:
        """Return whether to save after so many samples of the search."""
        if self._interval.samples:
            before, self._done = self._done, done
            return done // self._interval.samples > before // self._interval.samples
        now = self._clock()
        affordable = RATIO * (now - self._began + self._expected)
        return now - self._saved >= self._interval.seconds and self._spent + self._expected <= affordable

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure the save that is made inside."""
        began = self._clock()
        try:
            yield
        finally:
            self._saved = self._clock()
            self._expected = self._saved - began
            self._spent += self._expected
