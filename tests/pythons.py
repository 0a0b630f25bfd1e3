"""uv and the Pythons of this machine, for tests that install the kit into environments of their own."""

import os
import subprocess
import sys

OURS = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "XLA_FLAGS", "KITLIB", "KIT_DATA_DIR", "VIRTUAL_ENV")


def uv(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "uv", *map(str, arguments)], capture_output=True, text=True, **options)


def path_of(version: str) -> str:
    """The Python of a version, or "" where it, or uv, is missing."""
    return uv("python", "find", "--no-python-downloads", version).stdout.strip()


def newest() -> str:
    """The newest version that the kit is for and that is here."""
    return next((version for version in ("3.14", "3.13", "3.12") if path_of(version)), "3.14")


def clean(**more: str) -> dict[str, str]:
    """The variables of a user's shell: none of ours (another JAX may not know our flags)."""
    return {name: value for name, value in os.environ.items() if name not in OURS} | {"JAX_PLATFORMS": "cpu"} | more
