"""The house rules of the library: layers, short modules, a light import, a test per module."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kitlib.data.files import ROOT

LIBRARY = ROOT / "kitlib"
# From the ground up. A package imports from packages on lower floors and from itself, never from its own floor.
FLOORS = (
    ("configs",), ("metrics", "parallel"), ("data",), ("layers",), ("moe", "synthetic"), ("models", "training"),
    ("upcycling", "ensembles", "multimodal"), ("studies", "bench", "runs"), ("tools",),
)  # fmt: skip
MAX_LINES = 500


def modules(root: Path) -> dict[str, str]:
    """{"kitlib.moe.routing": source} of every module below root; a package's name stands for its __init__."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports(name: str, sources: dict[str, str]) -> set[str]:
    """Modules of the library that a module imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(sources[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from kitlib.moe import routing` is about the module, `from kitlib.moe import MoEMlp` about the package.
            found |= {full if full in sources else node.module for full in names}
    return {module for module in found if module in sources and module not in ("kitlib", name)}


def package(module: str) -> str:
    return module.split(".")[1]


def upward_imports(sources: dict[str, str]) -> list[str]:
    """Imports that do not point to a lower floor, or into the package itself."""
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    bad = []
    for name in sources:
        for other in imports(name, sources):
            here, there = package(name), package(other)
            if here != there and floor[there] >= floor[here]:
                bad.append(f"{name} imports {other}")
    return sorted(bad)


# The library under the rules


def test_every_package_has_a_floor_and_nothing_else_is_at_the_top():
    found = {path.name for path in LIBRARY.iterdir() if path.name not in ("__pycache__", "_data")}
    assert found == {name for names in FLOORS for name in names} | {"__init__.py", "py.typed"}


def test_imports_point_downward():
    """`models` and `training`, on one floor, do not know each other."""
    assert upward_imports(modules(LIBRARY)) == []


@pytest.mark.parametrize("name", sorted(modules(LIBRARY)))
def test_a_module_is_short_and_says_what_it_is(name):
    source = modules(LIBRARY)[name]
    assert source.count("\n") <= MAX_LINES
    assert len(ast.get_docstring(ast.parse(source)) or "") > 40


def test_there_is_no_circle_and_no_import_by_string():
    sources = modules(LIBRARY)
    graphlib.TopologicalSorter({name: imports(name, sources) for name in sources}).prepare()  # CycleError names it
    assert not [name for name, source in sources.items() if "import_module" in source or "__import__" in source]


def test_every_package_says_in_which_order_to_read_it():
    for init in LIBRARY.glob("*/**/__init__.py"):
        listed = set(re.findall(r"`(\w+)(?:\.\w+)?`", ast.get_docstring(ast.parse(init.read_text()))))
        there = {path.stem for path in init.parent.iterdir() if path.stem[0] != "_"}
        assert there <= listed, f"{init.parent.name}/__init__.py does not name {sorted(there - listed)}"


def test_every_module_has_a_test_of_its_name():
    modules = [path.relative_to(LIBRARY) for path in LIBRARY.glob("*/**/*.py") if path.stem != "__init__"]
    wanted = [ROOT / "tests" / path.with_name(f"test_{path.name}") for path in modules]
    assert [str(path) for path in wanted if not path.is_file()] == []


def test_import_loads_nothing_but_itself():
    code = "import sys, kitlib; print(sorted(m for m in sys.modules if m.startswith('kitlib')), 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "['kitlib'] False"


def test_a_clone_is_light():
    """Nothing half-finished and no large file is tracked: what has once been committed stays in every clone."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert not [path for path in tracked if path.is_relative_to(ROOT / "wip")]
    assert not [path for path in tracked if path.is_file() and path.stat().st_size > 15 * 2**20]
