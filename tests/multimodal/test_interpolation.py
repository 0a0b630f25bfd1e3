"""kitlib.multimodal.stages: parameters between two stages, and which of them are released."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from kitlib.multimodal import objectives, stages, tasks
from kitlib.multimodal.kit_scores import TASKS
from kitlib.multimodal.stages import ENOUGH, FORGOTTEN, LEARNED, SHARES, interpolate, share_chosen
from kitlib.multimodal.tasks import Task


def test_a_quarter_of_the_way():
    """From 1 to 5 and from (0, 2) to (4, 2): 1 + 4 / 4 = 2 and (1, 2). At the ends: the trees themselves."""
    before = {"a": jnp.array(1.0), "b": {"c": jnp.array([0.0, 2.0])}}
    after = {"a": 5.0, "b": {"c": jnp.array([4.0, 2.0])}}
    found = interpolate(before, after, 0.25)
    assert found["a"] == 2 and found["b"]["c"].tolist() == [1, 2]
    for share, end in ((0.0, before), (1.0, after)):
        found = interpolate(before, after, share)
        assert found["a"] == end["a"] and (found["b"]["c"] == end["b"]["c"]).all()
    with pytest.raises(ValueError, match="key"):
        interpolate({"a": 1.0}, {"b": 1.0}, 0.5)


def test_the_smallest_share_with_enough_of_the_skill_is_chosen():
    table = pd.DataFrame({"share": (0.0, 0.5, 0.9, 1.0), LEARNED: (0.3, ENOUGH - 0.01, ENOUGH, 0.9)})
    assert share_chosen(table) == 0.9
    assert share_chosen(table[table[LEARNED] < ENOUGH]) == 1.0


def test_every_share_is_scored_on_the_same_examples(monkeypatch):
    """A model that answers with its only parameter, which goes from 0 to 1: right where it is what is asked for."""
    monkeypatch.setattr(tasks, "generated_texts", lambda _, params, examples: [f"{params['a']:g}"] * len(examples))
    drawn = []

    def choose(count, seed):
        drawn.append((count, seed))
        image = np.zeros((4, 4, 3), np.uint8)
        return [objectives.captioning(image, answer, "en") for answer in ("0.5", "1")][:count]

    table = stages.scores_between(None, {"a": 0.0}, {"a": 1.0}, [Task("which", None, choose=choose)], count=2)
    assert table["share"].tolist() == list(SHARES) and drawn == [(2, stages.SEED)]
    assert table["which"].tolist() == [0.5 if share in (0.5, 1.0) else 0.0 for share in SHARES]
    assert stages.SEED != tasks.SEED


def test_the_stored_scores_between_two_stages_explain_the_released_share():
    assert {LEARNED, *FORGOTTEN} <= {task.name for task in TASKS}
    assert list(stages.STAGES).index(stages.BEFORE) < list(stages.STAGES).index(stages.AFTER)
    table = pd.read_csv(stages.released_file().with_name("palix_s_between.csv"), comment="#")
    assert table["share"].tolist() == list(SHARES) and set(table) == {"share", LEARNED, *FORGOTTEN}
    assert 0 < share_chosen(table) < 1
    first, last = table.iloc[0], table.iloc[-1]
    assert last[LEARNED] > first[LEARNED] and last["captions, de"] < first["captions, de"]
