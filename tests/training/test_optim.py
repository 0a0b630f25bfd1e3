import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kitlib.training import loop, optim
from kitlib.training.optim import adamw_cosine_step

PARAMS = {
    "embedding": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)},
    "Transformer": {"norm": {"scale": jnp.ones(2)}},
    "head": {"kernel": jnp.full((2, 3), 4.0), "bias": jnp.ones(3)},
}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def updates(tx, grads=ZEROS):
    return tx.update(grads, tx.init(PARAMS), PARAMS)[0]


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_cosine_by_hand():
    # Up in 10 steps, then half a cosine over 20 steps: half-way at step 20, (1 + cos(pi/4)) / 2 at step 15.
    schedule = optim.cosine(2.0, total_steps=30, warmup=10)
    quarter = 2 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(values(schedule, [0, 5, 10, 15, 20, 30]), [0, 1, 2, quarter, 1, 0], atol=1e-6)
    assert float(optim.cosine(2.0, 30)(0)) == 2.0


def test_linear_by_hand():
    schedule = optim.linear(2.0, total_steps=30, warmup=10, end=1.0)
    np.testing.assert_allclose(values(schedule, [0, 5, 10, 20, 30, 99]), [0, 1, 2, 1.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(values(optim.linear(2.0, 10), [0, 5, 10]), [2, 1, 0], atol=1e-6)


def test_rsqrt_by_hand():
    # Timescale 100 after a warm-up of 10: half the peak when 100 + t - 10 = 400, t = 310.
    schedule = optim.rsqrt(2.0, total_steps=1000, warmup=10, cooldown=100, timescale=100)
    np.testing.assert_allclose(values(schedule, [0, 5, 10, 310]), [0, 1, 2, 1], atol=1e-6)
    at_950 = 2 * np.sqrt(100 / 1040)
    np.testing.assert_allclose(values(schedule, [950, 1000]), [at_950 / 2, 0], atol=1e-6)


def test_what_is_refused():
    right = {"core": optax.identity(), "learning_rate": 1.0}
    for schedule in (optim.cosine, optim.linear, optim.rsqrt):
        with pytest.raises(ValueError, match="must be fewer than the 10 in all"):
            schedule(1.0, total_steps=10, warmup=10)
    for wrong in ({"freeze": "embedding"}, {"freeze": (1,)}, {"core": optax.scale_by_adam}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; expected"):
            optim.assemble(**right | wrong)
    with pytest.raises(ValueError, match="'encoder' matches no parameter"):
        optim.assemble(**right, freeze=("encoder",)).init(PARAMS)
    with pytest.raises(ValueError, match="ratio is -1"):
        optim.scale_by_muon(ratio=-1.0)
    with pytest.raises(ValueError, match="momentum is 1"):
        optim.scale_by_big_vision_adafactor(momentum=1.0)


def test_weight_decay_by_hand():
    # No gradient: the update is -rate * decay * parameter, on kernels only: -0.5 * 0.1 * 2 and -0.5 * 3 * 4.
    tx = optim.assemble(optax.identity(), 0.5, weight_decay=0.1, head_weight_decay=3.0)
    got = updates(tx)
    np.testing.assert_allclose(got["embedding"]["kernel"], -0.1)
    np.testing.assert_allclose(got["head"]["kernel"], -6.0)
    for leaf in (got["embedding"]["bias"], got["head"]["bias"], got["Transformer"]["norm"]["scale"]):
        np.testing.assert_array_equal(leaf, 0.0)
    # Without a value of its own, the head decays like the body: -0.5 * 0.1 * 4.
    np.testing.assert_allclose(updates(optim.assemble(optax.identity(), 0.5, weight_decay=0.1))["head"]["kernel"], -0.2)


def test_clipping_and_frozen_parameters_which_are_left_out_of_everything():
    tx = optim.assemble(optax.scale_by_adam(), 0.5, weight_decay=0.1, freeze=("embedding", "Transformer/.*"))
    state = tx.init(PARAMS)
    got, _ = tx.update(ONES, state, PARAMS)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves((got["embedding"], got["Transformer"])))
    assert np.all(got["head"]["kernel"] != 0)
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sum(leaf.size for leaf in arrays) == 2 * (6 + 3)  # two Adam moments of the head alone
    # The gradient is 4 + 2 + 2 + 6 + 3 = 17 ones: its global norm is sqrt(17), clipped to 1; of the head only, sqrt(9).
    for freeze, norm in (((), np.sqrt(17)), (("embedding", "Transformer"), 3)):
        got = updates(optim.assemble(optax.identity(), 1.0, clip_norm=1.0, freeze=freeze), ONES)
        np.testing.assert_allclose(got["head"]["bias"], -1 / norm, rtol=1e-6)


def test_adafactor_factors_only_large_matrices():
    params = {"large": jnp.ones((128, 256)), "small": jnp.ones((32, 64)), "bias": jnp.ones(256)}

    def second_moments(core):
        state = next(s for s in core.init(params) if hasattr(s, "v_row"))
        return {name: (state.v_row[name].size, state.v_col[name].size, state.v[name].size) for name in params}

    # Factored: a row and a column; otherwise one number per parameter (an unused moment is stored as one zero).
    for core, small in (
        (optim.scale_by_adafactor, (1, 1, 32 * 64)),
        (optim.scale_by_big_vision_adafactor, (32, 64, 1)),
    ):
        assert second_moments(core()) == {"large": (128, 256, 1), "small": small, "bias": (1, 1, 256)}


def test_adafactor_stores_only_rows_and_columns():
    """Bytes for a matrix of 1,024 x 4,096: Adam stores two float32 matrices; Adafactor 1,024 + 4,096 numbers, that is
    (R + C) / (R C) of one matrix; big_vision's Adafactor also a momentum in bfloat16. Counters have 4 bytes each."""
    r, c = 1024, 4096
    params = {"kernel": jax.ShapeDtypeStruct((r, c), jnp.float32)}

    def size(core):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(core.init, params)))

    adam = size(optax.scale_by_adam())
    assert adam == 2 * 4 * r * c + 4
    factored = size(optim.scale_by_adafactor())
    assert 4 * (r + c) <= factored <= 4 * (r + c) + 16
    assert factored / (adam / 2) == pytest.approx((r + c) / (r * c), rel=1e-3)  # 0.12 %
    assert 4 * (r + c) + 2 * r * c <= size(optim.scale_by_big_vision_adafactor()) <= 4 * (r + c) + 2 * r * c + 16


