"""kitlib.studies.upcycling.setups: what is asked and counted in recall, span corruption of bytes, pictures of words."""

import itertools

import jax
import numpy as np
import pytest

from kitlib import data
from kitlib.configs import E3Config
from kitlib.data import texts
from kitlib.studies.upcycling import setups
from kitlib.synthetic import named_pictures


def test_experts_per_token_are_the_capacity_of_both_stacks():
    for one, c in itertools.product((setups.recall(), setups.text()), (1.0, 2.0, 5.0)):
        config = one.sparse(one.dense, capacity_factor=c, renormalize=True)
        assert config.moe.capacity_factor == c and config.decoder_moe.num_selected == c
        assert config.moe.renormalize and config.decoder_moe.renormalize
    pictures = setups.pictures()  # 256 of 6 tokens are routed together
    config = pictures.sparse(pictures.dense, capacity_factor=1.0, renormalize=False)
    assert config.moe.group_size == 256 * config.num_tokens == 1536 and not config.moe.renormalize


@pytest.mark.slow
def test_recall_of_a_model_that_knows_nothing_and_of_one_that_knows_all(monkeypatch):
    """Loss near the entropy of letters and no name right at first; 0 and 1 if every logit is that of the target."""
    one = setups.recall("valid")
    model = one.model(one.dense)
    found = one.evaluate(model, one.init(model, 0))
    assert set(found) == {"accuracy", "loss", "held_out_accuracy", "held_out_loss"}
    assert found["accuracy"] == 0.0 and 3 < found["loss"] < 12

    def perfect(params, inputs, targets):
        count = (targets != 0).sum(axis=1)
        return np.stack([count, 0 * count, count, 0 * count + 1])

    monkeypatch.setattr(setups, "t5_scores", lambda model: perfect)
    assert one.evaluate(model, None) == {"accuracy": 1.0, "loss": 0.0, "held_out_accuracy": 1.0, "held_out_loss": 0.0}


@pytest.mark.slow
def test_bytes_are_counted_without_sentinels_and_ends():
    """A model that is always sure of the right token but at sentinels and ends, where it is sure of a wrong one."""
    one = setups.text("valid")

    class Knows:
        def apply(self, variables, inputs, decoder_tokens, decoder_segments):
            right = jax.numpy.concatenate([decoder_tokens[:, 1:], decoder_tokens[:, :1]], axis=1)
            right = jax.numpy.where((right >= 3) & (right < 259), right, 3)  # not a byte: a wrong answer
            return 50.0 * jax.nn.one_hot(right, 288), {}

        __hash__ = object.__hash__

    found = one.evaluate(Knows(), {})
    # One target in five is a sentinel or an end. (The last, of which the decoder reads nothing, always is an end.)
    assert set(found) == {"accuracy", "loss", "gloss_loss", "message_loss"}
    assert found["accuracy"] == 1.0 and found["loss"] < 1e-6


def test_texts_that_are_asked_about_are_not_trained_on():
    """Validation and test texts, and the two splits of each, have no text in common with what is trained."""
    glosses, messages = [*data.glosses("train"), *data.glosses("more")], [m for _, m in texts.messages("train")]
    trained = {*glosses[setups.VALID :], *messages[setups.VALID :]}
    valid = {*glosses[: setups.VALID], *messages[: setups.VALID]}
    test = {*data.glosses("test"), *(m for _, m in texts.messages("test"))}
    assert len(valid) == 4_000 and len(test) == 5_000
    assert trained.isdisjoint(valid) and trained.isdisjoint(test) and valid.isdisjoint(test)


@pytest.mark.slow
def test_pictures_for_a_model_that_knows_nothing():
    """A zero head gives each of the 26 letters the same probability; what is asked differs between the splits."""
    one, other = setups.pictures("valid"), setups.pictures("test")
    model = one.model(one.dense)
    params = one.init(model, 0)
    found = [task.evaluate(model, params) for task in (one, other)]
    measures = {f"{part}{measure}" for part in ("", "held_out_", "novel_") for measure in ("accuracy", "loss")}
    for row in found:
        assert set(row) == measures
        assert all(row[name] == pytest.approx(np.log(26), rel=1e-5) for name in measures if name.endswith("loss"))
    assert found[0]["accuracy"] != found[1]["accuracy"]  # the share of the letter a, among other questions
    assert found[0]["novel_accuracy"] == found[1]["novel_accuracy"]  # the same questions in new pictures


@pytest.mark.slow
def test_an_e3_is_scored_by_its_members_mean(monkeypatch):
    """Two members, sure of two letters, one of them right: the mean gives each a half, and the loss is log 2."""
    one = setups.pictures("valid")
    config = one.sparse(one.dense, **one.recipe("E3").experts).replace(e3=E3Config(2))
    labels = named_pictures.questions("taught")[4096:8192].labels

    def sure(model, params, images, batch_size):
        right = labels if len(images) == len(labels) else np.zeros(len(images), int)
        logits = 50.0 * np.eye(26, dtype=np.float32)
        return np.stack([logits[right], logits[(right + 1) % 26]])

    monkeypatch.setattr(setups.classification, "predict", sure)
    assert one.evaluate(one.model(config), {})["loss"] == pytest.approx(np.log(2), rel=1e-5)
