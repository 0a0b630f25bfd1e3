"""What a PaLI-X can do, task by task, on pictures it has not seen; with controls that cannot see.

    table = scorecard(model, params, TASKS, count=200)     # a row for each task: score, interval, two controls

A score says nothing without what a model gets that does not look. *Blind*: the same model, its pictures grey. It knows
how answers are worded and which are frequent. *Shuffled*: every question with the pictures of the next one. It sees a
picture, but the wrong one; what is left is what the words of the question give away.

"Known": the kinds of things of the training set in new pictures; "unseen": things and words of the test split, which
are in no training picture.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from kitlib import boxes, collate, decode, mixture, pictures, rendered, scenes, tasks
from kitlib import tokenizer as tokenizers
from kitlib.answer_metrics import exact_match, similarity
from kitlib.average_precision import Detections, Truth, coco
from kitlib.data import keyed_rng
from kitlib.metrics import bootstrap
from kitlib.tasks import Example

SEED = 77  # of test examples; training draws from other seeds
CONTROLS = ("blind", "shuffled")


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A name, what makes its examples (count, seed) -> list, and how answers are judged.

    metric: (predictions, examples) -> float[B], or one float for a metric that is no mean over pictures, such as AP.
    """

    name: str
    make: Callable[[int, int], list[Example]]
    metric: Callable[[Sequence[str], Sequence[Example]], np.ndarray | float]
    unit: str = "exact match"


# ---------------------------------------------------------------------------------------------- answers


def controlled(examples: Sequence[Example], control: str | None) -> list[Example]:
    """The examples as a control sees them: None, "blind" or "shuffled". Raises ValueError for another, and for
    the shuffling of one."""
    if control is None:
        return list(examples)
    if control == "blind":
        grey = [np.full_like(example.images, 128) for example in examples]
        return [dataclasses.replace(e, images=images) for e, images in zip(examples, grey, strict=True)]
    if control == "shuffled":
        if len(examples) == 1:
            raise ValueError("One example has no other's pictures to be shown: shuffle two or more.")
        others = [*examples[1:], *examples[:1]]
        return [dataclasses.replace(e, images=other.images) for e, other in zip(examples, others, strict=True)]
    raise ValueError(f"There is no control {control!r}; there are: {', '.join(CONTROLS)}.")


def shape_of(model, examples: Sequence[Example]) -> dict[str, int]:
    """The lengths for `collate.arrays` that all of these fit into. Raises ValueError if there are none."""
    if not examples:
        raise ValueError("There are no examples, so there is nothing to ask.")
    words = tokenizers.multilingual()
    return {
        "images": max(1, *(len(example.images) for example in examples)),
        "inputs": _rounded(max(len(ids) for example in examples for ids in collate.prompt_ids(example, words))),
        "targets": _rounded(max(len(collate.target_ids(example, words)[0]) for example in examples)),
        "image_size": model.config.tower.image_size[0],
    }


