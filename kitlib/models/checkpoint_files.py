"""Reading files of named arrays that somebody else made: `.npz` and `.safetensors`, distrustfully.

    arrays = read_npz("B_16-i21k-300ep.npz", most=2**30)      # {"embedding/kernel": float32[16, 16, 3, 768], ...}
    arrays = read_safetensors("model.safetensors")
    numbers = as_float32(arrays, "model.safetensors")         # refuses what is no finite number
    stated = read_json("config.json")                         # {"model_type": "vit", ...}

Nothing is ever unpickled. What a file claims about its size is checked before memory is taken, and whatever is wrong is
one sentence with the file's name. `checkpoint` gives the arrays the kit's names.
"""

import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file and the problem."""


def read_npz(path, most: int | None = None) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` by name. Arrays of two bytes without a type, as bfloat16 is stored, become bfloat16.

    most: bytes that all arrays together may have; None: any number.

    Raises CheckpointError for a file that is missing, truncated, encrypted, pickled, too large or no `.npz`, and for
    two arrays of the same name.
    """
    path = _file(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[:6] == b"\x93NUMPY":
            raise CheckpointError(f"{path} holds one bare array, not the named arrays of an .npz checkpoint.")
        if head[8:] == b"{":  # behind the length of the header
            others = "hugging_face.load reads a folder of a ViT or T5, checkpoint.load the kit's own files"
            raise CheckpointError(f"{path} is a .safetensors file, expected an .npz: {others}.")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, path, most)
            return {member.filename.removesuffix(".npy"): _read_member(archive, member, path) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not an .npz file ({error}); download it again.") from error
    except CheckpointError:
        raise
    except (ValueError, TypeError, NotImplementedError, RuntimeError, SyntaxError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{path} is refused: it holds more than plain arrays ({_first_line(error)}).") from error


def _check_members(members: list[zipfile.ZipInfo], path, most: int | None) -> None:
    names = [member.filename for member in members]
    check_names(names, path)
    if others := [name for name in names if not name.endswith(".npy")]:
        raise CheckpointError(f"{path} is refused: it holds more than arrays ({others[0]}), as PyTorch's pickles do.")
    if twice := {name for name in names if names.count(name) > 1}:
        raise CheckpointError(f"{path} is refused: it holds two arrays called {min(twice).removesuffix('.npy')!r}.")
    if encrypted := [member.filename for member in members if member.flag_bits & 1]:
        raise CheckpointError(f"{path} is refused: {encrypted[0]} is encrypted.")
    size = sum(member.file_size for member in members)
    if most is not None and size > most:
        raise CheckpointError(f"{path} is refused: it unpacks to {size:,} bytes, expected at most {most:,}.")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if header is None:
            raise ValueError(f"{member.filename} has version {version} of numpy's format")
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} is pickled, which could run code when read; save plain arrays only")
        declared = dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
        if not 0 <= declared <= member.file_size:
            raise ValueError(f"{member.filename} claims {declared:,} bytes and has {member.file_size:,}")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError(f"{member.filename} goes on after its array")
    return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array


def read_safetensors(path) -> dict[str, np.ndarray]:
    """All arrays of a `.safetensors` by name. Raises CheckpointError for a missing or truncated file, or another kind.

    The format holds plain arrays only, and no code that could run.
    """
    path = _file(path)
    try:
        arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is truncated or not a .safetensors file ({_first_line(error)}).") from error
    check_names(arrays, path)
    return arrays


def read_json(path) -> dict:
    """The object in a JSON file. Raises CheckpointError for one that is missing, damaged or no object."""
    path = _file(path)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or not a JSON file ({_first_line(error)}).") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, expected an object with names and values.")
    return stored


def _file(path) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint file {path}; check the path (hugging_face.load reads folders).")
    return path


def check_names(names: Iterable[str], path) -> None:
    """Raises CheckpointError for a name with characters that cannot be printed, which would tear later messages."""
    if wrong := [name for name in names if not name.isprintable()]:
        raise CheckpointError(f"{path} is refused: it holds an array called {wrong[0]!r}.")


def as_float32(arrays: dict[str, np.ndarray], path) -> dict[str, np.ndarray]:
    """The same arrays as float32. Raises CheckpointError naming each that is no array of floats, is not finite, or is
    too large for float32 (parameters are float16, bfloat16, float32 or float64 in public files)."""
    found, wrong = {}, []
    for name, array in arrays.items():
        if array.dtype.kind != "f" and array.dtype != jnp.bfloat16:
            wrong.append(f"{name} holds {array.dtype}")
            continue
        with np.errstate(over="ignore"):
            found[name] = array.astype(np.float32)
        if not np.isfinite(found[name]).all():
            worst = array.astype(np.float64).ravel()[int(np.argmin(np.isfinite(found[name])))]
            wrong.append(f"{name} holds {worst}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"{path} is refused: {', '.join(wrong[:5])}{more}; expected finite numbers of float32.")
    return found


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
