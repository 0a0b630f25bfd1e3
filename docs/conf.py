"""Sphinx's configuration of the site, which `kit run` builds (`kitlib.tools.site`)."""

from pathlib import Path

import latex2mathml.converter
from docutils import nodes

from kitlib import __version__
from kitlib.tools import notebook_files

project, author, copyright, release = "kitlib", "the kitlib authors", "the kitlib authors", __version__
extensions = ["myst_nb", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # they would be loaded from a network
html_theme, html_title, html_static_path = "sphinx_book_theme", "kitlib", ["_static"]
html_math_renderer = "mathml"
html_sourcelink_suffix = ""  # the download of a lesson is an .ipynb
html_css_files, html_js_files = ["kit.css"], ["kit.js"]
html_theme_options = {"show_navbar_depth": 1, "navbar_persistent": []}
if address := notebook_files.repository(Path(__file__).parents[1]):  # what needs the public address
    html_theme_options |= {"repository_url": address, "use_repository_button": True}  # a lesson has its own Colab link
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure"]


def inline(self, node):
    """A formula as MathML, which browsers draw themselves: nothing is loaded from a network."""
    self.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def display(self, node):
    """The same for a formula on a line of its own."""
    self.body.append(latex2mathml.converter.convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
