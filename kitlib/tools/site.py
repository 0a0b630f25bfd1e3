"""The web site of the series, build/site: lessons with their outputs, claims, glossary, API reference; works offline.

    write(root)            # from build/*.ipynb, and from the stored notebooks for those that were not executed

The pages are Markdown, put together here and in `site_pages`, and built by Sphinx with MyST-NB and the theme of Jupyter
Book: side bar, search, previous and next. Formulas become MathML, which browsers draw themselves, so nothing is loaded
from a network.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from kitlib import __version__
from kitlib.data.files import ROOT, write_text
from kitlib.studies import registry
from kitlib.tools import executed, notebook_files, site_pages

CONF = """
import latex2mathml.converter

project, author, copyright, release = "kitlib", "the kitlib authors", "the kitlib authors", {version!r}
extensions = ["myst_nb", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {{}}  # they would be loaded from a network
html_theme, html_title, html_static_path = "sphinx_book_theme", "kitlib", ["_static"]
html_math_renderer = "mathml"
html_copy_source = False
templates_path, exclude_patterns = [], []
html_css_files = ["kit.css"]
html_theme_options = {{"show_navbar_depth": 1, "navbar_persistent": [], "use_download_button": False, **{buttons!r}}}
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure"]


def inline(self, node):
    self.body.append(latex2mathml.converter.convert(node.astext()))
    raise __import__("docutils").nodes.SkipNode


def display(self, node):
    self.body.append(latex2mathml.converter.convert(node.astext(), display="block"))
    raise __import__("docutils").nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
"""


STYLE = """
.highlight pre { white-space: pre-wrap }
.sd-card-img-top { object-fit: contain; max-height: 12rem; padding: .5rem; background: white }
.bd-main .bd-content .bd-article-container { max-width: 56rem }
table.claims { width: 100%; font-size: .85rem }
.claims td { vertical-align: top; padding: .3rem .5rem; border-top: 1px solid #8884 }
.claims td:last-child { width: 11rem }
details table { font-size: .85rem }
"""


def write(root: Path = ROOT) -> Path:
    """Builds the site of a checkout and returns its start page, build/site/index.html.

    Raises SystemExit with Sphinx's words if it fails.
    """
    source, target = root / "build" / "site_source", root / "build" / "site"
    shutil.rmtree(source, ignore_errors=True)
    (source / "_static").mkdir(parents=True)
    lessons = [found for path in notebook_files.find((), root) if (found := lesson(path, root, source))]
    address = notebook_files.repository(root)
    write_text(source / "_static" / "kit.css", STYLE)
    write_text(source / "conf.py", CONF.format(version=__version__, buttons=buttons(address)))
    for name, text in (site_pages.api(root, address) | site_pages.texts(root, lessons, registry.table())).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(source / name, text)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-j", "auto", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The site could not be built: {done.stderr.strip() or done.stdout.strip()}")
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)
    return target / "index.html"


def buttons(address: str) -> dict:
    """Options of the theme that need the public address; none while it is not set."""
    if not address:
        return {}
    return {
        "repository_url": address,
        "repository_branch": f"v{__version__}",
        "path_to_docs": "notebooks",
        "use_repository_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }


def lesson(path: Path, root: Path, source: Path) -> site_pages.Lesson | None:
    """Writes one lesson into the source folder: as it was executed, or as it is stored, with all its checks added.
    None for a file that is no notebook."""
    import nbformat

    run = root / "build" / path.name
    try:
        nb = nbformat.read(run if run.exists() else path, as_version=4)
    except (nbformat.reader.NotJSONError, ValueError):
        return None
    title, text = executed.title_and_paragraph(nb)
    checks, figure = executed.check_lines(nb), executed.last_figure(nb)
    nb.cells = [cell for cell in nb.cells if notebook_files.SKIP not in cell.metadata.get("tags", [])]
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = site_pages.links_of_the_site(cell.source)
    if checks:
        nb.cells.append(nbformat.v4.new_markdown_cell(site_pages.folded_checks(checks), id="all-checks"))
    (source / "lessons").mkdir(exist_ok=True)
    write_text(source / "lessons" / path.name, nbformat.writes(nb))
    if figure:
        (source / "_static" / f"{path.stem}.png").write_bytes(figure)
    about = nb.metadata.get("kit", {})
    return site_pages.Lesson(path.stem, title or path.stem, text, bool(figure), len(checks), about.get("error", ""))