def test_adafactor_first_step_by_hand():
    # Step 1: the decay 1 - 1^-0.8 is 0, so v = g^2 and the update g / |g| has size 1; root-mean-square 1 is not
    # clipped. It is multiplied by the root-mean-square of the parameter, 2.
    core = optim.scale_by_adafactor()
    params = {"b": jnp.full(4, 2.0)}
    got, state = core.update({"b": jnp.array([3.0, -3, 1, -1])}, core.init(params), params)
    np.testing.assert_allclose(got["b"], [2, -2, 2, -2], rtol=1e-5)
    # Step 2: the decay is 1 - 2^-0.8 = 0.4257, and the gradient a hundred times larger: the update 100 / sqrt(0.4257 +
    # 0.5743 * 100^2) = 1.32 is clipped to root-mean-square 1.
    got, _ = core.update({"b": 100 * jnp.array([3.0, -3, 1, -1])}, state, params)
    np.testing.assert_allclose(got["b"], [2, -2, 2, -2], rtol=1e-5)


def test_big_vision_adafactor_by_hand():
    # Step 1: size 1 as above, no scaling by the parameter; the moment starts at zero and is not debiased: 0.1.
    core = optim.scale_by_big_vision_adafactor()
    params = {"b": jnp.full(4, 2.0)}
    got, state = core.update({"b": jnp.array([3.0, -3, 1, -1])}, core.init(params), params)
    np.testing.assert_allclose(got["b"], [0.1, -0.1, 0.1, -0.1], rtol=1e-2)
    # Step 2: 1.32 (above) is not clipped: 0.9 * 0.1 + 0.1 * 1.3195.
    got, state = core.update({"b": 100 * jnp.array([3.0, -3, 1, -1])}, state, params)
    second = 100 / np.sqrt(1 - 2**-0.8 + 2**-0.8 * 100**2)
    np.testing.assert_allclose(got["b"][0], 0.09 + 0.1 * second, rtol=1e-2)
    assert any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(state))


