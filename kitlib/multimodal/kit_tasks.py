"""The kit's own tasks: one per example builder, for mixtures and studies; and the list of the released model's scores.

    kit_tasks("train")["captioning"].draw(rng)
    scorecard(model, params, TASKS)

"Known" are the kinds of objects of the training set in new images; "unseen" are objects and words of the test split,
which are in no training image.
"""

import functools
from collections.abc import Callable

from kitlib.data import captioned, keyed_rng
from kitlib.multimodal import example_builders, objectives
from kitlib.multimodal.kit_data import kit_data, object_rows, place_on_background
from kitlib.multimodal.prompts import PREFIXES, Example
from kitlib.multimodal.scores import ap50, exact_matches, letter_similarity
from kitlib.multimodal.tasks import Task
from kitlib.synthetic import rendered_text, scenes

# Builders other than those of the thirteen objectives: parts of vqa and of episodic_vqa, and tasks that models are
# fine-tuned on.
MORE = ("easy_vqa", "receipts", "naming", "made_up_words", "two_exemplars", "counting", "video_questions")


@functools.cache
def kit_tasks(split: str = "train") -> dict[str, Task]:
    """A task for each objective and for `MORE`, by name, over the kit's own data of a split, "train" or "test".

    The builder of a task is the function of its name in `example_builders`.
    """
    data = kit_data(split)
    builders = {name: functools.partial(getattr(example_builders, name), data) for name in (*PREFIXES, *MORE)}
    tasks = {name: Task(name, draw) for name, draw in builders.items()}
    return tasks | {"detection": Task("detection", builders["detection"], ap50, "AP50")}


def caption_examples(language: str, split: str = "train", style: str = "noto") -> Callable:
    """(count, seed) -> captions of different objects in one language, each on a random background; at most one each."""

    def choose(count, seed):
        emoji = captioned.emoji(split, style=style)
        cutouts, rng = scenes.cut_outs(emoji.images), keyed_rng(seed, 0)
        rows = rng.permutation(object_rows(split))[:count]
        images = [place_on_background(cutouts[row], rng)[0] for row in rows]
        captions = [emoji.names[language][row] for row in rows]
        return [objectives.captioning(image, text, language) for image, text in zip(images, captions, strict=True)]

    return choose


def reading_examples(split: str = "test") -> Callable:
    """(count, seed) -> images of one word each; the languages follow each other, one per image."""

    def choose(count, seed):
        vocabularies, examples = list(rendered_text.words(split).items()), []
        for i in range(count):
            rng = keyed_rng(seed, i)
            language, words = vocabularies[i % len(vocabularies)]
            word = str(rng.choice(words))
            image, _ = rendered_text.line(word, rng)
            examples.append(objectives.split_ocr(image, [word], language if language != "digits" else "en", 0))
        return examples

    return choose


def _kit(name: str, builder: str, split: str = "train", metric=exact_matches, unit: str = "exact match") -> Task:
    """A task of `kit_tasks` under the name of the scorecard. Its data are read when it is evaluated."""

    def draw(rng) -> Example:
        return kit_tasks(split)[builder].draw(rng)

    return Task(name, draw, metric, unit)


LETTERS = (letter_similarity, "letters")
TASKS = (
    *(Task(f"captions, {code}", None, choose=caption_examples(code)) for code in captioned.LANGUAGES),
    Task("captions, unseen objects, en", None, *LETTERS, caption_examples("en", "test")),
    Task("captions, unseen objects, Twemoji, en", None, *LETTERS, caption_examples("en", "test", "twemoji")),
    _kit("easy-VQA, test set", "easy_vqa", "test"),
    _kit("counting", "counting"),
    _kit("counting, unseen objects", "counting", "test"),
    Task("reading a word, unseen words", None, choose=reading_examples()),
    Task("reading a word, unseen words, by letters", None, *LETTERS, reading_examples()),
    _kit("receipts", "receipts", "test"),
    _kit("detection", "detection", "train", ap50, "AP50"),
    _kit("detection, unseen objects", "detection", "test", ap50, "AP50"),
    _kit("videos", "video_questions"),
    _kit("videos, unseen objects", "video_questions", "test"),
    _kit("captions of videos, by letters", "video_captioning", "train", *LETTERS),
    _kit("captions of videos, unseen objects, by letters", "video_captioning", "test", *LETTERS),
    _kit("4-shot, new words", "made_up_words"),
    _kit("4-shot, new words, unseen objects", "made_up_words", "test"),
)
