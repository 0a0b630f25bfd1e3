import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kitlib.tools import cli, doctor, notebooks


def test_help_does_not_import_jax():
    for modules, absent in (("kitlib.tools.cli", {"jax", "numpy"}), ("kitlib.tools.notebooks", {"jax"})):
        code = f"import sys, {modules}; sys.exit(bool({absent} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_kit_scale_is_checked(monkeypatch):
    monkeypatch.setenv("KIT_SCALE", "huge")
    with pytest.raises(SystemExit, match="got 'huge', expected cpu, gpu or pod"):
        cli.run()


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kit", "doctor"])
    monkeypatch.setattr(doctor, "main", lambda: __import__("no_such_package"))
    with pytest.raises(SystemExit, match=r"No module named 'no_such_package'.*pip install -e"):
        cli.main()


def test_stamp_writes_badge_and_setup_cell():
    address = "https://github.com/someone/kit"
    setup = new_code_cell('"google.colab"', metadata={"tags": [notebooks.SKIP]})
    nb = new_notebook(cells=[new_markdown_cell("# 01 Title"), setup])
    for _ in range(2):  # stamping twice is stamping once
        cli.stamp_notebook(nb, "01_x.ipynb", address)
        title, badge = nb.cells[0].source.split("\n\n")
        assert title == "# 01 Title"
        assert "/github/someone/kit/blob/v" in badge and badge.endswith("/notebooks/01_x.ipynb)")
        assert setup.source == notebooks.setup_cell(address)
    cli.stamp_notebook(nb, "01_x.ipynb", "")
    assert nb.cells[0].source == "# 01 Title"  # no dead badge
    with pytest.raises(SystemExit, match="got 0 set-up cells"):
        cli.stamp_notebook(new_notebook(cells=[new_markdown_cell("# 01 Title")]), "01_x.ipynb", "")
