"""The rules that every notebook of the series keeps. Each rule is a function that yields what is wrong.

Each rule stands for a wound that other projects had: kernels of the author's machine, widget state that hosts refuse to
show, hidden state, outputs that nothing compares, lessons that download, library code copied into notebooks.
"""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import prose_numbers
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kitlib.data import files
from kitlib.tools import notebook_files as tool

NOTEBOOKS = sorted((files.ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"nbval-skip", "nbval-ignore-output", "raises-exception"}
CHECKS = ("claim", "same", "better", "family", "verdicts")
MAX_BYTES, MAX_LINES, MIN_CHECKS, MIN_EXERCISES = 600_000, 25, 5, 3


# Reading a notebook


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def code_cells(nb, skipped: bool = False) -> list:
    """The code cells that are executed; with `skipped`, the others too."""
    return [c for c in nb.cells if c.cell_type == "code" and (skipped or tool.SKIP not in tags(c))]


def parse(source: str) -> ast.Module:
    """The cell as Python, without the lines that only IPython understands."""
    return ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.splitlines()))


def calls(source: str, names: tuple[str, ...]) -> list[ast.Call]:
    """The calls `name(...)` and `module.name(...)` in a cell."""
    found = [node for node in ast.walk(parse(source)) if isinstance(node, ast.Call)]
    # plots.verdicts only draws
    found = [call for call in found if getattr(getattr(call.func, "value", None), "id", "") != "plots"]
    return [call for call in found if getattr(call.func, "id", getattr(call.func, "attr", "")) in names]


def definitions(tree: ast.Module) -> set[str]:
    """Functions and classes defined at the top level."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in tree.body if isinstance(node, kinds)}


def notebook_definitions(nb) -> set[str]:
    return {name for cell in code_cells(nb) for name in definitions(parse(cell.source))}


@functools.cache
def kitlib_names() -> set[str]:
    """What the modules of kitlib define publicly."""
    trees = [ast.parse(path.read_text()) for path in (files.ROOT / "kitlib").rglob("*.py")]
    return {name for tree in trees for name in definitions(tree) if not name.startswith("_")}


# The rules


def title_and_goals(nb, path: Path) -> Iterator[str]:
    number = path.name.partition("_")[0]
    if nb.cells[0].cell_type != "markdown" or not re.match(rf"# {number} \S", nb.cells[0].source):
        yield f"the first cell does not start with the title '# {number} ...'"
    opening = [cell.source for cell in nb.cells[:4] if cell.cell_type == "markdown"]
    if not any("Prerequisites" in text and "minutes" in text for text in opening):
        yield "no goals cell near the top names Prerequisites and minutes"
    if not calls(code_cells(nb)[-1].source, ("summary",)):
        yield "the last code cell does not call summary()"


def kernel_is_python3(nb, path: Path) -> Iterator[str]:
    if (name := nb.metadata.get("kernelspec", {}).get("name")) != "python3":
        yield f"the kernelspec is {name!r}, not 'python3'"


def no_widgets(nb, path: Path) -> Iterator[str]:
    if "widgets" in nb.metadata:
        yield "widget state is stored: hosts refuse to show such a notebook"
    for cell in code_cells(nb, skipped=True):
        if re.search(r"tqdm\.(notebook|auto)|ipywidgets", cell.source):
            yield "tqdm.notebook, tqdm.auto or ipywidgets is used: they store widgets"


def executed_top_to_bottom(nb, path: Path) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}, not 1..{len(counts)}: run kit run --refresh"
    for cell in code_cells(nb, skipped=True):
        if tool.SKIP in tags(cell) and (cell.outputs or cell.execution_count):
            yield "a cell that is never executed has outputs"


def printing_cells_have_outputs(nb, path: Path) -> Iterator[str]:
    for cell in code_cells(nb):
        # A definition prints nothing yet, so only calls outside of functions and classes count.
        body = [node for node in parse(cell.source).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        at_top = ast.unparse(ast.Module(body, []))
        if calls(at_top, ("print", *CHECKS, "exercise", "summary")) and not cell.outputs:
            yield f"a cell that prints has no stored output: {cell.source[:60]!r}"
        texts = [out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
        shown = re.compile(r"^\[[^\]]+\] |^\w+ \w+: \d+ paired seeds$", re.MULTILINE)  # a check, or a table of verdicts
        if (
            cell.outputs
            and len(calls(at_top, CHECKS)) > sum(len(shown.findall(text)) for text in texts)
            and "raises-exception" not in tags(cell)
        ):
            yield f"a check was added after the outputs were stored: run kit run --refresh: {cell.source[:60]!r}"


def no_errors_or_warnings(nb, path: Path) -> Iterator[str]:
    for cell in code_cells(nb):
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in tags(cell):
                yield f"an error is stored without the tag raises-exception: {output.ename}"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"text on stderr is stored (it carries paths, and nothing compares it): {output.text[:60]!r}"
            if re.search(r"/[\w./-]*/kitlib/\w", "".join(output.get("traceback", []))):
                yield "a traceback is stored with the folder of the kit on one machine: kit run NB --refresh"
            if "image/svg+xml" in output.get("data", {}):
                yield "a figure is stored as SVG, which carries a date"


def small(nb, path: Path) -> Iterator[str]:
    size = len(nbformat.writes(nb).encode())
    if size >= MAX_BYTES:
        yield f"{size} bytes, the limit is {MAX_BYTES}: fewer or smaller figures"


def cells_are_short(nb, path: Path) -> Iterator[str]:
    for cell in code_cells(nb, skipped=True):
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            yield f"a code cell has {lines} lines, the limit is {MAX_LINES}: {cell.source[:60]!r}"
        if not cell.source.strip():
            yield "a code cell is empty"


def no_network(nb, path: Path) -> Iterator[str]:
    for cell in code_cells(nb):
        if found := re.search(r"\bpip\b|wget|urlretrieve|http", cell.source):
            yield f"an executed cell contains {found[0]!r}: {cell.source[:60]!r}"


def checks_and_exercises(nb, path: Path) -> Iterator[str]:
    for names, least in ((CHECKS, MIN_CHECKS), (("exercise",), MIN_EXERCISES)):
        number = sum(len(calls(cell.source, names)) for cell in code_cells(nb))
        if number < least:
            yield f"{number} calls of {'/'.join(names)}, at least {least} are wanted"


def placeholders_are_not_solutions(nb, path: Path) -> Iterator[str]:
    """A placeholder raises NotImplementedError: one that passes teaches nothing, a wrong one looks like an answer."""
    for cell in code_cells(nb):
        for out in cell.outputs:
            if found := re.search(r"^exercise .*(?<!: not done yet)$", out.get("text", ""), re.MULTILINE):
                yield f"the placeholder does not say that it is not done yet: {found[0]}"


def no_copies_of_the_library(nb, path: Path) -> Iterator[str]:
    compared = {
        node.id
        for cell in code_cells(nb)
        for call in calls(cell.source, ("same",))
        for node in ast.walk(call)
        if isinstance(node, ast.Name)
    }
    for name in sorted(notebook_definitions(nb) & kitlib_names() - compared):
        yield f"{name} is defined here and in kitlib: import it, or prove same({name}, ...) where it is built"


def only_known_tags(nb, path: Path) -> Iterator[str]:
    for cell in nb.cells:
        if unknown := tags(cell) - TAGS:
            yield f"unknown tags {sorted(unknown)}; allowed are {sorted(TAGS)}"


def numbers_come_from_runs(nb, path: Path) -> Iterator[str]:
    for written, around in prose_numbers.unfounded(nb):
        yield f"{written} stands in no output, code or stored table of its section: ...{around}"


def links_lead_somewhere(nb, path: Path) -> Iterator[str]:
    """Relative links to files of the repository; addresses outside are of papers, and cannot be looked up here."""
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`(?!\])", " ", text, flags=re.DOTALL)):
        if target.startswith("https://"):
            if not re.match(r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}$|colab\.research\.google\.com/)", target):
                yield f"{target} is no paper on arXiv"
        elif not (files.ROOT / "notebooks" / target.partition("#")[0]).exists():
            yield f"there is no {target}"


RULES: tuple[Callable, ...] = (
    title_and_goals, kernel_is_python3, no_widgets, executed_top_to_bottom, printing_cells_have_outputs,
    no_errors_or_warnings, small, cells_are_short, no_network, checks_and_exercises,
    placeholders_are_not_solutions, no_copies_of_the_library, only_known_tags,
    numbers_come_from_runs, links_lead_somewhere,
)  # fmt: skip


def defined_twice(notebooks: dict[str, nbformat.NotebookNode]) -> list[str]:
    """Names that two notebooks define: the second should import the first's from kitlib."""
    owners: dict[str, list[str]] = {}
    for name, nb in notebooks.items():
        for defined in notebook_definitions(nb):
            owners.setdefault(defined, []).append(name)
    return [f"{defined} in {' and '.join(names)}" for defined, names in sorted(owners.items()) if len(names) > 1]


