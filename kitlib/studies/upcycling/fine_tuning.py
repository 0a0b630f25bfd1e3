"""Downstream fine-tuning of dense and upcycled language models (2212.05055, figure 3).

    kit claims upcycling text_downstream_tuning     # seven learning rates for every start and task
    kit claims upcycling text_downstream

The models are those at the end of the arms of text_curves: the parent, dense training and upcycling for a whole parent
of extra cost, and a mixture from scratch for two in all. What was never pre-trained is fine-tuned, too. As for T5, a
task is to write a label: the category of one of WordNet's entries, such as "noun.animal", or the code of a message's
language, from the first 40 bytes. The paper fine-tunes on SuperGLUE, at a constant rate; here the rate falls to 0, and
one evaluation at the end is enough.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kitlib.configs.arguments import one_of
from kitlib.data import image_batches, texts, tokenizer
from kitlib.data.denoise import padded
from kitlib.models import t5
from kitlib.studies import study
from kitlib.studies.study import Study, best_peak
from kitlib.studies.upcycling import ablations
from kitlib.studies.upcycling.runs import UpcyclingArm, trained
from kitlib.studies.upcycling.setups import VALID, Setup, parts, t5_scores, text
from kitlib.studies.upcycling.tuning import trial_arm
from kitlib.training import loop
from kitlib.training.optim import adamw_cosine_step

TASKS = ("category", "language")
STEPS, BATCH, LENGTH = 500, 64, 40
LABELLED = 5000  # examples that are fine-tuned on
PEAKS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
SEEDS = 10
WORDS = tokenizer.ByteTokenizer()


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What is fine-tuned, on what, and the peak of the learning rate."""

    task: str
    upstream: UpcyclingArm
    peak: float


@functools.cache
def examples(task: str, split: str) -> dict[str, np.ndarray]:
    """{"inputs": int32[n, 40], "targets": int32[n, M]}: the bytes of texts and of their labels, and an end.

    split: "train" (5,000), "valid" (1,000 entries or 2,000 messages) or "test" (2,000 or 3,000). None of those that are
    asked was pre-trained on; of the messages of "train" the texts were, without their labels. Raises ValueError for an
    unknown task or split.
    """
    one_of("task to fine-tune on", task, TASKS)
    one_of("split of the examples", split, ("train", "valid", "test"))
    if task == "category":
        entries = texts.categorised_glosses("test" if split == "test" else "train")
        pairs = {"train": entries[:LABELLED], "valid": entries[LABELLED:], "test": entries}[split]
    else:
        messages = [(words, code) for code, words in texts.messages("test" if split == "test" else "train")]
        pairs = {"train": messages[VALID : VALID + LABELLED], "valid": messages[:VALID], "test": messages}[split]
    inputs = [WORDS.encode(words)[:LENGTH] for words, _ in pairs]
    targets = [[*WORDS.encode(label), WORDS.eos_id] for _, label in pairs]
    return {"inputs": padded(inputs, LENGTH, WORDS.pad_id), "targets": padded(targets, _longest(task), WORDS.pad_id)}


@functools.cache
def _longest(task: str) -> int:
    """M: the length of the longest label, and one for its end."""
    if task == "category":
        labels = [label for split in ("train", "test") for _, label in texts.categorised_glosses(split)]
    else:
        labels = [label for split in ("train", "test") for label, _ in texts.messages(split)]
    return 1 + max(len(label.encode()) for label in labels)


def run_arm(task: Callable[[], Setup], split: str, arm: FineTuning, seed: int, folder: Path) -> list[dict]:
    """One row: the share of labels that are written without a fault, and the loss per label.

    task: the setup of pre-training; split: of what is asked.
    """
    model = task().model(arm.upstream.config)
    tx, step = adamw_cosine_step(t5.seq2seq_loss, model, STEPS, arm.peak, warmup=STEPS // 10)
    state = loop.init_state(trained(task, arm.upstream, seed, folder), tx, seed)
    known = examples(arm.task, "train")
    batches = image_batches.shuffled_batches(
        LABELLED, BATCH, lambda rows, _: {name: values[rows] for name, values in known.items()}, seed=seed
    )
    state = loop.fit(step, state, batches, STEPS)[0]
    scores = [t5_scores(model, WORDS)(state.params, *part) for part in parts(examples(arm.task, split), 500)]
    _, loss, _, faultless = np.concatenate(scores, axis=1)
    return [{"accuracy": float(faultless.mean()), "loss": float(loss.mean())}]


def upstream(task: Setup) -> dict[str, UpcyclingArm]:
    """The arms of text_curves from which fine-tuning starts; "none": the dense model before any training."""
    curves = ablations.headline(task)
    untrained = dataclasses.replace(curves["parent"], start="scratch", steps=0)
    return {"none": untrained} | {start: curves[start] for start in ("parent", "dense", "upcycled", "scratch")}


def tuning() -> Study:
    """text_downstream_tuning: seven learning rates for every task and start; the starts are the trials of the chosen
    recipes in text_tuning."""
    valid = functools.partial(text, "valid")
    task = valid()
    later = {kind: trial_arm(task, kind, task.recipe(kind)) for kind in ("dense", "upcycled", "scratch")}
    arms = {
        f"{name} {start}: peak {peak:g}": FineTuning(name, arm, peak)
        for name in TASKS
        for start, arm in (upstream(task) | later).items()
        for peak in PEAKS
    }
    run = functools.partial(run_arm, valid, "valid")
    return study.trials("Which learning rate for which start?", setting(), arms, run)


def downstream() -> Study:
    """text_downstream."""
    arms = {
        f"{name} {start}": FineTuning(name, arm, best_peak("upcycling", "text_downstream_tuning", f"{name} {start}"))
        for name in TASKS
        for start, arm in upstream(text()).items()
    }
    question = "Does upcycling's gain carry over to fine-tuning?"
    return Study(question, setting(), arms, functools.partial(run_arm, text, "test"), seeds=SEEDS)


def setting() -> str:
    """What all arms have in common."""
    return f"{STEPS} steps with {BATCH} of {LABELLED} labelled texts, after: {text().setting}"


STUDIES = {"text_downstream_tuning": tuning, "text_downstream": downstream}