def test_big_vision_adafactor_caps_the_decay():
    # 1 - t^-0.8 exceeds 0.999 from t = 1000^1.25 = 5,624 on. From a state at step 9,999 with v = 0, v becomes exactly
    # 0.001 g^2, so the scaled gradient is 1 / sqrt(0.001); the uncapped decay would give 1 / sqrt(10,000^-0.8).
    core = optim.scale_by_big_vision_adafactor()
    params = {"b": jnp.ones(1)}
    state = core.init(params)
    state = (state[0]._replace(count=jnp.array(9_999, jnp.int32)), *state[1:])
    got, _ = core.update({"b": jnp.ones(1)}, state, params)
    np.testing.assert_allclose(got["b"], 0.1 / np.sqrt(0.001), rtol=1e-2)


BLOCK = {
    "encoderblock_0": {
        "attention": {"query": {"kernel": (6, 2, 4)}, "out": {"kernel": (2, 4, 6), "bias": (6,)}},
        "mlp": {"kernel": (6, 16)},
        "experts": {"kernel": (3, 6, 16)},  # three matrices, which it does not know
    },
    "layers_1": {"wo": {"kernel": (16, 6)}},
    "head": {"kernel": (6, 3)},
    "embedding": (9, 6),
}
MATRICES = ("attention/query/kernel", "attention/out/kernel", "mlp/kernel", "wo/kernel")


def random_tree(seed: int):
    shapes, keys = jax.tree.flatten(BLOCK, is_leaf=lambda x: isinstance(x, tuple))
    return keys.unflatten([jax.random.normal(jax.random.key(seed + i), shape) for i, shape in enumerate(shapes)])


def test_muon_moves_matrices_along_all_their_directions_and_adam_the_rest():
    """A matrix's update has singular values near 1 (0.68 to 1.14: Newton and Schulz stop after five iterations), times
    sqrt(rows / columns) if it has more outputs than inputs, times the ratio. The gradient's own differ by a factor of
    100 and more. All other parameters move as with Adam (its momentum is Nesterov's)."""
    params, grads = random_tree(0), random_tree(50)
    grads = jax.tree.map(lambda g: g * jnp.geomspace(1, 100, g.shape[0]).reshape(-1, *[1] * (g.ndim - 1)), grads)
    core, adam = optim.scale_by_muon(ratio=3.0), optax.scale_by_adam(nesterov=True)
    got, _ = core.update(grads, core.init(params), params)
    want, _ = adam.update(grads, adam.init(params), params)
    sides = {"query": (6, 8), "out": (8, 6), "mlp": (6, 16), "wo": (16, 6)}  # inputs, outputs
    for path, update in jax.tree.leaves_with_path(got):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith(MATRICES):
            inputs, outputs = next(shape for key, shape in sides.items() if key in name)
            values = np.linalg.svd(np.asarray(update).reshape(inputs, outputs), compute_uv=False)
            values = values / 3.0 / max(1, outputs / inputs) ** 0.5
            assert 0.6 < values.min() <= values.max() < 1.25, (name, values)
        else:
            other = jax.tree.leaves([leaf for place, leaf in jax.tree.leaves_with_path(want) if place == path])[0]
            np.testing.assert_allclose(update, other, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["query", "out", "wo"])
