"""The thirteen objectives of PaLI-X (arXiv 2305.18565): pictures and prompt in, text out.

    captioning(image, "red apple", "en")           # Generate the alt-text in en at 0: <extra_id_0>      -> red apple
    split_captioning(image, "red apple", "en", 1)  # Generate the alt-text in en at 1: red <extra_id_0>  -> apple
    example = vqa(image, WHAT, "Apfel", "de")      # Answer in de: what is this?                         -> Apfel
    without_prefix(example)                        # what is this?                                       -> Apfel

Each function turns data into an `Example`; what is random is drawn from `rng`. Nothing is tokenized here. Wherever a
prompt has a sentinel, it stands in the very place of what the target tells, so both together are the whole text again.

All words of all prompts are in the first part of the module. They belong to a trained model: other words, other
answers. Pictures are uint8[H, W, 3] or uint8[n, H, W, 3]. ValueError is raised for pictures of another shape, type or
number, blank texts, sentinels in texts, a language not among `pictures.LANGUAGES`, and what a function adds to these.
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kitlib import boxes as box_texts
from kitlib import scenes, visual_tokens
from kitlib.denoise import random_spans_mask
from kitlib.episodes import Episode
from kitlib.pictures import LANGUAGES, ByLanguage, check_known
from kitlib.tokenizer import SENTINELS

# The words for captions and answers are PaLI's (arXiv 2209.06794), as is "detect"; " ; " between names is PaliGemma's
# (2407.07726). All others are ours: what PaLI-X says here is in no text that was found.
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
WITH_OCR = "{question} OCR: {ocr}"  # behind the question: text that something else read in the picture
SOLVED = "{question} {answer}"  # an exemplar; one with a caption has it in the place of the sentinel
BETWEEN = " ; "  # names in a prompt
WHAT = "what is this?"  # the question whose answers are names and made-up words

OBJECT_AWARE = ("list", "present", "which")  # the questions of `scenes.ask` that are part of the mixture
UNSPACED = ("zh", "ja", "th")  # written without spaces between words
CODES = ByLanguage({code: code for code in LANGUAGES})  # refuses an unknown one and names the nearest
NO_PICTURE = np.zeros((0, scenes.SIZE, scenes.SIZE, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Example:
    """What a model sees, and what it shall write.

    Raises ValueError for an unknown task, for few-shot prompts without a text, and where there is nothing to write.

    Attributes:
        images: uint8[n, H, W, 3], pictures or frames; n = 0 is text alone.
        prompt: one text; few-shot one for each picture, the last of them the query's.
        target: the pieces of the text to be written, and whether each carries loss, as `boxes.target` gives them.
        task: the objective, a key of `PREFIXES`.
    """

    images: np.ndarray
    prompt: str | tuple[str, ...]
    target: tuple[tuple[str, bool], ...]
    task: str

    def __post_init__(self):
        check_known("objective", self.task, PREFIXES, "PaLI-X")
        if self.prompt == ():
            raise ValueError(f"A few-shot prompt of {self.task} needs a text for each picture, got none.")
        if not self.answer.strip():
            raise ValueError(f"An example of {self.task} needs a target with a visible character, got {self.target!r}.")

    @property
    def answer(self) -> str:
        """The text to be written, as one."""
        return "".join(piece for piece, _ in self.target)


def without_prefix(example: Example) -> Example:
    """The same without the words that tell the task, to measure what they are worth: only the content is left.

    That is the question, the names, the beginning of a caption and its sentinel; of "Generate the markup" nothing, "".
    Few-shot, every prompt loses its prefix. Raises ValueError where there is none.
    """
    prefix = re.escape(PREFIXES[example.task].format(language="LANGUAGE", position="POSITION"))
    pattern = prefix.replace("LANGUAGE", "[a-z]+").replace("POSITION", "[0-9]+")
    prompts = (example.prompt,) if isinstance(example.prompt, str) else example.prompt
    if not prefix or not all(re.match(pattern, prompt) for prompt in prompts):
        raise ValueError(f"This example of {example.task} has no prefix to be taken away: {prompts[0]!r}.")
    short = tuple(re.sub(pattern, "", prompt, count=1) for prompt in prompts)
    return replace(example, prompt=short[0] if isinstance(example.prompt, str) else short)


# ---------------------------------------------------------------------------------------------- texts and their parts


def units(text: str, language: str) -> list[str]:
    """Of what a caption is split into: words, or in `UNSPACED` languages characters with their marks.

    Joined again, words with a space between, they are the text. Raises ValueError for white space that would be lost.
    """
    if _checked(text) != " ".join(text.split()):
        raise ValueError(f"White space must be single spaces between words, or it would be lost, got {text!r}.")
    if CODES[language] not in UNSPACED:
        return text.split(" ")
    # Thai vowels and tones above and below a letter are marks and stay with it.
    starts = [i for i, character in enumerate(text) if i == 0 or not unicodedata.category(character).startswith("M")]
    return [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]


def draw_position(count: int, rng: np.random.Generator) -> int:
    """Where to split `count` units: 1 to count - 1, equally likely; 0, before all, if there is only one."""
    return int(rng.integers(1, count)) if count > 1 else 0


def first_words(texts: Sequence[str], most: int) -> tuple[str, int]:
    """(text, dropped): the first `most` words of these texts, for `vqa`, and how many were left out behind them.

    In reading order what is lost is the end of the page. Raises ValueError for most < 1.
    """
    if most < 1:
        raise ValueError(f"most is {most}; expected at least 1 word.")
    words = " ".join(texts).split()
    return " ".join(words[:most]), max(len(words) - most, 0)


def span_corruption(text: str, rng: np.random.Generator, *, density: float = 0.15, mean_span: float = 3) -> Example:
    """1: a text with words taken out -> the words: "the <extra_id_0> sat <extra_id_1>" -> "<extra_id_0> cat <extra...".

    By `denoise.random_spans_mask` on words, not subwords. Raises as that, and ValueError for white space as `units` and
    for more spans than the kit has sentinels.
    """
    words = units(text, "en")
    mask = random_spans_mask(len(words), density, mean_span, rng)
    prompt, target = [], []
    for k, (hidden, group) in enumerate(itertools.groupby(zip(mask, words, strict=True), key=lambda pair: pair[0])):
        run, sentinel = [word for _, word in group], SENTINEL.format(k // 2)  # text and noise alternate
        prompt += [sentinel] if hidden else run
        target += [sentinel, *run] if hidden else []
    if k // 2 >= SENTINELS:
        raise ValueError(f"{len(words)} words have {k // 2 + 1} spans of noise, but there are {SENTINELS} sentinels.")
    return _example("span_corruption", NO_PICTURE, " ".join(prompt), " ".join(target))


# ---------------------------------------------------------------------------------------------- pictures


def split_captioning(image, caption: str, language: str, position: int) -> Example:
    """2: the beginning of a caption -> its rest. position: how many of its `units` are given, see `draw_position`."""
    return _continued("split_captioning", _pictures(image, 1), units(caption, language), language, position)


def captioning(image, caption: str, language: str) -> Example:
    """3: -> the caption; that is `split_captioning` at 0."""
    return _continued("captioning", _pictures(image, 1), units(caption, language), language, 0)


def split_ocr(image, texts: Sequence[str], language: str, position: int) -> Example:
    """4: the first texts in a picture -> the others (PreSTU, arXiv 2209.05534). At 0 it is plain OCR.

    texts: words or short lines in reading order, in every language with spaces between; position: how many are given.
    """
    parts = [" ".join(units(text, "en")) for text in texts]  # refuses white space that would be lost
    return _continued("split_ocr", _pictures(image, 1), parts, language, position)


def vqa(images, question: str, answer: str, language: str, *, ocr: str = "", max_images: int | None = None) -> Example:
    """5: a question -> its answer; with frames, about a film. ocr: text read in the picture, see `first_words`."""
    content = WITH_OCR.format(question=_checked(question), ocr=_checked(ocr)) if ocr else _checked(question)
    return _example("vqa", _pictures(images, max_images), content, _checked(answer), language)


def question_generation(image, question: str, answer: str, language: str) -> Example:
    """6: an answer -> the question."""
    return _example("question_generation", _pictures(image, 1), _checked(answer), _checked(question), language)


def object_aware_vqa(scene: scenes.Scene, names: Sequence[str], rng: np.random.Generator) -> Example:
    """7: which things are there? Is there this one? Which of these two? -> the answer, in English.

    names: of all kinds. One of those questions that `scenes.ask` has for the scene is drawn. Raises as that.
    """
    asked = scenes.ask(scene, names, scene.indices[0], rng)
    question, answer = asked[rng.choice([kind for kind in OBJECT_AWARE if kind in asked])]
    return _example("object_aware_vqa", _pictures(scene.image, 1), question, answer)


def screenshot_to_markup(image, markup: str) -> Example:
    """10: a picture of a page -> its markup (Pix2Struct, arXiv 2210.03347)."""
    return _example("screenshot_to_markup", _pictures(image, 1), "", _checked(markup))


def detection(image, boxes, names, asked: Sequence[str], rng: np.random.Generator, total: int | None = None) -> Example:
    """12: names -> the boxes of all things with these names, in random order, written by `boxes.target`.

    The picture has n objects, boxes float[n, 4], n names. asked: different names, in the language of those, as nothing
    else in the prompt tells it; some may be absent. total: fills up with boxes of noise to as many, whose coordinates
    carry no loss; None: without. Raises ValueError where nothing, or a name twice, is asked for, where there is nothing
    to tell, for an object named NOISE, and as `boxes.quantize` and `boxes.add_noise`.
    """
    asked = list(asked)
    if not asked or len(set(asked)) != len(asked):
        raise ValueError(f"Ask for one name or several different ones, got {asked}.")
    box_texts.to_text(np.tile([0.0, 0.0, 1.0, 1.0], (len(asked), 1)), asked)  # refuses names that cannot be read back
    if box_texts.NOISE in (*asked, *names):
        raise ValueError(f"{box_texts.NOISE!r} is the class of boxes that hold nothing: rename the object.")
    boxes, names = box_texts.shuffle(boxes, names, rng)
    box_texts.quantize(boxes)  # refuses bad ones, those too that nobody asks for
    boxes, names = boxes[np.isin(names, asked)], [name for name in names if name in asked]
    if total is not None:
        boxes, names = box_texts.add_noise(boxes, names, total, rng)
    if not names:
        raise ValueError(f"None of {asked} is in the picture, so there is nothing to tell but noise: give a total.")
    prompt = PREFIXES["detection"] + BETWEEN.join(asked)
    return Example(_pictures(image, 1), prompt, tuple(box_texts.target(boxes, names)), "detection")


def masked_tokens(image, hidden, codebook: np.ndarray) -> Example:
    """13: a picture with grey cells -> the codes of what was there, row by row: "17 203 5".

    hidden bool[gh, gw] and codebook uint8[K, p, p, 3]: see `visual_tokens`, and errors as of its `encode`.
    """
    pictures, hidden = _pictures(image, 1), np.asarray(hidden)
    codes = visual_tokens.encode(pictures, codebook)[0]
    if hidden.dtype != bool or hidden.shape != codes.shape or not hidden.any():
        got = f"{hidden.dtype}{list(hidden.shape)}"
        raise ValueError(f"The mask must be bool{list(codes.shape)} with a hidden cell at least, got {got}.")
    seen = visual_tokens.hide(pictures[0], hidden)[None]
    return _example("masked_tokens", seen, "", " ".join(map(str, codes[hidden])))


def episodic_captioning(images, captions: Sequence[str], language: str, *, max_images: int | None = None) -> Example:
    """8: n - 1 captioned pictures and one more -> its caption; n captions. Refuses others, n < 2, n > max_images."""
    pictures = _pictures(images, max_images, captions)
    *shown, answer = map(_checked, captions)
    return _example("episodic_captioning", pictures, (*shown, SENTINEL.format(0)), answer, language)


def episodic_vqa(images, questions, answers, language: str, *, max_images: int | None = None) -> Example:
    """9: n - 1 pictures, questions and answers, one more picture and question -> its answer; n of each, errors as 8."""
    pictures = _pictures(images, max_images, questions, answers)
    pairs = [(_checked(question), _checked(answer)) for question, answer in zip(questions, answers, strict=True)]
    solved = [SOLVED.format(question=question, answer=answer) for question, answer in pairs[:-1]]
    return _example("episodic_vqa", pictures, (*solved, pairs[-1][0]), pairs[-1][1], language)


def made_up_words(episode: Episode, *, max_images: int | None = None) -> Example:
    """9, with answers that nobody can know by heart: the words of an episode, asked for by `WHAT`."""
    images, answers = [*episode.images, episode.query], [*episode.words, episode.answer]
    return episodic_vqa(images, [WHAT] * len(answers), answers, "en", max_images=max_images)


def video_captioning(frames, caption: str, language: str, *, max_images: int | None = None) -> Example:
    """11: frames uint8[n, H, W, 3] -> a caption, such as `mixture.motion`. Raises ValueError for > max_images."""
    return _continued("video_captioning", _pictures(frames, max_images), units(caption, language), language, 0)


def _example(task: str, pictures, content: str | tuple[str, ...], answer: str, language="en", position=0) -> Example:
    prefix = PREFIXES[task].format(language=CODES[language], position=position)
    prompt = prefix + content if isinstance(content, str) else tuple(prefix + part for part in content)
    return Example(pictures, prompt, ((answer, True),), task)


def _continued(task: str, pictures, parts: Sequence[str], language: str, position: int) -> Example:
    if not 0 <= position < len(parts):
        raise ValueError(f"The text has {len(parts)} parts, {position} are given: one at least must be left to tell.")
    joint = "" if language in UNSPACED and task != "split_ocr" else " "
    given, rest = joint.join([*parts[:position], SENTINEL.format(0)]), joint.join(parts[position:])
    return _example(task, pictures, given, rest, language, position)


def _checked(text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"Questions, answers, captions and other texts need a visible character, got {text!r}.")
    if SENTINEL.split("{}")[0] in text:
        raise ValueError(f"A sentinel stands for words that are left out and can be in no text, got {text!r}.")
    return text


def _pictures(images, most: int | None, *texts: Sequence[str]) -> np.ndarray:
    """uint8[n, H, W, 3], checked: at most so many, and in an episode at least 2 and as many as texts of each kind."""
    if images is None or not len(images):
        raise ValueError("There is no picture, but this task is about one at least.")
    if len({np.shape(image) for image in images}) > 1:
        raise ValueError("The pictures of an example must be of one size: resize them.")
    images = np.asarray(images)
    images = images[None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"Expected pictures uint8[n, H, W, 3], 0 to 255, got {images.dtype}{list(images.shape)}.")
    if most is not None and len(images) > most:
        raise ValueError(f"Got {len(images)} pictures or frames; this task takes at most {most}.")
    if texts and (len(images) < 2 or any(len(part) != len(images) for part in texts)):
        counts = " and ".join(str(len(part)) for part in texts)
        raise ValueError(f"Expected 2 pictures at least and as many texts, got {len(images)} pictures, {counts} texts.")
    return images
