"""Pictures and texts of your own: a folder per class, an .npz, any picture file, a file of lines.

    from_files("pets", "train", size=64)         # pets/cat/1.png, pets/dog/2.jpg, ...; or pets/train/cat/1.png, ...
    from_files("pets.npz", "test", size=64)      # images uint8[n, H, W, C], labels int[n], perhaps class_names
    texts_from_file("tales.txt", "train")        # one text per line
    read_picture("dog.jpg", 64)                  # uint8[64, 64, 3]

What has no parts "train" and "test" of its own is divided: a tenth, that of the lowest sha256, is for the test. So the
parts are the same every time, and no picture or text is in both.
"""

import hashlib
import io
import itertools
import math
import zipfile
from pathlib import Path

import numpy as np

from kitlib.configs.arguments import one_of, whole
from kitlib.data.files import read_arrays
from kitlib.data.images import Source, from_arrays

SPLITS = ("train", "test")
LAYOUT = "expected FOLDER/class/picture.png for two classes or more, or the same in FOLDER/train and FOLDER/test"


def read_picture(path: str | Path, side: int = 64) -> np.ndarray:
    """uint8[side, side, 3] of a picture file: upright, on white, and padded with white to a square, not stretched.

    Grey of 16 bits is scaled by 65,535; integers of 32 bits and floats have no fixed range, so by their own.
    Raises FileNotFoundError if it is missing, and ValueError with its name if it is no picture that Pillow reads.
    """
    from PIL import Image, UnidentifiedImageError  # here: the kit's own files are read without Pillow

    path = Path(path)
    if path.is_dir():
        inside = [str(file) for file in _visible(path) if file.is_file()]
        raise ValueError(f"{path} is a folder: name the pictures in it ({', '.join(inside[:3]) or 'it has no files'}).")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give the path of a picture, such as a PNG or a JPEG.")
    try:
        picture = _rgba(Image.open(io.BytesIO(path.read_bytes())))
    except Exception as error:  # Pillow has a reader per format, and for damaged files they raise almost anything
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else error or type(error).__name__
        got = f"{path} is not a picture that can be read ({reason})"
        raise ValueError(f"{got}: give a PNG, JPEG or WebP, or take it away.") from error
    # It is shrunk first: the square around a long, narrow picture would be huge.
    width, height = (max(1, round(side * length / max(picture.size))) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - width) // 2, (side - height) // 2))
    return np.asarray(square.convert("RGB"))


