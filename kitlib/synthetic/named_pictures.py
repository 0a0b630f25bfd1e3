"""Naming pictured objects: which letter does the name begin with, in the language that is written below?

    drawn = cutouts([3, 7])                           # of two emoji: their cut-outs, one per style that has them
    varied(drawn[0][0], keyed_rng(seed, i))           # mirrored, turned, in slightly other colours
    taught = questions("taught")                      # 17,000 pairs of an object and a language
    for batch in batches(taught, 256, seed=0): ...    # {"image": float32[B, 36, 24, 3], "label": int32[B]}

A dog above "de" asks for the h of "Hund". Names cannot be seen, so a model has to recognise the object and the language
and to remember the fact; the languages' names are often akin, so some can be guessed. Every picture has new light and
new noise. The objects are emoji (`captioned`), their names CLDR's (`texts`). A picture has 24 x 24 pixels and its
language a strip of 12 x 24 below it: six patches of 12 x 12.

`cutouts` and `varied` augment drawings: an object as several designers draw it, with small changes. A cut-out is
uint8[H, W, 4], as in `scenes`. The styles are those of `captioned`; Twemoji is held out.
"""

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np
from PIL import Image, ImageDraw

from kitlib.configs.arguments import one_of
from kitlib.data import captioned, image_batches, texts
from kitlib.data.files import keyed_rng
from kitlib.data.image_batches import to_float
from kitlib.synthetic import scenes
from kitlib.synthetic.rendered_text import font_of_size

SIDE, STRIP = 24, 12  # pixels: of the object's picture, and the height of the language's strip
SIZE = (SIDE + STRIP, SIDE)
BASELINE, FONT = 9, ("DejaVuSansMono", 10)  # pixels from the strip's top to its line; name and pixels per em
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LIGHT, NOISE = (0.8, 1.2), 0.05  # factor of a picture's values; uniform noise in both directions, of a range of 1
SPLITS = ("taught", "held_out", "novel")
TURN = 15.0  # degrees, at most, to either side
SATURATION, BRIGHTNESS = (0.6, 1.3), (0.8, 1.2)  # factors
TINT = 15.0  # of 255, at most, added to each of red, green and blue

# ---------------------------------------------------------------------------------------------- augmented drawings


def cutouts(rows: Sequence[int], styles: Sequence[str] = captioned.TAUGHT) -> list[list[np.ndarray]]:
    """Per emoji (rows of `captioned.emoji("train")`) its cut-outs uint8[32, 32, 4], in the styles that have it.

    Raises ValueError for an unknown style, and for an emoji that none of the styles has.
    """
    found: list[list[np.ndarray]] = [[] for _ in rows]
    for style in styles:
        drawings = captioned.drawings(style)
        place = {row: i for i, row in enumerate(drawings.rows.tolist())}
        has = [i for i, row in enumerate(rows) if row in place]
        for i, cutout in zip(has, scenes.cut_outs(drawings.images[[place[rows[i]] for i in has]]), strict=True):
            found[i].append(cutout)
    if not all(found):
        raise ValueError(f"None of {', '.join(styles)} has a drawing of emoji {rows[found.index([])]}.")
    return found


