"""The kit's own files, checked and decoded; how files are written whole and named; generators by key. Needs numpy only.

read_checked(data_folder(), "emoji.npz")                       # bytes, their checksum verified
decoded(data_folder(), "x.json", "make_pictures", json.loads)  # other content is refused by the file's name
with replacing(path) as partial: ...                           # a file appears whole, or not at all
keyed_rng(seed, 3)                                             # a generator for example 3
"""

import contextlib
import errno
import gzip
import hashlib
import io
import math
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kitlib.configs.arguments import whole

ROOT = Path(__file__).resolve().parents[2]  # the checkout, or site-packages


def data_folder() -> Path:
    """The folder of the committed files: `kitlib/_data` in an installed wheel, `data/` in a checkout.

    Raises FileNotFoundError if neither folder has a checksums.txt.
    """
    package = ROOT / "kitlib"
    for folder in (package / "_data", ROOT / "data"):
        if (folder / "checksums.txt").is_file():
            return folder
    raise FileNotFoundError(
        f"The kit's data are neither in {package / '_data'} nor in {ROOT / 'data'}: install the kit again, "
        f"or pass data_dir."
    )


def is_checkout() -> bool:
    """Whether this kit is a checkout of the repository, not an installed wheel."""
    return (ROOT / "pyproject.toml").is_file() and (ROOT / "data" / "checksums.txt").is_file()


def writable(relative: str) -> Path:
    """Where the kit writes data/results, data/checkpoints and build/: a checkout into itself, an installed wheel into
    the user's folder, $KIT_HOME or ~/.local/share/kitlib, never into site-packages. The folder may not exist yet."""
    home = os.environ.get("KIT_HOME") or "~/.local/share/kitlib"
    return (ROOT if is_checkout() else Path(home).expanduser()) / relative


def read_checked(folder: Path, file: str) -> bytes:
    """The bytes of a committed file, whose sha256 is in checksums.txt in the same folder.

    Raises FileNotFoundError if one of the two is missing, ValueError if the file is truncated, changed or not listed.
    """
    for path in (folder / file, folder / "checksums.txt"):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: restore it from the repository or install the kit again.")
    data = (folder / file).read_bytes()
    lines = [line.split() for line in (folder / "checksums.txt").read_text().splitlines()]
    expected = {line[1]: line[0] for line in lines if len(line) == 2}.get(file)
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        raise ValueError(
            f"{folder / file} is damaged or was changed: its sha256 is {got[:12]}..., expected "
            f"{f'{expected[:12]}...' if expected else 'a line in checksums.txt'}; restore it from the repository."
        )
    return data


def decoded(folder: str | Path | None, file: str, script: str, decode: Callable[[bytes], Any]):
    """decode(content) of a file of the kit, which data/`script`.py has made. folder: None for `data_folder`.

    Raises the errors of `read_checked`, and ValueError with the file's name for whatever `decode` raises.
    """
    folder = Path(folder) if folder else data_folder()
    content = read_checked(folder, file)
    try:
        return decode(content)
    except Exception as error:  # unpacking, parsing and looking up fail in a dozen ways, deep JSON in another one
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{folder / file} is not a data file of the kit ({reason}): make it with data/{script}.py."
        ) from error


def decoded_arrays(folder: str | Path | None, file: str, script: str, decode: Callable[[Any], Any]):
    """decode(arrays) of an .npz of the kit; nothing in it is ever unpickled. folder and errors: as for `decoded`."""

    def load(content: bytes):
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return decode(arrays)

    return decoded(folder, file, script, load)


def read_idx(path: str | Path) -> np.ndarray:
    """Reads a gzipped IDX file of bytes, the format of MNIST and similar sets: uint8[n, ...].

    Format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, type 8 = uint8, rank, sizes as big-endian int32, data).
    Raises FileNotFoundError if it is missing, and ValueError with its name if it is truncated or no such file.
    """
    try:
        data = gzip.decompress(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: put the original file there.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}): get it again.") from error
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = tuple(np.frombuffer(data, ">u4", rank, offset=4).tolist()) if len(data) >= 4 + 4 * rank else ()
    if not shape or 0 in shape or len(data) != 4 + 4 * rank + math.prod(shape):
        raise ValueError(f"{path} is not a whole IDX file of bytes ({len(data):,} bytes, sizes {shape}): get it again.")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


# ---------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary file in the folder of `path`, which replaces `path` when the block ends without an error.

    If it fails, `path` stays as it was. A reader sees the old file or the new one, never half of one, also after a
    power cut; of two writers, the last one wins. The mode follows the umask. Raises FileNotFoundError if the folder is
    missing, and an OSError with the file's name if the disk is full or may not be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial{path.suffix}")
    try:
        partial.touch(exist_ok=False)  # with the umask's mode; os.umask cannot be read without changing it
        yield partial
        _to_disk(partial)  # first its content, then its name: a power cut could leave the name alone
        os.replace(partial, path)
        with contextlib.suppress(OSError):  # not every system can do this for a folder
            _to_disk(path.parent)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are no longer in memory alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The disk is full or the quota used up; it or the folder may not be written; or a file is in a folder's place.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
NO_ROOM += (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def disk_error(error: Exception) -> int | None:
    """The system's number if this is a disk's error, one of NO_ROOM; None for all others. Libraries in C++ raise
    ValueError or RuntimeError with the system's words in it."""
    if isinstance(error, OSError):
        return error.errno if error.errno in NO_ROOM else None
    return next((number for number in NO_ROOM if os.strerror(number) in str(error)), None)


def cannot_write(path: str | Path, error: OSError) -> OSError:
    """The error for a file or folder that a disk does not take, as one sentence; what was there before is intact."""
    reason = f"{path} cannot be written ({os.strerror(error.errno)}); what was there before is as it was. Free some "
    return OSError(error.errno, f"{reason}space, or choose another folder")


def sentence(error: OSError) -> str:
    """What a command says where NO_ROOM is the reason. Raises the error again if it is another."""
    if error.errno not in NO_ROOM:
        raise error
    return f"{error.strerror}{f': {error.filename}' if error.filename else ''}."


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text, with a newline at its end, atomically (see `replacing`)."""
    with replacing(path) as partial:
        partial.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file atomically (see `replacing`). Makes the folder if it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_npz(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes named arrays as one `.npz`, atomically (see `replacing`). Makes the folder if it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:  # given a path, numpy would append a missing ".npz"
        np.savez(file, **arrays)  # type: ignore[arg-type]  # names of arrays


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` that `write_npz` has written. Nothing is unpickled.

    Raises FileNotFoundError if it is missing, ValueError with its name if it is damaged: each array has a checksum.
    """
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged ({reason}): delete it, and it is made again.") from error


def note_checksum(path: str | Path) -> None:
    """Writes the sha256 of a file that the kit has made into checksums.txt beside it, for `kit doctor`."""
    path = Path(path)
    note = path.with_name("checksums.txt")
    lines = [line.split() for line in note.read_text().splitlines()] if note.is_file() else []
    digests = {name: digest for digest, name in lines} | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(note, "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)))


def recipe_hash(recipe: str) -> str:
    """16 hexadecimal digits of the sha256 of a text with all that decides a file's content, for the file's name."""
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time is inside, of all that name this file; the others wait. A killed process lets go."""
    import fcntl  # here: Windows has none, and the kit is for Linux and macOS

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed
        yield


def keyed_rng(seed: int, *key: int) -> np.random.Generator:
    """A generator that depends on (seed, key) alone; different keys give independent numbers."""
    return np.random.default_rng(np.random.SeedSequence(whole("seed", seed, 0), spawn_key=key))