def _rgba(opened):
    """A picture of Pillow's, upright and in eight bits per channel, where Pillow itself would cut off at 255."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(opened)
    if picture.mode[0] not in "IF":
        return picture.convert("RGBA")
    values = np.asarray(picture, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("not all of its values are finite")
    sixteen = ";16" in picture.mode or (picture.mode == "I" and opened.format in ("PNG", "PPM"))
    low, high = (0, 65_535) if sixteen else (values.min(), values.max())
    grey = np.rint(255 * (values - low) / (high - low or 1))
    alpha = np.where(values == opened.info.get("transparency"), 0, 255)
    return Image.fromarray(np.stack([grey, grey, grey, alpha], axis=-1).astype(np.uint8))


def from_files(path: str | Path, split: str, *, size: int) -> Source:
    """A Source over your own pictures, all in memory, in a random but fixed order.

    Args:
        path: a folder with a folder per class, which gives the class its name (what is hidden, .name, is not read); or
            an .npz with images uint8[n, H, W, C], labels integers[n] and perhaps class_names (else "0", "1", ...).
        split: "train" or "test". Without folders of these names a tenth of all pictures is the test.
        size: H = W of a folder's pictures, which are read by `read_picture`; those of an .npz stay as they are.

    Raises FileNotFoundError if path is missing, and ValueError if the folder or the arrays are not as above, a picture
    cannot be read, or one is in both splits.
    """
    path = Path(path)
    one_of("split of your own pictures", split, SPLITS)
    whole("size", size, 1, 4096)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; {LAYOUT}, or an .npz with images and labels.")
    images, labels, names = _from_folder(path, split, size) if path.is_dir() else _from_npz(path, split)
    return from_arrays(images, labels, name=path.resolve().name, class_names=names)


def _from_folder(path: Path, split: str, size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    parts = [path / part for part in SPLITS if all((path / other).is_dir() for other in SPLITS)] or [path]
    classes = [{inside.name: _visible(inside) for inside in _visible(part) if inside.is_dir()} for part in parts]
    names = list(classes[0])
    for part, found in zip(parts, classes, strict=True):
        bad = [name for name, files in found.items() if not files or any(map(Path.is_dir, files))]
        if len(names) < 2 or bad or not set(found) <= set(names):
            got = f"{part / bad[0]} has no pictures, or folders" if bad else f"{part} has the class folders {[*found]}"
            raise ValueError(f"{got}; {LAYOUT}.")
    rows = [(i, file, name) for i, found in enumerate(classes) for name, files in found.items() for file in files]
    digests = [_digest(file.read_bytes()) for _, file, _ in rows]
    order = sorted(range(len(rows)), key=digests.__getitem__)
    if len(parts) == 1:
        order = _rows(path, split, digests)
    for i, j in itertools.pairwise(order):
        if digests[i] == digests[j] and rows[i][0] != rows[j][0]:
            raise ValueError(f"{rows[i][1]} and {rows[j][1]} are the same picture: keep it in one of the parts.")
    chosen = [rows[i] for i in order if len(parts) == 1 or SPLITS[rows[i][0]] == split]
    images = np.stack([read_picture(file, size) for _, file, _ in chosen])
    return images, np.array([names.index(name) for *_, name in chosen]), names


def _from_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    try:
        arrays = read_arrays(path)
        images, labels = arrays["images"], arrays["labels"]
        names = arrays.get("class_names", np.arange(np.unique(labels).size)).astype(str).reshape(-1).tolist()
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error.__cause__ or error
        reason = reason if zipfile.is_zipfile(path) else "it is no zip file; texts are for a T5"
        got = f"{path} is not an .npz of pictures ({str(reason).splitlines()[0]})"
        arrays = "images uint8[n, H, W, C], labels integers[n] and perhaps class_names"
        raise ValueError(f"{got}; expected {arrays}, or a folder: {LAYOUT}.") from error
    from_arrays(images, labels, name=path.name, class_names=names)  # checks them all
    rows = _rows(path, split, [_digest(image.tobytes()) for image in images])
    return images[rows], labels[rows], names


def texts_from_file(path: str | Path, split: str) -> list[str]:
    """The lines of a UTF-8 file that are not empty, for `denoise.token_stream`; a tenth of them is the "test".

    Raises FileNotFoundError if it is missing, and ValueError with its name if it is no such file or has no two texts.
    """
    path = Path(path)
    one_of("split of your own texts", split, SPLITS)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; expected a text file.")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        content = "\0"
    if "\0" in content:
        raise ValueError(f"{path} is not a text in UTF-8: save it as plain text in UTF-8, one text per line.")
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    return [lines[i] for i in sorted(_rows(path, split, [_digest(line.encode()) for line in lines]))]


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _rows(path: Path, split: str, digests: list[bytes]) -> list[int]:
    """The rows of a split, by digest: the tenth with the lowest, at least one, is the test; equal ones are together."""
    ranked = sorted(set(digests))
    if len(ranked) < 2:
        raise ValueError(f"{path} has {len(ranked)} different entries: training and test need one each.")
    border = ranked[math.ceil(len(ranked) / 10)]
    rows = [i for i, digest in enumerate(digests) if (digest < border) == (split == "test")]
    return sorted(rows, key=digests.__getitem__)


def _visible(folder: Path) -> list[Path]:
    return sorted(inside for inside in folder.iterdir() if not inside.name.startswith("."))
