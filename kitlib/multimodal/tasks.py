"""The one type of task: it draws examples, for training or for a test, and scores what a model writes for them.

    task = kit_tasks("test")["easy_vqa"]
    task.draw(rng)                                # an `Example`: images, prompt and target
    task.evaluate(model, params, count=200)       # {"score": ..., "low": ..., "high": ..., "blind": ..., ...}
    scorecard(model, params, TASKS)               # a row per task

A score means little without the scores of two controls. *Blind*: the same model on grey images. It still knows how
answers are worded and which are frequent. *Shuffled*: every question with the images of the next one. The model sees an
image, but the wrong one, so its score shows how much the words of the question give away.

A `mixtures.Mixture` trains on tasks; studies and public sets (`public_sets`) are evaluated with the same type.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from kitlib.configs.arguments import one_of
from kitlib.data import keyed_rng
from kitlib.metrics import over_examples
from kitlib.multimodal import example_builders
from kitlib.multimodal.generation import generated_texts
from kitlib.multimodal.kit_data import kit_data
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.scores import anls_values, ap50, exact_matches

SEED = 77  # of test examples; training draws from other seeds
CONTROLS = ("blind", "shuffled")


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A named source of examples, and the metric that scores generated texts for them.

    Attributes:
        name: for tables.
        draw: generator -> an example; the generator decides everything that is random. None: not for training.
        metric: (texts, examples) -> float[B], or one float for a metric that is not a mean over examples, such as AP.
        unit: the metric's name.
        choose: (count, seed) -> test examples, `count` of them or as many as there are; None: they are drawn by `draw`.
        draw_all: generator -> several examples about the same images, for training; None: the one of `draw`.
    """

    name: str
    draw: Callable[[np.random.Generator], Example] | None
    metric: Callable[[Sequence[str], Sequence[Example]], np.ndarray | float] = exact_matches
    unit: str = "exact match"
    choose: Callable[[int, int], list[Example]] | None = None
    draw_all: Callable[[np.random.Generator], list[Example]] | None = None

    def examples(self, count: int, seed: int = SEED) -> list[Example]:
        """Examples for a test; those that are drawn have a generator each."""
        if self.choose:
            return self.choose(count, seed)
        return [self.draw(keyed_rng(seed, i)) for i in range(count)]

    def score(self, model, params, examples: Sequence[Example]) -> float:
        """The metric of what the model answers, the mean over examples if it has one."""
        return float(np.mean(self.metric(generated_texts(model, params, examples), examples)))

    def evaluate(self, model, params, *, count: int = 200, seed: int = SEED) -> dict:
        """A row of the scorecard: "task", "unit", "n", "score", "low", "high" (95 %), a score per control."""
        examples = self.examples(count, seed)
        score, low, high = self.interval(generated_texts(model, params, examples), examples)
        row = {"task": self.name, "unit": self.unit, "n": len(examples), "score": score, "low": low, "high": high}
        for control in CONTROLS:
            row[control] = self.score(model, params, with_control(examples, control))
        return row

    def interval(self, texts: Sequence[str], examples: Sequence[Example]) -> tuple[float, float, float]:
        """(score, low, high): the 95 % interval over examples (`metrics.over_examples`)."""
        values = self.metric(texts, examples)
        if np.ndim(values):
            return over_examples(values)
        rng, resampled = np.random.default_rng(0), []
        for _ in range(200):  # a metric of the whole set is computed again for each resample
            rows = rng.integers(len(examples), size=len(examples))
            resampled.append(self.metric([texts[i] for i in rows], [examples[i] for i in rows]))
        return float(values), *np.quantile(resampled, (0.025, 0.975)).tolist()


def scorecard(model, params, tasks: Sequence[Task], *, count: int = 200, seed: int = SEED) -> pd.DataFrame:
    """`Task.evaluate` of every task, one row per task."""
    return pd.DataFrame([task.evaluate(model, params, count=count, seed=seed) for task in tasks])


def with_control(examples: Sequence[Example], control: str | None) -> list[Example]:
    """The examples as a control sees them: None, "blind" or "shuffled".

    Raises ValueError for another control, and for shuffling a single example.
    """
    if control is None:
        return list(examples)
    one_of("control", control, CONTROLS)
    if control == "blind":
        grey = [np.full_like(example.images, 128) for example in examples]
        return [dataclasses.replace(e, images=images) for e, images in zip(examples, grey, strict=True)]
    if len(examples) == 1:
        raise ValueError("A single example cannot be shuffled, as there are no other images: give two or more.")
    others = [*examples[1:], *examples[:1]]
    return [dataclasses.replace(e, images=other.images) for e, other in zip(examples, others, strict=True)]


# ---------------------------------------------------------------------------------------------- the kit's tasks

