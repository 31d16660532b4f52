"""The page: its template, style and script put together into one file."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from unipruning_core.report.content import Content
from unipruning_core.report.figure import Figure
from unipruning_core.report.svg import colour_rules, inline_svg


def render(content: Content) -> str:
    """Return the page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["inline_svg"] = _inline
    template = environment.from_string(_read("page.html"))
    # ours, without anything that was read
    style, script = Markup(f"{colour_rules()}\n{_read('page.css')}"), Markup(_read("page.js"))
    return template.render(content=content, style=style, script=script, version=version("unipruning"))


def _inline(figure: Figure) -> Markup:
    return Markup(inline_svg(figure))


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
