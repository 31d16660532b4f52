"""The site of this documentation: Sphinx with MyST and furo, built by ``make docs``, warnings being errors."""

from importlib.metadata import version as installed_version
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

project = "UniPruning"
version = release = installed_version("unipruning")
html_theme = "furo"
html_title = f"{project} {release}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_argparse_cli"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4
# blocks without a language are commands and what they print
highlight_language = "text"

html_math_renderer = "mathml"
nitpicky = True
# types of other projects, whose pages are on the network, and of modules that have no page
nitpick_ignore_regex = [("py:(class|exc)", r"[\w.]+")]
autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88


def setup(app: Sphinx) -> None:
    # mathematics that a browser shows by itself: no script, no font and nothing from the network
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode
