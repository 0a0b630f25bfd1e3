import functools
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from trees import random_tree

from kitlib import configs, moe
from kitlib.configs import MoEConfig
from kitlib.models import checkpoint, stacking
from kitlib.models.vit import ViT
from kitlib.moe import routing
from kitlib.moe.experts import linear_layer
from kitlib.upcycling import surgery
from kitlib.upcycling.surgery import ExpertInit

E = 4
DENSE = configs.vit(
    "tiny/7", image_size=(14, 14), channels=1, num_classes=5, depth=4, width=32, mlp_dim=64, num_heads=4, pool="gap"
)
IMAGES = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, size=(6, 14, 14, 1)), jnp.float32)


def recipe(**fields):
    config = surgery.vision_recipe(DENSE, num_experts=E)
    return config.replace(moe=config.moe.replace(**fields))


def random_params(config=DENSE):
    """Random, biases included, so that no leaves are equal by accident."""
    return random_tree(checkpoint.expected_shapes(config), spread=0.2)


@functools.partial(jax.jit, static_argnums=0)  # one program per configuration, for all tests
def logits(config, params):
    return ViT(config).apply({"params": params}, IMAGES)[0]


def upcycled(config, params, seed=0, how=surgery.COPIES):
    return surgery.apply(surgery.plan(params, config), params, jax.random.key(seed), how)


def test_published_sizes():
    # ViT-B/16 with 1,000 classes, average pooling, E=32 in the last 6 blocks.
    dense = configs.vit("B/16", pool="gap")
    config = surgery.vision_recipe(dense)
    plan = surgery.plan(checkpoint.expected_shapes(dense), config)
    assert len(plan.origins) == 205
    assert sum(math.prod(origin.shape) for origin in plan.origins.values()) == 965_085_928
    assert config.moe_blocks == (6, 7, 8, 9, 10, 11)
    new = [name for name, origin in plan.origins.items() if origin.how == "new"]
    assert new == [f"Transformer/encoderblock_{i}/Moe/Router/dense/kernel" for i in sorted(range(6, 12), key=str)]


def test_the_printed_plan_names_every_leaf_and_adds_up():
    plan = surgery.plan(random_params(), recipe())
    lines = str(plan).splitlines()
    assert len(lines) == len(plan.origins) + 3
    source = "Transformer/encoderblock_3/MlpBlock_0/Dense_0/kernel"
    assert f"tiled   Transformer/encoderblock_3/Moe/Mlp/Dense_0/kernel [4, 32, 64] <- {source}" in lines
    # Two blocks, each with two kernels and two biases: 4 * (32*64 + 64 + 64*32 + 32) = 16,768 parameters per block.
    assert lines[-2] == "tiled: 8 leaves, 33,536 parameters"
    assert lines[-1] == "new: 2 leaves, 256 parameters"  # 2 routers of 32 x 4


def test_every_dense_leaf_is_used_once_and_copied_bitwise():
    params = random_params()
    before, result = jax.tree.map(np.array, params), upcycled(recipe(), params)
    origins = surgery.plan(params, recipe()).origins
    dense, sparse = flatten_dict(params, sep="/"), flatten_dict(result, sep="/")
    assert sorted(origin.source for origin in origins.values() if origin.how != "new") == sorted(dense)
    shapes = {n: s.shape for n, s in surgery.flat_shapes(recipe()).items()}
    assert {n: x.shape for n, x in sparse.items()} == {n: o.shape for n, o in origins.items()} == shapes
    for name, origin in origins.items():
        for expert in {"copied": [sparse[name]], "tiled": sparse[name], "new": []}[origin.how]:
            np.testing.assert_array_equal(expert, dense[origin.source])
    jax.tree.map(lambda leaf: leaf.delete(), result)  # the result shares no buffer with the dense model
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_deterministic_in_the_key_and_lazy():
    params, config = random_params(), recipe()
    jax.tree.map(np.testing.assert_array_equal, upcycled(config, params, 3), upcycled(config, params, 3))
    router = "Transformer/encoderblock_2/Moe/Router/dense/kernel"
    one, other = (flatten_dict(upcycled(config, params, seed), sep="/")[router] for seed in (3, 4))
    assert np.abs(one - other).max() > 0.1
    # Leaves are made when they are asked for: a tree that lacks the last one fails only there.
    plan, flat = surgery.plan(params, config), flatten_dict(params, sep="/")
    last = list(plan.origins)[-1]
    rest = {name: leaf for name, leaf in flat.items() if name != plan.origins[last].source}
    made = surgery.leaves(plan, unflatten_dict(rest, sep="/"), jax.random.key(0), surgery.COPIES)
    assert [next(made)[0] for _ in range(len(plan.origins) - 1)] == list(plan.origins)[:-1]


