"""The tests of the released model: what "seen" and "unseen" mean, and one `Task` per row of its table of scores.

    scorecard(model, params, TASKS)                      # a row per test, with controls (see `tasks`)
    caption_examples("fr", style="twemoji")(300, 77)     # known things as another designer draws them

Three things can be new, and each has a test of its own:

- the picture: a known thing on a new background, or in a style that was held out (Twemoji);
- the pair of a thing and a language: the French name of a thing whose pictures were named in other languages, and whose
  French name was met in texts alone (`held_out`);
- the thing: objects and words of the test split, which are in no training image.

In few-shot prompts the meaning of the words is new: of 52 made-up words two are drawn for every prompt, in training as
here, so that only the prompt tells what they mean. The 48 kinds of objects are known; those of the test split have rows
of their own.

A thing without a known name cannot be named. What is asked is whether the answer is near: by its place in WordNet
(WUPS), and whether no other name that was taught would have been nearer ("nearest name").
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from kitlib.data import captioned, keyed_rng
from kitlib.metrics.text_metrics import wups
from kitlib.multimodal import objectives
from kitlib.multimodal.held_out import BY_TEXT, by_text_alone
from kitlib.multimodal.kit_data import object_rows, pick, place_on_background, retry_until_fits
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.scores import anls_values, exact_matches, last_names, last_words, letter_similarity, within_one
from kitlib.multimodal.tasks import Task, boxes_found, kit_tasks
from kitlib.synthetic import rendered_text, scenes

LETTERS_OF_A_WORD = (4, 6)  # fewest and most, of the words to read
TO_READ = (16, 20)  # their size in pixels per em

# ---------------------------------------------------------------------------------------------- examples


def caption_examples(language: str, split: str = "train", style: str = "noto") -> Callable:
    """(count, seed) -> captions of different objects in one language, each on a random background; at most one each.

    Known objects ("train") are those that were named with pictures in this language, in any style of
    `captioned.EMOJI_STYLES`; unseen ones ("test") come in the styles of `captioned.emoji`.
    """

    def choose(count, seed):
        emoji, rng = captioned.emoji(split), keyed_rng(seed, 0)
        names, cutouts = emoji.names[language], cutouts_of(split, style)
        known = [i for i in object_rows(split) if split == "test" or not by_text_alone(emoji.codes[i], language)]
        rows = [i for i in rng.permutation(known).tolist() if i in cutouts][:count]
        images = [place_on_background(cutouts[row], rng)[0] for row in rows]
        return [objectives.captioning(image, names[row], language) for image, row in zip(images, rows, strict=True)]

    return choose


def pair_examples(*, by_english: bool) -> Callable:
    """(count, seed) -> pictures to be named in a language in which no picture of the thing was named in training.

    by_english: the prompt asks for the English name first.
    """

    def choose(count, seed):
        emoji, cutouts = captioned.emoji("train"), cutouts_of("train", "noto")
        pairs = [(i, code) for i in object_rows("train") for code in BY_TEXT if by_text_alone(emoji.codes[i], code)]
        examples = []
        for k in keyed_rng(seed, 0).permutation(len(pairs))[:count]:
            (row, language), rng = pairs[k], keyed_rng(seed, 1, int(k))
            first = (emoji.names["en"][row], "en") if by_english else None
            image, _ = place_on_background(cutouts[row], rng)
            examples.append(objectives.naming(image, emoji.names[language][row], language, first))
        return examples

    return choose


def reading_examples(split: str = "test") -> Callable:
    """(count, seed) -> images of one word of 4 to 6 letters each; the languages follow each other, one per image."""

    def choose(count, seed):
        low, high = LETTERS_OF_A_WORD
        vocabularies = [
            (language, [word for word in words if low <= len(word) <= high])
            for language, words in rendered_text.words(split).items()
            if language in captioned.LANGUAGES
        ]
        examples = []
        for i in range(count):
            language, fitting = vocabularies[i % len(vocabularies)]
            examples.append(retry_until_fits(functools.partial(_word_to_read, fitting, language, keyed_rng(seed, i))))
        return examples

    return choose


def _word_to_read(fitting: Sequence[str], language: str, rng) -> Example:
    """Raises ValueError if the word that is drawn is too wide in the font that is drawn."""
    word = pick(fitting, rng)
    return objectives.split_ocr(rendered_text.line(word, rng, scenes.SIZE, TO_READ)[0], [word], language, 0)


@functools.cache
def cutouts_of(split: str, style: str) -> dict[int, np.ndarray]:
    """{row of `captioned.emoji(split)`: its cut-out in this style}."""
    if split == "train":
        drawn = captioned.drawings(style)
        return dict(zip(drawn.rows.tolist(), scenes.cut_outs(drawn.images), strict=True))
    return dict(enumerate(scenes.cut_outs(captioned.emoji(split, style=style).images)))


# ---------------------------------------------------------------------------------------------- metrics


def wups_values(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float[B], `metrics.text_metrics.wups` of English names, with the kit's part of WordNet."""
    return wups(predictions, [[example.answer] for example in examples], captioned.taxonomy())


