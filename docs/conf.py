"""The site of this documentation: Sphinx with MyST and furo, built by ``make docs``, warnings being errors."""

from dataclasses import fields
from importlib.metadata import version as installed_version
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger
from sphinx.util.rst import escape

from unipruning_core.search.settings import Settings

project = "UniPruning"
version = release = installed_version("unipruning")
html_theme = "furo"
html_title = f"{project} {release}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_search_summary = False  # they are fetched, which a browser refuses to pages of a folder
smartquotes = False  # two dashes begin a flag, and what is quoted is typed

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_argparse_cli"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4
# blocks without a language are commands and what they print
highlight_language = "text"

html_math_renderer = "mathml"
nitpicky = True
# types of other projects, whose pages are on the network, and of modules that have no page
nitpick_ignore_regex = [("py:(class|exc)", r"[\w.]+")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88


def setup(app: Sphinx) -> None:
    # mathematics that a browser shows by itself: no script, no font and nothing from the network
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("autodoc-process-docstring", _add_settings)
    app.connect("doctree-read", _set_dashes)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_mathml(node))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _mathml(node: nodes.Element, *, as_block: bool = False) -> str:
    try:
        return str(tex2mathml(node.astext(), as_block=as_block))
    except MathError as error:
        getLogger(__name__).warning("%s", error, location=node)
        return ""


def _add_settings(app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Say of each setting of a mode what the help of its flag says."""
    if what == "class" and issubclass(documented, Settings):
        told = [f":param {item.name}: {escape(item.metadata['help'])}" for item in fields(documented)]
        lines += ["", *told, ""]


def _set_dashes(app: Sphinx, doctree: nodes.document) -> None:
    """Write as a dash what Sphinx puts between a parameter and its description."""
    for text in [text for text in doctree.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(" – "))