# The notebooks under the rules


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, rule):
    assert list(rule(nbformat.read(path, as_version=4), path)) == []


def test_no_name_is_defined_in_two_notebooks():
    assert defined_twice({path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}) == []


def test_notebooks_that_are_named_exist():
    """In lessons, docstrings and the page: `08_t5_and_upcycling.ipynb` is a promise."""
    texts = [*NOTEBOOKS, *(files.ROOT / "kitlib").rglob("*.py"), files.ROOT / "README.md"]
    named = {(path.name, name) for path in texts for name in re.findall(r"\b(?:\d\d|A\d)_\w+\.ipynb", path.read_text())}
    assert len(named) > 20
    missing = sorted((where, name) for where, name in named if not (files.ROOT / "notebooks" / name).is_file())
    assert missing == []


def test_a_name_in_two_notebooks_is_found():
    one, other = (new_notebook(cells=[new_code_cell(f"def {name}(x):\n    ...")]) for name in ("mine", "yours"))
    assert defined_twice({"a": one, "b": one}) == ["mine in a and b"] and defined_twice({"a": one, "b": other}) == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (numbers_come_from_runs, "The loss falls to 0.12345."), (numbers_come_from_runs, "It falls by 45.678 %."),
        (links_lead_somewhere, "See [06](06_nothing.ipynb)."), (links_lead_somewhere, "See [it](https://example.org)."),
    ],
)  # fmt: skip
def test_what_no_run_has_shown_and_links_to_nothing_are_found(rule, text):
    nb = nbformat.read(NOTEBOOKS[1], as_version=4)
    nb.cells.insert(2, new_markdown_cell(f"## 0 More\n\n{text}"))
    assert len(list(rule(nb, NOTEBOOKS[1]))) == 1
