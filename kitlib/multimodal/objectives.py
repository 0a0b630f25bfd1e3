"""The thirteen objectives of PaLI-X (arXiv 2305.18565), one function each: data in, an `Example` out.

    captioning(image, "red apple", "en")           # Generate the alt-text in en at 0: <extra_id_0>      -> red apple
    split_captioning(image, "red apple", "en", 1)  # Generate the alt-text in en at 1: red <extra_id_0>  -> apple
    vqa(image, WHAT, "Apfel", "de")                # Answer in de: what is this?                         -> Apfel

All random decisions are drawn from `rng`. Nothing is tokenised here. The sentinel of a prompt stands exactly where the
target's text belongs, so prompt and target together are the whole text. The words of the prompts are in `prompts`.

Images are uint8[H, W, 3] or uint8[n, H, W, 3]. Every function raises ValueError for images of another shape, type or
number, blank texts, sentinels in texts and a language that is not in `captioned.LANGUAGES`; some add other errors.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from kitlib.data.denoise import random_spans_mask
from kitlib.data.tokenizer import SENTINELS
from kitlib.multimodal import boxes as box_texts
from kitlib.multimodal import prompts, visual_tokens
from kitlib.multimodal.prompts import BETWEEN, CODES, FIRST_IN, PREFIXES, SENTINEL, WHAT, Example, checked_text, units
from kitlib.synthetic import scenes
from kitlib.synthetic.episodes import Episode

OBJECT_AWARE = ("list", "present", "which")  # the questions of `scenes.ask` that are part of the mixture
NO_IMAGE = np.zeros((0, scenes.SIZE, scenes.SIZE, 3), np.uint8)


def span_corruption(text: str, rng: np.random.Generator, *, density: float = 0.15, mean_span: float = 3) -> Example:
    """1: a text without some words -> these words: "the <extra_id_0> sat <extra_id_1>" -> "<extra_id_0> cat <extra...".

    `denoise.random_spans_mask` chooses the words (not subwords). Raises as that function, and ValueError for white
    space as in `units` and for more spans than there are sentinels.
    """
    words = units(text, "en")
    mask = random_spans_mask(len(words), density, mean_span, rng)
    prompt, target = [], []
    for k, (hidden, group) in enumerate(itertools.groupby(zip(mask, words, strict=True), key=lambda pair: pair[0])):
        span, sentinel = [word for _, word in group], SENTINEL.format(k // 2)  # text and noise alternate
        prompt += [sentinel] if hidden else span
        target += [sentinel, *span] if hidden else []
    if k // 2 >= SENTINELS:
        raise ValueError(f"{len(words)} words have {k // 2 + 1} spans of noise, but there are {SENTINELS} sentinels.")
    return _example("span_corruption", NO_IMAGE, " ".join(prompt), " ".join(target))


# ---------------------------------------------------------------------------------------------- images


def split_captioning(image, caption: str, language: str, position: int) -> Example:
    """2: the beginning of a caption -> its rest. position: how many of its `units` are given (see `draw_position`)."""
    return _continued("split_captioning", _pictures(image, 1), units(caption, language), language, position)


def captioning(image, caption: str, language: str) -> Example:
    """3: an image -> its caption; the same as `split_captioning` at position 0."""
    return _continued("captioning", _pictures(image, 1), units(caption, language), language, 0)


def split_ocr(image, texts: Sequence[str], language: str, position: int) -> Example:
    """4: the first texts in an image -> the others (PreSTU, arXiv 2209.05534). At position 0 it is plain OCR.

    texts: words or short lines in reading order, joined by spaces in every language; position: how many are given.
    """
    parts = [" ".join(units(text, "en")) for text in texts]  # raises for white space that would be lost
    return _continued("split_ocr", _pictures(image, 1), parts, language, position)


def vqa(images, question: str, answer: str, language: str, *, ocr: str = "", max_images: int | None = None) -> Example:
    """5: a question -> its answer; with frames, about a video. ocr: text read in the image (see `first_words`)."""
    content = checked_text(question)
    if ocr:
        content = prompts.WITH_OCR.format(question=question, ocr=checked_text(ocr))
    return _example("vqa", _pictures(images, max_images), content, checked_text(answer), language)


def translation(name: str, answer: str, language: str, first: tuple[str, str] | None = None) -> Example:
    """The text half of `vqa`: what is this name, in another language? No image.

    first: (name, language) to be written before the answer: "what is Hund? first in en" -> "dog ; chien".
    """
    return _named(NO_IMAGE, prompts.TRANSLATE.format(name=checked_text(name)), answer, language, first)


def recall(names: Sequence[str], words: Sequence[str], asked: int, language: str) -> Example:
    """The text half of `made_up_words`: "what is Hund? vuck ; what is Apfel? gub ; what is Hund?" -> "vuck".

    Raises ValueError unless every name has a word and the names differ.
    """
    if len(names) != len(words) or len(set(names)) != len(names):
        raise ValueError(f"Expected different names and a word for each, got {list(names)} and {list(words)}.")
    questions = [prompts.TRANSLATE.format(name=checked_text(name)) for name in names]
    listed = BETWEEN.join([*_solved(questions, map(checked_text, words)), questions[asked]])
    return _example("vqa", NO_IMAGE, listed, words[asked], language)


def _solved(questions, answers) -> list[str]:
    """Exemplars: each question with its answer behind it."""
    return [prompts.SOLVED.format(question=q, answer=a) for q, a in zip(questions, answers, strict=True)]


def repeated_pairs(pairs: Sequence[tuple[str, str]], again: Sequence[tuple[str, str]]) -> Example:
    """The last step of `made_up_words` alone, a text: pairs of a name and a word, then some of them again.

    "dog dax ; cat zug ; dog dax", with loss on the words of the pairs that stand there again. So one text asks many
    times which word followed a name (Olsson et al., 2209.11895: induction); a few-shot prompt asks once. Raises
    ValueError without a pair that is there again, and for one that is not there before.
    """
    if not again or set(again) - set(pairs):
        raise ValueError(f"Expected some of the pairs {list(pairs)} again, got {list(again)}.")
    listed = [f"{checked_text(name)} {checked_text(word)}" for name, word in pairs]
    target = [(BETWEEN.join(listed), False)]
    for name, word in again:
        target += [(f"{BETWEEN}{name}", False), (f" {word}", True)]
    prompt = PREFIXES["vqa"].format(language="en") + WHAT + FIRST_IN.format(language="en")
    return Example(NO_IMAGE, prompt, tuple(target), "vqa")


def naming(image, answer: str, language: str, first: tuple[str, str] | None = None) -> Example:
    """5: what is this? first: as in `translation`, so that a name can be reached by way of another language."""
    return _named(_pictures(image, 1), WHAT, answer, language, first)


def _named(pictures, question: str, answer: str, language: str, first) -> Example:
    if first:
        name, other = first
        question += FIRST_IN.format(language=CODES[other])
        answer = checked_text(name) + BETWEEN + checked_text(answer)
    return _example("vqa", pictures, question, checked_text(answer), language)


def question_generation(image, question: str, answer: str, language: str) -> Example:
    """6: an answer -> the question."""
    return _example("question_generation", _pictures(image, 1), checked_text(answer), checked_text(question), language)


def object_aware_vqa(scene: scenes.Scene, names: Sequence[str], rng: np.random.Generator) -> Example:
    """7: which objects are there? Is this one there? Which of these two is there? -> the answer, in English.

    names: of all kinds. One of the questions that `scenes.ask` has for the scene is drawn. Errors as in that function.
    """
    questions = scenes.ask(scene, names, scene.indices[0], rng)
    question, answer = questions[rng.choice([kind for kind in OBJECT_AWARE if kind in questions])]
    return _example("object_aware_vqa", _pictures(scene.image, 1), question, answer)


def screenshot_to_markup(image, markup: str) -> Example:
    """10: an image of a page -> its markup (Pix2Struct, arXiv 2210.03347)."""
    return _example("screenshot_to_markup", _pictures(image, 1), "", checked_text(markup))


def detection(
    image, boxes, names, asked: Sequence[str], rng: np.random.Generator, total: int | None = None, bins=box_texts.BINS
) -> Example:
    """12: names -> the boxes of all objects with these names, in random order, written by `boxes.target`.

    The image has n objects: boxes float[n, 4] and n names. asked: the names in the prompt, all different, in the
    language of `names`; some may be absent. total: the number of boxes after adding boxes of noise, whose coordinates
    carry no loss; None: no noise. bins: see `boxes`. Raises ValueError if `asked` is empty or has a name twice, if
    there is no box to write, for an object named NOISE, and as `boxes.quantize` and `boxes.add_noise`.
    """
    asked = list(asked)
    if not asked or len(set(asked)) != len(asked):
        raise ValueError(f"The prompt needs one name or several different ones, got {asked}.")
    box_texts.to_text(np.tile([0.0, 0.0, 1.0, 1.0], (len(asked), 1)), asked)  # raises for unreadable names
    if box_texts.NOISE in (*asked, *names):
        raise ValueError(f"{box_texts.NOISE!r} is the class of boxes that hold nothing: rename the object.")
    boxes, names = box_texts.shuffle(boxes, names, rng)
    box_texts.quantize(boxes)  # raises for bad boxes, also for those of names that are not in the prompt
    boxes, names = boxes[np.isin(names, asked)], [name for name in names if name in asked]
    if total is not None:
        boxes, names = box_texts.add_noise(boxes, names, total, rng)
    if not names:
        raise ValueError(f"None of {asked} is in the image, so there is nothing to write but noise: give a total.")
    prompt = PREFIXES["detection"] + BETWEEN.join(asked)
    return Example(_pictures(image, 1), prompt, tuple(box_texts.target(boxes, names, bins)), "detection")


def masked_tokens(image, hidden, codebook: np.ndarray) -> Example:
    """13: an image with grey cells -> the codes of the hidden cells, row by row: "17 203 5".

    hidden: bool[gh, gw]; codebook: uint8[K, p, p, 3]; see `visual_tokens`. Errors as in `visual_tokens.encode`.
    """
    pictures, hidden = _pictures(image, 1), np.asarray(hidden)
    codes = visual_tokens.encode(pictures, codebook)[0]
    if hidden.dtype != bool or hidden.shape != codes.shape or not hidden.any():
        got = f"{hidden.dtype}{list(hidden.shape)}"
        raise ValueError(f"The mask must be bool{list(codes.shape)} with at least one hidden cell, got {got}.")
    visible = visual_tokens.hide(pictures[0], hidden)[None]
    return _example("masked_tokens", visible, "", " ".join(map(str, codes[hidden])))


def episodic_captioning(images, captions: Sequence[str], language: str, *, max_images: int | None = None) -> Example:
    """8: n - 1 images with captions and one more -> its caption; n captions. ValueError for n < 2, n > max_images."""
    pictures = _pictures(images, max_images, captions)
    *exemplars, answer = map(checked_text, captions)
    return _example("episodic_captioning", pictures, (*exemplars, SENTINEL.format(0)), answer, language)


def episodic_vqa(images, questions, answers, language: str, *, max_images: int | None = None) -> Example:
    """9: n - 1 images, questions and answers, one more image and question -> its answer; n of each, errors as for 8."""
    pictures = _pictures(images, max_images, questions, answers)
    *asked, query = map(checked_text, questions)
    *given, answer = map(checked_text, answers)
    return _example("episodic_vqa", pictures, (*_solved(asked, given), query), answer, language)


def made_up_words(
    episode: Episode, *, names: Sequence[str] | None = None, joint: str = BETWEEN, max_images: int | None = None
) -> Example:
    """9, with answers that cannot be memorised: the made-up words of an episode, prompted by `WHAT`.

    names: the English names of the episode's cut-outs. Then the answer is in steps, what each image shows and its word:
    "dog ; dax ; cat ; zug ; dog ; dax". joint: what stands between the two; " " gives "dog dax ; cat zug ; dog dax".
    """
    images, answers = [*episode.images, episode.query], [*episode.words, episode.answer]
    questions = [WHAT] * len(answers)
    if names is not None:
        questions[-1] += FIRST_IN.format(language=CODES["en"])
        shown = [checked_text(names[kind]) for kind in (*episode.kinds, episode.query_kind)]
        answers[-1] = BETWEEN.join(joint.join(pair) for pair in zip(shown, answers, strict=True))
    return episodic_vqa(images, questions, answers, "en", max_images=max_images)


def video_captioning(frames, caption: str, language: str, *, max_images: int | None = None) -> Example:
    """11: frames uint8[n, H, W, 3] -> a caption (see `motion_caption`). Raises ValueError for n > max_images."""
    return _continued("video_captioning", _pictures(frames, max_images), units(caption, language), language, 0)


def _example(task: str, pictures, content: str | tuple[str, ...], answer: str, language="en", position=0) -> Example:
    prefix = PREFIXES[task].format(language=CODES[language], position=position)
    prompt = prefix + content if isinstance(content, str) else tuple(prefix + part for part in content)
    return Example(pictures, prompt, ((answer, True),), task)


def _continued(task: str, pictures, parts: Sequence[str], language: str, position: int) -> Example:
    if not 0 <= position < len(parts):
        raise ValueError(f"The text has {len(parts)} parts, {position} are given: at least one must be left to write.")
    joint = "" if language in prompts.UNSPACED and task != "split_ocr" else " "
    given, rest = joint.join([*parts[:position], SENTINEL.format(0)]), joint.join(parts[position:])
    return _example(task, pictures, given, rest, language, position)


def _pictures(images, most: int | None, *texts: Sequence[str]) -> np.ndarray:
    """uint8[n, H, W, 3], checked: n is at most `most`; in an episode at least 2 and equal to the number of texts."""
    if images is None or not len(images):
        raise ValueError("There is no image, but this objective needs at least one.")
    if len({np.shape(image) for image in images}) > 1:
        raise ValueError("The images of an example must be of one size: resize them.")
    images = np.asarray(images)
    images = images[None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"Expected images uint8[n, H, W, 3], 0 to 255, got {images.dtype}{list(images.shape)}.")
    if most is not None and len(images) > most:
        raise ValueError(f"Got {len(images)} images or frames; this example may have at most {most}.")
    if texts and (len(images) < 2 or any(len(part) != len(images) for part in texts)):
        counts = " and ".join(str(len(part)) for part in texts)
        raise ValueError(f"Expected at least 2 images and as many texts, got {len(images)} images, {counts} texts.")
    return images
