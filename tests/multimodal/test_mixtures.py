"""kitlib.multimodal.mixtures: draws, resumable batches, examples that do not fit, and full packed rows."""

from collections import Counter

import jax
import numpy as np
import pytest

from kitlib.data import tokenizer
from kitlib.multimodal import mixtures, tasks
from kitlib.multimodal.batching import prompt_tokens, target_tokens
from kitlib.multimodal.mixtures import Group, Mixture, batches, group_batch
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.tasks import Task

WORDS = tokenizer.multilingual()
RED = np.full((1, 64, 64, 3), (255, 0, 0), np.uint8)
SHORT = {"num_images": 1, "prompt_length": 8, "target_length": 8}


def mixture_of(*names: str) -> Mixture:
    """Some of the kit's tasks, equally often."""
    every = tasks.kit_tasks("train")
    return Mixture({name: every[name] for name in names}, dict.fromkeys(names, 1))


def dogs(lengths) -> Task:
    """A task whose answers have as many words as one of the lengths, chosen by the generator."""
    return Task("vqa", lambda rng: Example(RED, "a", ((" ".join(["dog"] * int(rng.choice(lengths))), True),), "vqa"))


def test_a_batch_is_a_function_of_its_position():
    one = Group(mixture_of("captioning", "vqa"), 3, num_images=1, prompt_length=64, target_length=40)
    text = Group(mixture_of("span_corruption"), 2, num_images=0, prompt_length=160, target_length=80)
    groups = {"one": one, "text": text}
    first = batches(groups, WORDS)
    ahead = [next(first) for _ in range(3)]
    state = first.get_state()
    expected = next(first)
    again = batches(groups, WORDS)
    again.set_state(state)
    for got in (next(again), {name: group_batch(group, WORDS, 3) for name, group in groups.items()}):
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    rows = [row.tobytes() for batch in ahead for row in batch["one"]["images"]]
    assert len(set(rows)) == len(rows) == 9  # all are different draws
    assert set(expected) == {"one", "text"} and expected["text"]["prompt_segments"].max() >= 2


def test_an_example_that_does_not_fit_is_replaced_by_the_next():
    """One in two answers has 30 words; the rows have the others, and the batch is full."""
    group = Group(Mixture({"vqa": dogs([1, 30])}, {"vqa": 1}), 16, **SHORT)
    batch = group_batch(group, WORDS, 0)
    n = len(target_tokens(Example(RED, "a", (("dog", True),), "vqa"), WORDS)[0])
    assert ((batch["targets"] > 0).sum(axis=1) == n).all() and len(batch["targets"]) == 16


def test_a_task_without_fitting_examples_is_named_before_training():
    """Otherwise all its draws would be left out, and only the other tasks would be trained on."""
    video = Example(np.repeat(RED, 3, 0), "a", (("dog", True),), "vqa")
    drawn = {"short": dogs([1]), "long": dogs([30]), "video": Task("video", lambda rng: video)}
    for name, weights in {"long": {"short": 9, "long": 1}, "video": {"short": 1, "video": 1}}.items():
        message = f"No example of {name} fits into the group 'one': all of 256 have more than 1 images, 8 prompt tokens"
        with pytest.raises(ValueError, match=message):
            batches({"one": Group(Mixture(drawn, weights), 4, **SHORT)}, WORDS)
    group = Group(Mixture(drawn, {"short": 1, "long": 0}), 4, **SHORT)
    assert next(batches({"one": group}, WORDS))["one"]["images"].shape == (4, 1, 64, 64, 3)
    with pytest.raises(ValueError, match="An example of vqa has 1 images"):
        group_batch(Group(Mixture(drawn, {"long": 1}), 1, **SHORT), WORDS, 0)
    with pytest.raises(ValueError, match="There is no group"):
        batches({}, WORDS)


def test_shares_that_fit_are_those_of_the_draws():
    """One in four answers has 30 words: of 400 examples 100 +- 9 (standard deviation of a binomial)."""
    drawn = {"some": dogs([1, 1, 1, 30]), "all": dogs([1]), "none": dogs([30])}
    group = Group(Mixture(drawn, {"some": 1, "all": 2, "none": 1}, seed=3), 4, **SHORT)
    shares = mixtures.shares_that_fit(group, WORDS, 400)
    assert list(shares) == ["some", "all", "none"] and (shares["all"], shares["none"]) == (1, 0)
    assert abs(shares["some"] - 0.75) < 4 * 9 / 400


def test_packed_rows_are_full():
    """The next text of the draw would not fit into the row, as counted here from the tokens alone."""
    group = Group(mixture_of("span_corruption"), 4, num_images=0, prompt_length=128, target_length=64)
    batch = group_batch(group, WORDS, 5)
    for row in range(4):
        count = batch["prompt_segments"][row].max()
        following = group.mixture.draw((5 * 4 + row) * mixtures.TRIES + int(count))
        used = [(batch[name][row] > 0).sum() for name in ("prompt_tokens", "targets")]
        more = len(prompt_tokens(following, WORDS)[0]), len(target_tokens(following, WORDS)[0])
        assert used[0] + more[0] > 128 or used[1] + more[1] > 64


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
