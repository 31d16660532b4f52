"""Figures as SVG: in a page whose style sheet has the colours, or by themselves on white."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from unipruning_core.report.figure import PALETTE, Area, Disc, Figure, Label, Line, Points, Rectangle, Shape

FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def inline_svg(figure: Figure) -> str:
    """Return a figure for a page that has ``colour_rules``."""
    return _Writer(inline=True).whole(figure)


def standalone_svg(figure: Figure) -> str:
    """Return a figure for a file of its own: light colours on white."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_Writer(inline=False).whole(figure)}\n'


def colour_rules() -> str:
    """Return the rules of a style sheet that give each colour its value on light and on dark."""
    values = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in PALETTE.items())
    uses = "".join(f".f-{name}{{fill:var(--{name})}}.k-{name}{{stroke:var(--{name})}}" for name in PALETTE)
    return f":root{{{values}}}\n{uses}"


@dataclass(frozen=True)
class _Writer:
    inline: bool

    def whole(self, figure: Figure) -> str:
        size = f"{_number(figure.width)} {_number(figure.height)}"
        if self.inline:
            head = f'<svg viewBox="0 0 {size}" role="img" style="min-width:{_number(figure.width * 0.85)}px">'
            paper = ""
        else:
            width, height = size.split()
            head = (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{width}" height="{height}" '
                f'role="img" font-family="{FONT}">'
            )
            paper = f'<rect width="100%" height="100%"{self._fill("paper")}/>'
        drawn = "".join(map(self._shape, figure.shapes))
        return f"{head}<title>{escape(figure.title)}</title>{paper}{drawn}</svg>"

    def _shape(self, shape: Shape) -> str:
        if isinstance(shape, Rectangle):
            place = " ".join(f'{name}="{_number(getattr(shape, name))}"' for name in ("x", "y", "width", "height"))
            return _told("rect", f"{place}{self._fill(shape.fill)}", shape.told)
        if isinstance(shape, Disc):
            place = f'cx="{_number(shape.x)}" cy="{_number(shape.y)}" r="{_number(shape.radius)}"'
            return _told("circle", f"{place}{self._fill(shape.fill)}", shape.told)
        if isinstance(shape, Area):
            return _told("polygon", f'points="{_points(shape.points)}"{self._fill(shape.fill)}', shape.told)
        if isinstance(shape, Line):
            dash = f' stroke-dasharray="{" ".join(map(_number, shape.dash))}"' if shape.dash else ""
            width = f' stroke-width="{_number(shape.width)}"' if shape.width != 1 else ""
            return f'<polyline fill="none" points="{_points(shape.points)}"{self._stroke(shape.stroke)}{width}{dash}/>'
        return self._label(shape)

    def _label(self, label: Label) -> str:
        x, y = _number(label.x), _number(label.y)
        turned = f' transform="rotate({_number(label.angle)} {x} {y})"' if label.angle else ""
        anchor = f' text-anchor="{label.anchor}"' if label.anchor != "start" else ""
        size = f' font-size="{_number(label.size)}"'
        return f'<text x="{x}" y="{y}"{size}{anchor}{turned}{self._fill(label.fill)}>{escape(label.text)}</text>'

    def _fill(self, colour: str) -> str:
        return f' class="f-{colour}"' if self.inline else f' fill="{PALETTE[colour][0]}"'

    def _stroke(self, colour: str) -> str:
        return f' class="k-{colour}"' if self.inline else f' stroke="{PALETTE[colour][0]}"'


def _told(tag: str, attributes: str, told: str) -> str:
    title = f"<title>{escape(told)}</title></{tag}>" if told else ""
    return f"<{tag} {attributes}>{title}" if told else f"<{tag} {attributes}/>"


def _points(points: Points) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: float) -> str:
    """Return a length in tenths of a pixel."""
    return f"{round(value, 1):g}"
