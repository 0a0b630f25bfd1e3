"""The web site of the series, build/site: lessons with their outputs, claims, glossary, API reference; works offline.

    write(root)            # from build/*.ipynb, and from the stored notebooks for those that were not executed

The pages are Markdown, put together here and built by Sphinx with MyST-NB and the theme of Jupyter Book: side bar,
search, previous and next. The prose, configuration and style are in docs/; a line such as `{{lessons}}` there stands
for what only the site has.
"""

import ast
import html
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kitlib.data.files import ROOT, write_text
from kitlib.studies import claims
from kitlib.tools import notebook_files
from kitlib.tools.notebook_files import Check

TITLES = {"upcycling": "Sparse Upcycling", "ensembles": "Sparse MoEs meet Efficient Ensembles", "palix": "PaLI-X"}


class Lesson(NamedTuple):
    """What the start page says of a notebook."""

    name: str
    title: str
    text: str
    has_figure: bool
    num_checks: int
    error: str


def texts(root: Path, lessons: list[Lesson]) -> dict[str, str]:
    """The pages of docs/ by name, their placeholders filled in; their links to files lead to lessons and the API."""
    pages = {}
    for path in sorted((root / "docs").glob("*.md")):
        text = links_of_the_site(path.read_text(encoding="utf-8").replace("](../notebooks/", "](../lessons/"))
        text = text.replace("](../", "](").replace("{{toctree}}", toctree(lessons))
        pages[path.name] = text.replace("{{lessons}}", cards(lessons))
    return pages


def toctree(lessons: list[Lesson]) -> str:
    """What the side bar lists."""
    listed = "\n".join(f"lessons/{lesson.name}" for lesson in lessons)
    pages = "use_in_your_model\nclaims\nglossary\npalix\nspeed\napi/index"
    tree = "```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```"
    return f"{tree.format('Lessons', listed)}\n\n{tree.format('Reference', pages)}"


def cards(lessons: list[Lesson]) -> str:
    """A card for each lesson: its figure, its title, its first paragraph."""
    found = []
    for lesson in lessons:
        options = [f":link: lessons/{lesson.name}", ":link-type: doc"]
        if lesson.has_figure:
            options += [f":img-top: figures/{lesson.name}.png", f":img-alt: The last figure of {lesson.title}"]
        failed = "\n\n**This lesson failed when it was last executed.**" if lesson.error else ""
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(lesson.text.split()))  # the whole card is a link
        found.append(f":::{{grid-item-card}} {lesson.title}\n" + "\n".join(options) + f"\n\n{text}{failed}\n:::")
    return "::::{grid} 1 1 2 3\n:gutter: 3\n\n" + "\n\n".join(found) + "\n::::"


def folded_checks(checks: list[Check]) -> str:
    """All checks of a lesson, as a table that is folded away."""
    rows = [[escaped(cell) for cell in check] for check in checks]
    shown = table(("mark", "claim", "measured", "expected"), rows)
    return f"## All checks of this lesson\n\n:::{{dropdown}} {len(checks)} checks\n{shown}\n:::"


def claims_table(found: pd.DataFrame, notebooks: dict[str, str]) -> str:
    """All claims (`studies.claims.table`): how many of each kind, what the words mean, and a table per
    paper with each claim, what became of it, and where. notebooks: their files, by number."""
    counts = claims.summary(found)
    rows = [(word, *map(str, counts.loc[word]), meaning) for word, meaning in claims.WORDS.items()]
    parts = [table(("", *(TITLES.get(paper, paper) for paper in counts), "meaning"), rows)]
    for paper, part in found.map(escaped).replace("\n", "<br>", regex=True).groupby("paper", sort=False):
        rows = []
        for claim in part.itertuples():
            published = f"<br>*published: {claim.published}*" if claim.published else ""
            lesson = notebooks.get(claim.where[:2])
            where = [f"[{claim.where}](../notebooks/{lesson})" if lesson else f"`{claim.where}`"] if claim.where else []
            study = [f"`{claim.command.split()[-1]}`"] if claim.command.startswith("kit claims ") else []
            rows.append((f"**{claim.item}**: {claim.claim}{published}", claim.result, " ".join(where + study)))
        parts.append(f"## {TITLES[paper]}\n\n{table(('claim', 'result here', 'where'), rows)}")
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of cells in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def escaped(text: str) -> str:
    """A text as it is, in Markdown."""
    return re.sub(r"([$<|\\])", r"\\\1", text)


