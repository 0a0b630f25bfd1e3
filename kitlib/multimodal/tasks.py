"""Tasks: where examples come from, for training or for a test, and the metric of what a model writes for them.

    task = kit_tasks("test")["easy_vqa"]
    task.draw(rng)                                # an `Example`: images, prompt and target
    kit_tasks("train")["captioning"].draw_all(rng)           # about one picture, in several languages
    task.evaluate(model, params, count=200)       # {"score": ..., "low": ..., "high": ..., "blind": ..., ...}
    scorecard(model, params, kit_scores.TASKS)    # a row per task

A score means little without the scores of two controls. *Blind*: the same model on grey images. It still knows how
answers are worded and which are frequent. *Shuffled*: every question with the images of the next one. The model sees an
image, but the wrong one, so its score shows how much the words of the question give away.

`TABLE` has all tasks of the kit. A `mixtures.Mixture` trains on tasks; studies, the tests of the released model
(`kit_scores`) and public sets (`public_sets`) are evaluated with the same type. Metrics take the generated texts and
their examples: `exact_matches(texts, examples)` is float64[B], `ap50(texts, examples)` one float for all of them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np
import pandas as pd

from kitlib.configs.arguments import one_of
from kitlib.data import captioned, keyed_rng
from kitlib.metrics import over_examples
from kitlib.metrics.detection import Detections, Truth, coco
from kitlib.metrics.text_metrics import anls, exact_match, similarity
from kitlib.multimodal import boxes
from kitlib.multimodal import example_builders as builders
from kitlib.multimodal.generation import generated_texts
from kitlib.multimodal.kit_data import kit_data
from kitlib.multimodal.prompts import BETWEEN, Example
from kitlib.synthetic import scenes

SEED = 77  # of test examples; training draws from other seeds
CONTROLS = ("blind", "shuffled")

# ---------------------------------------------------------------------------------------------- metrics


def exact_matches(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float64[B] of 0 and 1: whether the text equals the target (see `metrics.text_metrics.exact_match`)."""
    return exact_match(predictions, [example.answer for example in examples])


