import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from kitlib import configs
from kitlib.models.vit import ViT
from kitlib.training import classification, loop, optim
from kitlib.upcycling import surgery

pytestmark = pytest.mark.slow
E = 4
DENSE = configs.vit(
    "tiny/7", image_size=(14, 14), channels=1, num_classes=5, depth=2, width=32, mlp_dim=64, num_heads=4, pool="gap"
)
SPARSE = surgery.vision_recipe(DENSE, num_experts=E)
SCHEDULE = optim.rsqrt(1e-3, 10_000, warmup=3, timescale=10)
OPTIMISERS = {
    "AdamW": optim.assemble(optax.scale_by_adam(), SCHEDULE, weight_decay=0.1, clip_norm=1.0),
    "momentum": optim.assemble(optax.trace(0.9), SCHEDULE),
    "Adafactor": optim.assemble(optim.scale_by_big_vision_adafactor(), SCHEDULE),  # factored for 32 x 64 and larger
    "T5's Adafactor": optim.assemble(optim.scale_by_adafactor(), SCHEDULE),
    "frozen": optim.assemble(optax.scale_by_adam(), SCHEDULE, freeze=("embedding",)),
    "gradient": optim.assemble(optax.identity(), SCHEDULE),  # an update is minus rate times gradient
}


def batch(seed):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, size=(8, 14, 14, 1)).astype(np.float32)
    return {"image": images, "label": rng.integers(0, 5, size=8)}


@functools.cache
def trained(name, steps=5):
    """(optimiser, TrainState of a dense run after some steps, plan of its surgery, sparse parameters)."""
    tx, model = OPTIMISERS[name], ViT(DENSE)
    state = loop.init_state(classification.init_params(model, (1, 14, 14, 1)), tx)
    step = loop.make_step(classification.classification_loss(model), tx)
    for t in range(steps):
        state, _ = step(state, batch(t))
    plan = surgery.plan(state.params, SPARSE)
    return tx, state, plan, surgery.apply(plan, state.params, jax.random.key(0))


def by_name(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_resume_has_the_structure_of_a_new_state(name):
    tx, state, plan, params = trained(name)
    resumed, fresh = surgery.resume(plan, state.opt_state, tx), tx.init(params)
    assert jax.tree.structure(resumed) == jax.tree.structure(fresh)
    jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f"{a} {b}"), resumed, fresh)


def test_moments_of_adam():
    tx, state, plan, _ = trained("AdamW")
    old, new = state.opt_state[1], surgery.resume(plan, state.opt_state, tx)[1]
    assert int(new.count) == int(old.count) == 5
    for moment in ("mu", "nu"):
        dense, sparse = (flatten_dict(getattr(s, moment), sep="/") for s in (old, new))
        assert float(jnp.abs(dense["Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"]).max()) > 0
        for leaf, origin in plan.origins.items():
            if origin.how == "new":
                want = jnp.zeros(origin.shape)
            else:
                want = dense[leaf] if origin.how == "copied" else np.stack([dense[origin.source]] * E)
            np.testing.assert_array_equal(sparse[leaf], want)


def test_moments_of_fine_grained_experts_are_cut_like_their_kernels():
    tx, state, *_ = trained("AdamW")
    plan = surgery.plan(state.params, surgery.vision_recipe(DENSE, num_experts=4, granularity=2))
    new = surgery.resume(plan, state.opt_state, tx)[1]
    dense = state.opt_state[1].mu["Transformer"]["encoderblock_1"]["MlpBlock_0"]["Dense_1"]["kernel"]
    experts = new.mu["Transformer"]["encoderblock_1"]["Moe"]["Mlp"]["Dense_1"]["kernel"]
    for e in range(4):  # expert c * 2 + g is part g of copy c
        np.testing.assert_array_equal(experts[e], dense[:32] if e % 2 == 0 else dense[32:])


