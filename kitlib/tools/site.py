"""The web site of the series, build/site: lessons with their outputs, claims, glossary, API reference; works offline.

    write(root)            # from build/*.ipynb, and from the stored notebooks for those that were not executed

The pages are Markdown, put together here and in `site_pages`, and built by Sphinx with MyST-NB and the theme of Jupyter
Book: side bar, search, previous and next. Its configuration and style are in docs/.
"""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

from kitlib.data.files import ROOT, write_text
from kitlib.tools import executed, notebook_files, site_pages


def write(root: Path = ROOT) -> Path:
    """Builds the site of a checkout and returns its start page, build/site/index.html.

    Raises SystemExit with Sphinx's words if it fails.
    """
    source, target = root / "build" / "site_source", root / "build" / "site"
    shutil.rmtree(source, ignore_errors=True)
    (source / "figures").mkdir(parents=True)
    lessons = [found for path in notebook_files.find((), root) if (found := lesson(path, root, source))]
    for name, text in (site_pages.api(root) | site_pages.texts(root, lessons)).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(source / name, text)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-j", "auto", "-c", str(root / "docs")]
    done = subprocess.run([*command, str(source), str(target)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The site could not be built: {done.stderr.strip() or done.stdout.strip()}")
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)
    for found in lessons:  # what is downloaded has the set-up cell, and links of its own
        shutil.copy(root / "notebooks" / f"{found.name}.ipynb", target / "_sources" / "lessons")
    return target / "index.html"


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
    heading = title
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = site_pages.links_of_the_site(cell.source)
            heading = [heading, *re.findall(r"^#+ *(.*)$", cell.source, re.MULTILINE)][-1]
        else:  # the alternative text of its figures: where they stand, and their titles, if these are not computed
            titles = re.findall(r'title[=(]+"([^"{\\]+)"', cell.source)
            alt = "; ".join([f"Figure of {title}, {heading}", *titles])
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
            for shown in (output["data"] for output in cell.outputs if "text/html" in output.get("data", {})):
                pieces = re.split("<img (?![^>]*alt=)", shown["text/html"])
                shown["text/html"] = f'<img alt="{html.escape(alt)}" '.join(pieces)
    if checks:
        nb.cells.append(nbformat.v4.new_markdown_cell(site_pages.folded_checks(checks), id="all-checks"))
    (source / "lessons").mkdir(exist_ok=True)
    write_text(source / "lessons" / path.name, nbformat.writes(nb))
    if figure:
        (source / "figures" / f"{path.stem}.png").write_bytes(figure)
    about = nb.metadata.get("kit", {})
    return site_pages.Lesson(path.stem, title or path.stem, text, bool(figure), len(checks), about.get("error", ""))
