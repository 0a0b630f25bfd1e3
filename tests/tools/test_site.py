"""kitlib.tools.site: its pages as Markdown; built from the stored notebooks, with a public address, and opened offline
in a real browser."""

import ast
import re
import shutil
import subprocess

import nbformat
import pandas as pd
import pytest

from kitlib import __version__
from kitlib.data import files
from kitlib.studies import claims
from kitlib.tools import notebook_files, site
from kitlib.tools.site import Lesson

ADDRESS = "https://github.com/someone/kit"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """build/site of a checkout in which nothing has been executed yet; of three notebooks, all pages of docs."""
    root = tmp_path_factory.mktemp("kit")
    ignore = shutil.ignore_patterns("__pycache__", "studies", "models")
    for name in ("docs", "kitlib"):
        shutil.copytree(files.ROOT / name, root / name, ignore=ignore)
    (root / "notebooks").mkdir()
    for name in ("00_start_here", "07_sparse_upcycling", "10_e3"):
        nb = nbformat.read(files.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        notebook_files.stamp(nb, f"{name}.ipynb", ADDRESS)
        nbformat.write(nb, root / "notebooks" / f"{name}.ipynb")
    (root / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{ADDRESS}"\n')
    (root / "notebooks" / "99_broken.ipynb").write_text("no notebook")  # is left out
    (root / "build").mkdir()
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 10 As it was executed\n\nWith *text*.")])
    page = {"text/html": '<img src="data:,"> <img alt="mine" src="data:,">'}
    nb.cells.append(nbformat.v4.new_code_cell("show()", outputs=[nbformat.v4.new_output("display_data", page)]))
    nb.metadata["kit"] = {"seconds": 3, "error": "cell 2: ZeroDivisionError"}
    nbformat.write(nb, root / "build" / "10_e3.ipynb")
    assert site.write(root) == root / "build" / "site" / "index.html"
    return root / "build" / "site"


def opened(page, size="1400,1200", dark=False) -> str:
    """The page as a browser has built it, every network address unreachable."""
    if not BROWSER:
        pytest.skip("there is no Chromium to open the site in")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--window-size={size}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.slow
def test_nothing_is_loaded_from_a_network(folder):
    """Links may lead outside, to the repository and to the lesson's notebook in Colab, of this version; scripts,
    styles, fonts and pictures may not come from there."""
    for name, links in {"index": [], "lessons/07_sparse_upcycling": ["notebooks/07_sparse_upcycling.ipynb"]}.items():
        page = (folder / f"{name}.html").read_text()
        found = re.findall(r'href="(https://(?:github\.com/someone|colab)[^"]*)"', page)
        colab = f"https://colab.research.google.com/github/someone/kit/blob/v{__version__}"
        assert set(found) == {ADDRESS, *(f"{colab}/{link}" for link in links)}
    for page in folder.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*src=\"(https?:[^\"]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"stylesheet\"[^>]*href=\"(https?:[^\"]+)", text)
        assert not loaded, (page.name, loaded)


@pytest.mark.slow
def test_a_lesson_in_a_browser(folder):
    """Formulas are MathML and not dollars, figures are there, and next and previous lead somewhere."""
    text = opened(folder / "lessons" / "07_sparse_upcycling.html")
    nb = nbformat.read(files.ROOT / "notebooks" / "07_sparse_upcycling.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    formulas = re.findall(r"\$[^$\n]+\$", re.sub(r"```.*?```", "", prose, flags=re.DOTALL))
    assert text.count("<math") == len(formulas) > 10
    assert not any(formula.strip("$") in text for formula in formulas if "\\" in formula)
    assert len(re.findall(r"<img[^>]+src=\"\.\./_images/[^\"]+\.png", text)) >= 5
    assert re.search(r"<a[^>]+class=\"right-next\"[^>]+href=\"10_e3\.html\"", text)
    assert re.search(r"<a[^>]+class=\"left-prev\"[^>]+href=\"00_start_here\.html\"", text)
    assert " checks\n" in re.sub(r"<[^>]+>", "", text) and "google.colab" not in text


@pytest.mark.slow
def test_a_lesson_can_be_downloaded_and_its_figures_say_what_they_show(folder):
    """The download is the stored notebook, set-up cell and all."""
    page = folder / "lessons" / "07_sparse_upcycling.html"
    (link,) = re.findall(r'href="([^"]+\.ipynb)"[^>]*title="Download', page.read_text())
    stored = folder.parents[1] / "notebooks" / "07_sparse_upcycling.ipynb"
    assert (page.parent / link).read_bytes() == stored.read_bytes()
    figures = [tag for tag in re.findall(r"<img[^>]+>", page.read_text()) if "/_images/" in tag]
    assert len(figures) >= 5 and all('alt="Figure of 07 Sparse upcycling of a ViT, ' in tag for tag in figures)
    executed = (page.parent / "10_e3.html").read_text()
    assert '<img alt="Figure of 10 As it was executed, 10 As it was executed" src="data:,">' in executed
    assert '<img alt="mine" src="data:,">' in executed


@pytest.mark.slow
def test_the_other_pages_in_a_browser(folder):
    text = opened(folder / "index.html")
    assert text.count('class="sd-card-img-top') == 2 and "This lesson failed" in text
    assert all(words in text for words in ("10 As it was executed", 'href="lessons/07_sparse_upcycling.html"'))
    assert "99_broken" not in text
    assert (folder / "searchindex.js").stat().st_size > 10_000
    assert "searchtools.js" in opened(folder / "search.html")
    claims = opened(folder / "claims.html", "420,900")
    assert claims.count("<table") == 4 and "no counterpart: " in claims  # the counts, and a table per paper
    api = opened(folder / "api" / "moe.html")
    assert "top_k" in api and "def plan_token_choice" in re.sub(r"<[^>]+>", "", api)


@pytest.mark.slow
def test_a_page_that_sphinx_refuses_is_one_message(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(files.ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "docs" / "conf.py").write_text("raise ValueError('no such theme')")
    with pytest.raises(SystemExit, match=r"The site could not be built: (.|\n)*no such theme"):
        site.write(tmp_path)


# Pages as Markdown

LESSONS = [
    Lesson("01_a", "01 A <b>", "What it\n[says](00_x.ipynb).", True, 3, ""),
    Lesson("02_c", "02 C", "", False, 0, "cell 4: x > 0 failed"),
]


def test_links_to_files_lead_to_pages():
    text = "[`moe.routing`](../kitlib/moe/routing.py), [`configs`](../kitlib/configs/__init__.py), "
    text += "[g](../docs/glossary.md)"
    assert site.links_of_the_site(text) == (
        "[`moe.routing`](../api/moe.md#kitlib.moe.routing), [`configs`](../api/configs.md), [g](../glossary.md)"
    )
    assert site.links_of_the_site("[next](08_x.ipynb)") == "[next](08_x.ipynb)"
    badge = "[![Open in Colab](https://a/b.svg)](https://a/x.ipynb)"  # no picture of a network
    assert site.links_of_the_site(badge) == "[Open in Colab](https://a/x.ipynb)"


def test_pages_of_docs_are_filled_in_and_link_to_lessons(tmp_path):
    (tmp_path / "docs").mkdir()
    links = "[1](../notebooks/01_a.ipynb), [2](../kitlib/moe/routing.py), [3](glossary.md)"
    (tmp_path / "docs" / "a.md").write_text(f"# A\n\n{links}\n\n{{{{lessons}}}}\n\n{{{{toctree}}}}\n")
    text = site.texts(tmp_path, LESSONS)["a.md"]
    links = "[1](lessons/01_a.ipynb), [2](api/moe.md#kitlib.moe.routing), [3](glossary.md)"
    first, second = site.cards(LESSONS).split(":::{grid-item-card} ")[1:]
    assert first.startswith("01 A <b>\n:link: lessons/01_a\n:link-type: doc\n:img-top: figures/01_a.png\n")
    assert "img-" not in second and "This lesson failed" in second and "This lesson failed" not in first
    assert text == f"# A\n\n{links}\n\n{site.cards(LESSONS)}\n\n{site.toctree(LESSONS)}\n"
    assert "lessons/01_a\nlessons/02_c\n" in text and "{{" not in text
    listed = set(site.toctree(LESSONS).split())
    assert {path.stem for path in (files.ROOT / "docs").glob("*.md")} - {"index"} < listed
    text = site.folded_checks([notebook_files.Check("ok", "p < q", "measured 3", "expected 3 & more")])
    assert ":::{dropdown} 1 checks\n" in text and "\n| ok | p \\< q | measured 3 | expected 3 & more |\n:::" in text


def test_the_tables_of_claims_are_as_kit_docs_writes_them():
    """From the stored runs and lessons, as they are now; and a page without them gets them."""
    page = (files.ROOT / "docs" / "claims.md").read_text()
    assert page == site.with_claims(page), "docs/claims.md is behind: kit docs"
    emptied = re.sub("(?<=<!-- claims -->\n).*(?=<!-- end)", "", page, flags=re.DOTALL)
    assert site.with_claims(emptied) == page and page.count("\n| **") == len(claims.table()) > 100


def test_claims_are_linked_by_paper():
    rows = pd.DataFrame(
        [("palix", "abstract", "a < b", "55B", "01.3", "kit run 01", "-", "checked: a\nand b"),
         ("upcycling", "figure 9", "c", "", "", "-", "-", "no counterpart: d"),
         ("palix", "page 3", "g", "", "01.3", "kit claims palix frames", "3", "h: +1.0000 [+0.5000, +1.5000], seen"),
         ("upcycling", "table 1", "e", "", "moe/test_e3.py", "kit test moe/test_e3.py", "-", "checked: f")],
        columns=claims.COLUMNS,
    )  # fmt: skip
    text = site.claims_table(rows, {"01": "01_a.ipynb"})
    assert text.index("## PaLI-X") < text.index("## Sparse Upcycling")
    first = "| **abstract**: a \\< b<br>*published: 55B* | checked: a<br>and b | [01.3](../notebooks/01_a.ipynb) |"
    assert first in text and "| **figure 9**: c | no counterpart: d |  |" in text
    assert "| **table 1**: e | checked: f | `moe/test_e3.py` |" in text
    assert "| **page 3**: g | h: +1.0000 [+0.5000, +1.5000], seen | [01.3](../notebooks/01_a.ipynb) `frames` |" in text
    assert "\n| checked | 1 | 1 | 2 |" in text and "\n| seen | 1 | 0 | 1 | the first is better" in text


DOC = """What it does, for x float[B, N] with a < b and $5.

    y = f(x)      # float[B]
    z = g(y)

Args:
    x: the input, float[B, N],
        or none.
    *rest: others.

Raises ValueError for `x` of another shape.
"""


def test_docstrings_become_markdown():
    assert site.prose(DOC.rstrip()) == (
        "What it does, for x float[B, N] with a \\< b and \\$5.\n\n"
        "````python\ny = f(x)      # float[B]\nz = g(y)\n````\n\n"
        "**Args:**\n\n- `x`: the input, float[B, N], or none.\n- `*rest`: others.\n\n"
        "Raises ValueError for `x` of another shape."
    )
    assert site.prose("") == ""
    link = "[notebooks/01_a_b.ipynb](../lessons/01_a_b.ipynb)"
    assert site.prose("Built in notebooks/01_a_b.ipynb.") == f"Built in {link}."


CLASS = """
class A(B, C):
    # What comes before, on
    # two lines
    x: int = 3  # and beside
    y: str = "ü # no comment"  # é: the second
    z: int = 4
    def f(self, y: int, *, z=2) -> str: ...
    def _g(self): ...
"""


def test_signatures_and_comments_of_fields():
    one = ast.parse(CLASS).body[0]
    fields = "    x: int = 3\n    y: str = 'ü # no comment'\n    z: int = 4\n"
    assert site.signature(one) == f"class A(B, C)\n{fields}    def f(self, y: int, *, z=2) -> str"
    assert site.signature(ast.parse("def f(a, *b): ...").body[0]) == "def f(a, *b)"
    assert site.fields(one, CLASS.splitlines()) == (
        "**Fields**\n\n- `x`: What comes before, on two lines and beside\n- `y`: é: the second"
    )
    assert site.fields(ast.parse("class A:\n    x: int").body[0], ["class A:", "    x: int"]) == ""


def test_every_module_and_every_public_name_is_in_the_reference():
    pages = site.api(files.ROOT)
    for path in (files.ROOT / "kitlib").glob("*/*.py"):
        text = pages[f"api/{path.parent.name}.md"]
        if path.stem == "__init__":
            continue
        assert f"(kitlib.{path.parent.name}.{path.stem})=\n## {path.stem}" in text
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert f"### {node.name}\n" in text
    assert all(f"[`kitlib.{name}`]({name}.md): " in pages["api/index.md"] for name in ("moe", "training", "parallel"))
    assert "- `num_experts`: E\n" in pages["api/configs.md"]
    assert "[notebooks/03_routers.ipynb](../lessons/03_routers.ipynb)" in pages["api/moe.md"]
    assert ":::::{dropdown} source\n````python\ndef top_k(" in pages["api/moe.md"]
