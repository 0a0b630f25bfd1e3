"""README's other ways to install, done in fresh environments: on the oldest Python with the lowest versions that
pyproject.toml declares, on the newest with the newest. Needs uv and a package index; skipped by name without."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import kitlib
from kitlib.data.files import ROOT

pytestmark = pytest.mark.slow

WAYS = {"3.11": "lowest-direct", "3.13": "highest"}  # which versions on which Python
IMPORT_ALL = """
import importlib, pkgutil, kitlib
for module in pkgutil.walk_packages(kitlib.__path__, "kitlib."):
    if ".tools." not in module.name:  # some belong to the extra "test"
        importlib.import_module(module.name)
"""


def uv(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "uv", *map(str, arguments)], capture_output=True, text=True, **options)


def clean(**more: str) -> dict[str, str]:
    """The variables of a user's shell: none of ours."""
    ours = ("PYTHONPATH", "XLA_FLAGS", "KITLIB", "KIT_DATA_DIR", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")
    return {name: value for name, value in os.environ.items() if name not in ours} | {"JAX_PLATFORMS": "cpu"} | more


@pytest.fixture(scope="module", params=WAYS)
def there(request, tmp_path_factory) -> tuple[Path, str]:
    """(the bin of an environment without the kit, how versions are chosen in it)."""
    if uv("python", "find", "--no-python-downloads", request.param).returncode:
        pytest.skip(f"uv or Python {request.param} is missing")
    folder = tmp_path_factory.mktemp("installed") / "env"
    assert uv("venv", "--no-python-downloads", "--python", request.param, folder).returncode == 0
    return folder / "bin", WAYS[request.param]


def install(there, what: str, *options: str) -> None:
    bin, resolution = there
    done = uv("pip", "install", "--python", bin / "python", "--resolution", resolution, *options, what, cwd=ROOT)
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip("there is no package index here")
    assert done.returncode == 0, done.stderr


def run(there, folder: Path, program: str, *arguments) -> str:
    command = [there[0] / program, *map(str, arguments)]
    env = clean(PATH=f"{there[0]}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def executed(there, folder: Path, number: str) -> None:
    """A copy of a lesson is executed as README says; all of its checks pass, or the command would fail."""
    run(there, folder, "kit", "copy", "mine", number)
    (path,) = (folder / "mine").glob(f"{number}_*.ipynb")
    stored = path.read_text()
    run(there, folder, "jupyter", "execute", "--inplace", path)
    (lesson, again) = (re.findall(r"kit: (\d+) checks passed", text) for text in (stored, path.read_text()))
    assert lesson == again != []


def test_an_environment_that_keeps_its_versions(there, tmp_path):
    install(there, ".[lab]", "-e")
    assert "nothing to repair" in run(there, tmp_path, "kit", "doctor")
    run(there, tmp_path, "python", "-c", IMPORT_ALL)
    if there[1] == "lowest-direct":
        wanted = [Requirement(text) for text in importlib.metadata.requires("kitlib")]
        wanted = {one.name: one.specifier for one in wanted if one.marker is None}
        code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {list(wanted)}}}))"
        for name, version in json.loads(run(there, tmp_path, "python", "-c", code)).items():
            (lowest,) = wanted[name]
            assert lowest.operator == ">=" and version.startswith(lowest.version), (name, version)
        executed(there, tmp_path, "01")  # on the newest Python lessons run in the tests below


def test_the_wheel_without_the_checkout(there, tmp_path):
    """After the test above, so that what it needs is there already."""
    run(there, ROOT, "python", "-m", "ensurepip")
    run(there, ROOT, "python", "-m", "pip", "wheel", "--no-deps", "-w", tmp_path / "dist", ".")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name == f"kitlib-{kitlib.__version__}-py3-none-any.whl"
    install(there, f"{wheel}[lab]")
    assert "site-packages" in run(there, tmp_path, "python", "-c", "import kitlib; print(kitlib.__file__)")
    executed(there, tmp_path, "00")


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
@pytest.mark.parametrize("version", WAYS)
def test_the_first_command_on_the_oldest_and_the_newest_python(version, tmp_path):
    """`make run` in a copy of the checkout, which makes an environment of the locked set first."""
    found = uv("python", "find", "--no-python-downloads", version)
    if found.returncode:
        pytest.skip(f"uv or Python {version} is missing")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    for name in (name for name in listed.stdout.split("\0") if (ROOT / name).is_file()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = ["make", "-s", f"PYTHON={found.stdout.strip()}", "run", "NB=00"]
    done = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True)
    if done.returncode and re.search("NewConnectionError|error sending request", done.stderr):
        pytest.skip("there is no package index here")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "All notebooks passed." in done.stdout and (tmp_path / "build" / "site" / "index.html").is_file()