def links_of_the_site(text: str) -> str:
    """A lesson's links to files of the repository, turned to the pages that show them: ../kitlib/moe/routing.py to its
    section of the API reference, ../docs/glossary.md to the glossary."""

    def page(link: re.Match) -> str:
        package, name = link[1].replace("/", "."), link[2]
        return f"](../api/{package}.md)" if name == "__init__" else f"](../api/{package}.md#kitlib.{package}.{name})"

    text = re.sub(r"\]\(\.\./kitlib/([\w/]+)/(\w+)\.py\)", page, text)
    text = re.sub(r"\[!\[(Open in Colab)\]\(\S+?\)\]", r"[\1]", text)  # its picture would come from a network
    return text.replace("](../docs/", "](../")


# ---------------------------------------------------------------------------------------------- API reference


def api(root: Path) -> dict[str, str]:
    """A page per package of the library, and one that lists them."""
    library = root / "kitlib"
    pages, listed = {}, []
    for folder in sorted(path.parent for path in library.glob("*/**/__init__.py")):
        package = ".".join(folder.relative_to(library).parts)
        about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        modules = [path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
        text = [f"# kitlib.{package}", prose(about)] + [module(path, root) for path in modules]
        pages[f"api/{package}.md"] = "\n\n".join(text) + "\n"
        listed.append(f"- [`kitlib.{package}`]({package}.md): {about.splitlines()[0].partition(':')[2].strip()}")
    names = "\n".join(Path(name).stem for name in pages)
    tree = f"```{{toctree}}\n:hidden:\n\n{names}\n```"
    pages["api/index.md"] = "# API reference\n\n" + "\n".join(listed) + f"\n\n{tree}\n"
    return pages


def module(path: Path, root: Path) -> str:
    """The section of one module: its docstring, and its public functions and classes with theirs, the meaning of their
    fields, and their source, folded."""
    code = path.read_text(encoding="utf-8")
    tree = ast.parse(code)
    relative = path.relative_to(root).as_posix()
    name = relative.removesuffix(".py").replace("/", ".")
    parts = [f"({name})=\n## {path.stem}", f"`{relative}`", prose(ast.get_docstring(tree) or "")]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            parts += [f"### {node.name}", fenced(signature(node), "python"), prose(ast.get_docstring(node) or "")]
            parts += [fields(node, code.splitlines()) if isinstance(node, ast.ClassDef) else ""]
            parts += [f":::::{{dropdown}} source\n{fenced(ast.get_source_segment(code, node), 'python')}\n:::::"]
    return "\n\n".join(part for part in parts if part)


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The first line of a definition; of a class also its fields and the signatures of its public methods."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"def {node.name}({ast.unparse(node.args)}){returns}"
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    lines = [f"class {node.name}{bases}"]
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            lines.append(f"    {ast.unparse(part)}")
        elif isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
            lines.append(f"    {signature(part)}")
    return "\n".join(lines)


def fields(node: ast.ClassDef, lines: list[str]) -> str:
    """What the comments above and beside the fields of a class say, as a list. lines: of its module."""
    found, end = [], node.lineno
    for part in node.body:
        comments = re.findall(r"^(?: *|.*  )# (.*)$", "\n".join(lines[end : part.end_lineno]), re.MULTILINE)
        if isinstance(part, ast.AnnAssign) and comments:
            found.append(f"    {part.target.id}: {' '.join(comments)}")
        end = part.end_lineno
    return f"**Fields**\n\n{entries(found)}" if found else ""


def prose(docstring: str) -> str:
    """A docstring as Markdown: indented examples as code, "Args:", "Raises:", ... as lists, lessons as links."""
    parts = []
    for block in docstring.split("\n\n"):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines if line):
            parts.append(fenced(textwrap.dedent(block), "python"))
        elif re.fullmatch(r"(Args|Arguments|Attributes|Raises|Returns):", lines[0]) and len(lines) > 1:
            parts.append(f"**{lines[0]}**\n\n{entries(lines[1:])}")
        else:
            parts.append(re.sub(r"(?:notebooks/)?(\d\d_\w+)\.ipynb", r"[\g<0>](../lessons/\1.ipynb)", escaped(block)))
    return "\n\n".join(parts)


