"""Validation of the official files of public sets: every problem is one sentence with the file's name.

    rows = read_json("captions_val2017.json", decode)            # decode: content -> rows, by the functions below
    picture = square_picture(picture_path("val2017", name), 224)   # uint8[224, 224, 3]

Used by `public_sets`.
"""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def read_json(file: str | Path, decode: Callable):
    """The result of decode for the content of an official JSON file.

    Raises FileNotFoundError, and ValueError with the file's name for whatever decode finds wrong, and if there are no
    examples: decode gives nothing, or a tuple that begins with nothing.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: fetch the official file and pass its path.")
    try:
        found = decode(json.loads(path.read_bytes()))
        if not found or not all(found[:1] if isinstance(found, tuple) else [found]):
            raise ValueError("it has no examples")
        return found
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is damaged, or not the official file of a split with answers: {reason}.") from error


def check_ids(by_image: dict, images: Sequence[dict], what: str) -> None:
    """Raises ValueError if something belongs to an image that is not in the list."""
    if unknown := set(by_image) - {image["id"] for image in images}:
        raise ValueError(f"there is a {what} of image {min(unknown, key=str)}, which is not among its images")


def answers_of(about, *answers) -> list[str]:
    """The answers to a question. Raises ValueError if there is none, or one that is no text."""
    if not answers:
        raise ValueError(f"{about} has no answers")
    return [text_of(answer, f"an answer to {about}") for answer in answers]


def text_of(value, what: str) -> str:
    """The value. Raises ValueError if it is no text; what: for the message."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {value!r}, expected a text")
    return value


def picture_path(folder: str | Path, *parts: str) -> Path:
    """The path of a picture in its folder; a name that would lead out of it is refused."""
    for part in parts:
        if not isinstance(part, str) or not part or part in (".", "..") or Path(part).name != part or "\\" in part:
            raise ValueError(f"{part!r} is no name of a picture in {folder}")
    return Path(folder, *parts)


def square_picture(picture: Path | np.ndarray, size: int) -> np.ndarray:
    """uint8[size, size, 3] of a file or of uint8[H, W, C]."""
    if isinstance(picture, Path):
        if not picture.is_file():
            raise FileNotFoundError(f"{picture} is missing: unpack the set's images there.")
        try:
            picture = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{picture} is not a whole image ({error}): get it again.") from error
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def shares_of(objects: Sequence, image) -> np.ndarray:
    """ "bbox" of each, [x, y, width, height] in pixels -> float64[n, 4], y0, x0, y1, x1 in shares of the image."""
    x, y, width, height = np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4).T
    pixels, size = np.stack([y, x, y + height, x + width], axis=1), np.array([[image["height"], image["width"]] * 2])
    inside = np.clip(pixels, 0, size)
    if (outside := np.abs(pixels - inside).max(initial=0)) > 1:
        raise ValueError(f"a box of image {image['id']} is {outside:g} pixels outside")
    return inside / size