def answers(
    model, params, examples: Sequence[Example], *, batch_size: int = 64, shape: Mapping[str, int] | None = None
) -> list[str]:
    """What the model writes, greedily, for each example: all in batches of one shape, the longest's.

    It may write half as much again as the longest answer has, so that a model may say too much; there it is cut off.
    shape: another, as `shape_of` gives it: calls of one shape are compiled once. Raises ValueError for no examples,
    few-shot examples among others, examples that do not fit, and a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    words, shape = tokenizers.multilingual(), shape or shape_of(model, examples)
    out = []
    for start in range(0, len(examples), batch_size):
        chunk = list(examples[start : start + batch_size])
        batch = collate.arrays(chunk + [chunk[-1]] * (batch_size - len(chunk)), words, **shape)
        inputs = {"images": batch["images"], "images_valid": batch["images_valid"], "tokens": batch["inputs"]}
        tokens, _ = decode.greedy(model, params, inputs, max_length=shape["targets"] * 3 // 2)
        out += [words.decode(row).strip() for row in np.asarray(tokens)[: len(chunk)]]
    return out


def _rounded(length: int) -> int:
    """Up to a multiple of 8: few shapes, few compilations."""
    return -(-length // 8) * 8


def scorecard(model, params, chosen: Sequence[Task], *, count: int = 200, seed: int = SEED) -> pd.DataFrame:
    """A row for each task: "task", "unit", "n", "score", "low", "high" (95 % bootstrap), and a column a control."""
    rows = []
    for task in chosen:
        examples = task.make(count, seed)
        row = dict(
            zip(("score", "low", "high"), interval(task, answers(model, params, examples), examples), strict=True)
        )
        for control in CONTROLS:
            predictions = answers(model, params, controlled(examples, control))
            row[control] = float(np.mean(task.metric(predictions, examples)))
        rows.append({"task": task.name, "unit": task.unit, "n": len(examples), **row})
    return pd.DataFrame(rows)


def interval(task: Task, predictions: Sequence[str], examples: Sequence[Example]) -> tuple[float, float, float]:
    """(score, low, high): the 95 % bootstrap interval over examples."""
    values = task.metric(predictions, examples)
    if np.ndim(values):
        return bootstrap(values)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(200):  # a metric of the whole set is computed anew for each
        rows = rng.integers(len(examples), size=len(examples))
        drawn.append(task.metric([predictions[i] for i in rows], [examples[i] for i in rows]))
    return float(values), *np.quantile(drawn, (0.025, 0.975)).tolist()


# ---------------------------------------------------------------------------------------------- tasks


def drawn(makers: Callable[[str], Mapping[str, mixture.Maker]], maker: str, split: str = "train"):
    """(count, seed) -> examples of one of makers(split), each from a generator of its own."""
    return lambda count, seed: [makers(split)[maker](keyed_rng(seed, i)) for i in range(count)]


_makers = functools.cache(mixture.kit_makers)
_drawn = functools.partial(drawn, _makers)


def captions(language: str, split: str = "train", style: str = "noto"):
    """(count, seed) -> captioned `mixture.things` of one language, each placed anew; as many as there are, at most."""

    def make(count, seed):
        emoji = pictures.emoji(split, style=style)
        cutouts, rng = scenes.cut_outs(emoji.images), keyed_rng(seed, 0)
        chosen = rng.permutation(mixture.things(split))[:count]
        placed = [mixture.placed(cutouts[i], rng)[0] for i in chosen]
        return [tasks.captioning(p, emoji.names[language][i], language) for p, i in zip(placed, chosen, strict=True)]

    return make


def reading(split: str = "test"):
    """(count, seed) -> pictures of one word each, whose languages take turns."""

    def make(count, seed):
        vocabularies, out = list(rendered.words(split).items()), []
        for i in range(count):
            rng = keyed_rng(seed, i)
            language, words = vocabularies[i % len(vocabularies)]
            word = str(rng.choice(words))
            image, _ = rendered.line(word, rng)
            out.append(tasks.split_ocr(image, [word], language if language != "digits" else "en", 0))
        return out

    return make


def exact(predictions, examples) -> np.ndarray:
    return exact_match(predictions, [example.answer for example in examples])


def letters(predictions, examples) -> np.ndarray:
    """The share of letters that are right: 1 - edit distance / length of the longer text. ANLS without its threshold,
    under which a reading that is half right would count as nothing."""
    return np.array([similarity(said, example.answer) for said, example in zip(predictions, examples, strict=True)])


def ap50(predictions: Sequence[str], examples: Sequence[Example]) -> float:
    """Average precision at IoU 0.5 of what was written; NaN where no example has an object, but noise. All boxes count
    as equally sure, in the order of the text."""
    names = sorted({name for example in examples for name in boxes.from_text(example.answer)[1]} - {boxes.NOISE})
    number = {name: i for i, name in enumerate(names)}
    wanted = [detections(example.answer, number) for example in examples]
    truths = [Truth(one.boxes, one.classes) for one in wanted]
    return coco([detections(text, number) for text in predictions], truths, len(names)).ap50


def detections(text: str, number: Mapping[str, int]) -> Detections:
    """What was written, of the classes {name: number}; all as sure, in the order of the text. Others are left out,
    and so is what is no box, such as inverted corners: it finds nothing, and what is there counts as missed."""
    where, what, _ = boxes.from_text(text)
    kept = [i for i, name in enumerate(what) if name in number]
    return Detections(where[kept], -np.arange(len(kept), dtype=float), np.array([number[what[i]] for i in kept], int))


# ---------------------------------------------------------------------------------------------- the list

TASKS = (
    *(Task(f"captions, {language}", captions(language), exact) for language in pictures.LANGUAGES),
    Task("captions, unseen things, en", captions("en", "test"), letters, "letters"),
    Task("captions, unseen things, Twemoji, en", captions("en", "test", "twemoji"), letters, "letters"),
    Task("easy-VQA, test set", _drawn("easy_vqa", "test"), exact),
    Task("counting", _drawn("counting"), exact),
    Task("counting, unseen things", _drawn("counting", "test"), exact),
    Task("reading a word, unseen words", reading(), exact),
    Task("reading a word, unseen words, by letters", reading(), letters, "letters"),
    Task("receipts", _drawn("receipts", "test"), exact),
    Task("detection", _drawn("detection"), ap50, "AP50"),
    Task("detection, unseen things", _drawn("detection", "test"), ap50, "AP50"),
    Task("films", _drawn("video_questions"), exact),
    Task("films, unseen things", _drawn("video_questions", "test"), exact),
    Task("captions of films, by letters", _drawn("video_captioning"), letters, "letters"),
    Task("captions of films, unseen things, by letters", _drawn("video_captioning", "test"), letters, "letters"),
    Task("4-shot, new words", _drawn("made_up_words"), exact),
    Task("4-shot, new words, unseen things", _drawn("made_up_words", "test"), exact),
)
