"""kitlib.studies.upcycling.fine_tuning: what is asked, from where fine-tuning starts, and that it learns."""

import dataclasses

import jax
import numpy as np
import pytest

from kitlib import data
from kitlib.data import texts
from kitlib.studies.upcycling import fine_tuning, runs, setups
from kitlib.studies.upcycling.fine_tuning import TASKS, FineTuning
from kitlib.studies.upcycling.runs import UpcyclingArm
from kitlib.studies.upcycling.setups import Recipe

RATE = Recipe(2e-3)


def test_an_example_is_the_beginning_of_a_text_and_its_label():
    """By hand: "ab" is bytes 97 and 98, each plus 3; the end is 1; padding 0."""
    entry, category = texts.categorised_glosses("test")[7]
    found = fine_tuning.examples("category", "test")
    assert found["inputs"].shape == (2000, 40) and found["inputs"].dtype == np.int32
    start = [byte + 3 for byte in entry.encode()[:40]]
    assert found["inputs"][7].tolist() == start + [0] * (40 - len(start))
    label = [*(byte + 3 for byte in category.encode()), 1]
    assert found["targets"][7, : len(label)].tolist() == label and not found["targets"][7, len(label) :].any()
    code, message = texts.messages("test")[3]
    found = fine_tuning.examples("language", "test")
    assert fine_tuning.WORDS.decode(found["targets"][3]) == code
    assert message.encode().startswith(bytes(i - 3 for i in found["inputs"][3] if i))


def test_nothing_that_is_asked_was_pretrained_on():
    """Of messages in test_upcycling_tasks."""
    asked = {entry for split in ("train", "test") for entry, _ in texts.categorised_glosses(split)}
    assert asked.isdisjoint([*data.glosses("train"), *data.glosses("more")])


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_disjoint_and_have_the_same_labels_and_lengths(task):
    sizes = {"train": 5000, "valid": 1000 if task == "category" else 2000, "test": 2000 if task == "category" else 3000}
    seen: set = set()
    for split, size in sizes.items():
        found = fine_tuning.examples(task, split)
        assert len(found["inputs"]) == len(found["targets"]) == size
        assert (found["targets"] == 1).sum() == size  # the longest label fits, with its end
        labels = {tuple(row) for row in found["targets"]}
        assert len(labels) in (range(40, 46) if task == "category" else range(90, 97))
        seen |= labels
    assert len(seen) <= (45 if task == "category" else 96)


def test_starts_are_the_ends_of_the_curves():
    """Every start but "none" is an arm of text_curves, so that its file is there; trials start from shorter arms."""
    task = setups.text()
    starts = fine_tuning.upstream(task)
    costs = {name: arm.steps * task.relative_cost(arm.config) / task.parent_steps for name, arm in starts.items()}
    expected = {"none": 0, "parent": 1, "dense": 1, "upcycled": 1, "scratch": 2}
    assert costs == pytest.approx(expected, abs=2e-3) and costs.keys() == expected.keys()
    tried = fine_tuning.tuning().arms
    assert len(tried) == 2 * 5 * 7
    for name, arm in tried.items():
        start = name.split()[1].rstrip(":")
        assert arm.upstream.config == starts[start].config and arm.upstream.steps <= starts[start].steps, name


@pytest.mark.slow
def test_fine_tuning_starts_from_the_end_of_its_arm_and_learns(tmp_path, monkeypatch):
    """With a rate of 0 labels are as good as the start writes them; with a real one the loss falls. Twice the same."""
    monkeypatch.setattr(fine_tuning, "STEPS", 20)
    one = setups.text("valid")
    quick = dataclasses.replace(one, parent_steps=4, name="short", recipe=lambda kind: RATE)
    sparse = quick.sparse(quick.dense, num_experts=2, capacity_factor=1.0)
    upstream = UpcyclingArm(sparse, "upcycled", 2, RATE)

    def row(peak):
        arm = FineTuning("language", upstream, peak)
        return fine_tuning.run_arm(lambda: quick, "valid", arm, 0, tmp_path)[0]

    still, moved = row(0.0), row(0.01)
    params = runs.trained(lambda: quick, upstream, 0, tmp_path)
    total = 0.0
    for first in range(0, 2000, 500):
        inputs, targets = (x[first : first + 500] for x in fine_tuning.examples("language", "valid").values())
        shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]  # the decoder sees what comes before
        logits, _ = quick.model(sparse).apply(
            {"params": params}, inputs, shifted, decoder_segments=(targets != 0).astype(np.int32)
        )
        log_probs = jax.nn.log_softmax(logits)
        losses = -np.take_along_axis(np.asarray(log_probs), targets[..., None], axis=-1)[..., 0]
        total += losses[targets > 2].sum()  # bytes, neither padding nor ends
    assert still == {"accuracy": 0.0, "loss": pytest.approx(total / 2000, rel=1e-5)}
    assert moved["loss"] < still["loss"] - 1
    assert row(0.01) == moved
