"""Inference on any picture: its name in sixteen languages, boxes, a count, and an answer.

    seen = ask_about(*stages.released(), read_picture("dog.png"), question="what color is it?")
    seen.captions["de"], seen.boxes, seen.count, seen.answer

The questions follow each other, as a user would ask them: what the model calls the object in English is what it is then
asked to find and to count. So where the name is wrong, so is the rest. `kit show` makes a page of it.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from kitlib.data import tokenizer
from kitlib.data.captioned import LANGUAGES
from kitlib.data.own_files import read_picture as read_picture  # part of what this module offers
from kitlib.multimodal import batching, objectives
from kitlib.multimodal import boxes as box_texts
from kitlib.multimodal.example_builders import BINS
from kitlib.multimodal.generation import generated_texts
from kitlib.multimodal.prompts import PREFIXES, Example

SHAPE = {"num_images": 1, "prompt_length": 64, "target_length": 32}
NAME_TOKENS = 32  # of a name in a question; what stands around it has less than the other half
OPEN = "?"  # what stands where the answer belongs, which the model does not see


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """A picture and what a model wrote about it.

    Attributes:
        image: uint8[H, W, 3].
        captions: {language: the picture's name}.
        boxes, names: float64[n, 4] in shares of the picture, and n names: where the model sees captions["en"].
        count: its answer to "how many"; any text.
        question, answer: the user's own question, "" if there was none.
    """

    image: np.ndarray = dataclasses.field(repr=False)
    captions: dict[str, str]
    boxes: np.ndarray
    names: list[str]
    count: str
    question: str
    answer: str


def ask_about(model, params, image: np.ndarray, *, question: str = "") -> Seen:
    """Asks a model for all of `Seen`. image: uint8[H, W, 3] of the tower's size; question: in English, in its words.

    Raises ValueError for another image, and for a question that is too long.
    """
    expected, got = (*model.config.tower.image_size, 3), f"{getattr(image, 'dtype', type(image).__name__)}"
    if got != "uint8" or image.shape != expected:
        raise ValueError(
            f"The image is {got}{list(np.shape(image))}; expected uint8{list(expected)}, values 0 to 255: "
            f"read_picture(path, {expected[0]}) makes it from any picture file."
        )
    captions = _written(model, params, [objectives.captioning(image, OPEN, language) for language in LANGUAGES])
    by_language = dict(zip(LANGUAGES, captions, strict=True))
    name = _askable(by_language["en"])
    asked = [
        Example(image[None], PREFIXES["detection"] + name, ((OPEN, True),), "detection"),
        objectives.vqa(image, f"how many: {name}?", OPEN, "en"),
    ]
    if question:
        asked.append(objectives.vqa(image, question, OPEN, "en"))
        length = len(batching.prompt_tokens(asked[-1], tokenizer.multilingual())[0])
        if length > SHAPE["prompt_length"]:
            raise ValueError(
                f"The question has {length} tokens, at most {SHAPE['prompt_length']} fit: ask a shorter one."
            )
    found, count, *answer = _written(model, params, asked)
    boxes, names, _ = box_texts.from_text(found, BINS)
    kept = [i for i, written in enumerate(names) if written != box_texts.NOISE]
    return Seen(image, by_language, boxes[kept], [names[i] for i in kept], count, question, answer[0] if answer else "")


def _askable(caption: str) -> str:
    """A name to ask for. A model may write without end, or a sentinel, which would stand for the answer in a prompt."""
    words = tokenizer.multilingual()
    text = " ".join(re.sub("<extra_id_[0-9]+>", " ", caption).split())
    return words.decode(words.encode(text)[:NAME_TOKENS]).strip() or "thing"


def _written(model, params, examples: Sequence[Example]) -> list[str]:
    side = model.config.tower.image_size[0]
    return generated_texts(model, params, examples, batch_size=16, shape=SHAPE | {"image_size": side})


def with_boxes(seen: Seen, scale: int = 4) -> np.ndarray:
    """uint8[scale H, scale W, 3]: the picture, enlarged, with a frame of two colours around every box."""
    height, width = seen.image.shape[:2]
    large = np.array(Image.fromarray(seen.image).resize((scale * width, scale * height), Image.Resampling.NEAREST))
    for box in seen.boxes:
        y0, x0, y1, x1 = np.rint(box * np.tile(np.array(large.shape[:2]) - 1, 2)).astype(int)
        for inset, colour in ((0, 255), (1, 0)):  # white, and black inside: visible on any ground
            top, left, bottom, right = y0 + inset, x0 + inset, y1 - inset, x1 - inset
            if top < bottom and left < right:
                large[[top, bottom], left : right + 1] = colour
                large[top : bottom + 1, [left, right]] = colour
    return large
