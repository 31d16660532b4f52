"""The figures of a report: maps of the model, lines along a search, histograms of scores, quality against sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, floor
from statistics import fmean

from unipruning_core.report.axes import Frame, Scale, scale_of, shown
from unipruning_core.report.figure import (
    STEPS,
    Area,
    Disc,
    Figure,
    Label,
    Line,
    Points,
    Rectangle,
    Shape,
    series_style,
    text_width,
)
from unipruning_core.report.scores import LOWEST, PER_DECADE, Spread

WIDTH = 360.0  # of a narrow screen
LEFT, RIGHT = 48.0, 14.0
PLOT_HEIGHT = 190.0
LEGEND_LINE = 17.0


@dataclass(frozen=True)
class Map:
    """Values by layer and projection, all fractions."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Mapping[tuple[str, str], float]  # by row and column; what is missing is no target
    domain: tuple[float, float]
    unit: str  # under the scale


def heat_map(name: str, title: str, data: Map, caption: str = "") -> Figure:
    """Draw a map: a row a layer, a column a projection."""
    left, top = 34.0, 22 + 0.72 * max(text_width(column, 11) for column in data.columns)
    width = min(46.0, max(26.0, (WIDTH - left - RIGHT - 24) / len(data.columns)))
    height = min(18.0, max(9.0, 620 / len(data.rows)))
    right, bottom = left + width * len(data.columns), top + height * len(data.rows)
    shapes: list[Shape] = []
    for number, column in enumerate(data.columns):
        # on its side, with its end over the column
        shapes.append(Label(left + width * (number + 0.4), top - 6, column, "muted", angle=-45))
    every = -(-11 // int(height)) if height < 11 else 1
    for line, row in enumerate(data.rows):
        y = top + height * line
        if line % every == 0:
            shapes.append(Label(left - 6, y + height / 2 + 4, row, "muted", 11, "end"))
        for number, column in enumerate(data.columns):
            if (value := data.values.get((row, column))) is None:
                continue
            step, x = step_of(value, data.domain), left + width * number
            told = f"{row} {column}: {value:.2%}"
            shapes.append(Rectangle(x, y, width - 1, height - 1, f"s{step}", told))
            if height >= 13:
                middle = x + (width - 1) / 2
                shapes.append(Label(middle, y + height - 5.5, f"{100 * value:.0f}", f"on{step}", 10, "middle"))
    low, high = data.domain
    bar = (WIDTH - left - RIGHT - 20) / STEPS
    for step in range(STEPS):
        shapes.append(Rectangle(left + bar * step, bottom + 14, bar, 10, f"s{step}"))
    end = left + bar * STEPS
    shapes.append(Label(left, bottom + 38, f"{low:.0%}", "muted", anchor="middle"))
    shapes.append(Label(end, bottom + 38, f"{high:.0%}", "muted", anchor="middle"))
    shapes.append(Label((left + end) / 2, bottom + 38, data.unit, anchor="middle"))
    shapes.append(Label(left - 6, top - 6, "layer", "muted", 10, "end"))
    whole = max(WIDTH, right + RIGHT + 24)
    return Figure(name, title, whole, bottom + 46, tuple(shapes), caption)


def step_of(value: float, domain: tuple[float, float]) -> int:
    """Return the step of the scale that a value has."""
    low, high = domain
    return min(STEPS - 1, max(0, int((value - low) / (high - low) * STEPS)))


def domain_of(values: Sequence[float]) -> tuple[float, float]:
    """Return percentages around some fractions, in steps of five or ten points, and not the same twice."""
    least, most = 100 * min(values), 100 * max(values)
    round_to = 5 if most - least < 25 else 10
    low, high = round_to * floor(least / round_to), round_to * ceil(most / round_to)
    return low / 100, max(high, low + round_to) / 100


def steps_chart(
    name: str, title: str, y_title: str, values: Sequence[float], x_title: str, *, logarithmic: bool, caption: str = ""
) -> Figure:
    """Draw one value for each step of a search, and the mean of those around it."""
    known = [(step, value) for step, value in enumerate(values, 1) if not logarithmic or value > 0]
    top = 30.0
    x = Scale(1, max(2, len(values)), LEFT, WIDTH - RIGHT)
    y = scale_of((value for _, value in known), top + PLOT_HEIGHT, top, logarithmic=logarithmic)
    frame = Frame(x, y)
    shapes = list(frame.shapes(x_title, y_title))
    shapes.append(Line(tuple(frame.point(*point) for point in known), "c0", 1))
    if len(known) >= 16:
        reach = len(known) // 16
        means = [
            (step, fmean(value for _, value in known[max(0, number - reach) : number + reach + 1]))
            for number, (step, _) in enumerate(known)
        ]
        shapes.append(Line(tuple(frame.point(*point) for point in means), "c1", 2.2))
    return Figure(name, title, WIDTH, top + PLOT_HEIGHT + 42, tuple(shapes), caption)


def histograms(name: str, title: str, spreads: Mapping[str, Spread], *, masked: bool, caption: str = "") -> Figure:
    """Draw the spread of scores of each projection below each other, what the masks keep on top of what they prune."""
    first, last = _range_of(list(spreads.values()))
    panel, top = 58.0, 34.0 if masked else 12.0
    x = Scale(LOWEST + first / PER_DECADE, LOWEST + last / PER_DECADE, 14, WIDTH - RIGHT)
    shapes: list[Shape] = []
    if masked:
        for number, (word, fill) in enumerate((("kept", "c0"), ("pruned", "c1"))):
            shapes.append(Rectangle(14 + 80 * number, 8, 11, 11, fill))
            shapes.append(Label(30 + 80 * number, 18, word))
    for line, (projection, spread) in enumerate(spreads.items()):
        foot = top + panel * (line + 1)
        pruned, kept = _cut(spread.pruned.tolist(), first, last), _cut(spread.kept.tolist(), first, last)
        highest = max(map(sum, zip(pruned, kept, strict=True))) or 1
        low = [foot - 40 * count / highest for count in pruned]
        high = [foot - 40 * (one + two) / highest for one, two in zip(pruned, kept, strict=True)]
        edges = [x(LOWEST + number / PER_DECADE) for number in range(first, last + 1)]
        shapes.append(Area(_bars(edges, high, foot), "c0", f"{projection}: kept"))
        if masked:  # in front of the others
            shapes.append(Area(_bars(edges, low, foot), "c1", f"{projection}: pruned"))
        shapes.append(Line(((x.start, foot), (x.stop, foot)), "muted"))
        zeros = f", {spread.zeros / spread.total:.1%} are zero" if 1000 * spread.zeros >= max(1, spread.total) else ""
        shapes.append(Label(x.start, foot - 44, f"{projection}{zeros}", size=11))
    bottom = top + panel * len(spreads)
    decades = [value for value in x.ticks(6) if value == int(value)]
    for value in decades or (x.low, x.high):
        shapes.append(Line(((x(value), bottom), (x(value), bottom + 4)), "muted"))
        text = f"1e{int(value)}" if decades else shown(10**value)
        shapes.append(Label(x(value), bottom + 17, text, "muted", anchor="middle"))
    shapes.append(Label(WIDTH / 2, bottom + 34, "score, each step an eighth of a decade", anchor="middle"))
    return Figure(name, title, WIDTH, bottom + 42, tuple(shapes), caption)


def _range_of(spreads: Sequence[Spread]) -> tuple[int, int]:
    """Return the bins between which nearly all scores lie: but a thousandth below and a few above."""
    counts = [sum(column) for column in zip(*((s.kept + s.pruned).tolist() for s in spreads), strict=True)]
    if not any(counts):
        return -LOWEST * PER_DECADE, (1 - LOWEST) * PER_DECADE
    up_to, total = list(accumulate(counts)), sum(counts)
    first = next(number for number, below in enumerate(up_to) if 1000 * below > total)
    last = next(number for number, below in enumerate(up_to) if 10_000 * (total - below) <= total)
    return first, last + 1


def _cut(counts: Sequence[int], first: int, last: int) -> list[int]:
    """Return the counts of the bins in the range, what lies beyond it in the outermost."""
    inside = list(counts[first:last])
    inside[0] += sum(counts[:first])
    inside[-1] += sum(counts[last:])
    return inside


def _bars(edges: Sequence[float], tops: Sequence[float], foot: float) -> Points:
    """Return the outline of bars between these edges, in pixels."""
    over = [point for (a, b), y in zip(pairwise(edges), tops, strict=True) for point in ((a, y), (b, y))]
    # of points in a row on one height the first and the last are enough
    corners = [
        point
        for number, point in enumerate(over)
        if number in (0, len(over) - 1) or not over[number - 1][1] == point[1] == over[number + 1][1]
    ]
    return ((edges[0], foot), *corners, (edges[-1], foot))


@dataclass(frozen=True)
class Point:
    """One figure of quality."""

    sparsity: float  # a fraction
    value: float
    low: float | None
    high: float | None
    told: str


def quality_chart(
    name: str,
    title: str,
    y_title: str,
    lines: Mapping[str, Sequence[Point]],
    *,
    dense: float | None,
    logarithmic: bool,
    caption: str = "",
) -> Figure:
    """Draw one line a series, with intervals, and the dense model as a line across."""
    points = [point for line in lines.values() for point in line]
    ends = [end for p in points for end in (p.value, p.low, p.high) if end is not None and (end > 0 or not logarithmic)]
    top = 30 + LEGEND_LINE * (len(lines) + (dense is not None))
    x = scale_of((point.sparsity for point in points), LEFT, WIDTH - RIGHT)
    y = scale_of([*ends, *([] if dense is None else [dense])], top + PLOT_HEIGHT, top, logarithmic=logarithmic)
    frame = Frame(x, y)
    shapes = list(frame.shapes("weights pruned, % of the targets", y_title, per_cent=True))
    if dense is not None:
        shapes += _legend(0, f"dense: {shown(dense)}", "muted", (3, 3))
        shapes.append(Line(((x.start, y(dense)), (x.stop, y(dense))), "muted", 1.2, (3, 3)))
    for number, (series, line) in enumerate(lines.items()):
        stroke, dash = series_style(number)
        shapes += _legend(number + (dense is not None), series, stroke, dash)
        shapes.append(_mark(number, LEFT - 22, _legend_y(number + (dense is not None)), stroke))
        placed = sorted(line, key=lambda point: point.sparsity)
        if len(placed) > 1:
            shapes.append(Line(tuple(frame.point(p.sparsity, p.value) for p in placed), stroke, 1.8, dash))
        for point in placed:
            at, value = frame.point(point.sparsity, point.value)
            if point.low is not None and point.high is not None and (point.low > 0 or not logarithmic):
                shapes.append(Line(((at, y(point.low)), (at, y(point.high))), stroke, 1.2))
            shapes.append(_mark(number, at, value, stroke, point.told))
    return Figure(name, title, WIDTH, top + PLOT_HEIGHT + 42, tuple(shapes), caption)


def _mark(number: int, x: float, y: float, fill: str, told: str = "") -> Shape:
    """Return the mark of a series, whose form tells it from its neighbours as its colour does."""
    if (kind := number % 4) == 0:
        return Disc(x, y, 3.8, fill, told)
    if kind == 1:
        return Rectangle(x - 3.4, y - 3.4, 6.8, 6.8, fill, told)
    corners = (
        ((0.0, -4.8), (4.4, 3.4), (-4.4, 3.4)) if kind == 2 else ((0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0))
    )
    return Area(tuple((x + right, y + down) for right, down in corners), fill, told)


def _legend_y(line: int) -> float:
    return 10 + LEGEND_LINE * line


def _legend(line: int, text: str, stroke: str, dash: tuple[float, ...]) -> list[Shape]:
    y = _legend_y(line)
    return [Line(((LEFT - 36, y), (LEFT - 8, y)), stroke, 1.8, dash), Label(LEFT, y + 4, text)]
