"""The set-up cell of the notebooks in an environment like Colab's: JAX and the usual packages are there and loaded, the
kit and what is rare are not. Needs uv and a package index; skipped by name without."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pythons import clean, newest, path_of, uv

from kitlib.data import files
from kitlib.tools import notebook_files

pytestmark = pytest.mark.slow

# Of the kit's requirements, those that Colab has by its list; the kit's own lower bounds, so that the set is found.
PRESENT = (
    "jax", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "packaging", "tensorflow-datasets", "requests",
    "pillow", "pandas", "matplotlib", "seaborn", "tqdm", "safetensors", "scikit-learn", "sentencepiece",
    "importlib-resources", "pip", "ipython",
)  # fmt: skip
ABSENT = ("array-record", "grain", "tyro")

SCRIPT = """
import json, sys
import jax, numpy, pandas, google.colab
cells = json.loads(sys.argv[1])
before = numpy.__version__, jax.__version__
exec(cells["setup"], {})
scope = {}
exec(cells["imports"], scope)
import kitlib, importlib.metadata
from kitlib import data
now = importlib.metadata.version("numpy"), importlib.metadata.version("jax")
print(json.dumps({"before": before, "now": now, "kit": kitlib.__file__, "n": len(data.load("fashion_mnist", "test"))}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=files.ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=("3.11", newest()))
def like_colab(request, tmp_path_factory) -> Path:
    """The Python of an environment with what Colab has, and an empty package google.colab."""
    if not path_of(request.param):
        pytest.skip(f"uv or Python {request.param} is missing")
    folder = tmp_path_factory.mktemp("colab") / "env"
    uv("venv", "--no-python-downloads", "--python", request.param, folder, check=True)
    done = uv("pip", "install", "--python", folder / "bin" / "python", *PRESENT)
    for name in ABSENT:  # some come with others
        uv("pip", "uninstall", "--python", folder / "bin" / "python", name)
    if done.returncode:
        pytest.skip(f"no environment like Colab's could be made: {done.stderr[-200:]}")
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    return folder / "bin" / "python"


def run(python: Path, kit: str, folder: Path) -> subprocess.CompletedProcess:
    lesson = json.loads((files.ROOT / "notebooks" / "01_vit_from_pixels_to_logits.ipynb").read_text())
    code = ["".join(cell["source"]) for cell in lesson["cells"] if cell["cell_type"] == "code"]
    setup, imports = next(c for c in code if "google.colab" in c), next(c for c in code if "plots.style()" in c)
    env = clean(KITLIB=kit) if kit else clean()
    cells = json.dumps({"setup": setup, "imports": imports})
    return subprocess.run([python, "-c", SCRIPT, cells], cwd=folder, env=env, capture_output=True, text=True)


def test_the_cell_installs_what_is_missing_and_touches_nothing_else(like_colab, wheel, tmp_path):
    """First without a name, then with a wheel, as uploaded; the lesson goes on without a restart."""
    if not notebook_files.repository():  # with an address the cell installs from there
        unnamed = run(like_colab, "", tmp_path)
        assert unnamed.returncode == 1 and unnamed.stdout == ""
        first, by_wheel, by_clone = unnamed.stderr.splitlines()
        assert "kitlib is not here yet" in first and "`make lab`" in first
        assert "%env KITLIB=/content/kitlib-" in by_wheel and "!git clone --depth 1 ADDRESS /content/kit" in by_clone
    done = run(like_colab, str(wheel), tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("is ready: python 3." in line and line.endswith("no restart is needed") for line in lines)
    found = json.loads(lines[-1])
    assert found["now"] == found["before"] and found["n"] == 5000
    assert str(like_colab.parents[1]) in found["kit"]
    again = run(like_colab, str(wheel), tmp_path)
    assert again.returncode == 0 and "installing" not in again.stdout