@pytest.mark.slow
def test_the_router_has_logits_of_unit_variance_on_normalised_tokens():
    dense = DENSE.replace(width=256)
    config = surgery.vision_recipe(dense, num_experts=8)
    x = np.random.default_rng(0).normal(size=(500, 256))
    for scale in (1.0, 0.5):
        flat = flatten_dict(upcycled(config, random_params(dense), how=ExpertInit(router_scale=scale)), sep="/")
        kernel = flat["Transformer/encoderblock_3/Moe/Router/dense/kernel"]
        assert np.std(x @ kernel) == pytest.approx(scale, rel=0.05)


def test_scanned_dense_models():
    params = random_params(DENSE.replace(scan=True))
    made, want = (upcycled(recipe(), tree) for tree in (params, stacking.unstack(params)))
    jax.tree.map(np.testing.assert_array_equal, made, want)


PROBE = """
import jax, numpy as np, resource
from kitlib import configs
from kitlib.models import checkpoint
from kitlib.upcycling import surgery
dense = configs.vit("B/16", pool="gap")
params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), checkpoint.expected_shapes(dense))
plan = surgery.plan(params, surgery.vision_recipe(dense))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = jax.block_until_ready(surgery.apply(plan, params, jax.random.key(0)))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown * 1024 / sum(leaf.nbytes for leaf in jax.tree.leaves(result)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit there")
@pytest.mark.usefixtures("optimised")
def test_peak_memory_of_a_real_size():
    """ViT-B/16 to E=32: the result has 3.9 GB, and the peak is little more."""
    # Without the allocator of `kit test`, which keeps freed memory: its peak depends on when XLA frees, 1.3 to 1.7.
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env=env)
    assert float(out.stdout) <= 1.3


# With identical experts and weights that sum to one, sum_e w_e f(x) = f(x): for every router the function is the same,
# as long as every token is processed. Expert choice with capacity factor C = E: every expert takes every token. Top-K:
# there are slots for all choices.
EXACT = {
    "expert choice, C=E": {"capacity_factor": float(E)},
    "expert choice, C=E, raw": {"capacity_factor": float(E), "renormalize": False},  # the softmax itself sums to one
    "top-1": {"router": "top_k", "num_selected": 1, "capacity_factor": float(E)},
    "top-2": {"router": "top_k", "num_selected": 2, "capacity_factor": E / 2},
    "top-E, raw": {"router": "top_k", "num_selected": E, "capacity_factor": 1.0, "renormalize": False},
    "dropless": {"router": "top_k", "num_selected": 2, "capacity_factor": None, "dispatch": "dropless"},
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", EXACT)
def test_step_zero_is_the_dense_function(name, seed):
    params, config = random_params(), recipe(**EXACT[name])
    np.testing.assert_allclose(logits(config, upcycled(config, params, seed)), logits(DENSE, params), atol=1e-5)


def layer(config, seed=0):
    """The layer of one sparse block: (module, its parameters, those of the dense MLP, tokens [4, 16, D])."""
    params = random_params()
    sparse, mlp = (tree["Transformer"]["encoderblock_3"] for tree in (upcycled(config, params, seed), params))
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(4, 16, 32)), jnp.float32)
    return moe.MoEMlp(config.moe, DENSE.mlp_dim), sparse["Moe"], mlp["MlpBlock_0"], x


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_processed_tokens_get_the_mlp_and_the_others_zero(factor):
    module, params, mlp, x = layer(recipe(capacity_factor=factor))
    y, out = jax.jit(module.apply)({"params": params}, x)
    processed = np.asarray(out["combine_weights"].sum(axis=-1) > 0)
    want = np.asarray(moe.mlp_expert(linear_layer, mlp, x))
    assert 0 < processed.sum() <= processed.size and (factor > 0.5 or not processed.all())
    np.testing.assert_allclose(np.asarray(y)[processed], want[processed], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(y)[~processed], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_without_renormalisation_the_branch_shrinks(factor):
    """The control: with raw weights, a token gets only the share sum_e r_e of its MLP; the error is 1 minus this."""
    module, params, mlp, x = layer(recipe(num_experts=32, renormalize=False, capacity_factor=factor))
    y, out = jax.jit(module.apply)({"params": params}, x)
    want = moe.mlp_expert(linear_layer, mlp, x)
    error = np.linalg.norm(y - want, axis=-1) / np.linalg.norm(want, axis=-1)
    np.testing.assert_allclose(error, 1.0 - out["combine_weights"].sum(axis=-1), rtol=1e-4, atol=1e-5)
    assert error.mean() > 0.5


def gradients(config, seed=0):
    module, params, mlp, x = layer(config, seed)
    weights = jnp.asarray(np.random.default_rng(9).normal(size=x.shape), jnp.float32)
    sparse = jax.jit(jax.grad(lambda p: jnp.vdot(module.apply({"params": p}, x)[0], weights)))(params)
    dense = jax.grad(lambda p: jnp.vdot(moe.mlp_expert(linear_layer, p, x), weights))(mlp)
    return sparse, dense


@pytest.mark.slow
def test_the_router_has_no_gradient_at_step_zero():
    """sum_e w_e f(x) = f(x) for all logits, so their gradient is 0. With raw weights it is not 0, even at step 0."""
    renormalised, dense = gradients(recipe(capacity_factor=2.0))
    raw, _ = gradients(recipe(capacity_factor=2.0, renormalize=False))
    unit = np.linalg.norm(dense["Dense_0"]["kernel"])
    assert np.linalg.norm(renormalised["Router"]["dense"]["kernel"]) < 1e-6 * unit
    assert np.linalg.norm(raw["Router"]["dense"]["kernel"]) > 1e-3 * unit


@pytest.mark.slow
@pytest.mark.parametrize("name", ["expert choice, C=E", "top-2"])
def test_the_experts_share_the_dense_gradient(name):
    """d/d theta of sum_e w_e f(x; theta_e) at theta_e = theta: the experts' gradients add up to the MLP's."""
    sparse, dense = gradients(recipe(**EXACT[name]))
    total = jax.tree.map(lambda experts: experts.sum(axis=0), sparse["Mlp"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), total, dense)


@pytest.mark.slow
def test_coverage_of_a_new_router():
    """D=768, E=32, router logits of unit variance, 4,096 normalised tokens: with C=2, 3.2 % of the tokens are chosen by
    no expert, and raw weights sum to 0.275; with C=1, 24.9 % and 0.173 (from an independent simulation)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4096, 768))
    x = jnp.asarray(x / x.std(axis=-1, keepdims=True), jnp.float32)
    kernel = jax.nn.initializers.lecun_normal()(jax.random.key(0), (768, 32))
    probabilities = jax.nn.softmax(x @ kernel)[None]
    for factor, unprocessed, mass in ((1.0, 0.249, 0.173), (2.0, 0.032, 0.275)):
        slots = routing.expert_choice(probabilities, routing.capacity_of_tokens(4096, 32, factor))
        weights = slots.combine_weights
        assert float((weights.sum(axis=-1) == 0).mean()) == pytest.approx(unprocessed, abs=0.02)
        assert float(weights.sum(axis=-1).mean()) == pytest.approx(mass, abs=0.01)


