import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from trees import random_params

from kitlib import configs
from kitlib.models import stacking
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT
from kitlib.moe.dispatch import EXCHANGED

TINY = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10)
SIX = TINY.replace(depth=6)
MOE = configs.MoEConfig(num_experts=4, num_selected=2)
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 28, 28, 1)), jnp.float32)
T5_TINY = configs.t5("tiny", vocab_size=64, num_encoder_layers=4, num_decoder_layers=3)
T5_MOE = {"moe": configs.T5_ENCODER_MOE.replace(num_experts=4), "moe_layers": (1, 3)}


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ("d", [(0, 1, 1)]),
        ("dddd", [(0, 1, 4)]),
        ("dmdmdm", [(0, 2, 3)]),
        # V-MoE B, last-2: blocks 9 and 11 of 12 have experts. Eight dense blocks, then (dense, MoE) twice: 3 compiled.
        ("ddddddddd" + "m" + "d" + "m", [(0, 1, 8), (8, 2, 2)]),
        # E3: the first block with experts copies the tokens, so no other is equal to it.
        ("ddd" + "t" + "dmdm", [(0, 1, 3), (3, 1, 1), (4, 2, 2)]),
        ("abc", [(0, 3, 1)]),
        ("", []),
    ],
)
def test_segments_by_hand(kinds, found):
    assert stacking.segments(kinds) == found


def test_segments_compile_as_few_blocks_as_any_cut():
    """The oracle tries every way to cut a stack of up to seven blocks, and every period that divides each part."""

    def shortest_period(part):
        n = len(part)
        return next(p for p in range(1, n + 1) if n % p == 0 and part == part[:p] * (n // p))

    for n in range(1, 8):
        for kinds in itertools.product("dm", repeat=n):
            text = "".join(kinds)
            best = n
            for cuts in itertools.product((False, True), repeat=n - 1):
                edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), n]
                best = min(best, sum(shortest_period(text[a:b]) for a, b in itertools.pairwise(edges)))
            found = stacking.segments(text)
            assert sum(s.period for s in found) == best
            rebuilt = "".join(text[s.first : s.first + s.period] * s.repeats for s in found)
            assert rebuilt == text and found[-1].last == n - 1


CASES = {
    "dense": SIX,
    "22B": SIX.replace(**configs.VIT22B_BLOCK),
    "map head": SIX.replace(pool="map", representation_size=8),
    "every-2": SIX.replace(moe=MOE, moe_blocks=(1, 3, 5)),
    "last-2": SIX.replace(moe=MOE, moe_blocks=(3, 5)),
    "soft": SIX.replace(moe=configs.MoEConfig(num_experts=4, router="soft"), moe_blocks=(1, 3, 5)),
    "E3": SIX.replace(moe=MOE, moe_blocks=(1, 3, 5), e3=configs.E3Config(2)),
    "E3, tiled before": SIX.replace(moe=MOE, moe_blocks=(1, 3, 5), e3=configs.E3Config(2, tiling="block")),
    "BatchEnsemble": SIX.replace(batch_ensemble=configs.BatchEnsembleConfig((3, 4, 5), 2)),
}


def assert_same(got, want, tolerance=1e-6):
    """Equal up to `tolerance` times the largest value of the leaf: float32, other orders of summation."""
    assert set(flatten_dict(got)) == set(flatten_dict(want))
    for name, leaf in flatten_dict(want, sep="/").items():
        difference = np.abs(np.asarray(flatten_dict(got, sep="/")[name], np.float64) - np.asarray(leaf)).max()
        assert difference <= tolerance * max(1.0, np.abs(leaf).max()), name


def loss_outputs_gradients(model, *inputs):
    def loss(params):
        logits, out = model.apply({"params": params}, *inputs)
        return jnp.sum(jnp.sin(logits)) + out.get("auxiliary_loss", 0.0), out

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_scanned_vit_is_the_unrolled_one(name):
    config = CASES[name]
    params = jax.tree.map(jnp.asarray, random_params(config, spread=0.1))
    (loss, out), grads = loss_outputs_gradients(ViT(config), IMAGES)(params)
    scanned = config.replace(scan=True, remat="full")
    stacked = stacking.stack(params, scanned)
    assert len(jax.tree.leaves(stacked)) < len(jax.tree.leaves(params))
    (loss_scan, out_scan), grads_scan = loss_outputs_gradients(ViT(scanned), IMAGES)(stacked)
    assert float(loss_scan) == pytest.approx(float(loss), rel=1e-6, abs=1e-6)
    assert_same(out_scan, out, 4e-6)  # intermediates up to 4e-6 of their largest value, after six blocks
    assert_same(stacking.unstack(grads_scan), grads, 4e-6)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [{}, {"tied": True, "activation": "silu"}, T5_MOE])
