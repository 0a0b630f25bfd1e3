"""Prompts: the words that give a model its task, the `Example` that a prompt belongs to, and how texts are split.

    example = objectives.vqa(image, WHAT, "Apfel", "de")   # Answer in de: what is this?      -> Apfel
    without_prefix(example)                                # what is this?                    -> Apfel

The words of all prompts are here, and in `synthetic` for questions about its scenes and videos. A trained model depends
on them: with other words it gives other answers.
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kitlib.configs.arguments import one_of
from kitlib.data.captioned import LANGUAGES, ByLanguage

# The words for captions and answers are PaLI's (arXiv 2209.06794), as is "detect"; " ; " between names is PaliGemma's
# (2407.07726). All others are ours: we found no text that gives the words of PaLI-X.
CAPTION = "Generate the alt-text in {language} at {position}: "
ANSWER = "Answer in {language}: "
PREFIXES = {  # by objective, in the order of the paper
    "span_corruption": "",
    "split_captioning": CAPTION,
    "captioning": CAPTION,
    "split_ocr": "Generate the ocr_text in {language} at {position}: ",
    "vqa": ANSWER,
    "question_generation": "Generate a question in {language}: ",
    "object_aware_vqa": ANSWER,
    "episodic_captioning": CAPTION,
    "episodic_vqa": ANSWER,
    "screenshot_to_markup": "Generate the markup",
    "video_captioning": CAPTION,
    "detection": "detect ",
    "masked_tokens": "Generate the image tokens",
}
SENTINEL = "<extra_id_{}>"
WITH_OCR = "{question} OCR: {ocr}"  # after the question: text of the image, read by another program
SOLVED = "{question} {answer}"  # an exemplar; in captioning, its caption replaces the sentinel
BETWEEN = " ; "  # between the names in a prompt
WHAT = "what is this?"  # the question whose answers are names or made-up words
TRANSLATE = "what is {name}?"  # asked without an image
FIRST_WHERE = " first where"  # after a question about motion or number: the answer is first where objects are
FIRST_IN = " first in {language}"  # after either: the answer is the name in this language, then in the prefix's
UNSPACED = ("zh", "ja", "th")  # written without spaces between words
CODES = ByLanguage({code: code for code in LANGUAGES})  # raises ValueError for an unknown one and names the nearest


@dataclass(frozen=True, eq=False)
class Example:
    """The input of a model, and the text that it is to write.

    Raises ValueError for an unknown objective, a few-shot prompt without a text, and a target without visible text.

    Attributes:
        images: uint8[n, H, W, 3], images or frames; n = 0: text alone.
        prompt: one text; few-shot, one per image, the last of them for the query.
        target: the pieces of the text to be written, and whether each carries loss, as returned by `boxes.target`.
        task: the objective, a key of `PREFIXES`.
    """

    images: np.ndarray
    prompt: str | tuple[str, ...]
    target: tuple[tuple[str, bool], ...]
    task: str

    def __post_init__(self):
        one_of("objective of PaLI-X", self.task, PREFIXES)
        if self.prompt == ():
            raise ValueError(f"A few-shot prompt of {self.task} needs one text per image, got none.")
        if not self.answer.strip():
            raise ValueError(f"An example of {self.task} needs a target with a visible character, got {self.target!r}.")

    @property
    def answer(self) -> str:
        """The text to be written, as one string."""
        return "".join(piece for piece, _ in self.target)


def without_prefix(example: Example) -> Example:
    """The same example without the words that state the task, to measure how much they help: only the content is left.

    The content is the question, the names, or the beginning of a caption with its sentinel; for "Generate the markup"
    it is "". In a few-shot example every prompt loses its prefix. Raises ValueError where there is no prefix.
    """
    prefix = re.escape(PREFIXES[example.task].format(language="LANGUAGE", position="POSITION"))
    pattern = prefix.replace("LANGUAGE", "[a-z]+").replace("POSITION", "[0-9]+")
    prompts = (example.prompt,) if isinstance(example.prompt, str) else example.prompt
    if not prefix or not all(re.match(pattern, prompt) for prompt in prompts):
        raise ValueError(f"This example of {example.task} has no prefix to be taken away: {prompts[0]!r}.")
    short = tuple(re.sub(pattern, "", prompt, count=1) for prompt in prompts)
    return replace(example, prompt=short[0] if isinstance(example.prompt, str) else short)


def units(text: str, language: str) -> list[str]:
    """The units into which a caption is split: words, or in `UNSPACED` languages characters with their marks.

    Joined again (words with a space between them), they are the text. Raises ValueError for white space that would be
    lost.
    """
    if checked_text(text) != " ".join(text.split()):
        raise ValueError(f"White space must be single spaces between words, or it would be lost, got {text!r}.")
    if CODES[language] not in UNSPACED:
        return text.split(" ")
    # Thai vowels and tones above and below a letter are marks and stay with it.
    starts = [i for i, character in enumerate(text) if i == 0 or not unicodedata.category(character).startswith("M")]
    return [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]


def draw_position(count: int, rng: np.random.Generator) -> int:
    """The position at which to split `count` units: 1 to count - 1, equally likely; 0 if there is only one unit."""
    return int(rng.integers(1, count)) if count > 1 else 0


def first_words(texts: Sequence[str], most: int) -> tuple[str, int]:
    """(text, dropped): the first `most` words of these texts, for `vqa`, and the number of dropped words after them.

    In reading order the dropped words are the end of the page. Raises ValueError for most < 1.
    """
    if most < 1:
        raise ValueError(f"most is {most}; expected at least 1 word.")
    words = " ".join(texts).split()
    return " ".join(words[:most]), max(len(words) - most, 0)


def checked_text(text: str) -> str:
    """The same text. Raises ValueError if it has no visible character, or has a sentinel."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"Questions, answers, captions and other texts need a visible character, got {text!r}.")
    if SENTINEL.split("{}")[0] in text:
        raise ValueError(f"A sentinel stands for words that are left out and can be in no text, got {text!r}.")
    return text
