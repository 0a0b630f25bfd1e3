"""Sparse upcycling of a T5: the properties that test_surgery.py shows for a ViT, in two stacks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from trees import random_tree

from kitlib import configs
from kitlib.models import checkpoint, decode, t5
from kitlib.training import loop, optim
from kitlib.upcycling import optimizer_state, surgery

E = 4
DENSE = configs.t5("tiny", width=32, mlp_dim=48, num_heads=2, vocab_size=96, num_encoder_layers=4, num_decoder_layers=3)
RNG = np.random.default_rng(2)
BATCH = {"inputs": RNG.integers(3, 90, (4, 16)), "targets": RNG.integers(3, 90, (4, 10))}
BATCH = {name: ids.astype(np.int32) for name, ids in BATCH.items()}
BATCH["inputs"][1, 11:] = BATCH["targets"][1, 6:] = 0  # padding takes no slot


def recipe(encoder=None, decoder=None):
    config = surgery.language_recipe(DENSE, num_experts=E)
    return config.replace(
        moe=config.moe.replace(**encoder or {}), decoder_moe=config.decoder_moe.replace(**decoder or {})
    )


shapes_of = functools.cache(checkpoint.expected_shapes)  # traced once


def random_params():
    return random_tree(shapes_of(DENSE), spread=0.3)


def upcycled(config, params, seed=0):
    return surgery.apply(surgery.plan(params, config), params, jax.random.key(seed))


@functools.cache
def forward(config):
    inputs = BATCH["inputs"], t5.shift_right(jnp.asarray(BATCH["targets"]))
    return jax.jit(lambda params: t5.T5(config).apply({"params": params}, *inputs)[0])


def logits(config, params):
    """Only where there is a target: experts do not process padding."""
    return np.asarray(forward(config)(params))[BATCH["targets"] != 0]


@pytest.mark.slow
def test_published_size_of_t5_base():
    # 32 experts in 6 of 12 layers of both stacks. Each of these layers adds 31 MLPs of 3 * 768 * 2048 parameters and a
    # router of 768 * 32: 247,577,856 + 12 * (31 * 4,718,592 + 24,576) = 2,003,188,992.
    dense = configs.t5("1.1-base")
    config = surgery.language_recipe(dense)
    origins = surgery.plan(checkpoint.expected_shapes(dense), config).origins
    assert sum(math.prod(origin.shape) for origin in origins.values()) == 2_003_188_992
    assert config.moe_layers == config.decoder_moe_layers == (1, 3, 5, 7, 9, 11)
    new = {name for name, origin in origins.items() if origin.how == "new"}
    assert new == {f"{s}/layers_{i}/moe/Router/dense/kernel" for s in ("encoder", "decoder") for i in config.moe_layers}


@pytest.mark.slow
def test_every_dense_leaf_is_used_once_and_copied_bitwise():
    params = random_params()
    plan = surgery.plan(params, recipe())
    dense, sparse = flatten_dict(params, sep="/"), flatten_dict(upcycled(recipe(), params), sep="/")
    assert sorted(o.source for o in plan.origins.values() if o.how != "new") == sorted(dense)
    for name, origin in plan.origins.items():
        if origin.how == "copied":
            np.testing.assert_array_equal(sparse[name], dense[name])
        if origin.how == "tiled":
            assert sparse[name].shape == (E, *dense[origin.source].shape)
            for expert in sparse[name]:
                np.testing.assert_array_equal(expert, dense[origin.source])


# As for the ViT: weights that sum to one, and capacity for every token.
CAPACITY, SUM_ONE = {"capacity_factor": float(E)}, {"renormalize": True}
EXACT = {
    "expert choice, C=E; top-2": (CAPACITY, CAPACITY | SUM_ONE),
    "the same, renormalised": (CAPACITY | SUM_ONE, CAPACITY | SUM_ONE),
    "expert choice, C=E; top-E, raw": (CAPACITY, {"num_selected": E}),
    "top-1; top-1": (
        {"router": "top_k", "num_selected": 1, "load_weight": 0.0} | CAPACITY | SUM_ONE,
        {"num_selected": 1} | CAPACITY | SUM_ONE,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", EXACT)
def test_step_zero_is_the_dense_function(name, seed):
    params, config = random_params(), recipe(*EXACT[name])
    np.testing.assert_allclose(logits(config, upcycled(config, params, seed)), logits(DENSE, params), atol=1e-5)


@pytest.mark.slow
def test_the_recipe_of_the_paper_is_not_the_dense_function():
    params = random_params()
    assert np.abs(logits(recipe(), upcycled(recipe(), params)) - logits(DENSE, params)).max() > 0.05


@pytest.mark.slow
def test_it_generates_the_same_text_as_the_dense_model():
    """Token by token, with the cache: each token is routed alone."""
    params, config = random_params(), recipe(CAPACITY, CAPACITY | SUM_ONE)
    dense, sparse = (
        decode.greedy(t5.T5(c), p, BATCH["inputs"], max_length=8)
        for c, p in ((DENSE, params), (config, upcycled(config, params)))
    )
    np.testing.assert_array_equal(sparse[0], dense[0])
    np.testing.assert_allclose(sparse[1], dense[1], atol=1e-4)


@pytest.mark.slow
def test_a_prompt_of_one_token():
    """Fewer tokens than experts: each expert still has a slot, and takes that token."""
    params, config = random_params(), recipe({"renormalize": True}, CAPACITY | SUM_ONE)
    prompt, start = np.array([[7]], np.int32), np.array([[0]], np.int32)
    dense, sparse = (
        jax.jit(t5.T5(c).apply)({"params": p}, prompt, start)[0]
        for c, p in ((DENSE, params), (config, upcycled(config, params)))
    )
    np.testing.assert_allclose(sparse, dense, atol=1e-5)


@pytest.mark.slow
def test_routers_have_a_gradient_at_step_zero_only_without_renormalisation():
    params = random_params()

    def router_gradients(config):
        plain = config.replace(decoder_moe=config.decoder_moe.replace(balance_weight=0.0))  # it always has a gradient
        loss = t5.seq2seq_loss(t5.T5(plain))
        grads = jax.jit(jax.grad(lambda p: loss(p, BATCH, jax.random.key(0))[0]))(upcycled(plain, params))
        flat = flatten_dict(grads, sep="/")
        return [float(jnp.abs(g).max()) for name, g in flat.items() if "Router" in name]

    kept, raw = router_gradients(recipe(CAPACITY | SUM_ONE, CAPACITY | SUM_ONE)), router_gradients(recipe())
    assert len(kept) == len(raw) == 3  # layers 1 and 3 of the encoder, 1 of the decoder
    assert max(kept) < 1e-6
    assert min(raw) > 1e-5


@pytest.fixture(scope="module")
def trained():
    """(optimiser, state of the dense model after four steps, step of the sparse model)."""
    tx = optim.assemble(optim.scale_by_adafactor(), optim.rsqrt(0.05, 10_000, warmup=3, timescale=10))
    state, dense_step = loop.init_state(random_params(), tx), loop.make_step(t5.seq2seq_loss(t5.T5(DENSE)), tx)
    for _ in range(4):
        state, _ = dense_step(state, BATCH)
    return tx, state, loop.make_step(t5.seq2seq_loss(t5.T5(recipe())), tx)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["resume", "restart"])
def test_training_continues_and_is_reproducible(how, trained):
    tx, state, step = trained
    plan = surgery.plan(state.params, recipe())

    def continued():
        params = surgery.apply(plan, state.params, jax.random.key(7))
        if how == "resume":
            opt_state = optimizer_state.resume(plan, state.opt_state, tx)
        else:
            opt_state = optimizer_state.restart(state.opt_state, tx, params)
        new = loop.TrainState(jnp.array(state.step), params, opt_state, jax.random.clone(state.key))
        for _ in range(4):
            new, metrics = step(new, BATCH)
        assert int(new.step) == int(new.opt_state[-1].count) == 8
        return new, float(metrics["loss"])

    (first, loss), (second, _) = continued(), continued()
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert np.isfinite(loss)


# ---------------------------------------------------------------------------------------------- bad input


def test_models_that_do_not_fit_are_refused():
    params = random_params()
    with pytest.raises(ValueError, match=r"sparse already \((en|de)coder/layers_1/moe/Mlp"):
        surgery.plan(upcycled(recipe(), params), recipe())
    with pytest.raises(checkpoint.CheckpointError, match="The dense model"):
        surgery.plan(params, surgery.language_recipe(DENSE.replace(width=64), num_experts=E))
    with pytest.raises(checkpoint.CheckpointError, match="decoder/layers_2"):
        shallow = {**params, "decoder": {k: v for k, v in params["decoder"].items() if k != "layers_2"}}
        surgery.plan(shallow, recipe())
    with pytest.raises(checkpoint.CheckpointError, match="The dense model"):
        surgery.plan(params, surgery.vision_recipe(configs.vit("tiny/7"), num_experts=E))
    with pytest.raises(ValueError, match="has no experts"):
        surgery.plan(params, DENSE)
    with pytest.raises(ValueError, match="not all among the 3 layers"):
        recipe().replace(decoder_moe_layers=(3,))
