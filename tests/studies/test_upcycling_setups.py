"""kitlib.studies.upcycling_setups: data, schedule and evaluation of the two setups."""

import itertools

import jax
import numpy as np
import pytest

from kitlib import data
from kitlib.data import texts
from kitlib.models import flops
from kitlib.studies import upcycling_setups
from kitlib.upcycling import surgery

SETUPS = [upcycling_setups.vision, upcycling_setups.language, upcycling_setups.recall, upcycling_setups.text]


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_a_setup_is_made_once_and_named_in_the_table(setup):
    one = setup()
    assert setup() is one
    assert one.setting.startswith(f"{one.name}: ") and str(one.parent_steps) in one.setting


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_the_sparse_model_has_experts_and_costs_what_is_counted(setup):
    one = setup()
    sparse = one.sparse(one.dense)
    experts = 16 if setup in (upcycling_setups.recall, upcycling_setups.text) else 8
    assert {moe.num_experts for moe in surgery.moe_layers(sparse).values()} == {experts}
    assert surgery.dense_twin(sparse) == one.dense
    assert one.forward_flops(sparse) > one.forward_flops(one.dense) > 0
    if setup is upcycling_setups.vision:
        assert one.forward_flops(one.dense) == sum(flops.vit_forward_flops(one.dense).values())


@pytest.mark.slow
def test_the_evaluation_of_a_uniform_classifier():
    """A zero head gives every class the same probability: loss ln 10, and accuracy as if class 0 were always said."""
    one = upcycling_setups.vision()
    params = one.init(one.model(one.dense), 0)
    assert not np.any(jax.device_get(params["head"]["kernel"])) and not np.any(jax.device_get(params["head"]["bias"]))
    found = one.evaluate(one.model(one.dense), params)
    assert found["loss"] == pytest.approx(np.log(10), rel=1e-5)
    assert found["accuracy"] == pytest.approx(0.1, abs=0.02)  # the test set is nearly balanced


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_batches_depend_on_the_seed(setup):
    first, again, other = (next(setup().batches(seed)) for seed in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert any((first[name] != other[name]).any() for name in first)


def test_the_deeper_model_has_one_block_more():
    for setup in SETUPS:
        one = setup()
        assert (
            upcycling_setups.deeper(one.dense) != one.dense
            and one.relative_cost(upcycling_setups.deeper(one.dense)) > 1
        )
    assert upcycling_setups.deeper(upcycling_setups.recall().dense).num_decoder_layers == 3


def test_experts_per_token_are_the_capacity_of_both_stacks():
    for one, c in itertools.product((upcycling_setups.recall(), upcycling_setups.text()), (1.0, 2.0, 5.0)):
        config = one.sparse(one.dense, capacity_factor=c, renormalize=True)
        assert config.moe.capacity_factor == c and config.decoder_moe.num_selected == c
        assert config.moe.renormalize and config.decoder_moe.renormalize


@pytest.mark.slow
def test_recall_of_a_model_that_knows_nothing_and_of_one_that_knows_all(monkeypatch):
    """Loss near the entropy of letters and no name right at first; 0 and 1 if every logit is that of the target."""
    one = upcycling_setups.recall("valid")
    model = one.model(one.dense)
    found = one.evaluate(model, one.init(model, 0))
    assert set(found) == {"accuracy", "loss", "held_out_accuracy", "held_out_loss"}
    assert found["accuracy"] == 0.0 and 3 < found["loss"] < 12

    def perfect(params, inputs, targets):
        real = targets != 0
        return real.sum(), 0.0, real.sum(), len(targets)

    monkeypatch.setattr(upcycling_setups, "_scores", lambda model: perfect)
    assert one.evaluate(model, None) == {"accuracy": 1.0, "loss": 0.0, "held_out_accuracy": 1.0, "held_out_loss": 0.0}


@pytest.mark.slow
def test_bytes_are_counted_without_sentinels_and_ends():
    """A model that is always sure of the right token but at sentinels and ends, where it is sure of a wrong one."""
    one = upcycling_setups.text("valid")

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
    trained = {*glosses[upcycling_setups.VALID :], *messages[upcycling_setups.VALID :]}
    valid = {*glosses[: upcycling_setups.VALID], *messages[: upcycling_setups.VALID]}
    test = {*data.glosses("test"), *(m for _, m in texts.messages("test"))}
    assert len(valid) == 4_000 and len(test) == 5_000
    assert trained.isdisjoint(valid) and trained.isdisjoint(test) and valid.isdisjoint(test)