def varied(cutout: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The cut-out, mirrored half the time, turned by up to `TURN`, in other colours; what leaves the frame is cut."""
    if rng.integers(2):
        cutout = cutout[:, ::-1]
    turned = Image.fromarray(np.ascontiguousarray(cutout)).rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR)
    out = np.array(turned).astype(np.float64)
    grey = out[..., :3].mean(-1, keepdims=True)
    colours = grey + (out[..., :3] - grey) * rng.uniform(*SATURATION)
    out[..., :3] = np.clip(colours * rng.uniform(*BRIGHTNESS) + rng.uniform(-TINT, TINT, 3), 0, 255)
    return np.rint(out).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- questions


@dataclass(frozen=True, eq=False)
class Questions:
    """n pairs of an object and a language. Attributes:

    objects, languages: int32[n], rows of `objects()` and of `texts.vocabulary().languages`.
    labels: int32[n], the first letter of the name: 0 for a to 25 for z, without its accents.
    """

    objects: np.ndarray
    languages: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> "Questions":
        return Questions(self.objects[rows], self.languages[rows], self.labels[rows])


@functools.cache
def objects() -> tuple[dict[str, int], np.ndarray]:
    """({emoji: its row}, uint8[objects, 24, 24, 3]): the emoji, first the 186 of the test split."""
    found, pictures = {}, []
    for split in ("test", "valid", "train"):
        emoji = captioned.emoji(split)
        for code, picture in zip(emoji.codes, emoji.images, strict=True):
            found["".join(chr(int(point, 16)) for point in code.split("-") if point != "FE0F")] = len(found)
            pictures.append(np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return found, np.stack(pictures)


def questions(split: str = "taught", *, late: bool = False) -> Questions:
    """The questions of a split, in an order that is random but fixed: the first n are a fair sample.

    split: "taught"; "held_out" (5 % of the pairs of such objects and languages) or "novel" (about objects that are in
    neither). late: in every fourth of the 35 languages, which a model may learn after the others; False: in those.
    Names that begin with another letter than a to z are left out. Raises ValueError for an unknown split.
    """
    one_of("split of the questions", split, SPLITS)
    known, languages = objects()[0], texts.vocabulary().languages
    chosen = set(languages[3::4]) if late else set(languages) - set(languages[3::4])
    new = len(captioned.emoji("test"))  # rows below are those of the test split
    parts = texts.SPLITS if split == "novel" else (split,)
    facts = [fact for part in parts for fact in texts.facts(part).names]
    rows = [
        (known[emoji], languages.index(language), LETTERS.index(letter))
        for language, emoji, name in facts
        if language in chosen
        and emoji in known
        and (known[emoji] < new) == (split == "novel")
        and (letter := _initial(name)) in LETTERS
    ]
    return Questions(*np.array(rows, np.int32).T)


def _initial(name: str) -> str:
    """The first letter without its accents: "élan" -> "e"."""
    return unicodedata.normalize("NFD", name)[0]


def pictures(asked: Questions, rng: np.random.Generator) -> np.ndarray:
    """uint8[n, 36, 24, 3]: objects in new light above their languages, with noise."""
    n = len(asked)
    light = rng.uniform(*LIGHT, (n, 1, 1, 1)).astype(np.float32)
    shown = objects()[1][asked.objects].astype(np.float32) / 255 * light
    written = np.broadcast_to(_strips()[asked.languages, :, :, None], (n, STRIP, SIDE, 3))
    image = np.concatenate([shown, written], axis=1)
    image = image + NOISE * (2 * rng.random(image.shape, np.float32) - 1)
    return (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)


@functools.cache
def _strips() -> np.ndarray:
    """float32[languages, 12, 24]: the code of each language in black on white, its letters equally far apart."""
    strips = []
    for code in texts.vocabulary().languages:
        strip = Image.new("L", (SIDE, STRIP), 255)
        for i, letter in enumerate(code):
            place = (SIDE * (i + 0.5) / len(code), BASELINE)
            ImageDraw.Draw(strip).text(place, letter, fill=0, font=font_of_size(*FONT), anchor="ms")
        strips.append(np.asarray(strip, np.float32) / 255)
    return np.stack(strips)


def batches(asked: Questions, batch_size: int, *, seed: int = 0) -> grain.DatasetIterator:
    """An endless iterator over {"image": float32[B, 36, 24, 3] in [-1, 1], "label": int32[B]}. Every epoch has a new
    order, and every picture is new. `get_state` and `set_state` continue with the very next batch.

    Raises ValueError if there are fewer questions than batch_size, or it is not positive.
    """

    def batch(rows: np.ndarray, position: int) -> dict[str, np.ndarray]:
        images = to_float(pictures(asked[rows], keyed_rng(seed, 1, position)))
        return {"image": images, "label": asked.labels[rows]}

    return image_batches.shuffled_batches(len(asked), batch_size, batch, seed=seed)
