"""kitlib.multimodal.tasks: the controls, the intervals, and the scorecard of a model."""

import numpy as np
import pytest

from kitlib import configs
from kitlib.data import tokenizer
from kitlib.models import palix
from kitlib.multimodal import tasks
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.scores import ap50, exact_matches
from kitlib.multimodal.tasks import Task, scorecard, with_control

pytestmark = pytest.mark.slow

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
THREE = [
    Example(np.full((1, 64, 64, 3), colour, np.uint8), f"which {i}?", ((f"answer {i}", True),), "vqa")
    for i, colour in enumerate(COLOURS)
]


BOXED = Example(THREE[0].images, "detect", (("0 0 500 500 dog", True),), "detection")


def test_blind_images_are_grey_and_shuffled_images_are_the_next_ones():
    assert [e.images[0, 0, 0].tolist() for e in with_control(THREE, None)] == [list(colour) for colour in COLOURS]
    assert all((e.images == 128).all() for e in with_control(THREE, "blind"))
    shuffled = with_control(THREE, "shuffled")
    assert [tuple(e.images[0, 0, 0].tolist()) for e in shuffled] == [*COLOURS[1:], COLOURS[0]]
    for name in (None, "blind", "shuffled"):
        assert [(e.prompt, e.answer) for e in with_control(THREE, name)] == [(e.prompt, e.answer) for e in THREE]
    with pytest.raises(ValueError, match=r"Unknown control 'deaf'.*Known: blind, shuffled"):
        with_control(THREE, "deaf")
    with pytest.raises(ValueError, match="A single example cannot be shuffled"):
        with_control(THREE[:1], "shuffled")


def test_intervals_of_means_and_of_whole_sets():
    score, low, high = Task("", None, exact_matches).interval(["answer 0", "answer 1", ""], THREE)
    # Wilson, z = 1.96, z^2 = 3.8415: (p + z^2 / 2n ± z sqrt(p (1 - p) / n + (z / 2n)^2)) / (1 + z^2 / n)
    # = (0.6667 + 0.6402 ± 1.96 sqrt(0.0741 + 0.1067)) / 2.2805 = 0.5731 ± 0.3654
    np.testing.assert_allclose((score, low, high), (2 / 3, 0.5731 - 0.3654, 0.5731 + 0.3654), atol=1e-4)
    score, low, high = Task("", None, ap50).interval([BOXED.answer] * 2 + [""] * 2, [BOXED] * 4)
    assert 0 <= low < score < high <= 1


def test_drawn_examples_have_a_generator_each():
    task = Task("numbers", lambda rng: rng.integers(10**9))
    five = task.examples(5, 3)
    assert task.examples(3, 3) == five[:3] and len(set(five)) == 5 and task.examples(5, 4) != five


@pytest.fixture(scope="module")
def model():
    text = {"vocab_size": tokenizer.multilingual().vocab_size}
    model = palix.PaLIX(configs.palix("XS", tower={"image_size": (64, 64)}, text=text))
    return model, palix.init_params(model)


def test_a_scorecard(model):
    tasks = [
        Task("colours", None, exact_matches, choose=lambda count, seed: THREE[:count]),
        Task("boxes", lambda rng: BOXED, ap50, "AP50"),
    ]
    table = scorecard(*model, tasks, count=3)
    assert list(table.columns) == ["task", "unit", "n", "score", "low", "high", "blind", "shuffled"]
    assert table["task"].tolist() == ["colours", "boxes"] and table["n"].tolist() == [3, 3]
    assert table["unit"].tolist() == ["exact match", "AP50"]
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()
    with pytest.raises(ValueError, match="There are no examples"):
        scorecard(*model, tasks[:1], count=0)


def test_a_control_is_scored_on_its_own_pictures(monkeypatch):
    """A reader of colours has 1; of grey pictures 0; of red, red and green, shown red, green and red, 1 of 3."""
    names = {colour: f"answer {i}" for i, colour in enumerate(COLOURS)}

    def texts(model, params, examples):
        return [names.get(tuple(example.images[0, 0, 0].tolist()), "grey") for example in examples]

    monkeypatch.setattr(tasks, "generated_texts", texts)
    row = Task("colours", None, choose=lambda count, seed: [THREE[0], THREE[0], THREE[1]]).evaluate(None, None)
    assert (row["score"], row["blind"], row["shuffled"]) == pytest.approx((1, 0, 1 / 3))


def test_the_bootstrap_interval_is_one_of_95_percent():
    """Of 1,000, half are right: 1.96 * sqrt(0.25 / 1000) = 0.031 (50 %: 0.011; 90 %: 0.026). Over 200 resamples an end
    has a standard error of 0.003; the mean over 20 sets, each with other resamples, one below 0.001."""
    share, widths = Task("", None, lambda texts, _: float(np.mean([text == "yes" for text in texts]))), []
    for n in range(980, 1020, 2):
        score, low, high = share.interval(["yes", "no"] * (n // 2), [None] * n)
        assert score == 0.5
        widths.append((high - low) / 2)
    np.testing.assert_allclose(np.mean(widths), 1.96 * np.sqrt(0.25 / 1000), atol=0.0025)
