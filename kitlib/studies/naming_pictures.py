"""The test images of `naming`: in-distribution, corrupted, never taught, out-of-distribution, and few-shot."""

import functools

import numpy as np

from kitlib import data
from kitlib.configs.arguments import one_of
from kitlib.data import keyed_rng, shifts
from kitlib.data.image_batches import resize_and_crop, to_float
from kitlib.metrics import fewshot
from kitlib.studies.ensemble_measures import NUM_DRAWS, NUM_QUERIES, SHOTS
from kitlib.synthetic import named_pictures
from kitlib.synthetic.named_pictures import SIDE, Questions

ASKED, VALID = 1500, 500
NUM_CORRUPTED = 100  # questions per corruption and severity
NUM_FOREIGN = 1000  # pictures per out-of-distribution set
FOREIGN = ("novel", "clothes", "turned", "noise")


@functools.cache
def late(split: str) -> Questions:
    """Questions in the eight languages that are learned last: "train" (5,475); of these "test" (1,500), on which models
    are compared, and "valid" (500), by which recipes are chosen; "held_out" (307), never taught.

    Raises ValueError for another split.
    """
    one_of("split of the late languages", split, ("train", "test", "valid", "held_out"))
    if split == "held_out":
        return named_pictures.questions(split, late=True)
    taught = named_pictures.questions("taught", late=True)
    return {"train": taught, "test": taught[:ASKED], "valid": taught[ASKED : ASKED + VALID]}[split]


@functools.cache
def pictures() -> dict[str, np.ndarray]:
    """float32[n, 36, 24, 3] by name: "test", "held_out", "corrupted" (15 kinds in five severities) and the
    sets of `FOREIGN`.

    Of these, "novel" has things that no model has seen, "clothes" Fashion-MNIST's, "turned" known things upside down
    and "noise" uniform pixels, each above one of the eight languages. Only the thing is corrupted, not the language.
    """
    asked, rng = named_pictures.pictures(late("test"), keyed_rng(0, 2)), keyed_rng(0, 3)
    first = asked[:NUM_CORRUPTED]
    changed = [shifts.corrupt(first[:, :SIDE], name, s) for name in shifts.CORRUPTIONS for s in range(1, 6)]
    sets = {"test": asked, "corrupted": np.concatenate([_above(things, first) for things in changed])}
    novel = named_pictures.questions("novel", late=True)[:NUM_FOREIGN]
    some = asked[:NUM_FOREIGN]
    sets["held_out"] = named_pictures.pictures(late("held_out"), keyed_rng(0, 6))
    sets["novel"] = named_pictures.pictures(novel, rng)
    sets["clothes"] = _above(_clothes("test", np.arange(NUM_FOREIGN))[0], some)
    sets["turned"] = _above(some[:, SIDE - 1 :: -1], some)
    sets["noise"] = _above(rng.integers(0, 256, (len(some), SIDE, SIDE, 3), np.uint8), some)
    return {name: to_float(images) for name, images in sets.items()}


def _above(things: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Other things above the languages of uint8[n, 36, 24, 3]."""
    return np.concatenate([things, images[:, SIDE:]], axis=1)


def _clothes(split: str, rows) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[n, 24, 24, 3], labels) of Fashion-MNIST, dark on white as the kit's things are."""
    images, labels = data.load("fashion_mnist", split).take(rows)
    return np.repeat(255 - resize_and_crop(images, SIDE, SIDE), 3, axis=-1), labels


@functools.cache
def probe() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The few-shot task, clothes above one language: pictures and labels to learn from, and for the score."""
    labels = data.load("fashion_mnist", "train").arrays()[1]
    rows = np.unique(np.concatenate([fewshot.shots(labels, max(SHOTS), seed) for seed in range(NUM_DRAWS)]))
    strip = named_pictures.pictures(late("test")[:1], keyed_rng(0, 4))
    few, few_labels = _clothes("train", rows)
    asked, asked_labels = _clothes("test", np.arange(NUM_QUERIES))
    few, asked = (to_float(_above(images, np.repeat(strip, len(images), axis=0))) for images in (few, asked))
    return few, few_labels, asked, asked_labels
