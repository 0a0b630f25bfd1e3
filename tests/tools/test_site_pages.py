"""kitlib.tools.site: cards, claims, docstrings as Markdown; every public name is in the API reference."""

import ast

import pandas as pd

from kitlib.data import files
from kitlib.studies import claims
from kitlib.tools import site
from kitlib.tools.notebook_files import Check
from kitlib.tools.site import Lesson

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
    assert site.links_of_the_site(
        "[`runs`](../kitlib/studies/palix/runs.py), [p](../kitlib/studies/palix/__init__.py)"
    ) == ("[`runs`](../api/studies.palix.md#kitlib.studies.palix.runs), [p](../api/studies.palix.md)")
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
    text = site.folded_checks([Check("ok", "p < q", "measured 3", "expected 3 & more")])
    assert ":::{dropdown} 1 checks\n" in text and "\n| ok | p \\< q | measured 3 | expected 3 & more |\n:::" in text


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
    for path in (files.ROOT / "kitlib").glob("*/**/*.py"):
        package = ".".join(path.parent.relative_to(files.ROOT / "kitlib").parts)
        text = pages[f"api/{package}.md"]
        if path.stem == "__init__":
            continue
        assert f"(kitlib.{package}.{path.stem})=\n## {path.stem}" in text
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert f"### {node.name}\n" in text
    assert all(
        f"[`kitlib.{name}`]({name}.md): " in pages["api/index.md"] for name in ("moe", "training", "studies.palix")
    )
    assert "- `num_experts`: E\n" in pages["api/configs.md"]
    assert "[notebooks/03_routers.ipynb](../lessons/03_routers.ipynb)" in pages["api/moe.md"]
    assert ":::::{dropdown} source\n````python\ndef top_k(" in pages["api/moe.md"]
