"""The pip path (requirements.lock) and the conda path (environment.yml) install one and the same, tested set."""

import re
import subprocess
import tomllib
from importlib import metadata

import pytest
import yaml
from environment import LOCK, ROOT, YML, environment_yml, pins
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# The machines that the lock is made for: every supported Python, on Linux and macOS.
MACHINES = [
    {"sys_platform": system, "python_full_version": python, "implementation_name": "cpython"}
    for system in ("linux", "darwin")
    for python in ("3.11.4", "3.11.9", "3.12.8", "3.13.5", "3.14.2")
]


def locked_requirements() -> list[Requirement]:
    """Parsed here without environment.pins, which is under test."""
    return [Requirement(found) for found in re.findall(r"^([A-Za-z0-9].*?)(?: \\)?$", LOCK.read_text(), re.MULTILINE)]


def yml_pip_lines() -> list[str]:
    dependencies = yaml.safe_load(YML.read_text())["dependencies"]
    return next(entry["pip"] for entry in dependencies if isinstance(entry, dict))


def holding(requirements: list[Requirement], machine: dict) -> set[str]:
    here = [r for r in requirements if r.marker is None or Marker(str(r.marker)).evaluate(machine)]
    return {f"{canonicalize_name(r.name)}{r.specifier}" for r in here}


def test_the_installer_itself_is_pinned_and_hashed():
    """The Makefile's own line takes uv, and nothing else, out of the lock; pip checks its hash."""
    makefile = (ROOT / "Makefile").read_text().partition(".venv-newest/ready:")[0]  # that one is not the pinned set
    program = re.search(r"@awk '([^']+)' requirements\.lock > \.venv/installer\.lock", makefile)[1]
    assert "--require-hashes -r .venv/installer.lock" in makefile and "pip install -q uv" not in makefile
    taken = subprocess.run(["awk", program, LOCK], capture_output=True, text=True, check=True).stdout.splitlines()
    assert re.fullmatch(r"uv==[\d.]+ .*\\", taken[0]) and len(taken) > 1
    assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in taken[1:])


def test_conda_brings_only_python_and_pip():
    assert YML.read_text() == environment_yml(LOCK.read_text()), "run: python tests/environment.py --write"
    found = yaml.safe_load(YML.read_text())
    assert found["name"] == "kit"
    assert [entry for entry in found["dependencies"] if isinstance(entry, str)] == ["python>=3.11,<3.15", "pip"]
    for text in (LOCK.read_text(), YML.read_text()):  # no host is named
        assert not re.search(r"https?:|://|index-url|find-links|trusted-host", text)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m['sys_platform']}-{m['python_full_version']}")
def test_both_paths_install_the_same_set(machine):
    *pip, kit = yml_pip_lines()
    assert kit == "-e ."
    assert holding([Requirement(line) for line in pip], machine) == holding(locked_requirements(), machine)


def test_pins_keep_only_markers_that_distinguish():
    common = "python_full_version < '3.15' and (sys_platform == 'darwin' or sys_platform == 'linux')"
    lock = f"a==1 ; {common} \\\n    --hash=sha256:00\nb==2 ; python_full_version >= '3.11.5' and {common}\nc==3\n"
    lock += "d==4 ; python_full_version < '3.15' and sys_platform == 'darwin'\n"
    assert pins(lock) == ["a==1", "b==2 ; python_full_version >= '3.11.5'", "c==3", "d==4 ; sys_platform == 'darwin'"]


def test_the_lock_is_what_is_installed_here():
    here = [r for r in locked_requirements() if not r.marker or r.marker.evaluate()]
    wanted = {canonicalize_name(r.name): str(r.specifier) for r in here}
    installed = {canonicalize_name(d.metadata["Name"]): f"=={d.version}" for d in metadata.distributions()}
    tools = {"pip", "setuptools", "wheel", "kitlib"}  # what venv brings, and the kit
    assert {name: installed.get(name) for name in wanted} == wanted
    assert set(installed) - tools - set(wanted) == set(), "installed here but not in requirements.lock"


def test_every_dependency_and_extra_is_locked_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {canonicalize_name(r.name): next(iter(r.specifier)).version for r in locked_requirements()}
    extras = [text for extra in ("lab", "test") for text in project["optional-dependencies"][extra]]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement
        assert any(s.operator == ">=" for s in requirement.specifier), f"{requirement} has no lower bound"


def test_every_entry_of_the_lock_is_one_version_with_hashes():
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK.read_text().strip())
    assert len(entries) > 100
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.!+]+", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), f"{entry.splitlines()[0]} has no hash"
