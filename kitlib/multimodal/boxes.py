"""Boxes as text: how a language model writes down what it detects, as in Pix2Seq and PaLI.

    boxes, names = shuffle(boxes, names, rng)           # objects in random order
    boxes, names = add_noise(boxes, names, 20, rng)     # and boxes of noise, until there are 20
    pieces = target(boxes, names)                       # [("120 40 873 512", True), (" cat", True), (" ;", True), ...]
    boxes, names, dropped = from_text(answer)           # the objects in a generated text, the number of unreadable ones

Boxes are float[n, 4], each y0, x0, y1, x1 in shares of the image's height and width: 0 is the top or left border, 1 the
bottom or right one. A coordinate is written as one of `bins` whole numbers; an object is four of them and a name:

    120 40 873 512 cat ; 5 0 999 301 traffic light      y0 x0 y1 x1 name ; y0 x0 y1 x1 name

The order y0 x0 y1 x1 name and 1000 bins are those of Pix2Seq (arXiv 2109.10852) and PaLI (arXiv 2209.06794). The " ; "
between objects is taken from PaliGemma's prompts (`detect cat ; dog`): an unreadable object does not affect the others,
and names may have several words. A name has no ";", does not start with a digit, and has single spaces between its
words and no other white space. So only the rounding loses information: `from_text(to_text(boxes, names))` returns
`dequantize(quantize(boxes))`, the names, and 0 dropped. Everything is numpy in float64, for one image.
"""

from collections.abc import Sequence

import numpy as np

from kitlib.configs.arguments import whole
from kitlib.metrics.detection import as_boxes

BINS = 1000
NOISE = "noise"  # the class of boxes without an object; Pix2Seq's code calls it fake


def quantize(boxes, bins: int = BINS) -> np.ndarray:
    """float[n, 4] -> int64[n, 4] in 0 ... bins - 1: round(c * (bins - 1)), halves to the even number.

    After `dequantize`, a coordinate is off by at most 0.5 / (bins - 1). A box of height h and width w keeps an IoU of
    at least 1 - (1/h + 1/w) / (bins - 1) with the original, and on average loses about half of that. With 1000 bins the
    loss is at most 4 % for sides of 0.05, at most 1 % for sides of 0.2. Pix2Seq's formula also clips.

    Raises ValueError for boxes that are NaN, outside [0, 1], inverted or empty, or fewer than 2 bins.
    """
    whole("bins", bins, 2)
    boxes = as_boxes(boxes)
    if len(boxes) and not 0 <= boxes.min() <= boxes.max() <= 1:
        got = f"{boxes.min()} to {boxes.max()}"  # all digits: 1.0000001 must not be shown as 1
        raise ValueError(f"Boxes must be in [0, 1], shares of height and width, got {got}; are these pixels?")
    if (empty := np.any(boxes[:, 2:] == boxes[:, :2], axis=1)).any():
        raise ValueError(f"Boxes must have an area, got {boxes[empty][0].tolist()}; leave it out.")
    return np.rint(boxes * (bins - 1)).astype(np.int64)


def dequantize(numbers, bins: int = BINS) -> np.ndarray:
    """int[n, 4] -> float64[n, 4] in [0, 1]: q / (bins - 1).

    Raises TypeError for numbers that are not integers, ValueError for numbers outside 0 ... bins - 1, inverted boxes or
    fewer than 2 bins.
    """
    whole("bins", bins, 2)
    numbers = np.asarray(numbers)
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(f"Quantised boxes must be integers, got {numbers.dtype}.")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < bins:
        raise ValueError(f"Quantised boxes must be in 0 ... {bins - 1}, got {numbers.min()} to {numbers.max()}.")
    return as_boxes(numbers / (bins - 1))


def to_text(boxes, names: Sequence[str], bins: int = BINS) -> str:
    """The text of these objects, in their order, as at the top of the module; "" for none. Errors as in `target`."""
    return "".join(piece for piece, _ in target(boxes, names, bins))


