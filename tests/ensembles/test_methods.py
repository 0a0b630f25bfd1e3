import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import random_params

from kitlib import configs, data
from kitlib.ensembles.methods import predict_members, stack, train_deep_ensemble, unstack
from kitlib.models.vit import ViT
from kitlib.training import classification, loop, optim

SIZES = {"width": 8, "depth": 1, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
TINY = configs.vit("tiny/4", **SIZES)
MOE = configs.MoEConfig(num_experts=4, capacity_factor=4.0)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
SOURCE = data.from_arrays(
    RNG.integers(256, size=(16, 8, 8, 1)).astype(np.uint8), np.arange(16) % 3, name="noise", class_names="abc"
)


def test_stack_and_unstack_are_inverses():
    trees = [{"a": np.full((2, 3), m), "b": {"c": np.array(10 * m)}} for m in range(3)]
    stacked = stack(trees)
    assert stacked["a"].shape == (3, 2, 3) and stacked["b"]["c"].shape == (3,)
    again = unstack(stacked)
    jax.tree.map(np.testing.assert_array_equal, again, trees)
    jax.tree.map(np.testing.assert_array_equal, stack(again), stacked)


RECIPE = {"num_steps": 4, "batch_size": 8, "warmup": 1, "peak": 1e-3}
# Dropout, router noise, auxiliary losses: everything that could depend on being trained together.
EVERYTHING = ViT(TINY.replace(dropout=0.2, moe=MOE, moe_blocks=(0,)))
SEEDS = (3, 0)


@functools.cache
def trained_together():
    return jax.device_get(train_deep_ensemble(EVERYTHING, SOURCE, SEEDS, **RECIPE))


@pytest.mark.slow
def test_members_trained_as_one_program_are_those_trained_one_by_one():
    """The same initial parameters, images, dropout and router noise; sums have another order, so bits may differ."""
    params, history = trained_together()
    for m, seed in enumerate(SEEDS):
        alone, alone_history = jax.device_get(classification.train_classifier(EVERYTHING, SOURCE, seed=seed, **RECIPE))
        for name, values in history.items():
            np.testing.assert_allclose(values[m], alone_history[name], rtol=1e-3, atol=1e-5, err_msg=name)
        member = unstack(params)[m]
        # Adam turns a gradient that is only rounding error (of the keys' biases) into a step: 1e-3 at most, four times,
        # on either side. The others agree much better, and so do the predictions.
        largest = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), member, alone))
        assert np.max(largest) < 8e-3 and np.median(largest) < 1e-5
        logits = [classification.predict(EVERYTHING, p, IMAGES, batch_size=6) for p in (member, alone)]
        np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-4)
    assert {name: values.shape for name, values in history.items()} == {
        **dict.fromkeys(("loss", "grad_norm", "accuracy", "auxiliary_loss"), (2, 4)),  # members, steps
        **dict.fromkeys(("dropped", "unprocessed", "busiest"), (2, 4, 1)),  # routers
        "load": (2, 4, 1, 4),  # experts
    }
    np.testing.assert_allclose((history["loss"] - history["auxiliary_loss"])[:, 0], np.log(3), rtol=1e-5)  # zero heads
    assert history["loss"][0, -1] != history["loss"][1, -1]


def test_predictions_are_of_every_member_in_order():
    model, first, second = ViT(TINY), random_params(TINY, 0), random_params(TINY, 1)
    logits = predict_members(model, [first, second], IMAGES, batch_size=6)
    assert logits.shape == (2, 6, 3) and logits.dtype == np.float32
    for m, member in enumerate((first, second)):
        np.testing.assert_array_equal(logits[m], classification.predict(model, member, IMAGES, batch_size=6))
    assert np.abs(logits[0] - logits[1]).max() > 0.1


@pytest.mark.slow
def test_an_ensemble_of_ensembles_has_all_members_on_one_axis():
    """M = 2 training runs of M' = 2 members: the members of the first, then those of the second."""
    config = TINY.replace(batch_ensemble=configs.BatchEnsembleConfig((0,), 2))
    model, members = ViT(config), [random_params(config, seed) for seed in (0, 1)]
    logits = predict_members(model, members, IMAGES, batch_size=6)
    assert logits.shape == (4, 6, 3)
    for m, member in enumerate(members):
        alone = classification.predict(model, member, IMAGES, batch_size=6)
        np.testing.assert_array_equal(logits[2 * m : 2 * m + 2], alone)


def test_an_ensemble_without_members_is_refused():
    with pytest.raises(ValueError, match="at least one member, got no parameters"):
        predict_members(ViT(TINY), [], IMAGES)
    with pytest.raises(ValueError, match="at least one member, got no seeds"):
        train_deep_ensemble(ViT(TINY), SOURCE, seeds=())


@functools.cache
def falling():
    """(optimiser, step for M members): the loss is p^2 plus the poison in a member's batch."""

    def loss_fn(params, batch, key):
        return params["p"] ** 2 + batch["poison"], {}

    tx = optim.assemble(optax.identity(), 0.25)
    return tx, jax.jit(jax.vmap(loop.make_step(loss_fn, tx)), donate_argnums=0)


def stacked_state(*values):
    tx, _ = falling()
    return stack([loop.init_state({"p": jnp.float32(p)}, tx, seed=m) for m, p in enumerate(values)])


class Batches:
    """Poison for one member at one step; otherwise none. It can be saved, as Grain's iterators can."""

    def __init__(self, member=0, step=-1, bad=0.0):
        self.poison, self.t = {step: np.where(np.arange(3) == member, bad, 0.0)}, 0

    def __next__(self):
        self.t += 1
        return {"poison": np.float32(self.poison.get(self.t - 1, np.zeros(3)))}

    def get_state(self):
        return {"t": self.t}

    def set_state(self, state):
        self.t = state["t"]


def test_fit_takes_the_states_of_several_members():
    # Gradient 2 p and rate 1/4: p is halved in every step.
    state, history = loop.fit(falling()[1], stacked_state(1.0, 2.0, 4.0), Batches(), 3, check_every=2)
    np.testing.assert_array_equal(state.params["p"], [1 / 8, 2 / 8, 4 / 8])
    np.testing.assert_array_equal(history["loss"], [[1, 4, 16], [1 / 4, 1, 4], [1 / 16, 1 / 4, 1]])
    np.testing.assert_array_equal(state.step, [3, 3, 3])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("member", [0, 2])
def test_a_bad_loss_of_any_member_stops_the_run_and_names_the_step(member, bad):
    with pytest.raises(loop.NonFiniteLoss, match=r"at step 5 \(none saved\)"):
        loop.fit(falling()[1], stacked_state(1.0, 2.0, 4.0), Batches(member, 5, bad), 20, check_every=4)


def test_interrupted_members_continue_where_they_were(tmp_path):
    _, step = falling()
    loop.fit(step, stacked_state(1.0, 2.0, 4.0), Batches(), 2, checkpoint_dir=tmp_path / "run")
    resumed = loop.fit(step, stacked_state(9, 9, 9), Batches(), 4, checkpoint_dir=tmp_path / "run")
    both = resumed, loop.fit(step, stacked_state(1.0, 2.0, 4.0), Batches(), 4)
    parts = [(s.params["p"], s.step, h["loss"], jax.random.key_data(s.key)) for s, h in both]
    jax.tree.map(np.testing.assert_array_equal, *parts)