def expert_leaves(how, part="Dense_0/kernel", config=None, seed=0):
    """A tiled leaf [E, ...] and the dense leaf it came from."""
    params = random_params()
    made, dense = (flatten_dict(tree, sep="/") for tree in (upcycled(config or recipe(), params, seed, how), params))
    return made[f"Transformer/encoderblock_3/Moe/Mlp/{part}"], dense[f"Transformer/encoderblock_3/MlpBlock_0/{part}"]


@pytest.mark.slow
def test_noise_is_independent_and_relative():
    experts, dense = expert_leaves(ExpertInit(noise=0.5), config=recipe(num_experts=16))
    noise = (np.asarray(experts) - np.asarray(dense)).reshape(16, -1)
    np.testing.assert_allclose(noise.std(axis=1), 0.5 * float(dense.std()), rtol=0.1)
    correlation = np.corrcoef(noise) - np.eye(16)
    assert np.abs(correlation).max() < 0.15  # 2,048 numbers: standard error 0.022


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_redrawn_units_are_the_same_in_all_leaves(share):
    """Drop-Upcycling: of 64 hidden units, share * 64 are new in each expert: columns of the first kernel, entries of
    its bias, and rows of the second kernel. The second bias, which does not belong to hidden units, is a copy."""
    how, changed = ExpertInit(redraw=share), []
    for part, axis in (("Dense_0/kernel", (1,)), ("Dense_0/bias", ()), ("Dense_1/kernel", (2,))):
        experts, dense = map(np.asarray, expert_leaves(how, part))
        changed.append((experts != dense).any(axis=axis))
        assert (experts != dense).all(axis=axis).sum() == E * round(share * 64)
        np.testing.assert_array_equal(changed[-1], changed[0])
    assert share == 1.0 or len({row.tobytes() for row in changed[0]}) == E  # different units in each expert
    experts, dense = expert_leaves(how, "Dense_1/bias")
    np.testing.assert_array_equal(experts, jnp.broadcast_to(dense, experts.shape))


