"""kitlib.tools.notebook_files: copies for exercises, and saving without a change (the rest is in test_notebooks.py)."""

import json
import os
import re

import nbformat
import pytest

from kitlib.data import files
from kitlib.tools import notebook_files

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
    manager.notary.store.close()  # its database of signatures, which a server keeps open: Python 3.13 warns of that
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