def nearest_names(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float[B] of 0 and 1: whether the text is a taught English name that is as near to the true one, by WUPS, as any.

    0 where no taught name is near at all.
    """
    names = captioned.emoji("train").names["en"]
    taught = [names[row] for row in object_rows("train")]
    out = []
    for text, example in zip(predictions, examples, strict=True):
        near = wups(taught, [[example.answer]] * len(taught), captioned.taxonomy())
        best = {name.lower() for name, value in zip(taught, near, strict=True) if value == near.max() > 0}
        out.append(text.lower() in best)
    return np.array(out, float)


# ---------------------------------------------------------------------------------------------- the table


def _kit(name: str, task: str, split: str = "train", metric=exact_matches, unit: str = "exact match") -> Task:
    """A task of `kit_tasks` under the name of the table. Its data are read when it is evaluated."""

    def draw(rng) -> Example:
        return kit_tasks(split)[task].draw(rng)

    return Task(name, draw, metric, unit)


def finding_examples(count: int, seed: int) -> list[Example]:
    """Pictures of one or two objects, asked for one of their names or for both: one of the prompts of `finding`."""
    draw_all = kit_tasks("train")["finding"].draw_all
    rngs = (keyed_rng(seed, i) for i in range(count))
    return [pick(draw_all(rng), rng) for rng in rngs]


def _chosen(name: str, choose: Callable, metric=exact_matches, unit: str = "exact match") -> Task:
    return Task(name, None, metric, unit, choose)


LETTERS = (letter_similarity, "letters")
UNSEEN = caption_examples("en", "test")
TASKS = (
    *(_chosen(f"captions, {code}", caption_examples(code)) for code in captioned.LANGUAGES),
    *(_chosen(f"captions, Twemoji, {code}", caption_examples(code, style="twemoji")) for code in captioned.LANGUAGES),
    _chosen("held-out pairs", pair_examples(by_english=False)),
    _chosen("held-out pairs, by way of English", pair_examples(by_english=True), last_names, "last name"),
    _chosen("captions, unseen objects, en", UNSEEN, wups_values, "WUPS"),
    _chosen("captions, unseen objects, en, nearest name", UNSEEN, nearest_names, "nearest name"),
    _kit("easy-VQA, test set", "easy_vqa", "test"),
    _kit("counting", "counting"),
    _kit("counting, within one", "counting", "train", within_one, "within one"),
    _kit("counting, by way of positions", "counting_by_positions", "train", last_names, "last number"),
    _kit("counting, by way of positions, within one", "counting_by_positions", "train", within_one, "within one"),
    _kit("counting, unseen objects", "counting", "test"),
    _chosen("reading a word, unseen words", reading_examples()),
    _chosen("reading a word, unseen words, by letters", reading_examples(), *LETTERS),
    _kit("receipts", "receipts", "test", anls_values, "ANLS"),
    _chosen("detection, one or two names", finding_examples, *boxes_found("train")),
    _kit("detection, with absent kinds", "detection", "train", *boxes_found("train")),
    _kit("detection, with absent kinds, unseen objects", "detection", "test", *boxes_found("test")),
    _kit("videos", "video_questions"),
    _kit("videos, unseen objects", "video_questions", "test"),
    _kit("videos, by way of positions", "video_questions_by_positions", "train", last_names, "last word"),
    _kit(
        "videos, unseen objects, by way of positions", "video_questions_by_positions", "test", last_names, "last word"
    ),
    _kit("captions of videos, by letters", "video_captioning", "train", *LETTERS),
    _kit("4-shot, new words", "made_up_words"),
    _kit("4-shot, new words, by way of English", "made_up_words_by_name", "train", last_words, "last word"),
    _kit("4-shot, new words, unseen objects", "made_up_words", "test"),
    _kit(
        "4-shot, new words, unseen objects, by way of English", "made_up_words_by_name", "test", last_words, "last word"
    ),
)
