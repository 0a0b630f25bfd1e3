"""`kit doctor`: is this installation complete? One line per requirement of the notebooks, with a remedy if it fails.
`complete` installs what an environment like Colab's lacks. This module imports nothing that may be missing itself."""

import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]  # as `data.files.ROOT`, but without numpy, which may be missing


@dataclass(frozen=True)
class Line:
    """One finding: word is OK, FAIL (the only one that sets the exit status) or -- (for information)."""

    word: str
    text: str

    def __str__(self) -> str:
        return f"[{self.word}] {self.text}"


def main() -> int:
    """Prints each finding as soon as it is made; returns 1 if one is a FAIL."""
    failed = 0
    for part in (python, packages, lock, data_files, cache_folder, devices):
        for line in part():
            print(line, flush=True)
            failed += line.word == "FAIL"
    without = "" if failed else "".join(f"; {text}" for text in missing_extras())
    verdict = f"{failed} to repair, see FAIL above" if failed else "nothing to repair in the library"
    print(f"kit doctor: {verdict}{without}")
    return int(failed > 0)


EXTRAS = {"lab": "kit run, kit check and kit lab", "test": "kit test"}


def missing_extras(requirements: list[str] | None = None) -> Iterator[str]:
    """For each extra that is not whole: which commands need it, and how to get it."""
    absent: dict[str, list[str]] = {}
    for text in requirements or importlib.metadata.requires("kitlib"):
        requirement = Requirement(text)
        if (extra := extra_of(requirement)) in EXTRAS and not fits(requirement):
            absent.setdefault(extra, []).append(requirement.name)
    for extra, names in absent.items():
        yield f"{EXTRAS[extra]} need the extra {extra} ({', '.join(names)}): {install(extra)}"


def install(extra: str) -> str:
    """How to get an extra: from a checkout, or together with the wheel."""
    if (ROOT / "pyproject.toml").is_file():
        return f"pip install -e '.[{extra}]'"
    return f"pip install 'kitlib-...whl[{extra}]', with the file that you installed"


def extra_of(requirement: Requirement) -> str:
    """The extra that a requirement belongs to; "" if it is always needed."""
    found = re.search(r"extra == ['\"](\w+)['\"]", str(requirement.marker or ""))
    return found[1] if found else ""


def python(wanted: str | None = None) -> Iterator[Line]:
    """Whether the running Python satisfies `requires-python`."""
    wanted = wanted or importlib.metadata.metadata("kitlib")["Requires-Python"]
    running = ".".join(map(str, sys.version_info[:3]))
    if running in SpecifierSet(wanted):
        yield Line("OK", f"python {running}")
    else:
        yield Line("FAIL", f"python: got {running}, expected {wanted}; make the environment anew with such a Python.")


def packages(requirements: list[str] | None = None) -> Iterator[Line]:
    """Whether every dependency of the kit is within its bounds; dependencies of extras may be absent."""
    for text in sorted(requirements or importlib.metadata.requires("kitlib")):
        requirement = Requirement(text)
        name, wanted, extra = requirement.name, requirement.specifier, extra_of(requirement)
        version = installed_version(name)
        if version is None and extra:
            yield Line("--", f"{name} is not installed (extra: {extra})")
        elif not fits(requirement):
            got = f"got {version}" if version else "not installed"
            yield Line("FAIL", f"{name}: {got}, expected {wanted}; run: pip install '{name}{wanted}'")
        else:
            yield Line("OK", f"{name} {version}")


def installed_version(name: str) -> str | None:
    """The version that this Python would import, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def fits(requirement: Requirement) -> bool:
    """Whether what is required is installed, in a version within its bounds."""
    version = installed_version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def lock(path: Path = ROOT / "requirements.lock") -> Iterator[Line]:
    """Whether the installed set is the tested one. It need not be in a user's own environment, so never a FAIL."""
    if not path.is_file():
        return
    lines = path.read_text().splitlines()
    pins = [Requirement(line.split(" \\")[0]) for line in lines if re.match(r"[A-Za-z0-9]", line)]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]  # of this Python and platform
    differ = [pin for pin in pins if not fits(pin)]
    if not pins:
        yield Line("--", f"the tested set in {path.name} is for other Pythons or systems than this one")
    elif not differ:
        yield Line("OK", f"the installed set is the tested one ({path.name})")
    else:
        direct = {Requirement(text).name for text in importlib.metadata.requires("kitlib") or ()}
        named = [pin for pin in differ if pin.name in direct]
        others = [f"{len(differ) - len(named)} of other packages"] if len(differ) > len(named) else []
        named = [f"{pin.name} {installed_version(pin.name) or 'absent'} (tested: {pin.specifier})" for pin in named]
        yield Line("--", f"{len(differ)} of {len(pins)} versions are not the tested ones: {', '.join(named + others)}")