ONE, SEVERAL = False, True  # examples that a builder gives about the same images
BUILDERS = {  # of `example_builders`: name, builder, how many examples it gives          prompt -> target
    # The thirteen objectives of PaLI-X.
    "span_corruption": (example_builders.span_corruption, ONE),  # an English text with gaps -> what is missing
    "split_captioning": (example_builders.split_captioning, ONE),  # the beginning of a name -> the rest
    "captioning": (example_builders.captionings, SEVERAL),  # a language -> the object's name
    "split_ocr": (example_builders.split_ocr, ONE),  # the first words in the image -> the others
    "vqa": (example_builders.vqa, ONE),  # a question -> the answer
    "question_generation": (example_builders.question_generation, ONE),  # an answer -> the question
    "object_aware_vqa": (example_builders.object_aware_vqa, ONE),  # is there a dog? -> yes or no, ...
    "episodic_captioning": (example_builders.episodic_captioning, ONE),  # images with captions, one without -> it
    "episodic_vqa": (example_builders.episodic_vqa, ONE),  # images with questions and answers -> the last answer
    "screenshot_to_markup": (example_builders.screenshot_to_markup, ONE),  # a page -> its markup
    "video_captioning": (example_builders.video_captioning, ONE),  # four frames -> what moves where
    "detection": (example_builders.detections, SEVERAL),  # names, one of them absent -> boxes, and noise
    "masked_tokens": (example_builders.masked_tokens, ONE),  # an image with gaps -> the patches in them
    # Parts of vqa, split_ocr, detection and episodic_vqa, and tasks of the kit's own stages.
    "easy_vqa": (example_builders.easy_vqas, SEVERAL),  # what colour is the circle? -> blue
    "receipts": (example_builders.receipts, SEVERAL),  # what is the total? -> 118
    "naming": (example_builders.namings, SEVERAL),  # what is this? -> its name
    "naming_by_english": (example_builders.namings_by_english, SEVERAL),  # ... -> the English name, then another
    "translation": (example_builders.translations, SEVERAL),  # what is dog? -> its name in another language
    "reading": (example_builders.reading, ONE),  # an image of a word -> the word
    "finding": (example_builders.findings, SEVERAL),  # one or two names -> their boxes
    "counting": (example_builders.counting, ONE),  # how many: dog? -> 3
    "recall": (example_builders.recall, ONE),  # names with made-up words, one name again -> its word; no images
    "two_exemplars": (partial(example_builders.exemplars, shots=2), ONE),  # images with words, one without -> its word
    "four_exemplars": (example_builders.exemplars, ONE),
    "made_up_words": (example_builders.made_up_words, ONE),
    "made_up_words_by_name": (partial(example_builders.made_up_words, by_name=True), ONE),  # ... -> names and words
    "repeated_pairs": (example_builders.repeated_pairs, ONE),  # pairs of name and word -> the same again; a text
    "two_exemplars_by_name": (partial(example_builders.exemplars, shots=2, by_name=True), ONE),
    "four_exemplars_by_name": (partial(example_builders.exemplars, by_name=True), ONE),
    "two_made_up_words_by_name": (partial(example_builders.made_up_words, shots=2, by_name=True), ONE),
    "repeated_made_up_words": (example_builders.repeated_made_up_words, ONE),
    "video_questions": (example_builders.video_questions, ONE),  # four frames and a question -> the answer
    "video_questions_by_positions": (example_builders.video_questions_by_positions, ONE),  # ... -> positions, answer
    "counting_by_positions": (example_builders.counting_by_positions, ONE),  # how many: dog? -> positions, number
    "translation_by_text": (example_builders.translations_by_text, SEVERAL),  # names that no picture teaches
}
TRAINED_ONLY = ("translation_by_text",)  # no names are held out in the test split


@functools.cache
def kit_tasks(split: str = "train") -> dict[str, Task]:
    """A task for each of `BUILDERS`, by name, over the kit's own data of a split, "train" or "test".

    Those of `TRAINED_ONLY` are in "train" alone. Metrics are exact matches, but for receipts (ANLS) and boxes (AP50).
    """
    data, found, tasks = kit_data(split), boxes_found(split), {}
    metrics = {"finding": found, "detection": found, "receipts": (anls_values, "ANLS")}
    for name, (builder, several) in BUILDERS.items():
        if split == "train" or name not in TRAINED_ONLY:
            draw = partial(builder, data)
            one, every = (partial(_first, draw), draw) if several else (draw, None)
            metric, unit = metrics.get(name, (exact_matches, "exact match"))
            tasks[name] = Task(name, one, metric, unit, draw_all=every)
    return tasks


def _first(draw_all, rng):
    return draw_all(rng)[0]


def boxes_found(split: str) -> tuple[Callable, str]:
    """(metric, unit) of detection: `scores.ap50`, where the names of an object in all languages are one class."""

    def metric(predictions, examples):
        data = kit_data(split)
        number = {names[row]: kind for names in data.emoji.names.values() for kind, row in enumerate(data.scene_rows)}
        return ap50(predictions, examples, example_builders.BINS, number)

    return metric, "AP50"
