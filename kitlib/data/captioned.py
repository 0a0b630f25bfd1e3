"""Captioned pictures and questions about pictures, in files small enough to be part of the kit.

    emoji("train")                     # 32 x 32 pictures with names and keywords in sixteen languages
    emoji("test", style="twemoji")     # the same test emoji in another company's style
    drawings("flat")                   # 409 of the training emoji in one of four more drawing styles to train on
    drawings("twemoji")                # all 417 in the style that is held out: for tests only
    easy_vqa("train")                  # a published benchmark: 4,000 pictures 64 x 64, 38,575 questions, 13 answers
    taxonomy()                         # for the WUPS metric: the path from "entity" to a noun in WordNet

A model that has seen one drawing of a dog may have learned its pixels. Shown another designer's dog, it has to have
learned what dogs look like. Everything is read from the kit's own files and needs numpy only. Sources and licences are
in data/LICENSES; data/make_pictures.py and, for the drawings, data/make_styles.py made the files.
"""

import difflib
import functools
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kitlib.configs.arguments import one_of
from kitlib.data.files import decoded, decoded_arrays

SCRIPT = "make_pictures"  # has made the files
LANGUAGES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "pt": "Portuguese", "it": "Italian",
    "ru": "Russian", "el": "Greek", "tr": "Turkish", "ar": "Arabic", "hi": "Hindi", "th": "Thai", "ja": "Japanese",
    "ko": "Korean", "zh": "Chinese", "vi": "Vietnamese",
}  # fmt: skip
STYLES = ("noto", "twemoji")  # of `emoji`
TAUGHT = ("noto", "flat", "solid", "noto_v1")  # Google's, Microsoft's flat and solid one, Google's of 2013
HELD_OUT = "twemoji"
EMOJI_STYLES = (*TAUGHT, HELD_OUT)  # of `drawings`
ANSWERS = (  # of easy-VQA, in the order of its published list
    "circle", "green", "red", "gray", "yes", "teal", "black", "rectangle", "yellow", "triangle", "brown", "blue", "no",
)  # fmt: skip


class ByLanguage(dict):
    """A dict from language code to captions whose error for an unknown language names the nearest known one."""

    def __missing__(self, language):
        # Codes and names are compared: "german" is nearest to "German", whose code is de.
        names = {name.lower(): code for code, name in LANGUAGES.items()}
        near = difflib.get_close_matches(str(language).lower(), [*LANGUAGES, *names], n=1, cutoff=0.5)
        code = names.get(near[0], near[0]) if near else None
        hint = f"did you mean {code!r} ({LANGUAGES[code]})? " if code else ""
        raise ValueError(f"There is no language {language!r}: {hint}There are: {', '.join(LANGUAGES)}.")


@dataclass(frozen=True, eq=False)
class Emoji:
    """One split of the emoji. The i-th entry of every field, in `names` and `keywords` of every language, belongs to
    the i-th picture."""

    images: np.ndarray  # uint8[n, 32, 32, 3], on a white background
    codes: tuple[str, ...]  # Unicode code points in hexadecimal, "1F415-200D-1F9BA" for the service dog
    names: dict[str, tuple[str, ...]]  # by language, the captions; no two emoji of the set have the same one
    keywords: dict[str, tuple[tuple[str, ...], ...]]  # by language, up to six other words, which many emoji share

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return f"Emoji({len(self)} pictures)"


@dataclass(frozen=True, eq=False)
class EasyVqa:
    """One split of easy-VQA, in its published order."""

    images: np.ndarray  # uint8[n, 64, 64, 3]
    questions: tuple[str, ...]  # in lower case
    answers: tuple[str, ...]  # one of `ANSWERS` per question
    image_index: np.ndarray  # int32[questions], the picture that each question is about

    def __len__(self) -> int:
        return len(self.questions)

    def __repr__(self) -> str:
        return f"EasyVqa({len(self.images)} pictures, {len(self)} questions)"


def emoji(split: str = "train", *, style: str = "noto", data_dir: str | Path | None = None) -> Emoji:
    """Loads one split of the emoji with their names and keywords in all `LANGUAGES`.

    Every family (clock faces, one person as a woman and as a man, ...) is in one split as a whole. So no test picture
    has a near duplicate among the training pictures, and no name is in two splits. The order is random but fixed: the
    first n are a fair subset. The kit's own files are read once: do not change what is returned.

    Args:
        split: "train" (1,235 emoji), "valid" (126) or "test" (186).
        style: "noto", or for the test split "twemoji": the same emoji, names and order, in another company's style.
        data_dir: the folder with the files and checksums.txt (default: the kit's own).

    Raises:
        ValueError: the split or style is unknown; a file is damaged or not the kit's.
        FileNotFoundError: a file is missing.
    """
    one_of("style of the emoji", style, STYLES)
    one_of("split of the emoji", split, ("train", "valid", "test"))
    if style == "twemoji" and split != "test":
        raise ValueError(f"The style 'twemoji' has no split {split!r}: use 'test', or style='noto'.")
    return _read_emoji(split, style, data_dir) if data_dir else _of_the_kit(split, style, None)


