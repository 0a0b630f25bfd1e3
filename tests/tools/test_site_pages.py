"""kitlib.tools.site_pages: cards, claims, docstrings as Markdown; every public name is in the API reference."""

import ast

import pandas as pd

from kitlib.data import files
from kitlib.studies import registry
from kitlib.tools import site_pages
from kitlib.tools.executed import Check
from kitlib.tools.site_pages import Lesson

LESSONS = [
    Lesson("01_a", "01 A <b>", "What it\n[says](00_x.ipynb).", True, 3, ""),
    Lesson("02_c", "02 C", "", False, 0, "cell 4: x > 0 failed"),
]


def test_cards_link_to_lessons_and_say_what_failed():
    text = site_pages.cards(LESSONS)
    first, second = text.split(":::{grid-item-card} ")[1:]
    assert first.startswith(
        "01 A <b>\n:link: lessons/01_a\n:link-type: doc\n:img-top: _static/01_a.png\n\nWhat it says."
    )
    assert "img-top" not in second and "This lesson failed" in second and "This lesson failed" not in first


def test_links_to_files_lead_to_pages():
    text = "[`moe.routing`](../kitlib/moe/routing.py), [`configs`](../kitlib/configs/__init__.py), "
    text += "[g](../docs/glossary.md)"
    assert site_pages.links_of_the_site(text) == (
        "[`moe.routing`](../api/moe.md#kitlib.moe.routing), [`configs`](../api/configs.md), [g](../glossary.md)"
    )
    assert site_pages.links_of_the_site("[next](08_x.ipynb)") == "[next](08_x.ipynb)"


def test_pages_of_docs_are_filled_in_and_link_to_lessons(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nSee [1](../notebooks/01_a.ipynb).\n\n{{lessons}}\n")
    claims = pd.DataFrame([], columns=registry.COLUMNS)
    text = site_pages.texts(tmp_path, LESSONS, claims)["a.md"]
    assert text == f"# A\n\nSee [1](lessons/01_a.ipynb).\n\n{site_pages.cards(LESSONS)}\n"


def test_checks_are_folded_away_and_escaped():
    text = site_pages.folded_checks([Check("ok", "p < q", "measured 3", "expected 3 & more")])
    assert "<details><summary>1 checks</summary>" in text
    assert "<td>p &lt; q</td><td>measured 3</td><td>expected 3 &amp; more</td>" in text


def test_claims_are_linked_by_paper():
    claims = pd.DataFrame(
        [("palix", "abstract", "a < b", "55B", "01.3", "kit run 01", "-", "checked: a\nand b"),
         ("upcycling", "figure 9", "c", "", "", "-", "-", "no counterpart: d"),
         ("upcycling", "table 1", "e", "", "moe/test_e3.py", "kit test moe/test_e3.py", "-", "checked: f")],
        columns=registry.COLUMNS,
    )  # fmt: skip
    text = site_pages.claims_table(claims, {"01": "01_a"})
    assert text.index("## PaLI-X") < text.index("## Sparse Upcycling")
    assert "<b>abstract</b>: a &lt; b<br><i>published: 55B</i></td><td>checked: a<br>and b</td>" in text
    assert '<a href="lessons/01_a.html">01.3</a><br><code>kit run 01</code>' in text
    assert "<b>figure 9</b>: c</td><td>no counterpart: d</td><td></td>" in text
    assert "<td>moe/test_e3.py<br><code>kit test moe/test_e3.py</code></td>" in text


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
    assert site_pages.prose(DOC.rstrip()) == (
        "What it does, for x float[B, N] with a \\< b and \\$5.\n\n"
        "````python\ny = f(x)      # float[B]\nz = g(y)\n````\n\n"
        "**Args:**\n\n- `x`: the input, float[B, N], or none.\n- `*rest`: others.\n\n"
        "Raises ValueError for `x` of another shape."
    )
    assert site_pages.prose("") == ""


def test_signatures():
    source = "class A(B, C):\n    x: int = 3\n    def f(self, y: int, *, z=2) -> str: ...\n    def _g(self): ...\n"
    assert site_pages.signature(ast.parse(source).body[0]) == (
        "class A(B, C)\n    x: int = 3\n    def f(self, y: int, *, z=2) -> str"
    )
    assert site_pages.signature(ast.parse("def f(a, *b): ...").body[0]) == "def f(a, *b)"


def test_every_module_and_every_public_name_is_in_the_reference():
    pages = site_pages.api(files.ROOT)
    for path in (files.ROOT / "kitlib").glob("*/*.py"):
        text = pages[f"api/{path.parent.name}.md"]
        if path.stem == "__init__":
            continue
        assert f"(kitlib.{path.parent.name}.{path.stem})=\n## {path.stem}" in text
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert f"### {node.name}\n" in text
    assert all(f"[`kitlib.{name}`]({name}.md): " in pages["api/index.md"] for name in ("moe", "training", "parallel"))
    linked = site_pages.api(files.ROOT, "https://example.org/kit")["api/moe.md"]
    assert "[source](https://example.org/kit/blob/main/kitlib/moe/routing.py)" in linked


def test_pages_of_docs_are_filled_in(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n{{lessons}}\n\n{{toctree}}\n")
    (tmp_path / "docs" / "claims.md").write_text("{{claims}}")
    claims = pd.DataFrame([("palix", "a", "b", "", "", "-", "-", "c")], columns=registry.COLUMNS)
    pages = site_pages.texts(tmp_path, LESSONS, claims)
    assert set(pages) == {"index.md", "claims.md"} and "## PaLI-X" in pages["claims.md"]
    assert "lessons/01_a\nlessons/02_c\n" in pages["index.md"] and "{{" not in pages["index.md"]
