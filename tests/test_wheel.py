"""The kit as an installed wheel: it finds data and notebooks, and writes nothing beside itself. An editable install
copies no data."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from kitlib.data import files

pytestmark = pytest.mark.slow


def build(kind: str, folder) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=files.ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which the wheel was unpacked, as pip would; read-only, as a system's site-packages is."""
    folder = tmp_path_factory.mktemp("wheel")
    with build("wheel", folder) as wheel:
        wheel.extractall(folder / "site-packages")
    return folder / "site-packages"


CODE = """
import kitlib, json
from pathlib import Path
from kitlib import data
from kitlib.data import files, captioned, texts
from kitlib.multimodal import stages
from kitlib.studies import runner, tables
from kitlib.tools import notebook_files
assert not files.is_checkout()
print(json.dumps({
    "package": kitlib.__file__, "pictures": len(data.load("fashion_mnist", "test")), "facts": len(texts.facts()),
    "table": len(tables.read_table("upcycling", "recall_curves")), "weights": str(stages.released_file()),
    "results": str(runner.RESULTS), "work": str(runner.WORK),
    "copies": len(notebook_files.copy(Path("lessons"))),
}))
"""


def test_a_wheel_is_whole_and_writes_into_the_users_folder(installed, tmp_path):
    before = sorted(installed.rglob("*"))
    env = {name: value for name, value in os.environ.items() if name != "KIT_HOME"}
    env |= {"PYTHONPATH": str(installed), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["package"].startswith(str(installed)) and found["weights"].startswith(str(installed))
    assert (found["pictures"], found["facts"]) == (5_000, 30_160) and found["table"] > 100
    home = tmp_path / ".local" / "share" / "kitlib"
    assert found["results"] == str(home / "data" / "results") and found["work"] == str(home / "build" / "claims")
    assert found["copies"] == len(list((files.ROOT / "notebooks").glob("*.ipynb")))
    assert sorted(installed.rglob("*")) == before
    # One's own table is read in place of the kit's, and one's own folder can be named.
    own = "from kitlib.studies import runner, tables as t; print(runner.RESULTS, len(t.read_table('upcycling', "
    own += "'recall_curves')))"
    (tmp_path / "mine" / "data" / "results").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "results" / "upcycling_recall_curves.csv").write_text("arm,seed,loss\na,0,1.5\n")
    env["KIT_HOME"] = str(tmp_path / "mine")
    done = subprocess.run([sys.executable, "-c", own], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "mine" / "data" / "results"), "1"]


def test_an_editable_install_copies_nothing(tmp_path):
    with build("wheel:editable", tmp_path) as wheel:
        assert sum(entry.file_size for entry in wheel.infolist()) < 100_000
        assert not any("_data" in name or "_notebooks" in name for name in wheel.namelist())
