"""README's other ways to install, done in fresh environments: on the oldest Python with the lowest versions that
pyproject.toml declares, on the newest with the newest. Needs uv and a package index; skipped by name without.

One environment per Python, which both tests use; lessons are cut after their first check, as `kit check` runs them whole.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from pythons import clean, newest, path_of, uv

import kitlib
from kitlib.data.files import ROOT

pytestmark = pytest.mark.slow

WAYS = {"3.11": "lowest-direct", newest(): "highest"}  # which versions on which Python
IMPORT_ALL = """
import importlib, pkgutil, kitlib
for module in pkgutil.walk_packages(kitlib.__path__, "kitlib."):
    if ".tools." not in module.name:  # some belong to the extra "test"
        importlib.import_module(module.name)
"""
# A mixture learns, is evaluated and saved: what the kit uses of JAX, Flax, Optax, Orbax and Grain.
TRAIN = "train vmoe --steps 2 --warmup 1 --batch-size 8 --model.depth 2 --model.width 16 --model.moe.num-experts 2"


def succeeded(done: subprocess.CompletedProcess) -> str:
    if done.returncode and re.search("NewConnectionError|error sending request", done.stderr):
        pytest.skip("there is no package index here")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module", params=WAYS)
def there(request, tmp_path_factory) -> tuple[Path, str]:
    """(the bin of an environment without the kit, how versions are chosen in it)."""
    if not path_of(request.param):
        pytest.skip(f"uv or Python {request.param} is missing")
    folder = tmp_path_factory.mktemp("installed") / "env"
    succeeded(uv("venv", "--no-python-downloads", "--python", request.param, folder))
    return folder / "bin", WAYS[request.param]


def install(there, what: str, *options: str) -> None:
    bin, resolution = there
    succeeded(uv("pip", "install", "--python", bin / "python", "--resolution", resolution, *options, what, cwd=ROOT))


def run(there, folder: Path, program: str, *arguments) -> str:
    command = [there[0] / program, *map(str, arguments)]
    env = clean(PATH=f"{there[0]}{os.pathsep}{os.environ['PATH']}")
    return succeeded(subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True))


def cut(path: Path) -> None:
    """Leaves out what comes after a lesson's first check."""
    nb = nbformat.read(path, nbformat.NO_CONVERT)
    nb.cells = nb.cells[: 1 + next(i for i, cell in enumerate(nb.cells) if "\nsame(" in cell.source)]
    nbformat.write(nb, path)


def test_an_environment_that_keeps_its_versions(there, tmp_path):
    install(there, ".[lab]", "-e")
    assert "nothing to repair" in run(there, tmp_path, "kit", "doctor")
    run(there, tmp_path, "python", "-c", IMPORT_ALL)
    assert "saved" in run(there, tmp_path, "kit", *TRAIN.split())
    if there[1] == "lowest-direct":
        wanted = [Requirement(text) for text in importlib.metadata.requires("kitlib")]
        wanted = {one.name: one.specifier for one in wanted if one.marker is None}
        code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {list(wanted)}}}))"
        for name, version in json.loads(run(there, tmp_path, "python", "-c", code)).items():
            (lowest,) = wanted[name]
            assert lowest.operator == ">=" and version.startswith(lowest.version), (name, version)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, "."]
    succeeded(subprocess.run(command, cwd=ROOT, env=clean(), capture_output=True, text=True))
    (path,) = folder.glob("*.whl")
    assert path.name == f"kitlib-{kitlib.__version__}-py3-none-any.whl"
    return path


def test_the_wheel_without_the_checkout(there, wheel, tmp_path):
    """After the test above, so that what it needs is there already. A lesson is copied and executed as README says."""
    install(there, f"{wheel}[lab]")
    assert "site-packages" in run(there, tmp_path, "python", "-c", "import kitlib; print(kitlib.__file__)")
    run(there, tmp_path, "kit", "copy", "mine", "00")
    (path,) = (tmp_path / "mine").glob("00_*.ipynb")
    cut(path)
    run(there, tmp_path, "jupyter", "execute", "--inplace", path)
    assert "[ok] softmax == jax.nn.softmax" in path.read_text()


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
@pytest.mark.parametrize("version", WAYS)
def test_the_first_command_on_the_oldest_and_the_newest_python(version, tmp_path):
    """`make run` in a copy of the checkout, which makes an environment of the locked set first. The Python of these tests
    is left out: `make test` has made their environment in the same way."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"these tests run in the locked set of Python {version}")
    if not path_of(version):
        pytest.skip(f"uv or Python {version} is missing")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    for name in (name for name in listed.stdout.split("\0") if (ROOT / name).is_file()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    cut(tmp_path / "notebooks" / "00_start_here.ipynb")
    command = ["make", "-s", f"PYTHON={path_of(version)}", "run", "NB=00"]
    shown = succeeded(subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True))
    assert "All notebooks passed." in shown and (tmp_path / "build" / "site" / "index.html").is_file()
