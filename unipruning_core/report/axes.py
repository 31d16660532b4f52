"""Axes of a figure: the scale of each, its ticks, and the lines and numbers that show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from unipruning_core.report.figure import Label, Line, Shape

MULTIPLES = (1, 2, 5, 10)


@dataclass(frozen=True)
class Scale:
    """A map from values between ``low`` and ``high`` to pixels between ``start`` and ``stop``."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(part) if self.logarithmic else part for part in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self, count: int) -> list[float]:
        """Return some ``count`` round values inside."""
        if not self.logarithmic:
            step = _round_up((self.high - self.low) / count)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [number * step for number in range(first, last + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [multiple * 10.0**power for power in decades for multiple in (1, 2, 5)]
        inside = [value for value in found if self.low <= value <= self.high]
        if len(inside) <= 2 * count and len(inside) > 1:
            return inside
        if len(inside) < 2:
            return Scale(self.low, self.high, self.start, self.stop).ticks(count)
        powers = [10.0**power for power in decades if self.low <= 10.0**power <= self.high]
        return powers[:: -(-len(powers) // count)]


def _round_up(step: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(multiple * power for multiple in MULTIPLES if multiple * power >= step * (1 - 1e-9))


def scale_of(
    values: Iterable[float], start: float, stop: float, *, logarithmic: bool = False, least: float | None = None
) -> Scale:
    """Return a scale with some room around all values, which may be equal; it begins at ``least`` if that is given."""
    known = list(values)
    low, high = min(known), max(known)
    if logarithmic:
        room = max((high / low) ** 0.06, 1.05)
        return Scale(low / room, high * room, start, stop, True)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - room if least is None else least, high + room, start, stop)


@dataclass(frozen=True)
class Frame:
    """The two scales of a plot; pixels grow downwards."""

    x: Scale
    y: Scale

    def point(self, x: float, y: float) -> tuple[float, float]:
        return self.x(x), self.y(y)

    def shapes(self, x_title: str, y_title: str, *, per_cent: bool = False) -> Iterator[Shape]:
        """Yield grid, numbers and titles; ``per_cent`` shows fractions along x so."""
        left, right, bottom, top = self.x.start, self.x.stop, self.y.start, self.y.stop
        for value in self.y.ticks(5):
            at = self.y(value)
            yield Line(((left, at), (right, at)), "rule")
            yield Label(left - 5, at + 4, shown(value), "muted", anchor="end")
        for value in self.x.ticks(5):
            at = self.x(value)
            yield Line(((at, bottom), (at, bottom + 4)), "muted")
            yield Label(at, bottom + 17, f"{100 * value:.4g}" if per_cent else shown(value), "muted", anchor="middle")
        yield Line(((left, bottom), (right, bottom)), "muted")
        yield Label((left + right) / 2, bottom + 34, x_title, anchor="middle")
        yield Label(left - 34, top - 10, y_title)


def shown(value: float) -> str:
    """Return a number in few letters."""
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}"
