"""Figures as PNG, drawn by matplotlib, which pip alone installs and which brings its own letters.

What turns SVG into pixels either needs a library of the system, as CairoSVG does, or the fonts of the machine.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unipruning_core.report.figure import PALETTE, Area, Disc, Figure, Label, Line, Rectangle

DOTS = 200  # an inch
PIXEL = 1 / 96  # of an inch, as in CSS
POINTS = 72 / 96  # of a pixel


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write_png(figure: Figure, path: Path) -> None:
    """Draw a figure with light colours on white."""
    size = (figure.width * PIXEL, figure.height * PIXEL)
    drawn = import_module("matplotlib.figure").Figure(figsize=size, facecolor=_colour("paper"))
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, figure.width), ylim=(figure.height, 0))
    axes.axis("off")
    patches = import_module("matplotlib.patches")
    for shape in figure.shapes:
        if isinstance(shape, Label):
            _write(axes, shape)
        elif isinstance(shape, Line):
            style: Any = (0, tuple(part / shape.width for part in shape.dash)) if shape.dash else "-"
            width = shape.width * POINTS
            axes.plot(*zip(*shape.points, strict=True), color=_colour(shape.stroke), linewidth=width, linestyle=style)
        else:
            axes.add_patch(_patch(patches, shape))
    # no version of matplotlib inside, so that the same figure gives the same bytes with any that draws it alike
    drawn.savefig(path, format="png", dpi=DOTS, metadata={"Software": None})


def _patch(patches: Any, shape: Rectangle | Area | Disc) -> Any:
    look = {"facecolor": _colour(shape.fill), "linewidth": 0}
    if isinstance(shape, Rectangle):
        return patches.Rectangle((shape.x, shape.y), shape.width, shape.height, **look)
    if isinstance(shape, Disc):
        return patches.Circle((shape.x, shape.y), shape.radius, **look)
    return patches.Polygon(shape.points, closed=True, **look)


def _write(axes: Any, label: Label) -> None:
    axes.text(
        label.x,
        label.y,
        label.text.replace("$", r"\$"),
        color=_colour(label.fill),
        fontsize=label.size * POINTS,
        horizontalalignment={"start": "left", "middle": "center", "end": "right"}[label.anchor],
        verticalalignment="baseline",
        rotation=-label.angle,
        rotation_mode="anchor",
    )


def _colour(name: str) -> str:
    return PALETTE[name][0]
