"""Metrics of generated texts: exact match, letters, boxes. Each takes the texts and their examples.

    exact_matches(texts, examples)       # float[B]
    ap50(texts, examples)                # one float for all of them

The metrics themselves are in `kitlib.metrics`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kitlib.metrics.detection import Detections, Truth, coco
from kitlib.metrics.text_metrics import anls, exact_match, similarity
from kitlib.multimodal import boxes
from kitlib.multimodal.prompts import BETWEEN, Example


def exact_matches(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float[B] of 0 and 1: whether the text equals the target (see `metrics.text_metrics.exact_match`)."""
    return exact_match(predictions, [example.answer for example in examples])


def last_names(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float[B] of 0 and 1: whether the text ends with the last name of the target, behind " ; " if there are two."""
    return exact_match(*_last_parts(predictions, examples))


def last_words(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float[B] of 0 and 1: whether the last word of the text, as spaces divide it, is that of the target."""
    texts = (predictions, [example.answer for example in examples])
    return exact_match(*([" ".join(text.split()[-1:]) for text in listed] for listed in texts))


def within_one(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float[B] of 0 and 1: whether the text ends with a whole number, behind " ; " if there are several, which is at
    most 1 away from the target's."""
    pairs = zip(*_last_parts(predictions, examples), strict=True)
    return np.array([text.isdecimal() and abs(int(text) - int(true)) <= 1 for text, true in pairs], float)


def _last_parts(predictions: Sequence[str], examples: Sequence[Example]) -> list[list[str]]:
    """[of the predictions, of the targets]: the parts behind the last " ; "."""
    return [[text.split(BETWEEN)[-1] for text in texts] for texts in (predictions, [e.answer for e in examples])]


def anls_values(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float[B], `metrics.text_metrics.anls` of every text: the share of correct letters, 0 where it is below a half."""
    return anls(predictions, [[example.answer] for example in examples])


def letter_similarity(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float[B], the share of correct letters: 1 - edit distance / length of the longer text.

    This is ANLS without its threshold, below which a text that is half right would count as 0.
    """
    return np.array([similarity(text, example.answer) for text, example in zip(predictions, examples, strict=True)])


def ap50(
    predictions: Sequence[str],
    examples: Sequence[Example],
    bins: int = boxes.BINS,
    number: Mapping[str, int] | None = None,
) -> float:
    """Average precision at IoU 0.5 of the generated boxes; NaN if no example has an object other than noise.

    Texts give no confidences: boxes are ranked by their position in the text. bins: see `boxes`.

    number: the class of every name, such as "dog" and "Hund" of the same; by default every name of an object is a class
    of its own. As in COCO, a class without objects is left out of the mean. So with many names for a few objects a box
    for something that is not there costs nothing, unless another example has that very name: then give the classes.
    """
    if number is None:
        names = {name for example in examples for name in boxes.from_text(example.answer, bins)[1]} - {boxes.NOISE}
        number = {name: i for i, name in enumerate(sorted(names))}
    targets = [read_detections(example.answer, number, bins) for example in examples]
    truths = [Truth(target.boxes, target.classes) for target in targets]
    return coco(
        [read_detections(text, number, bins) for text in predictions], truths, max(number.values(), default=-1) + 1
    ).ap50


def read_detections(text: str, number: Mapping[str, int], bins: int = boxes.BINS) -> Detections:
    """The boxes in a text whose names are among the classes {name: number}, ranked by their position in the text.

    Other names are left out. Unreadable parts of the text, such as boxes with inverted corners, detect nothing: their
    objects count as missed.
    """
    found, names, _ = boxes.from_text(text, bins)
    kept = [i for i, name in enumerate(names) if name in number]
    classes = np.array([number[names[i]] for i in kept], int)
    return Detections(found[kept], -np.arange(len(kept), dtype=float), classes)
