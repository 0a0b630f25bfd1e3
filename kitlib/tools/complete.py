"""Completes an environment that is not the kit's own, such as Colab's: installs what the kit needs and it lacks.

    complete()        # in the set-up cell of every notebook, after `pip install --no-deps` of the kit itself

Nothing that is installed gets another version, since jax, numpy and others are loaded already; a new version under a
running kernel breaks it. What is too old for the kit is named.
"""

import importlib
import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement

from kitlib.tools import doctor


def complete(requirements: list[str] | None = None, run: Callable = subprocess.run) -> None:
    """Installs the missing ones of the kit's requirements, without those of its extras, and says what it did.

    Raises SystemExit if pip cannot, or if an installed version does not fit: with what to do.
    """
    wanted = [Requirement(text) for text in requirements or importlib.metadata.requires("kitlib")]
    wanted = [requirement for requirement in wanted if not doctor.extra_of(requirement)]
    missing = [f"{r.name}{r.specifier}" for r in wanted if doctor.installed_version(r.name) is None]
    if missing:
        print(f"installing {', '.join(missing)}; nothing else of the environment is touched")
        with tempfile.TemporaryDirectory() as folder:
            held = Path(folder) / "held.txt"
            held.write_text("".join(f"{line}\n" for line in installed()))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(held), *missing]
            done = run(pip, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"pip could not install {', '.join(missing)} beside what is there: {done.stderr.strip()[-500:]}\n"
                "Run: pip install with these names, then restart the session and go on with the next cell."
            )
        importlib.invalidate_caches()
    bad = [str(line) for line in doctor.packages([str(r) for r in wanted]) if line.word == "FAIL"]
    if bad:
        raise SystemExit("\n".join([*bad, "Then restart the session and go on with the next cell."]))
    from kitlib import __version__

    jax, python = doctor.installed_version("jax"), ".".join(map(str, sys.version_info[:3]))
    print(f"kitlib {__version__} is ready: python {python}, jax {jax}; no restart is needed")


def installed() -> list[str]:
    """All that is installed, as pip's constraints."""
    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if name)
