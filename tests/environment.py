"""environment.yml (conda) from requirements.lock (pip), so that both install the same set; called by `make lock`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
YML = ROOT / "environment.yml"
PYTHON = ">=3.11,<3.15"
# What every entry of the lock says, since it is made for these Pythons and platforms.
COMMON = ("python_full_version < '3.15'", "(sys_platform == 'darwin' or sys_platform == 'linux')")


def pins(lock: str) -> list[str]:
    """The entries of a lock file, each `name==version`, with a marker where it distinguishes platforms."""
    entries = []
    for line in lock.splitlines():
        if line and not line.startswith((" ", "#")):
            pin, _, marker = line.removesuffix("\\").strip().partition(" ; ")
            terms = [term for term in marker.split(" and ") if term not in COMMON]
            entries.append(f"{pin} ; {' and '.join(terms)}" if terms and marker else pin)
    return entries


def environment_yml(lock: str) -> str:
    """The conda file: only Python and pip from conda-forge, everything else the pinned wheels, then the kit itself."""
    lines = [
        "# Made by `make lock` from requirements.lock; do not edit. conda env create -f environment.yml", "name: kit",
        "channels: [conda-forge, nodefaults]", "dependencies:", f"  - python{PYTHON}", "  - pip", "  - pip:",
        *(f'      - "{pin}"' for pin in pins(lock)), "      - -e .",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(f"usage: python tests/environment.py --write   (writes {YML.name} from {LOCK.name})")
    YML.write_text(environment_yml(LOCK.read_text()))
    print(f"wrote {YML.name}: {len(pins(LOCK.read_text()))} pins")