@pytest.mark.slow
def test_redrawn_weights_keep_mean_and_standard_deviation():
    dense = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, size=(200, 400)), jnp.float32)
    how, keys = ExpertInit(redraw=1.0), jax.random.split(jax.random.key(0))
    experts = surgery._experts(dense, "Dense_0/kernel", MoEConfig(2), how, *keys)
    assert float(experts.mean()) == pytest.approx(3.0, abs=0.02)
    assert float(experts.std()) == pytest.approx(2.0, abs=0.02)
    assert float(jnp.abs(experts[0] - dense).mean()) > 1.0


@pytest.mark.slow
def test_fresh_experts():
    experts, dense = expert_leaves(ExpertInit(fresh=3))
    np.testing.assert_array_equal(experts[0], dense)
    bound = math.sqrt(6 / (32 + 64))  # Xavier's uniform distribution, of one expert's [D, F], not of [E, D, F]
    assert bound * 0.98 < np.abs(experts[1:]).max() <= bound
    assert len({float(expert[0, 0]) for expert in experts}) == E
    with pytest.raises(ValueError, match="fresh is 5; there are only 4"):
        expert_leaves(ExpertInit(fresh=5))


@pytest.mark.slow
@pytest.mark.parametrize("g", [2, 4])
@pytest.mark.parametrize("router", ["top_k", "expert_choice"])
def test_fine_grained_experts_start_as_the_mlp(g, router):
    """8 experts with 1/g of the hidden units each are 8/g copies. The parts of a copy have equal router columns, so a
    token that selects g experts gets all parts of one copy (virtual groups): w (f_1 + ... + f_g) = w f, and outputs
    multiplied by g give g w = 1."""
    fields = {"capacity_factor": 8.0}
    if router == "top_k":
        fields = {"capacity_factor": None, "dispatch": "dropless", "num_selected": g}
    params, config = random_params(), recipe(num_experts=8, granularity=g, router=router, **fields)
    sparse = upcycled(config, params)
    assert sparse["Transformer"]["encoderblock_3"]["Moe"]["Mlp"]["Dense_0"]["kernel"].shape == (8, 32, 64 // g)
    np.testing.assert_allclose(logits(config, sparse), logits(DENSE, params), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("router", "selected", "factor", "g"), [("top_k", 2, 4.0, 1), ("top_k", 4, 2.0, 2), ("expert_choice", 1, 8.0, 1)]
)
def test_weight_scaling_is_exact_for_a_uniform_router(router, selected, factor, g):
    """With a router of zeros, raw gates are 1/E: with K of them and outputs times E / K it is the MLP (2410.07524)."""
    fields = {"num_selected": selected, "capacity_factor": factor, "granularity": g}
    params, config = random_params(), recipe(num_experts=8, renormalize=False, router=router, **fields)
    sparse = upcycled(config, params, how=ExpertInit(router_scale=0.0, scale_weights=True))
    np.testing.assert_allclose(logits(config, sparse), logits(DENSE, params), atol=1e-5)


@pytest.mark.slow
def test_depth_tiling_copies_whole_blocks():
    params, order = random_params(), (0, 0, 1, 2, 2, 3)
    deeper = flatten_dict(surgery.apply(surgery.deepen(params, order), params, jax.random.key(0)), sep="/")
    flat, config = flatten_dict(params, sep="/"), DENSE.replace(depth=6)
    assert {n: x.shape for n, x in deeper.items()} == {n: s.shape for n, s in surgery.flat_shapes(config).items()}
    for name, leaf in deeper.items():
        head, _, rest = name.partition("encoderblock_")
        i, slash, part = rest.partition("/")
        source = f"{head}encoderblock_{order[int(i)]}{slash}{part}" if slash else name
        np.testing.assert_array_equal(leaf, flat[source])
    # Two more blocks with 4 d^2 + 4 d (attention) + 2 d f + f + d (MLP) + 4 d (norms), d=32, f=64: 8,608 each.
    count = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (deeper, params)]
    assert count[0] - count[1] == 2 * (4 * 32**2 + 4 * 32 + 2 * 32 * 64 + 64 + 32 + 4 * 32)
    # It is not the same function as before.
    change = logits(config, unflatten_dict(deeper, sep="/")) - logits(DENSE, params)
    assert np.linalg.norm(change) > 0.05 * np.linalg.norm(logits(DENSE, params))


