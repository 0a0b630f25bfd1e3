"""kitlib.tools.site: built from the stored notebooks, with a public address, and opened offline in a real browser."""

import re
import shutil
import subprocess

import nbformat
import pytest

from kitlib import __version__
from kitlib.data import files
from kitlib.tools import notebook_files, site

pytestmark = pytest.mark.slow

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
    assert "top_k" in api and "def dispatcher_of" in re.sub(r"<[^>]+>", "", api)


def test_a_page_that_sphinx_refuses_is_one_message(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(files.ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "docs" / "conf.py").write_text("raise ValueError('no such theme')")
    with pytest.raises(SystemExit, match=r"The site could not be built: (.|\n)*no such theme"):
        site.write(tmp_path)