def _read_emoji(split: str, style: str, folder: str | Path | None) -> Emoji:
    def pictures(arrays):
        images = arrays["test_twemoji" if style == "twemoji" else f"{split}_images"]
        codes = arrays[f"{split}_codes"].tolist()
        check_pictures(images, 32)
        _check_texts([codes])
        if not len(set(codes)) == len(codes) == len(images):
            raise ValueError(f"{len(images)} pictures, {len(codes)} codes, {len(set(codes))} of them different")
        images.setflags(write=False)
        return images, codes

    images, codes = decoded_arrays(folder, "emoji.npz", SCRIPT, pictures)

    def captions(packed):
        content = json.loads(gzip.decompress(packed))
        row = {code: i for i, code in enumerate(content["codes"])}
        rows = [row[code] for code in codes]
        names = {language: tuple(content["names"][language][i] for i in rows) for language in LANGUAGES}
        keywords = {language: tuple(tuple(content["keywords"][language][i]) for i in rows) for language in LANGUAGES}
        _check_texts([*names.values(), *(words for each in keywords.values() for words in each)])
        return ByLanguage(names), ByLanguage(keywords)

    return Emoji(images, tuple(codes), *decoded(folder, "emoji_names.json.gz", SCRIPT, captions))


_of_the_kit = functools.cache(_read_emoji)  # read some thirty times by `kit_data`


@dataclass(frozen=True, eq=False)
class Drawings:
    """Emoji in one style. The i-th entry of both belongs to the i-th picture."""

    rows: np.ndarray  # int64[n], the emoji's numbers in `emoji("train")`
    images: np.ndarray  # uint8[n, 32, 32, 3], on a white background

    def __repr__(self) -> str:
        return f"Drawings({len(self.rows)} pictures)"


def drawings(style: str, *, data_dir: str | Path | None = None) -> Drawings:
    """The training emoji that a style has: "noto" all 1,235, "twemoji" 417, "flat" 409, "solid" 412, "noto_v1" 288.

    The 417 are those of `multimodal.kit_data.object_rows`. data_dir and errors: as for `emoji`.
    """
    one_of("style of the drawings", style, EMOJI_STYLES)
    source = emoji("train", data_dir=data_dir)
    if style == "noto":
        return Drawings(np.arange(len(source)), source.images)

    def decode(arrays):
        row = {code: i for i, code in enumerate(source.codes)}
        codes = arrays["codes"].tolist()
        rows = np.array([row[codes[i]] for i in arrays[f"{style}_rows"]], np.int64)
        images = coloured(arrays, style)
        check_pictures(images, 32)
        if len(rows) != len(images):
            raise ValueError(f"{len(images)} pictures of {len(rows)} emoji")
        return Drawings(rows, images)

    return decoded_arrays(data_dir, "emoji_styles.npz", "make_styles", decode)


def easy_vqa(split: str = "train", *, data_dir: str | Path | None = None) -> EasyVqa:
    """Loads one split of easy-VQA: "train" (4,000 pictures, 38,575 questions) or "test" (1,000 and 9,673).

    Each picture shows one shape in one colour. The questions ask for the shape, for the colour, or for yes or no. Both
    splits use the same 107 questions, about different pictures. data_dir and errors: as for `emoji`.
    """
    one_of("split of easy-VQA", split, ("train", "test"))

    def decode(arrays):
        images = coloured(arrays, split)
        questions, answers = (tuple(arrays[x][arrays[f"{split}_{x}"]].tolist()) for x in ("questions", "answers"))
        counts = arrays[f"{split}_counts"]
        _check_texts([questions, answers])
        if unknown := set(answers) - set(ANSWERS):
            raise ValueError(f"the answer {min(unknown)!r} is none of easy-VQA's {len(ANSWERS)}")
        index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        if not len(index) == len(questions) == len(answers) or len(counts) != len(images):
            counted = f"{len(index)} counted for {len(counts)} of {len(images)} pictures"
            raise ValueError(f"{len(questions)} questions, {len(answers)} answers, {counted}")
        check_pictures(images, 64)
        return EasyVqa(images, questions, answers, index)

    return decoded_arrays(data_dir, "easy_vqa.npz", SCRIPT, decode)


def taxonomy(*, data_dir: str | Path | None = None) -> dict[str, tuple[str, ...]]:
    """Noun -> its hypernyms in WordNet 3.0, from "entity" down to the noun's first sense; for WUPS and similar metrics.

    The nouns come from the English names and keywords of the emoji and from `ANSWERS`. A path ends with the noun, or
    with a synonym that has the same path: that of "automobile" with "car". data_dir and errors: as for `emoji`.
    """

    def paths(packed):
        found = {noun: tuple(path) for noun, path in json.loads(gzip.decompress(packed)).items()}
        _check_texts(found.values())
        return found

    return decoded(data_dir, "taxonomy.json.gz", SCRIPT, paths)


def coloured(arrays, prefix: str) -> np.ndarray:
    """uint8[n, H, W, 3] of pictures that are stored as `make_pictures.indexed` gives them: a pixel is an index into the
    palette of its picture, and all palettes are concatenated in one array."""
    sizes = arrays[f"{prefix}_palette_sizes"].astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    return arrays[f"{prefix}_palettes"][starts[:, None, None] + arrays[f"{prefix}_pixels"]]


def check_pictures(images: np.ndarray, side: int) -> None:
    """Raises ValueError unless the pictures are uint8[n, side, side, 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
        raise ValueError(f"pictures are {images.dtype}{list(images.shape)}, expected uint8[n, {side}, {side}, 3]")


def _check_texts(groups) -> None:
    """Raises ValueError unless every entry of every group is a text that is not blank."""
    for group in groups:
        if wrong := [text for text in group if not isinstance(text, str) or not text.strip()]:
            raise ValueError(f"{wrong[0]!r} is no name")