def last_names(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float64[B] of 0 and 1: whether the text ends with the last name of the target, behind " ; " if there are two."""
    return exact_match(*_last_parts(predictions, examples, BETWEEN))


def last_words(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float64[B] of 0 and 1: whether the last word of the text, as white space divides it, is that of the target."""
    return exact_match(*_last_parts(predictions, examples, None))


def within_one(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float64[B] of 0 and 1: whether the text ends with a whole number, behind " ; " if there are several, which is at
    most 1 away from the target's."""
    pairs = zip(*_last_parts(predictions, examples, BETWEEN), strict=True)
    return np.array([text.isdecimal() and abs(int(text) - int(true)) <= 1 for text, true in pairs], float)


def _last_parts(predictions, examples, between: str | None) -> list[list[str]]:
    """[of the predictions, of the targets]: the parts behind the last separator."""
    texts = predictions, [example.answer for example in examples]
    return [[(text.split(between) or [""])[-1] for text in listed] for listed in texts]


def anls_values(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float64[B], `metrics.text_metrics.anls` of every text: its share of correct letters, 0 where below 1/2."""
    return anls(predictions, [[example.answer] for example in examples])


def letter_similarity(predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """float64[B], the share of correct letters, 1 - edit distance / length of the longer text: ANLS without its
    threshold, below which a text that is half right would count as 0."""
    return np.array([similarity(text, example.answer) for text, example in zip(predictions, examples, strict=True)])


def ap50(
    predictions: Sequence[str],
    examples: Sequence[Example],
    bins: int = boxes.BINS,
    number: Mapping[str, int] | None = None,
) -> float:
    """Average precision at IoU 0.5 of the generated boxes; NaN if no example has an object other than noise.

    Texts give no confidences: boxes are ranked by their position in the text. bins: see `boxes`.

    number: the class of every name, such as "dog" and "Hund" of the same; by default every name of an object is a class
    of its own. As in COCO, a class without objects is left out of the mean. So with many names for a few objects a box
    for something that is not there costs nothing, unless another example has that very name: then give the classes.
    """
    if number is None:
        names = {name for example in examples for name in boxes.from_text(example.answer, bins)[1]} - {boxes.NOISE}
        number = {name: i for i, name in enumerate(sorted(names))}
    targets = [read_detections(example.answer, number, bins) for example in examples]
    truths = [Truth(target.boxes, target.classes) for target in targets]
    found = [read_detections(text, number, bins) for text in predictions]
    return coco(found, truths, max(number.values(), default=-1) + 1).ap50


def read_detections(text: str, number: Mapping[str, int], bins: int = boxes.BINS) -> Detections:
    """The boxes in a text whose names are among the classes {name: number}, ranked by their position in the text.

    Other names are left out. Unreadable parts of the text, such as boxes with inverted corners, detect nothing: their
    objects count as missed.
    """
    found, names, _ = boxes.from_text(text, bins)
    kept = [i for i, name in enumerate(names) if name in number]
    return Detections(found[kept], -np.arange(len(kept), dtype=float), np.array([number[names[i]] for i in kept], int))


def objects_found(predictions: Sequence[str], examples: Sequence[Example]) -> float:
    """`ap50` for the objects of scenes, of which the names in all languages are one class."""
    return ap50(predictions, examples, builders.BINS, _scene_classes())


@cache
def _scene_classes() -> dict[str, int]:
    found = {}  # no name of the training split is one of the test split
    for split in ("train", "test"):
        names, first = captioned.emoji(split).names, len(scenes.EASY["train"]) * (split == "test")
        rows = [names["en"].index(name) for name in scenes.EASY[split]]
        found |= {listed[row]: first + kind for listed in names.values() for kind, row in enumerate(rows)}
    return found


# ---------------------------------------------------------------------------------------------- one task


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
        return row | {control: self.score(model, params, with_control(examples, control)) for control in CONTROLS}

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
    if control == "shuffled" and len(examples) == 1:
        raise ValueError("A single example cannot be shuffled, as there are no other images: give two or more.")
    blind = [np.full_like(example.images, 128) for example in examples]
    seen = blind if control == "blind" else [other.images for other in (*examples[1:], *examples[:1])]
    return [dataclasses.replace(example, images=images) for example, images in zip(examples, seen, strict=True)]


# ---------------------------------------------------------------------------------------------- the kit's tasks

EXACT, AP50, ANLS = (exact_matches, "exact match"), (objects_found, "AP50"), (anls_values, "ANLS")
# Name: (the builder of its examples, whether that gives several about the same images, the metric and its unit). First
# the thirteen objectives, in the order of the paper; then parts of vqa, split_ocr, detection and episodic_vqa, and
# tasks of the kit's own stages.
TABLE = {
    "span_corruption": (builders.span_corruption, False, *EXACT),
    "split_captioning": (builders.split_captioning, False, *EXACT),
    "captioning": (builders.captionings, True, *EXACT),
    "split_ocr": (builders.split_ocr, False, *EXACT),
    "vqa": (builders.vqa, False, *EXACT),
    "question_generation": (builders.question_generation, False, *EXACT),
    "object_aware_vqa": (builders.object_aware_vqa, False, *EXACT),
    "episodic_captioning": (builders.episodic_captioning, False, *EXACT),
    "episodic_vqa": (builders.episodic_vqa, False, *EXACT),
    "screenshot_to_markup": (builders.screenshot_to_markup, False, *EXACT),
    "video_captioning": (builders.video_captioning, False, *EXACT),
    "detection": (builders.detections, True, *AP50),
    "masked_tokens": (builders.masked_tokens, False, *EXACT),
    "easy_vqa": (builders.easy_vqas, True, *EXACT),
    "receipts": (builders.receipts, True, *ANLS),
    "naming": (builders.namings, True, *EXACT),
    "naming_by_english": (partial(builders.namings, by_english=True), True, *EXACT),
    "translation": (builders.translations, True, *EXACT),
    "reading": (builders.reading, False, *EXACT),
    "finding": (builders.findings, True, *AP50),
    "counting": (builders.counting, False, *EXACT),
    "recall": (builders.recall, False, *EXACT),
    "two_exemplars": (partial(builders.few_shot, shots=2), False, *EXACT),
    "four_exemplars": (builders.few_shot, False, *EXACT),
    "made_up_words": (partial(builders.few_shot, tested=True), False, *EXACT),
    "made_up_words_by_name": (partial(builders.few_shot, tested=True, by_name=True), False, *EXACT),
    "repeated_pairs": (builders.repeated_pairs, False, *EXACT),
    "two_exemplars_by_name": (partial(builders.few_shot, shots=2, by_name=True), False, *EXACT),
    "four_exemplars_by_name": (partial(builders.few_shot, by_name=True), False, *EXACT),
    "two_made_up_words_by_name": (partial(builders.few_shot, shots=2, tested=True, by_name=True), False, *EXACT),
    "repeated_made_up_words": (partial(builders.repeated_pairs, tested=True), False, *EXACT),
    "video_questions": (builders.video_questions, False, *EXACT),
    "video_questions_by_positions": (partial(builders.video_questions, by_positions=True), False, *EXACT),
    "counting_by_positions": (partial(builders.counting, by_positions=True), False, *EXACT),
    "translation_by_text": (partial(builders.translations, held_out=True), True, *EXACT),
}
TRAINED_ONLY = ("translation_by_text",)  # no names are held out in the test split


@cache
def kit_tasks(split: str = "train") -> dict[str, Task]:
    """The tasks of `TABLE` over the kit's own data of a split: "train", or "test", there without `TRAINED_ONLY`."""
    data, tasks = kit_data(split), {}
    for name, (builder, several, metric, unit) in TABLE.items():
        if split == "train" or name not in TRAINED_ONLY:
            draw = partial(builder, data)
            one, every = (partial(_first, draw), draw) if several else (draw, None)
            tasks[name] = Task(name, one, metric, unit, draw_all=every)
    return tasks


def _first(draw_all: Callable[[np.random.Generator], list[Example]], rng) -> Example:
    return draw_all(rng)[0]
