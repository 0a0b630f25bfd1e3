"""The emoji of `captioned` in four more drawing styles, of other designers.

    drawings("flat")                      # 409 of the training emoji, in one of the styles to train on
    drawings("twemoji")                   # all 417, in the style that is held out: for tests only

A model that has seen one drawing of a dog may have learned its pixels. Shown another designer's dog, it has to have
learned what dogs look like. Sources and licences are in data/LICENSES; data/make_styles.py made the file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kitlib.configs.nearest_name import one_of
from kitlib.data import captioned
from kitlib.data.committed import decoded_arrays
from kitlib.data.files import data_folder

TAUGHT = ("noto", "flat", "solid", "noto_v1")  # Google's, Microsoft's flat and solid one, Google's of 2013
HELD_OUT = "twemoji"
STYLES = (*TAUGHT, HELD_OUT)


@dataclass(frozen=True, eq=False)
class Drawings:
    """Emoji in one style. The i-th entry of both belongs to the i-th picture.

    Attributes:
        rows: int64[n], the emoji's numbers in `captioned.emoji("train")`.
        images: uint8[n, 32, 32, 3], on a white background.
    """

    rows: np.ndarray
    images: np.ndarray

    def __repr__(self) -> str:
        return f"Drawings({len(self.rows)} pictures)"


def drawings(style: str, *, data_dir: str | Path | None = None) -> Drawings:
    """The training emoji that a style has: "noto" all 1,235, "twemoji" 417, "flat" 409, "solid" 412, "noto_v1" 288.

    The 417 are those of `multimodal.kit_data.object_rows`. data_dir and errors: as for `captioned.emoji`.
    """
    one_of("style of the drawings", style, STYLES)
    source = captioned.emoji("train", data_dir=data_dir)
    if style == "noto":
        return Drawings(np.arange(len(source)), source.images)

    def decode(arrays):
        row = {code: i for i, code in enumerate(source.codes)}
        codes = arrays["codes"].tolist()
        rows = np.array([row[codes[i]] for i in arrays[f"{style}_rows"]], np.int64)
        images = captioned.coloured(arrays, style)
        captioned.check_pictures(images, 32)
        if len(rows) != len(images):
            raise ValueError(f"{len(images)} pictures of {len(rows)} emoji")
        return Drawings(rows, images)

    return decoded_arrays(Path(data_dir) if data_dir else data_folder(), "emoji_styles.npz", "make_styles", decode)