def test_muon_moves_each_block_of_a_loop_on_its_own(name):
    """Three T5 layers in a loop: every block's update is the one that it has without the loop."""
    core = optim.scale_by_muon()
    grad = jax.random.normal(jax.random.key(4), (3, 6, 8)) * jnp.arange(1, 4)[:, None, None]
    loop = {"layers_0_to_2": {"layers_0": {name: {"kernel": grad}}}}
    got = core.update(loop, core.init(loop), loop)[0]["layers_0_to_2"]["layers_0"][name]["kernel"]
    for block in range(3):
        alone = {"layers_0": {name: {"kernel": grad[block]}}}
        want = core.update(alone, core.init(alone), alone)[0]["layers_0"][name]["kernel"]
        np.testing.assert_allclose(got[block], want, rtol=1e-5, atol=1e-5)  # values up to 10, in float32


def test_muon_follows_optax_over_several_steps():
    """With momentum: the same as optax's Muon for the kernel as a matrix, with a rate of -ratio."""
    core, reference = optim.scale_by_muon(ratio=2.0), optax.contrib.muon(-2.0)
    params = {"encoderblock_0": {"out": {"kernel": jnp.ones((2, 4, 6))}}}
    flat = {"kernel": jnp.ones((8, 6))}
    state, ref_state = core.init(params), reference.init(flat)
    for seed in range(3):
        grad = jax.random.normal(jax.random.key(seed), (8, 6))
        got, state = core.update({"encoderblock_0": {"out": {"kernel": grad.reshape(2, 4, 6)}}}, state, params)
        want, ref_state = reference.update({"kernel": grad}, ref_state, flat)
        np.testing.assert_allclose(got["encoderblock_0"]["out"]["kernel"].reshape(8, 6), want["kernel"], atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- the recipe


MODEL_PARAMS = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([4.0, -1.0])}
BATCH = {"x": jnp.array([0.5, 2.0])}


def make_loss(model, *, factor=1.0):
    """Squares of the parameters, with a "model" that is a number: loss = factor * model * sum(p^2) + sum(b x)."""

    def loss_fn(params, batch, key):
        squares = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        return factor * model * squares + jnp.vdot(params["bias"], batch["x"]), {}

    return loss_fn


recipe = functools.partial(adamw_cosine_step, make_loss, num_steps=10, peak=0.1, warmup=2)


def trained(tx, step, num_steps):
    state, losses = loop.init_state(MODEL_PARAMS, tx), []
    for _ in range(num_steps):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    return state.params, losses


def test_it_is_optax_adamw_with_a_cosine_schedule_and_clipping():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=2, decay_steps=10)
    adamw = optax.adamw(schedule, weight_decay=0.3, mask={"kernel": True, "bias": False})
    reference = optax.chain(optax.clip_by_global_norm(1.0), adamw)
    want, want_losses = trained(reference, loop.make_step(make_loss(2.0), reference), 10)
    got, losses = trained(*recipe(2.0, weight_decay=0.3), 10)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), got, want)
    np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
    assert losses[1] == losses[0] > losses[2]  # the warm-up starts with a learning rate of 0


def test_options_reach_the_loss_and_frozen_parameters_stay():
    # sum(p^2) = 1 + 4 + 9 + 0.25 + 16 + 1 = 31.25, and b x = 4 * 0.5 - 1 * 2 = 0.
    params, losses = trained(*recipe(2.0, factor=3.0, freeze=("bias",)), 3)
    assert losses[0] == 3 * 2 * 31.25
    np.testing.assert_array_equal(params["bias"], MODEL_PARAMS["bias"])
    assert np.all(params["kernel"] != MODEL_PARAMS["kernel"])


def test_several_seeds_of_one_model_share_one_compiled_step():
    tx, step = recipe(5.0)
    assert recipe(5.0) == (tx, step)
    for _ in range(2):
        trained(*recipe(5.0), 2)
    assert step._cache_size() == 1
    assert recipe(5.0, factor=2.0)[1] is not step
