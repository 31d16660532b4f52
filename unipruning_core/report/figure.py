"""A figure as a list of shapes in pixels, with colours called by what they mean.

Drawn here and not by matplotlib, which no command needs: its SVG holds letters as outlines, which are large and can
neither be read aloud nor found, and its colours cannot follow a page that turns dark.  It draws these shapes as PNG.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Points: TypeAlias = tuple[tuple[float, float], ...]

STEPS = 11  # of the scale of a map
LETTER = 0.56  # of the size, the mean width of a letter


@dataclass(frozen=True)
class Rectangle:
    x: float
    y: float
    width: float
    height: float
    fill: str
    told: str = ""  # where a pointer rests on it


@dataclass(frozen=True)
class Line:
    points: Points
    stroke: str
    width: float = 1.0
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    points: Points
    fill: str
    told: str = ""


@dataclass(frozen=True)
class Disc:
    x: float
    y: float
    radius: float
    fill: str
    told: str = ""


@dataclass(frozen=True)
class Label:
    x: float
    y: float  # of the foot of the letters
    text: str
    fill: str = "ink"
    size: float = 11
    anchor: str = "start"  # or "middle", "end": which part of the text is at x
    angle: float = 0  # degrees, clockwise


Shape: TypeAlias = Rectangle | Line | Area | Disc | Label


@dataclass(frozen=True)
class Figure:
    """One figure; ``name`` is that of its file."""

    name: str
    title: str
    width: float
    height: float
    shapes: tuple[Shape, ...]
    caption: str = ""


def _pairs(names: str, light: str, dark: str) -> dict[str, tuple[str, str]]:
    return {
        name: (f"#{on_light}", f"#{on_dark}")
        for name, on_light, on_dark in zip(names.split(), light.split(), dark.split(), strict=True)
    }


# on light and on dark.  The scale goes by lightness, away from the paper.  The first two colours of series are those of
# Okabe and Ito; the others are as far from them and from each other as can be, for eyes that miss a cone too.
PALETTE = {
    **_pairs("paper panel ink muted rule accent", "ffffff f5f6f8 1b1f24 59616b d9dde2 0b62a4",
             "14171b 1d2127 e6e9ed a2abb5 363c45 7cc0f5"),
    **_pairs(" ".join(f"s{step}" for step in range(STEPS)),
             "f3f6e4 dcebc8 bfdfc0 9bd1bf 74bfc2 50a9c2 3690bb 2975ae 255a9b 213f80 182a5c",
             "1c2433 1d3150 1f416e 245488 2d6a9c 3b82ab 529ab3 72b2b6 9acab9 c6dfc1 f0f2d2"),
    **_pairs(" ".join(f"on{step}" for step in range(STEPS)),
             "1b1f24 1b1f24 1b1f24 1b1f24 1b1f24 1b1f24 10141a ffffff ffffff ffffff ffffff",
             "ffffff ffffff ffffff ffffff ffffff 0d1116 0d1116 0d1116 0d1116 0d1116 0d1116"),
    **_pairs("c0 c1 c2 c3 c4 c5", "0072b2 d55e00 1b0205 8007ed b68884 02144f",
             "56b4e9 ff9250 bacaa3 9608f4 496c71 b63424"),
}  # fmt: skip
SERIES = 6  # colours of series
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 3), (2, 3), (8, 3, 2, 3))


def series_style(number: int) -> tuple[str, tuple[float, ...]]:
    """Return the colour and the dashes of a series; neighbours differ in both."""
    return f"c{number % SERIES}", DASHES[number % len(DASHES)]


def text_width(text: str, size: float) -> float:
    return len(text) * size * LETTER
