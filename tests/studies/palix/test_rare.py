"""kitlib.studies.palix.rare: how often kinds are shown and asked for, and the precision of known detectors."""

import numpy as np
import pytest

from kitlib.data import keyed_rng, tokenizer
from kitlib.multimodal import batching, boxes
from kitlib.multimodal.example_builders import BINS
from kitlib.multimodal.kit_data import kit_data
from kitlib.studies.palix import rare
from kitlib.studies.palix.rare import TIERS, counts_of, pairs, present, present_or_absent, training_pairs
from kitlib.studies.palix.runs import PaLIXArm, Phase, StageZero

DATA = kit_data("train")
KINDS = len(DATA.scene_names)


def test_a_third_of_the_kinds_is_in_each_tier():
    counts = counts_of(KINDS, 3)
    tiers = np.digitize(counts, [10, 100])  # where `metrics.detection.lvis` divides
    assert np.bincount(tiers).tolist() == [KINDS // 3] * 3
    assert counts.min() == TIERS[0][0] and counts.max() - TIERS[2][1] in (0, 1)
    assert counts.sum() % 2 == 0
    assert (np.sort(counts) == np.sort(counts_of(KINDS, 4))).all() and (counts != counts_of(KINDS, 4)).any()


def test_pairs_are_of_different_kinds_and_keep_the_counts():
    """The even pictures are as many as those with the counts of the seed."""
    found = pairs([1, 2, 3, 6], np.random.default_rng(0))
    assert found.shape == (6, 2) and (found[:, 0] != found[:, 1]).all()
    assert np.bincount(found.ravel()).tolist() == [1, 2, 3, 6]
    counts, even = (np.bincount(training_pairs(0, even=flat).ravel(), minlength=KINDS) for flat in (False, True))
    assert (counts == counts_of(KINDS, 0)).all()
    assert even.sum() == counts.sum() and even.max() - even.min() <= 1


def test_training_pictures_are_fixed_and_are_those_of_the_seed_and_form(monkeypatch):
    calls, few = [], np.array([[3, 5], [3, 5], [1, 2]])
    monkeypatch.setattr(rare, "training_pairs", lambda seed, *, even=False: calls.append((seed, even)) or few)
    shown = {rare.training_picture(DATA, keyed_rng(9, i), 4, True).image.tobytes() for i in range(40)}
    for draw in (present, present_or_absent):
        for i in range(5):
            draw(DATA, keyed_rng(8, i), seed=4, even=True)
    assert len(shown) == 3 and set(calls) == {(4, True)}


def test_half_of_the_prompts_ask_for_what_is_there_and_kinds_as_often_in_vain():
    """Of 600 prompts half, within 5 standard errors of 0.02; the five most frequent kinds have two thirds of all
    places or so, and about that share of both kinds of prompt."""
    examples = [present_or_absent(DATA, keyed_rng(9, i), seed=0) for i in range(600)]
    read = [boxes.from_text(example.answer, BINS)[1] for example in examples]
    there = np.array([any(name != boxes.NOISE for name in names) for names in read])
    assert abs(there.mean() - 0.5) < 0.1 and all(len(names) == rare.TOTAL for names in read)
    counts = counts_of(KINDS, 0)
    frequent = {DATA.scene_names[i] for i in np.argsort(counts)[-5:]}
    share = counts[np.argsort(counts)[-5:]].sum() / counts.sum()
    asked = np.array([example.prompt.removeprefix("detect ") in frequent for example in examples])
    assert abs(asked[there].mean() - share) < 0.12 and abs(asked[~there].mean() - share) < 0.12


def test_at_first_every_prompt_is_for_a_kind_that_is_there_and_its_boxes_are_all_there_is():
    for i in range(50):
        example = present(DATA, keyed_rng(9, i), seed=0)
        assert set(boxes.from_text(example.answer, BINS)[1]) == {example.prompt.removeprefix("detect ")}


def test_all_arms_have_as_many_prompts_for_boxes():
    """Of a phase of 6,000 steps with weights 1 and 0.5, two thirds: the 4,000 of the other arms."""
    for one in rare.rare().arms.values():
        for phase, steps in zip(one.phases, (rare.PRESENT_STEPS, rare.STEPS), strict=True):
            weights = dict(phase.tasks)
            (asked,) = (weight for name, weight in weights.items() if name.startswith("present"))
            assert phase.steps * asked / sum(weights.values()) == pytest.approx(steps)


# --- the metric ---


def detector(monkeypatch, write, certain=lambda example: 0.0):
    """The result of a model that writes write(example), with such a log-probability."""
    monkeypatch.setattr(rare, "TESTED", 2)

    def texts(model, params, examples):
        return [write(example) for example in examples], np.array([certain(example) for example in examples])

    monkeypatch.setattr(rare.generation, "texts_and_log_probs", texts)
    return rare.detect(None, None, 0)


def is_there(example):
    return example.prompt.removeprefix("detect ") in boxes.from_text(example.answer, BINS)[1]


def test_whoever_writes_the_targets_has_no_errors_but_rounding(monkeypatch):
    """What is left is rounding to 32 bins: IoU above 0.5 for all boxes, above 0.95 for few."""
    found = detector(monkeypatch, lambda example: example.answer)
    assert found.ap50 == 1.0 and 0.6 < found.ap < 1.0
    np.testing.assert_allclose([found.rare, found.common, found.frequent], found.ap, atol=0.1)


def test_whoever_finds_frequent_kinds_alone_has_a_gap(monkeypatch):
    counts = counts_of(KINDS, 0)
    frequent = {DATA.scene_names[i] for i in np.flatnonzero(counts >= 100)}

    def write(example):
        return example.answer if example.prompt.removeprefix("detect ") in frequent else "nothing"

    found = detector(monkeypatch, write)
    assert found.frequent > 0.6 and found.rare == found.common == 0.0


def test_boxes_of_more_probable_texts_come_first(monkeypatch):
    """Where all true boxes are more probable than all false ones, precision is 1 at every recall; else it is not."""

    def write(example):
        return example.answer if is_there(example) else f"1 1 30 30 {example.prompt.removeprefix('detect ')}"

    for sign, perfect in ((1.0, True), (-1.0, False)):
        found = detector(monkeypatch, write, lambda example, sign=sign: sign * is_there(example))
        assert (found.ap50 > 0.999) == perfect


@pytest.mark.slow
def test_a_run_has_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rare, "TESTED", 2)
    phase = Phase((("present", 1.0), ("present or absent, even", 1.0)), 2, rows=2, prompt_length=16, target_length=24)
    (row,) = rare.run(PaLIXArm((phase,), (), StageZero(steps=2)), 0, tmp_path)
    assert set(row) == {f"AP: {name}" for name in ("all", "rare", "common", "frequent", "frequent minus rare")}
    assert row["AP: frequent minus rare"] == row["AP: frequent"] - row["AP: rare"]


@pytest.mark.slow
@pytest.mark.parametrize("draw", [present, present_or_absent])
@pytest.mark.parametrize("even", [False, True])
def test_examples_fit_their_shape(draw, even):
    words = tokenizer.multilingual()
    for i in range(60):
        one = batching.tokenise(draw(DATA, keyed_rng(2, i), seed=1, even=even), words)
        assert one.prompt_length <= 16 and len(one.target_tokens) <= 24
