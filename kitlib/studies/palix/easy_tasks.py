"""The tasks of the PaLI-X studies: the tasks of the kit, some in easier forms, and others for single studies.

    study_tasks()["captioning"]        # objects with 48 names in three languages, where the kit's have 417 in sixteen
    tasks_of_tests()["captioning"]     # what an arm is tested on, by the name that `arms` uses

One builder function per task over `kit_data`, as in `multimodal.example_builders`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from kitlib.data import keyed_rng, tokenizer
from kitlib.metrics.text_metrics import exact_match
from kitlib.multimodal import boxes, objectives, prompts
from kitlib.multimodal.example_builders import BINS, BOXES, SIDES
from kitlib.multimodal.kit_data import SHOTS, KitData, kit_data, pick, place_on_background
from kitlib.multimodal.prompts import Example, without_prefix
from kitlib.multimodal.tasks import Task, kit_tasks
from kitlib.studies.palix.runs import Phase
from kitlib.synthetic import rendered_text, scenes, video

SMALL = 96  # pixels of an image whose letters are too small to read once it is shrunk to 64
SPOKEN = ("en", "de", "ja")  # languages of names in the studies
FRAME_COUNTS = (2, 4, 8, 16)  # chosen from the 16 moments of a video
PASSING = 3  # consecutive moments in which an object is visible
# Evaluated with and without their prefix; in the first two, only the prefix states the language.
BARE = ("captioning", "naming", "question_generation", "object_aware_vqa")
REPEATED = ("easy_vqa", "naming")  # prompts without a sentinel


# ---------------------------------------------------------------------------------------------- builders


def captioning(data: KitData, rng) -> Example:
    """A named object on a background -> its name."""
    return objectives.captioning(*_named(data, rng))


def naming(data: KitData, rng) -> Example:
    """What is this? -> the name."""
    image, name, language = _named(data, rng)
    return objectives.vqa(image, prompts.WHAT, name, language)


def _named(data: KitData, rng) -> tuple[np.ndarray, str, str]:
    """(image, name, language) of one of `scenes.objects`: 48 objects in three languages. Of the kit's 417 objects in
    sixteen languages a small model named none after 6,400 captions."""
    i, language = rng.integers(len(data.scene_names)), pick(SPOKEN, rng)
    name = data.emoji.names[language][data.scene_rows[i]]
    return place_on_background(data.scene_cutouts[0][i], rng)[0], name, language


def counting(data: KitData, rng) -> Example:
    """How many: dog? Zero to four of a kind."""
    scene, subject = countable(data, rng)
    return objectives.vqa(scene.image, *scenes.ask(scene, data.scene_names, subject, rng)["count"], "en")


def few_counting(data: KitData, rng) -> Example:
    """One of 200 fixed examples."""
    return counting(data, keyed_rng(7, rng.integers(200)))


def word(data: KitData, rng, side: int = scenes.SIZE, sizes: tuple[int, int] = rendered_text.SIZES) -> Example:
    """An image of one of `few_words` -> the word. side: of the image in pixels; sizes: of its letters."""
    text = pick(few_words(), rng)
    return objectives.split_ocr(rendered_text.line(text, rng, side, sizes)[0], [text], "en", 0)


def small_word(data: KitData, rng) -> Example:
    """The same in a larger image with the smallest letters."""
    return word(data, rng, SMALL, (rendered_text.SMALLEST, rendered_text.SMALLEST))


def two_words(data: KitData, rng, *, with_text: bool) -> Example:
    """A question about the order of two words. with_text: the prompt contains the text of the image."""
    chosen = rng.choice(few_words(), 2, replace=False).tolist()
    image, texts, _ = rendered_text.scattered(chosen, rng, scenes.SIZE)
    index = rng.integers(2)
    question = f"which word is {('first', 'last')[index]}?"
    return objectives.vqa(image, question, texts[index], "en", ocr=" ".join(texts) if with_text else "")


def shown_language(data: KitData, rng) -> Example:
    """Four images with their names and one more to name. Only the names show the language, as there is no prefix."""
    language = pick(SPOKEN, rng)
    chosen = rng.choice(len(data.scene_names), SHOTS + 1, replace=False)
    names = [data.emoji.names[language][data.scene_rows[i]] for i in chosen]
    images = [place_on_background(data.scene_cutouts[0][i], rng)[0] for i in chosen]
    return without_prefix(objectives.episodic_captioning(images, names, language))


def passing(data: KitData, rng, *, frames: int) -> Example:
    """What passes? `frames` evenly spaced frames of a video; the object may have passed between two of them."""
    i = rng.integers(len(data.scene_names))
    first = rng.integers(max(FRAME_COUNTS) - PASSING + 1)
    background = scenes.random_background(rng)
    velocity = [list(video.DIRECTIONS.values())[rng.integers(4)]]
    moments = np.repeat(background[None], max(FRAME_COUNTS), axis=0)
    passed = video.render(data.scene_cutouts[0], [i], velocity, PASSING, rng, sides=(20, 28), background=background)
    moments[first : first + PASSING] = passed.frames
    step = max(FRAME_COUNTS) // frames
    return objectives.vqa(moments[step // 2 :: step], "what passes?", data.scene_names[i], "en")


def prompt_repeated(draw: Callable, rng, *, loss: bool) -> Example:
    """The target is the prompt, with or without loss, and then the answer."""
    example = draw(rng)
    return dataclasses.replace(example, target=((example.prompt, loss), (f" {example.answer}", True)))


def prefix_removed(draw: Callable, rng) -> Example:
    """An example of `draw` without the prefix of its prompt."""
    return without_prefix(draw(rng))


@functools.cache
def study_tasks(split: str = "train") -> dict[str, Task]:
    """`kit_tasks`, with fewer names and fewer objects to count, and the tasks of single studies, by name."""
    builders = {
        "captioning": captioning,
        "naming": naming,
        "word": word,
        "small_word": small_word,
        "words_with_text": functools.partial(two_words, with_text=True),
        "words_alone": functools.partial(two_words, with_text=False),
        "counting": counting,
        "shown_language": shown_language,
        "few_counting": few_counting,
        **{f"film_{n}": functools.partial(passing, frames=n) for n in FRAME_COUNTS},
    }
    draws = {name: functools.partial(builder, kit_data(split)) for name, builder in builders.items()}
    plain = {name: task.draw for name, task in kit_tasks(split).items()} | draws
    draws |= {f"bare_{name}": functools.partial(prefix_removed, plain[name]) for name in BARE}
    draws |= {f"told_{name}": functools.partial(prompt_repeated, plain[name], loss=True) for name in REPEATED}
    draws |= {f"asked_{name}": functools.partial(prompt_repeated, plain[name], loss=False) for name in REPEATED}
    return kit_tasks(split) | {name: Task(name, draw) for name, draw in draws.items()}


def countable(data: KitData, rng) -> tuple[scenes.Scene, int]:
    """(scene, the kind to count): zero to four objects of this kind, as many as detection has boxes."""
    indices, subject = scenes.contents(len(data.scene_names), rng, BOXES)
    return scenes.compose(data.scene_cutouts[0], indices, SIDES, rng), subject


@functools.cache
def few_words() -> list[str]:
    """The 67 English words of three to five lower-case letters that are one token. Trained on all words of eight
    languages, a small model learned to read one letter in twenty."""
    encode = tokenizer.multilingual().encode
    words = rendered_text.words("train")["en"]
    return [word for word in words if word.islower() and 3 <= len(word) <= 5 and len(encode(f" {word}")) == 1]


# ---------------------------------------------------------------------------------------------- phases


# (tokens of the prompt, tokens of the target) that at least 99 of 100 examples of a task fit into. A phase is padded to
# these lengths: a position costs the same time with padding as with text.
FITTING = {
    "captioning": (16, 20),
    "naming": (16, 20),
    "detection": (40, 56),
    "finding": (16, 24),
    "counting": (24, 4),
    "few_counting": (24, 4),
    "easy_vqa": (16, 8),
    "object_aware_vqa": (28, 24),
    "question_generation": (16, 20),
    "masked_tokens": (8, 20),
    "split_ocr": (40, 28),
    "word": (16, 8),
    "small_word": (16, 8),
    "words_with_text": (24, 8),
    "words_alone": (16, 8),
    "shown_language": (20, 20),
    "made_up_words": (20, 20),
    "told_easy_vqa": (16, 20),
    "told_naming": (16, 32),
} | {f"film_{n}": (12, 12) for n in FRAME_COUNTS}


def mixed(*names: str, steps: int, weights: Mapping[str, float] | None = None, **options) -> Phase:
    """A phase in which every example is of one of these tasks. weights: how often each is drawn; by default equally."""
    prompt_length, target_length = np.max([FITTING[name.removeprefix("bare_")] for name in names], axis=0).tolist()
    tasks = tuple((name, (weights or {}).get(name, 1.0)) for name in names)
    return Phase(tasks, steps, prompt_length=prompt_length, target_length=target_length, **options)


# ---------------------------------------------------------------------------------------------- tests


def counted_boxes(predictions, examples) -> np.ndarray:
    """float[B] of 0 and 1: whether the text has as many boxes as there are objects, at any position."""

    def count(text: str) -> int:
        return sum(name != boxes.NOISE for name in boxes.from_text(text, BINS)[1])

    pairs = zip(predictions, examples, strict=True)
    return np.array([count(text) == count(example.answer) for text, example in pairs], float)


def behind_the_prompt(predictions, examples) -> np.ndarray:
    """float[B] of 0 and 1: whether the text after the repeated prompt is the answer."""
    pairs = zip(predictions, examples, strict=True)
    answers = [text.removeprefix(example.target[0][0]).strip() for text, example in pairs]
    return exact_match(answers, [example.target[1][0].strip() for example in examples])


def boxes_of_one_kind(count: int, seed: int) -> list[Example]:
    """The scenes of counting, with the prompt of detection for the kind to count."""
    data, examples = kit_data("train"), []
    for i in range(count):
        rng = keyed_rng(seed, i)
        scene, subject = countable(data, rng)
        names = [data.scene_names[kind] for kind in scene.indices]
        prompted = [data.scene_names[subject]]
        examples.append(objectives.detection(scene.image, scene.boxes, names, prompted, rng, BOXES, BINS))
    return examples


def tasks_of_tests() -> dict[str, Task]:
    """The tests of the arms, by name."""
    known, unseen = study_tasks("train"), study_tasks("test")
    return known | {
        "easy_vqa": unseen["easy_vqa"],
        "made_up_words, unseen": unseen["made_up_words"],
        "asked_naming": dataclasses.replace(known["asked_naming"], metric=behind_the_prompt),
        "asked_easy_vqa": dataclasses.replace(unseen["asked_easy_vqa"], metric=behind_the_prompt),
        "counted boxes": Task("counted boxes", None, counted_boxes, choose=boxes_of_one_kind),
    }
