"""kitlib.tools.notebook_files: copies for exercises, saving without a change, what an executed notebook shows (the rest
is in test_notebooks.py)."""

import base64
import json
import os
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kitlib.data import files
from kitlib.tools import html_table, notebook_files

ALL = sorted((files.ROOT / "notebooks").glob("*.ipynb"))


def test_copies_are_for_exercises(tmp_path):
    copies = notebook_files.copy(tmp_path / "mine", ("07", "13"))
    assert [path.name for path in copies] == ["07_sparse_upcycling.ipynb", "13_pali_x.ipynb"]
    before = json.loads((files.ROOT / "notebooks" / copies[0].name).read_text())["cells"]
    after = json.loads(copies[0].read_text())["cells"]
    assert [cell for cell in before if cell["cell_type"] == "code"] == [c for c in after if c["cell_type"] == "code"]
    text = "".join(line for cell in after if cell["cell_type"] == "markdown" for line in cell["source"])
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("https:")]
    assert len(links) > 10 and all((copies[0].parent / link).exists() for link in links)  # also those to other lessons
    copies[0].write_text("done")
    with pytest.raises(SystemExit, match=r"07_sparse_upcycling\.ipynb is there already; name another folder"):
        notebook_files.copy(tmp_path / "mine", ("06", "07"))
    assert copies[0].read_text() == "done" and not (tmp_path / "mine" / "06_expert_choice_and_soft_moe.ipynb").exists()
    with pytest.raises(SystemExit, match="did you mean '07_sparse_upcycling'"):
        notebook_files.copy(tmp_path / "other", ("07_sprase",))
    assert not (tmp_path / "other").exists()
    assert len(notebook_files.copy(tmp_path / "all")) == len(ALL)


@pytest.mark.parametrize("name", ["mine/07_sparse_upcycling.ipynb", "mine/07"])
def test_a_copy_is_not_taken_for_the_lesson_of_its_name(name, tmp_path, monkeypatch):
    """By its path a lesson is found from anywhere; a copy of the same name would be left alone."""
    assert notebook_files.find((str(files.ROOT / "notebooks" / "07_sparse_upcycling.ipynb"), "notebooks/08"))
    notebook_files.copy(tmp_path / "mine", ("07",))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"{name} is none of the kit's own notebooks; .* jupyter execute --inplace"):
        notebook_files.find((name,))


def test_a_wheel_has_its_notebooks_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook_files, "ROOT", tmp_path)
    (tmp_path / "kitlib" / "_notebooks").mkdir(parents=True)
    (tmp_path / "kitlib" / "_notebooks" / "01_x.ipynb").write_text("{}")
    assert [path.name for path in notebook_files.copy(tmp_path / "mine")] == ["01_x.ipynb"]
    with pytest.raises(SystemExit, match="take them out with `kit copy FOLDER`"):
        notebook_files.find((), tmp_path)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem[:2])
def test_opened_and_saved_is_unchanged(path):
    """What JupyterLab sends when a notebook is saved: its own metadata added, everything else as it was read."""
    nb = nbformat.read(path, as_version=4)
    nb.metadata.language_info = {"name": "python", "version": "3.12.1", "file_extension": ".py"}
    nb.metadata["widgets"] = {}
    for cell in nb.cells:
        cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01"}
    model = {"type": "notebook", "content": nb, "format": "json"}
    notebook_files.before_saving(model=model, path=path.name, contents_manager=None)
    assert nbformat.writes(model["content"]).rstrip("\n") == path.read_text(encoding="utf-8").rstrip("\n")
    other = {"type": "file", "content": "text"}
    notebook_files.before_saving(model=other)
    assert other == {"type": "file", "content": "text"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem[:2])
def test_every_set_up_cell_is_as_kit_stamp_writes_it(path):
    """The same in all, folded in Colab, with the badge of the address or none; without an address two lines say what to
    do, each no longer than a screen."""
    nb = nbformat.read(path, as_version=4)
    notebook_files.stamp(nb, path.name, notebook_files.repository())
    assert nbformat.writes(nb).rstrip("\n") == path.read_text(encoding="utf-8").rstrip("\n")
    (setup,) = [cell for cell in nb.cells if notebook_files.SKIP in cell.metadata.get("tags", [])][:1]
    assert setup.metadata["cellView"] == "form" and setup.source.startswith("# @title ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Overriding existing pre_save_hook")  # with itself