def test_weight_scaling_counts_no_expert_twice_and_needs_a_capacity_factor():
    # E = 4 experts that may each pick every token: a token has 4 experts on average, not the factor's 8.
    config = recipe(renormalize=False, router="expert_choice", capacity_factor=8.0)
    how = ExpertInit(scale_weights=True)
    assert surgery.output_scale("Dense_1/kernel", config.moe, how) == 4 / 4
    fixed = config.moe.replace(capacity=7, capacity_factor=None)
    with pytest.raises(ValueError, match="scale_weights needs a capacity factor"):
        surgery.output_scale("Dense_1/kernel", fixed, how)


def test_what_is_refused():
    params, plan = random_params(), surgery.plan
    flat = flatten_dict(params, sep="/")
    renamed = unflatten_dict(flat | {"extra/kernel": flat.pop("head/kernel")}, sep="/")
    wide, t5 = random_params(DENSE.replace(width=64)), configs.t5("tiny", num_encoder_layers=2, num_decoder_layers=1)
    for call, message in [
        # What is upcycled, and into what.
        (lambda: plan(upcycled(recipe(), params), recipe()), r"sparse already .*Moe/Mlp"),
        (lambda: plan(wide, recipe()), r"misshapen: .* is \(64,\), expected \(32,\)"),
        (lambda: plan(renamed, recipe()), "missing: head/kernel; extra: extra/kernel"),
        (lambda: plan(None, recipe()), "is NoneType; expected its parameters"),
        (lambda: plan(params, DENSE), "no experts"),
        (lambda: plan(params, recipe(router="soft")), "Soft MoE"),
        (lambda: plan(params, recipe(router="top_k").replace(e3=configs.E3Config(2))), "split_routers"),
        (lambda: plan(params, recipe().replace(scan=True)), "plan for scan=False"),
        (lambda: upcycled(recipe(num_experts=3, granularity=2), params), "3 experts .* granularity=2"),
        (lambda: recipe().replace(moe_blocks=(3, 4)), "not all among the 4 blocks"),
        (lambda: recipe(granularity=3), "not divisible by granularity 3"),
        # Another model than the plan is for.
        *(
            (lambda p=p: surgery.apply(plan(params, recipe()), p, jax.random.key(0)), "not as it was planned")
            for p in (wide, {})
        ),
        # Depth tiling loses no block, and one order cannot deepen stacks of different depth.
        (lambda: surgery.deepen(params, (0, 1, 2)), "each of the 4 blocks, 0 to 3"),
        (lambda: surgery.deepen(params, (0, 1, 2, 3, 4)), "each of the 4 blocks"),
        (lambda: surgery.deepen(params, 3), "got 3"),
        (lambda: surgery.deepen(random_params(t5), (0, 0, 1, 1)), r"{'decoder/layers_': 1, 'encoder/layers_': 2}"),
        # Recipes that say nothing, or leave the router untrained.
        (lambda: surgery.vision_recipe(DENSE, router="top_k", load_weight=0.0), "renormalize=False, or num_selected=2"),
        (lambda: surgery.vision_recipe(DENSE, num_selected=2), "say router='top_k', too"),
        (lambda: surgery.vision_recipe(t5), "expected ViTConfig"),
        (lambda: ExpertInit(noise=-1.0), "noise"),
        (lambda: ExpertInit(fresh=1.5), "fresh"),
        (lambda: ExpertInit(router_scale=np.inf), "router_scale"),
        (lambda: ExpertInit(redraw=1.5), "redraw"),
        (lambda: ExpertInit(scale_weights="no"), "scale_weights"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert surgery.vision_recipe(DENSE, router="top_k", num_selected=1, renormalize=False).moe.num_selected == 1
    assert surgery.vision_recipe(DENSE, router="top_k", num_selected=2).moe.renormalize
