import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib.training import loop
from kitlib.training.optim import adamw_cosine_step

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([4.0, -1.0])}
BATCH = {"x": jnp.array([0.5, 2.0])}


def make_loss(model, *, factor=1.0):
    """Squares of the parameters, with a "model" that is a number: loss = factor * model * sum(p^2) + sum(b x)."""

    def loss_fn(params, batch, key):
        squares = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        return factor * model * squares + jnp.vdot(params["bias"], batch["x"]), {}

    return loss_fn


recipe = functools.partial(adamw_cosine_step, make_loss, num_steps=10, peak=0.1, warmup=2)


def run(tx, step, num_steps):
    state, losses = loop.init_state(PARAMS, tx), []
    for _ in range(num_steps):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    return state.params, losses


def test_it_is_optax_adamw_with_a_cosine_schedule_and_clipping():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=2, decay_steps=10)
    adamw = optax.adamw(schedule, weight_decay=0.3, mask={"kernel": True, "bias": False})
    reference = optax.chain(optax.clip_by_global_norm(1.0), adamw)
    want, want_losses = run(reference, loop.make_step(make_loss(2.0), reference), 10)
    got, losses = run(*recipe(2.0, weight_decay=0.3), 10)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), got, want)
    np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
    assert losses[1] == losses[0] > losses[2]  # the warm-up starts with a learning rate of 0


def test_options_reach_the_loss_and_frozen_parameters_stay():
    # sum(p^2) = 1 + 4 + 9 + 0.25 + 16 + 1 = 31.25, and b x = 4 * 0.5 - 1 * 2 = 0.
    params, losses = run(*recipe(2.0, factor=3.0, freeze=("bias",)), 3)
    assert losses[0] == 3 * 2 * 31.25
    np.testing.assert_array_equal(params["bias"], PARAMS["bias"])
    assert np.all(params["kernel"] != PARAMS["kernel"])


def test_several_seeds_of_one_model_share_one_compiled_step():
    tx, step = recipe(5.0)
    assert recipe(5.0) == (tx, step)
    for _ in range(2):
        run(*recipe(5.0), 2)
    assert step._cache_size() == 1
    assert recipe(5.0, factor=2.0)[1] is not step
