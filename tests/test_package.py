"""What `import kitlib` promises: every module by its name, and nothing loaded before it is named."""

import subprocess
import sys

import pytest

import kitlib
from kitlib import runner


def test_every_module_is_there_by_name():
    files = {path.stem for path in (runner.ROOT / "kitlib").glob("*.py")}
    packages = {path.parent.name for path in (runner.ROOT / "kitlib").glob("*/__init__.py")}
    assert list(kitlib.MODULES) == sorted(files - {"__init__"} | packages)
    assert set(kitlib.MODULES) <= set(dir(kitlib))


def test_an_unknown_module_is_refused():
    with pytest.raises(AttributeError, match=r"no attribute 'vit2'; its modules are .*vit"):
        _ = kitlib.vit2


def test_import_loads_nothing_and_a_name_loads_its_module():
    code = "import sys, kitlib; assert 'jax' not in sys.modules; print(kitlib.e3.E3Mlp.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=runner.ROOT)
    assert done.stdout.strip() == "E3Mlp"