def entries(lines: list[str]) -> str:
    """A list of "name: text" entries; lines that are indented further belong to the entry before them."""
    first = len(lines[0]) - len(lines[0].lstrip())
    found: list[str] = []
    for line in lines:
        text = escaped(line.strip())
        if len(line) - len(line.lstrip()) > first and found:
            found[-1] += f" {text}"
        else:
            name, colon, rest = text.partition(": ")
            named = colon and re.fullmatch(r"[`\w, *.]+", name)
            found.append(f"- `{name.strip('`')}`: {rest}" if named else f"- {text}")
    return "\n".join(found)


def fenced(text: str, language: str = "text") -> str:
    """A block that shows the text as it is; "" for none."""
    return f"````{language}\n{text}\n````" if text else ""


# DOC tools.site
def write(root: Path = ROOT) -> Path:
    """Builds the site of a checkout and returns its start page, build/site/index.html.

    Raises SystemExit with Sphinx's words if it fails.
    """
    source, target = root / "build" / "site_source", root / "build" / "site"
    shutil.rmtree(source, ignore_errors=True)
    (source / "figures").mkdir(parents=True)
    lessons = [found for path in notebook_files.find((), root) if (found := lesson(path, root, source))]
    for name, text in (api(root) | texts(root, lessons)).items():
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


def lesson(path: Path, root: Path, source: Path) -> Lesson | None:
    """Writes one lesson into the source folder: as it was executed, or as it is stored, with all its checks added.
    None for a file that is no notebook."""
    import nbformat

    run = root / "build" / path.name
    try:
        nb = nbformat.read(run if run.exists() else path, as_version=4)
    except (nbformat.reader.NotJSONError, ValueError):
        return None
    title, text = notebook_files.title_and_paragraph(nb)
    checks, figure = notebook_files.check_lines(nb), notebook_files.last_figure(nb)
    nb.cells = [cell for cell in nb.cells if notebook_files.SKIP not in cell.metadata.get("tags", [])]
    heading = title
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = links_of_the_site(cell.source)
            heading = [heading, *re.findall(r"^#+ *(.*)$", cell.source, re.MULTILINE)][-1]
        else:  # the alternative text of its figures: where they stand, and their titles, if these are not computed
            titles = re.findall(r'title[=(]+"([^"{\\]+)"', cell.source)
            alt = "; ".join([f"Figure of {title}, {heading}", *titles])
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
            for shown in (output["data"] for output in cell.outputs if "text/html" in output.get("data", {})):
                pieces = re.split("<img (?![^>]*alt=)", shown["text/html"])
                shown["text/html"] = f'<img alt="{html.escape(alt)}" '.join(pieces)
    if checks:
        nb.cells.append(nbformat.v4.new_markdown_cell(folded_checks(checks), id="all-checks"))
    (source / "lessons").mkdir(exist_ok=True)
    write_text(source / "lessons" / path.name, nbformat.writes(nb))
    if figure:
        (source / "figures" / f"{path.stem}.png").write_bytes(figure)
    about = nb.metadata.get("kit", {})
    return Lesson(path.stem, title or path.stem, text, bool(figure), len(checks), about.get("error", ""))