def test_jupyterlabs_server_saves_without_a_change(tmp_path, monkeypatch):
    """JupyterLab's own contents manager, configured as `kit lab` does it, beside what the user has configured."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from traitlets.config.loader import PyFileConfigLoader

    copies = notebook_files.copy(tmp_path / "notebooks", ("07",))
    before = copies[0].read_bytes()
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/the/users/own")
    folder, own = notebook_files.jupyter_environment(tmp_path)["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert own == "/the/users/own"
    config = PyFileConfigLoader("jupyter_server_config.py", folder).load_config()
    manager = LargeFileManager(root_dir=str(tmp_path / "notebooks"), config=config)
    model = manager.get(copies[0].name)
    model["content"]["metadata"]["language_info"]["version"] = "3.13.0"
    manager.save(model, copies[0].name)
    assert copies[0].read_bytes().rstrip(b"\n") == before.rstrip(b"\n")


def test_badges_of_an_address_and_of_none():
    """Stamping twice is stamping once, the rest of the page stays, and the repository's page has none while unset."""
    with pytest.raises(SystemExit, match="got 0 set-up cells"):
        notebook_files.stamp(nbformat.v4.new_notebook(), "01_x.ipynb", "")
    readme = "# kitlib\n\n<!-- badges -->\n\ntext <!-- badges -->\n"
    stamped = notebook_files.with_badges(readme, "https://github.com/people/kit")
    line = stamped.splitlines()[2]
    assert "(https://github.com/people/kit/actions/workflows/tests.yml)" in line
    assert "https://people.github.io/kit)" in line and "text <!-- badges -->" in stamped
    assert notebook_files.with_badges(stamped, "https://github.com/people/kit") == stamped
    assert notebook_files.with_badges(stamped, "") == readme
    clone = "```bash\ngit clone --depth 1 ADDRESS kitlib\n```\n"
    stamped = notebook_files.with_badges(clone, "https://github.com/people/kit")
    assert "\ngit clone --depth 1 https://github.com/people/kit kitlib\n" in stamped
    assert notebook_files.with_badges(stamped, "") == clone
    page = (files.ROOT / "README.md").read_text()
    assert notebook_files.with_badges(page, notebook_files.repository()) == page


# What an executed notebook shows


def shown(line, *cells):
    data = {"text/plain": line, "text/html": html_table.row(cells)}
    return new_code_cell("...", outputs=[new_output("display_data", data)])


def printed(text, name="stdout"):
    return new_code_cell("...", outputs=[new_output("stream", name=name, text=text)])


def test_check_lines_are_the_checks_that_a_notebook_showed():
    checks = [("ok", "a", "measured 1.2", "expected 1.25 ±0.1"), ("no difference above 0.1", "d", "gain +0", "...")]
    cells = [shown(f"[{check[0]}] {check[1]}: stable", *check) for check in checks]
    others = [printed("[ok] printed\n"), new_markdown_cell("[ok] prose"), shown("a table", "ok", "x", "y", "z")]
    others += [printed("kit: 7 checks passed\n")]
    nb = new_notebook(cells=cells + others)
    assert notebook_files.check_lines(nb) == [notebook_files.Check(*check) for check in checks]
    assert notebook_files.number_of_checks(nb) == 7
    assert notebook_files.number_of_checks(new_notebook(cells=cells)) == 2


def test_the_summary_is_the_first_heading_and_the_first_paragraph_of_prose():
    cells = [
        new_markdown_cell("# 07 Title\n\n[![badge](x)](y)\n\n| a | table |"),
        new_code_cell("x"),
        new_markdown_cell("## Section\n\n- a list\n\nThe first\nparagraph.\n\nThe second."),
    ]
    assert notebook_files.title_and_paragraph(new_notebook(cells=cells)) == ("07 Title", "The first\nparagraph.")
    assert notebook_files.title_and_paragraph(new_notebook(cells=[new_code_cell("x")])) == ("", "")


def test_the_last_figure_before_the_exercises():
    def figure(content):
        png = {"image/png": base64.b64encode(content).decode()}
        return new_code_cell("x", outputs=[new_output("display_data", png)])

    cells = [
        figure(b"first"), figure(b"last"), printed("no figure"), new_markdown_cell("## Exercises"), figure(b"a task"),
    ]  # fmt: skip
    assert notebook_files.last_figure(new_notebook(cells=cells)) == b"last"
    assert notebook_files.last_figure(new_notebook(cells=cells[2:])) is None
