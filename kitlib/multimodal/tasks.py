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

import numpy as np
import pandas as pd

from kitlib.configs.arguments import one_of
from kitlib.data import keyed_rng
from kitlib.metrics import over_examples
from kitlib.multimodal import example_builders
from kitlib.multimodal.generation import generated_texts
from kitlib.multimodal.kit_data import kit_data
from kitlib.multimodal.prompts import PREFIXES, Example
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

# Tasks other than the thirteen objectives: parts of vqa, split_ocr, detection and episodic_vqa, and tasks of the kit's
# own stages.
MORE = ("easy_vqa", "receipts", "naming", "naming_by_english", "translation", "reading", "finding", "counting")
MORE += ("recall", "two_exemplars", "four_exemplars", "made_up_words", "made_up_words_by_name", "repeated_pairs")
MORE += ("two_exemplars_by_name", "four_exemplars_by_name", "two_made_up_words_by_name", "repeated_made_up_words")
MORE += ("video_questions", "video_questions_by_positions", "counting_by_positions", "translation_by_text")
TRAINED_ONLY = ("translation_by_text",)  # no names are held out in the test split
# Every task that is not in PLURAL has the builder of its own name. These have exemplars:
EXEMPLARS = ("episodic_captioning", "episodic_vqa", "recall", "two_exemplars", "four_exemplars")
EXEMPLARS += ("made_up_words", "made_up_words_by_name", "repeated_pairs")
EXEMPLARS += ("two_exemplars_by_name", "four_exemplars_by_name", "two_made_up_words_by_name", "repeated_made_up_words")
PLURAL = {  # the builders of several examples about one picture
    "captioning": example_builders.captionings,
    "naming": example_builders.namings,
    "naming_by_english": example_builders.namings_by_english,
    "translation": example_builders.translations,
    "translation_by_text": example_builders.translations_by_text,
    "easy_vqa": example_builders.easy_vqas,
    "receipts": example_builders.receipts,
    "finding": example_builders.findings,
    "detection": example_builders.detections,
}


@functools.cache
def kit_tasks(split: str = "train") -> dict[str, Task]:
    """A task for each objective and for `MORE`, by name, over the kit's own data of a split, "train" or "test".

    Those of `TRAINED_ONLY` are in "train" alone.
    """
    data, tasks, found = kit_data(split), {}, boxes_found(split)
    metrics = {"finding": found, "detection": found, "receipts": (anls_values, "ANLS")}  # others: exact match
    for name in (*PREFIXES, *MORE):
        if split == "test" and name in TRAINED_ONLY:
            continue
        metric = dict(zip(("metric", "unit"), metrics.get(name, ()), strict=False))
        if name in PLURAL:
            draw_all = functools.partial(PLURAL[name], data)
            tasks[name] = Task(name, functools.partial(_first, draw_all), draw_all=draw_all, **metric)
        else:
            tasks[name] = Task(name, functools.partial(getattr(example_builders, name), data), **metric)
    return tasks


def _first(draw_all, rng):
    return draw_all(rng)[0]


def boxes_found(split: str) -> tuple[Callable, str]:
    """(metric, unit) of detection: `scores.ap50`, where the names of a thing in all languages are one class."""

    def metric(predictions, examples):
        data = kit_data(split)
        number = {names[row]: kind for names in data.emoji.names.values() for kind, row in enumerate(data.scene_rows)}
        return ap50(predictions, examples, example_builders.BINS, number)

    return metric, "AP50"
