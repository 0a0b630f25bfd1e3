"""The pages of the site besides its lessons, as Markdown: start page, claims, glossary, API reference.

The prose is in docs/, where a line such as `{{lessons}}` stands for what is made here.
"""

import ast
import html
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kitlib.tools.executed import Check

TITLES = {"upcycling": "Sparse Upcycling", "ensembles": "Sparse MoEs meet Efficient Ensembles", "palix": "PaLI-X"}


class Lesson(NamedTuple):
    """What the start page says of a notebook."""

    name: str
    title: str
    text: str
    has_figure: bool
    num_checks: int
    error: str


def texts(root: Path, lessons: list[Lesson], claims: pd.DataFrame) -> dict[str, str]:
    """The pages of docs/ by name, their placeholders filled in; their links to notebooks lead to lessons."""
    names = {lesson.name[:2]: lesson.name for lesson in lessons}
    parts = {"lessons": cards(lessons), "toctree": toctree(lessons), "claims": claims_table(claims, names)}
    pages = {}
    for path in sorted((root / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for name, part in parts.items():
            text = text.replace(f"{{{{{name}}}}}", part)
        pages[path.name] = text.replace("](../notebooks/", "](lessons/")
    return pages


def toctree(lessons: list[Lesson]) -> str:
    """What the side bar lists."""
    listed = "\n".join(f"lessons/{lesson.name}" for lesson in lessons)
    return (
        f"```{{toctree}}\n:hidden:\n:caption: Lessons\n\n{listed}\n```\n\n"
        "```{toctree}\n:hidden:\n:caption: Reference\n\nclaims\nglossary\npalix\nspeed\napi/index\n```"
    )


def cards(lessons: list[Lesson]) -> str:
    """A card for each lesson: its figure, its title, its first paragraph."""
    found = []
    for lesson in lessons:
        options = [f":link: lessons/{lesson.name}", ":link-type: doc"]
        options += [f":img-top: _static/{lesson.name}.png"] if lesson.has_figure else []
        failed = "\n\n**This lesson failed when it was last executed.**" if lesson.error else ""
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(lesson.text.split()))  # the whole card is a link
        found.append(f":::{{grid-item-card}} {lesson.title}\n" + "\n".join(options) + f"\n\n{text}{failed}\n:::")
    return "::::{grid} 1 1 2 3\n:gutter: 3\n\n" + "\n\n".join(found) + "\n::::"


def folded_checks(checks: list[Check]) -> str:
    """All checks of a lesson, as a table that is folded away."""
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in check) + "</tr>" for check in checks)
    head = "<tr><th>Mark<th>Claim<th>Measured<th>Expected</tr>"
    table = f"<details><summary>{len(checks)} checks</summary><table>{head}{rows}</table></details>"
    return f"## All checks of this lesson\n\n```{{raw}} html\n{table}\n```"


def claims_table(claims: pd.DataFrame, names: dict[str, str]) -> str:
    """The rows of the registry (`studies.registry.table`), a table per paper: the claim, what became of it, where.
    names: of lessons, by number, for links."""
    tables = []
    for paper, rows in claims.groupby("paper", sort=False):
        lines = []
        for claim in rows.to_dict("records"):
            text = {name: html.escape(value) for name, value in claim.items()}
            published = f"<br><i>published: {text['published']}</i>" if text["published"] else ""
            lesson = names.get(claim["where"][:2])
            where = f'<a href="lessons/{html.escape(lesson)}.html">{text["where"]}</a>' if lesson else text["where"]
            command = f"<br><code>{text['command']}</code>" if claim["command"] != "-" else ""
            result = text["result"].replace("\n", "<br>")
            cells = (f"<b>{text['item']}</b>: {text['claim']}{published}", result, f"{where}{command}")
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        head = "<tr><th>Claim<th>Result here<th>Where</tr>"
        table = f'<table class="claims">{head}{"".join(lines)}</table>'
        tables.append(f"## {TITLES.get(str(paper), paper)}\n\n```{{raw}} html\n{table}\n```")
    return "\n\n".join(tables)


def links_of_the_site(text: str) -> str:
    """A lesson's links to files of the repository, turned to the pages that show them: ../kitlib/moe/routing.py to its
    section of the API reference, ../docs/glossary.md to the glossary."""
    text = re.sub(r"\]\(\.\./kitlib/(\w+)/__init__\.py\)", r"](../api/\1.md)", text)
    text = re.sub(r"\]\(\.\./kitlib/(\w+)/(\w+)\.py\)", r"](../api/\1.md#kitlib.\1.\2)", text)
    return text.replace("](../docs/", "](../")


# ---------------------------------------------------------------------------------------------- API reference


def api(root: Path, address: str = "") -> dict[str, str]:
    """A page per package of the library, and one that lists them. address: of the repository, to link the source."""
    library = root / "kitlib"
    pages, listed = {}, []
    for folder in sorted(path.parent for path in library.glob("*/__init__.py")):
        about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        modules = [path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
        text = [f"# kitlib.{folder.name}", prose(about)] + [module(path, root, address) for path in modules]
        pages[f"api/{folder.name}.md"] = "\n\n".join(text) + "\n"
        listed.append(
            f"- [`kitlib.{folder.name}`]({folder.name}.md): {about.splitlines()[0].partition(':')[2].strip()}"
        )
    names = "\n".join(Path(name).stem for name in pages)
    tree = f"```{{toctree}}\n:hidden:\n\n{names}\n```"
    pages["api/index.md"] = "# API reference\n\n" + "\n".join(listed) + f"\n\n{tree}\n"
    return pages


def module(path: Path, root: Path, address: str) -> str:
    """The section of one module: its docstring, and its public functions and classes with theirs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    relative = path.relative_to(root).as_posix()
    name = relative.removesuffix(".py").replace("/", ".")
    source = f"[source]({address}/blob/main/{relative})" if address else f"`{relative}`"
    parts = [f"({name})=\n## {path.stem}", source, prose(ast.get_docstring(tree) or "")]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            parts += [f"### {node.name}", fenced(signature(node), "python")]
            parts.append(prose(ast.get_docstring(node) or ""))
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


def prose(docstring: str) -> str:
    """A docstring as Markdown: paragraphs, indented examples as code, and "Args:", "Raises:", ... as lists."""
    parts = []
    for block in docstring.split("\n\n"):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines if line):
            parts.append(fenced(textwrap.dedent(block), "python"))
        elif re.fullmatch(r"(Args|Arguments|Attributes|Raises|Returns):", lines[0]) and len(lines) > 1:
            parts.append(f"**{lines[0]}**\n\n{entries(lines[1:])}")
        else:
            parts.append("\n".join(re.sub(r"([$<|\\])", r"\\\1", line) for line in lines))
    return "\n\n".join(parts)


def entries(lines: list[str]) -> str:
    """A list of "name: text" entries; lines that are indented further belong to the entry before them."""
    first = len(lines[0]) - len(lines[0].lstrip())
    found: list[str] = []
    for line in lines:
        text = re.sub(r"([$<|\\])", r"\\\1", line.strip())
        if len(line) - len(line.lstrip()) > first and found:
            found[-1] += f" {text}"
        else:
            name, colon, rest = text.partition(": ")
            found.append(
                f"- `{name.strip('`')}`: {rest}" if colon and re.fullmatch(r"[`\w, *.]+", name) else f"- {text}"
            )
    return "\n".join(found)


def fenced(text: str, language: str = "text") -> str:
    """A block that shows the text as it is; "" for none."""
    return f"````{language}\n{text}\n````" if text else ""