def test_factored_moments_of_adafactor():
    tx, state, plan, _ = trained("Adafactor")
    old, new = (by_name(s) for s in (state.opt_state, surgery.resume(plan, state.opt_state, tx)))
    for rows in ("v_row", "v_col"):
        dense, experts = (
            next(x for name, x in tree.items() if rows in name and f"encoderblock_1']{mlp}['Dense_0']['kernel" in name)
            for tree, mlp in ((old, "['MlpBlock_0']"), (new, "['Moe']['Mlp']"))
        )
        assert dense.ndim == 1 and dense.size in (32, 64)
        np.testing.assert_array_equal(experts, np.stack([dense] * E))


@pytest.mark.parametrize("how", ["resume", "restart"])
def test_the_learning_rate_does_not_jump(how):
    """The first sparse step uses the rate after the last dense step: SCHEDULE(8) after 8 steps, not SCHEDULE(0)."""
    tx, state, plan, params = trained("gradient", steps=8)
    if how == "resume":
        opt_state = surgery.resume(plan, state.opt_state, tx)
    else:
        opt_state = surgery.restart(state.opt_state, tx, params)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), opt_state, params)
    np.testing.assert_allclose(jax.tree.leaves(updates)[0], -SCHEDULE(8), rtol=1e-6)
    assert SCHEDULE(0) == 0.0 and float(SCHEDULE(8)) > 5e-4


def test_restart_keeps_the_schedule_and_nothing_else():
    tx, state, _, params = trained("AdamW")
    restarted = surgery.restart(state.opt_state, tx, params)
    assert int(restarted[1].count) == 0 and int(restarted[-1].count) == 5
    jax.tree.map(np.testing.assert_array_equal, restarted[1], tx.init(params)[1])


def test_training_continues_and_is_reproducible():
    """Surgery in the middle of a run, twice from the same state: bitwise the same parameters five steps later."""
    tx, state, plan, _ = trained("AdamW")
    step = loop.make_step(classification.classification_loss(ViT(SPARSE)), tx)

    def continued():
        params = surgery.apply(plan, state.params, jax.random.key(7))
        opt_state = surgery.resume(plan, state.opt_state, tx)
        new = loop.TrainState(jnp.array(state.step), params, opt_state, jax.random.clone(state.key))
        for t in range(5, 10):
            new, metrics = step(new, batch(t))
        assert int(new.step) == 10 and np.isfinite(metrics["loss"])
        return new

    jax.tree.map(np.testing.assert_array_equal, continued().params, continued().params)


def test_depth_tiling_copies_the_state_too():
    tx, state, *_ = trained("AdamW")
    order = (0, 1, 1)
    new = surgery.resume(surgery.deepen(state.params, order), state.opt_state, tx)[1].nu["Transformer"]
    dense = state.opt_state[1].nu["Transformer"]
    for i, old in enumerate(order):
        jax.tree.map(np.testing.assert_array_equal, new[f"encoderblock_{i}"], dense[f"encoderblock_{old}"])


def test_other_optimisers_and_other_sizes_are_refused():
    tx, state, plan, params = trained("AdamW")
    with pytest.raises(ValueError, match=r"(mu|count).* is missing.* use restart"):
        surgery.resume(plan, trained("momentum")[1].opt_state, tx)
    with pytest.raises(ValueError, match="differ in their learning-rate schedules"):
        surgery.restart(optax.adam(1e-3).init(state.params), tx, params)
    wide = classification.init_params(ViT(DENSE.replace(width=64)), (1, 14, 14, 1))
    with pytest.raises(ValueError, match=r"is float32\[64\], expected what makes float32\[32\]"):
        surgery.resume(plan, tx.init(wide), tx)
    # With E >= 32, Adafactor factors biases [E, 64], but the dense biases [64] were not.
    tx, state, *_ = trained("Adafactor")
    config = surgery.vision_recipe(DENSE, num_experts=64, capacity_factor=16.0)
    with pytest.raises(ValueError, match="does not fit"):
        surgery.resume(surgery.plan(state.params, config), state.opt_state, tx)