def target(boxes, names: Sequence[str], bins: int = BINS) -> list[tuple[str, bool]]:
    """The text for a model to write: [(piece, weight), ...]; the weight is False if a piece carries no loss.

    An object is two pieces, its coordinates and its name, and " ;" stands between objects. Joined, the pieces are
    `to_text`. Each but the first starts with a space, as subwords do, so that the pieces can be encoded one by one and
    each weight repeated for the piece's tokens. Coordinates of an object named NOISE carry no loss, as they are random
    and independent of the image. Everything else does, also the name NOISE: from it the model learns to recognise a bad
    box (Pix2Seq).

    Raises ValueError for boxes that are NaN, outside [0, 1], inverted or empty, if there is not one name per box, and
    for a name that could not be read back.
    """
    numbers, names = quantize(boxes, bins), list(names)
    _check_names(names, len(numbers))
    pieces = []
    for box, name in zip(numbers.tolist(), names, strict=True):
        start = [(" ;", True)] if pieces else []
        coordinates = " ".join(map(str, box))
        pieces += [*start, (f" {coordinates}" if start else coordinates, name != NOISE), (f" {name}", True)]
    return pieces


def from_text(text: str, bins: int = BINS) -> tuple[np.ndarray, list[str], int]:
    """(boxes float64[n, 4], n names, dropped): the objects of a text, in its order; any text is accepted.

    The text is cut at every ";". A part is an object if it consists of four whole numbers as `quantize` makes them
    (digits alone, no leading zero, in 0 ... bins - 1), with y0 <= y1 and x0 <= x1, and a name. Any other part is
    dropped as a whole and counted; nothing is repaired. Any amount of white space counts as one space, and blank text
    has no objects. An incomplete name is still a name, so compare names with the known ones; and a box thinner than a
    bin may have been written with y0 = y1: it is kept, without area. Raises ValueError for fewer than 2 bins.
    """
    whole("bins", bins, 2)
    number = {str(q): q for q in range(bins)}
    boxes, names, dropped = [], [], 0
    for piece in text.split(";") if text.strip() else []:
        words = piece.split()
        y0, x0, y1, x1 = box = [number.get(word, -1) for word in [*words, "", "", "", ""][:4]]
        name = " ".join(words[4:])
        if min(box) >= 0 and y0 <= y1 and x0 <= x1 and _is_name(name):
            boxes.append(box)
            names.append(name)
        else:
            dropped += 1
    return dequantize(np.array(boxes, np.int64).reshape(-1, 4), bins), names, dropped


def shuffle(boxes, names: Sequence[str], rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """The same objects in random order, all orders equally likely: Pix2Seq's default, as no order can be memorised.

    Raises ValueError if there is not one name per box, and for a name that could not be read back.
    """
    boxes, names = as_boxes(boxes), list(names)
    _check_names(names, len(boxes))
    order = rng.permutation(len(boxes))
    return boxes[order], [names[i] for i in order]


def add_noise(boxes, names: Sequence[str], total: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Adds boxes named NOISE after the objects, up to `total` boxes (Pix2Seq: 100). Two random points span each.

    A model whose targets end after the last object learns to stop early and misses objects. With noise after them it
    always continues, and says which boxes are bad. Noise comes last, so call `shuffle` first. Pix2Seq's noise also has
    shifted and jittered copies of true boxes.

    Raises ValueError for more than `total` objects, for an object that is named NOISE, and as `shuffle`.
    """
    boxes, names = as_boxes(boxes), list(names)
    _check_names(names, len(boxes))
    if NOISE in names:
        raise ValueError(f"An object is named {NOISE!r}, the class of boxes that hold nothing: rename it.")
    if len(names) > total:
        raise ValueError(f"There are {len(names)} objects, more than the total of {total}: raise the total.")
    points = rng.random((total - len(names), 2, 2))  # box, point, (y, x)
    noise = np.sort(points, axis=1).reshape(-1, 4)
    return np.concatenate([boxes, noise]), names + [NOISE] * len(noise)


def _is_name(name) -> bool:
    if not isinstance(name, str) or name != " ".join(name.split()):
        return False
    return name != "" and ";" not in name and not name[0].isdigit()


def _check_names(names: list[str], count: int) -> None:
    if len(names) != count:
        raise ValueError(f"Every box needs one name, got {len(names)} names for {count} boxes.")
    for name in names:
        if not _is_name(name):
            rule = "words with one space between, without ';' and not starting with a digit"
            raise ValueError(f"A name must be {rule}, so that it can be read back, got {name!r}.")