def test_a_scanned_t5_is_the_unrolled_one(extra):
    config = T5_TINY.replace(**extra)
    rng = np.random.default_rng(1)
    tokens = [jnp.asarray(np.where(rng.random((3, n)) < 0.2, 0, rng.integers(1, 64, (3, n)))) for n in (9, 5)]
    params = jax.tree.map(jnp.asarray, random_params(config, spread=0.1))
    (loss, out), grads = loss_outputs_gradients(T5(config), *tokens)(params)
    scanned = config.replace(scan=True, remat="dots")
    (loss_scan, out_scan), grads_scan = loss_outputs_gradients(T5(scanned), *tokens)(stacking.stack(params, scanned))
    assert float(loss_scan) == pytest.approx(float(loss), rel=1e-6, abs=1e-6)
    drop = {k: v for k, v in flatten_dict(out_scan, sep="/").items() if "keys_values" not in k}
    assert_same(drop, {k: v for k, v in flatten_dict(out, sep="/").items() if "keys_values" not in k}, 4e-6)
    assert_same(stacking.unstack(grads_scan), grads, 4e-6)


@pytest.mark.parametrize("name", CASES)
def test_stacked_parameters_have_the_shapes_of_the_scanned_model_and_come_back(name):
    config = CASES[name].replace(scan=True)
    params = random_params(CASES[name])
    stacked = stacking.stack(params, config)
    want = jax.eval_shape(lambda: ViT(config).init(jax.random.key(0), IMAGES)["params"])
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, want)
    jax.tree.map(np.testing.assert_array_equal, stacking.unstack(stacked), params)


def test_names_and_rows_of_a_stack_by_hand():
    config = SIX.replace(moe=MOE, moe_blocks=(1, 3, 5), scan=True)
    bias = {f"encoderblock_{i}": {"LayerNorm_0": {"bias": np.full(2, i)}} for i in range(6)}
    stacked = stacking.stack({"Transformer": bias}, config)["Transformer"]["encoderblock_0_to_5"]
    assert stacked["encoderblock_0"]["LayerNorm_0"]["bias"].tolist() == [[0, 0], [2, 2], [4, 4]]
    assert stacked["encoderblock_1"]["LayerNorm_0"]["bias"].tolist() == [[1, 1], [3, 3], [5, 5]]


def test_both_halves_of_a_pali_x_are_stacked():
    config = configs.palix("XS", tower={"scan": True}, text={"scan": True})
    assert stacking.stacks(config) == {
        "tower/Transformer/encoderblock": [(0, 1, 2)],
        "text/encoder/layers": [(0, 1, 2)],
        "text/decoder/layers": [(0, 1, 2)],
    }
    assert stacking.stacks(configs.palix("XS")) == {}


@pytest.mark.parametrize("scan", [False, True])
def test_rematerialisation_keeps_what_its_policy_says(scan):
    """Residuals by policy, for four dense blocks: "full" the blocks' inputs, "dots" also their matrix products."""
    size = {}
    params = random_params(TINY.replace(depth=4), spread=0.1)
    for remat in ("none", "dots", "full"):
        config = TINY.replace(depth=4, remat=remat, scan=scan)
        model, stacked = ViT(config), stacking.stack(params, config)
        _, vjp = jax.vjp(lambda p, model=model: model.apply({"params": p}, IMAGES)[0], stacked)
        size[remat] = sum(x.size for x in jax.tree.leaves(vjp) if hasattr(x, "size"))
    tokens = IMAGES.shape[0] * TINY.num_tokens * TINY.width
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    # Full: the four inputs, and what comes before and after the blocks; parameters are residuals of every policy.
    assert 4 * tokens <= size["full"] - weights < 8 * tokens
    # Per block five matrix products of width D (query, key, value, out, Dense_1) and one of F = 4 D; not Q K^T, whose
    # batch axes are "batch dimensions" to the policy.
    assert size["dots"] - size["full"] == pytest.approx(4 * 9 * tokens, rel=0.25)
    assert size["none"] > 1.5 * size["dots"]


def test_what_has_travelled_between_devices_is_kept():
    config = SIX.replace(moe=MOE, moe_blocks=(1, 3, 5), remat="full")
    params = random_params(config, spread=0.1)

    def names(config):
        text = str(jax.make_jaxpr(jax.grad(lambda p: ViT(config).apply({"params": p}, IMAGES)[0].sum()))(params))
        return text.count(f"name={EXCHANGED}")

    # Dispatch and combine of three layers, named once each: computing a block again does not exchange again. With all
    # residuals of a block thrown away (a policy that keeps nothing), the names occur twice.
    assert names(config) == names(config.replace(remat="none")) == 2 * 3


def test_a_scanned_t5_refuses_to_generate_and_says_what_to_do():
    config = T5_TINY.replace(scan=True)
    model = T5(config)
    params = stacking.stack(random_params(T5_TINY), config)
    with pytest.raises(ValueError, match=r"scan=False.*unstack"):
        model.apply({"params": params}, jnp.ones((1, 3), jnp.int32), 4, method="init_cache")