def data_files(folder: Path | None = None) -> Iterator[Line]:
    """Whether every file that a checksums.txt names (sha256, two spaces, path) is there and unchanged: data, the
    released weights, and the stored results."""
    wanted = {}
    try:
        from kitlib import data  # here, so that `packages` reports a missing numpy before this fails

        folder = folder or data.data_folder()
        for note in (folder / "checksums.txt", *sorted(folder.glob("*/checksums.txt"))):
            for line in filter(str.strip, note.read_text().split("\n")):
                digest, name = line.split(maxsplit=1)
                wanted[(note.parent / name).relative_to(folder).as_posix()] = digest
    except (OSError, ImportError) as error:
        yield Line("FAIL", f"data: {error}")
        return
    bad = 0
    for name, digest in wanted.items():
        try:
            got = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError:
            got = "no readable file"
        if got != digest:
            bad += 1
            wanting = f"got {got[:16]}, expected sha256 {digest[:16]}; restore it from the repository."
            yield Line("FAIL", f"data {name}: {wanting}")
    if not bad:
        yield Line("OK", f"data: {len(wanted)} files, all with the right checksum")


def cache_folder(folder: Path | None = None) -> Iterator[Line]:
    """Whether files can be written to the folder of full data sets, and of compiled programs."""
    folder = folder or Path(os.environ.get("KIT_DATA_DIR") or "~/.cache/kitlib").expanduser()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        what_to_do = "name another in the environment variable KIT_DATA_DIR."
        yield Line("FAIL", f"cache folder {folder}: {error.strerror}; {what_to_do}")
    else:
        yield Line("OK", f"cache folder {folder} can be written")


def devices() -> Iterator[Line]:
    """The devices that JAX computes on, after a first computation on them."""
    try:
        import jax

        value = float(jax.numpy.arange(4.0).sum())
        kinds = sorted({f"{device.platform} ({device.device_kind})" for device in jax.devices()})
    except Exception as error:  # a broken driver or wheel raises almost anything; the doctor must continue
        yield Line("FAIL", f"JAX: {type(error).__name__}: {error}; JAX_PLATFORMS=cpu makes it use the CPU.")
        return
    word = "OK" if value == 6.0 else "FAIL"
    yield Line(word, f"JAX computes on {jax.device_count()} x {', '.join(kinds)}; {os.cpu_count()} CPU cores")


def complete(requirements: list[str] | None = None, run: Callable = subprocess.run) -> None:
    """Installs what the kit needs and this environment lacks, and says what it did; called by the set-up cell of every
    notebook on Colab, after `pip install --no-deps` of the kit itself.

    Nothing that is installed gets another version: jax and numpy are loaded already, and a new version under a running
    kernel breaks it. Raises SystemExit if pip cannot, or if an installed version does not fit: with what to do.
    """
    wanted = [text for text in requirements or importlib.metadata.requires("kitlib") if not extra_of(Requirement(text))]
    missing = [text for text in wanted if installed_version(Requirement(text).name) is None]
    if missing:
        print(f"installing {', '.join(missing)}; nothing else of the environment is touched")
        with tempfile.TemporaryDirectory() as folder:
            held = Path(folder) / "held.txt"
            found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
            held.write_text("".join(f"{name}=={version}\n" for name, version in found.items() if name))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(held), *missing]
            done = run(pip, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"pip could not install {', '.join(missing)} beside what is there: {done.stderr.strip()[-500:]}\n"
                "Run: pip install with these names, then restart the session and go on with the next cell."
            )
        importlib.invalidate_caches()
    if bad := [str(line) for line in packages(wanted) if line.word == "FAIL"]:
        raise SystemExit("\n".join([*bad, "Then restart the session and go on with the next cell."]))
    from kitlib import __version__

    jax, python = installed_version("jax"), ".".join(map(str, sys.version_info[:3]))
    print(f"kitlib {__version__} is ready: python {python}, jax {jax}; no restart is needed")
