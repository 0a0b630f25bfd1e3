"""kitlib.multimodal.mixtures: draws depend on seed and index alone, and are in proportion to the weights."""

from collections import Counter

import numpy as np
import pytest

from kitlib.multimodal.mixtures import Mixture
from kitlib.multimodal.tasks import Task


def numbered(name: str) -> Task:
    """A task whose examples are its name and a random number."""
    return Task(name, lambda rng: (name, rng.integers(1000)))


TASKS = {name: numbered(name) for name in "abcd"}


def test_a_draw_depends_on_seed_and_index_alone():
    one, same, other = (Mixture(TASKS, dict.fromkeys("abcd", 1), seed) for seed in (0, 0, 1))
    drawn = [one.draw(i) for i in range(50)]
    assert [same.draw(i) for i in reversed(range(50))] == drawn[::-1]
    assert [other.draw(i) for i in range(50)] != drawn and len(set(drawn)) > 40
    reordered = Mixture(dict(reversed(TASKS.items())), dict.fromkeys("dcba", 1))
    assert [reordered.draw(i) for i in range(50)] == drawn


def test_shares_are_the_weights():
    """Each count is binomial: within five standard deviations of the count that the weight gives."""
    weights, n = {"a": 6, "b": 3, "c": 1, "d": 0}, 6000
    counts = Counter(Mixture(TASKS, weights, 3).draw(i)[0] for i in range(n))
    assert counts["d"] == 0
    for name, weight in weights.items():
        share = weight / 10
        assert abs(counts[name] - n * share) <= 5 * np.sqrt(n * share * (1 - share))
    scaled = {name: weight / 600 for name, weight in weights.items()}
    one, other = (Mixture(TASKS, given, 3) for given in (weights, scaled))
    assert [one.draw(i) for i in range(50)] == [other.draw(i) for i in range(50)]


def test_an_example_is_independent_of_the_choice_of_its_task():
    """A task's numbers are drawn after the one that chose the task: a rare and a frequent task have the same mean."""
    drawn = [Mixture(TASKS, {"a": 1, "b": 9}, 4).draw(i) for i in range(6000)]
    for name in "ab":
        numbers = [number for task, number in drawn if task == name]
        assert abs(np.mean(numbers) - 499.5) < 5 * 1000 / np.sqrt(12 * len(numbers))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"captionin": 1}, "'captionin'; did you mean 'captioning'"),
        ({"vqa": -1}, "weight of vqa is -1; expected 0 or a finite number above"),
        ({"vqa": np.nan}, "weight of vqa is nan"),
        ({"vqa": np.inf}, "weight of vqa is inf"),
        ({"vqa": 0}, "No task has a weight above 0"),
        ({}, "No task has a weight above 0"),
        ({"test": 1}, r"test is a test alone \(it has no draw\)"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture({"captioning": None, "vqa": None, "test": Task("test", None)}, weights)
