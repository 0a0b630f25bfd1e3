import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from flax.traverse_util import flatten_dict
from zoo import IMAGES, TINY

from kitlib import configs
from kitlib.models import stacking
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT
from kitlib.moe.dispatch import EXCHANGED

SIX = TINY.replace(depth=6)
MOE = configs.MoEConfig(num_experts=4, num_selected=2)
T5_TINY = configs.t5("tiny", vocab_size=64, num_encoder_layers=4, num_decoder_layers=3)
T5_MOE = {"moe": configs.T5_ENCODER_MOE.replace(num_experts=4), "moe_layers": (1, 3)}


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ("d", [(0, 1, 1)]), ("dddd", [(0, 1, 4)]), ("dmdmdm", [(0, 2, 3)]), ("abc", [(0, 3, 1)]), ("", []),
        # V-MoE B, last-2: blocks 9 and 11 of 12 have experts. Eight dense blocks, then (dense, MoE) twice: 3 compiled.
        ("ddddddddd" + "m" + "d" + "m", [(0, 1, 8), (8, 2, 2)]),
        # E3: the first block with experts copies the tokens, so no other is equal to it.
        ("ddd" + "t" + "dmdm", [(0, 1, 3), (3, 1, 1), (4, 2, 2)]),
    ],
)  # fmt: skip
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


EXPERTS = {"moe": MOE, "moe_blocks": (1, 3, 5)}
CASES = {
    "dense": SIX,
    "22B": SIX.replace(**configs.VIT22B_BLOCK),
    "map head": SIX.replace(pool="map", representation_size=8),
    "every-2": SIX.replace(**EXPERTS),
    "last-2": SIX.replace(moe=MOE, moe_blocks=(3, 5)),
    "soft": SIX.replace(moe=configs.MoEConfig(num_experts=4, router="soft"), moe_blocks=(1, 3, 5)),
    "E3": SIX.replace(e3=configs.E3Config(2), **EXPERTS),
    "E3, tiled before": SIX.replace(e3=configs.E3Config(2, tiling="block"), **EXPERTS),
    "BatchEnsemble": SIX.replace(batch_ensemble=configs.BatchEnsembleConfig((3, 4, 5), 2)),
}


def assert_scanning_changes_nothing(kind, config, inputs, remat):
    """Logits, intermediates and gradients, up to 4e-6 of their largest value, after up to six blocks."""

    def run(config, params):
        def loss(params):
            logits, out = kind(config).apply({"params": params}, *inputs)
            return jnp.sum(jnp.sin(logits)) + out.get("auxiliary_loss", 0.0), out | {"logits": logits}

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    params = zoo.params(config)
    scanned = config.replace(scan=True, remat=remat)
    stacked = stacking.stack(params, scanned)
    assert len(jax.tree.leaves(stacked)) < len(jax.tree.leaves(params))
    grads, out = run(config, params)
    grads_scan, out_scan = run(scanned, stacked)
    jax.tree.map(np.testing.assert_array_equal, stacking.unstack(stacked), params)
    for got, want in ((out_scan, out), (stacking.unstack(grads_scan), grads)):
        got, want = flatten_dict(got, sep="/"), flatten_dict(want, sep="/")
        assert set(got) == set(want)
        for name in [name for name in want if "keys_values" not in name]:
            difference = np.abs(np.asarray(got[name], np.float64) - np.asarray(want[name])).max()
            assert difference <= 4e-6 * max(1.0, np.abs(want[name]).max()), name


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_scanned_vit_is_the_unrolled_one(name):
    assert_scanning_changes_nothing(ViT, CASES[name], [IMAGES], "full")


@pytest.mark.slow
@pytest.mark.parametrize("extra", [{}, {"tied": True, "activation": "silu"}, T5_MOE])
def test_a_scanned_t5_is_the_unrolled_one(extra):
    rng = np.random.default_rng(1)
    tokens = [jnp.asarray(np.where(rng.random((3, n)) < 0.2, 0, rng.integers(1, 64, (3, n)))) for n in (9, 5)]
    assert_scanning_changes_nothing(T5, T5_TINY.replace(**extra), tokens, "dots")


def test_names_and_rows_of_a_stack_by_hand():
    bias = {f"encoderblock_{i}": {"LayerNorm_0": {"bias": np.full(2, i)}} for i in range(6)}
    stacked = stacking.stack({"Transformer": bias}, SIX.replace(scan=True, **EXPERTS))["Transformer"]
    for block, rows in (("encoderblock_0", [0, 2, 4]), ("encoderblock_1", [1, 3, 5])):
        found = stacked["encoderblock_0_to_5"][block]["LayerNorm_0"]["bias"]
        np.testing.assert_array_equal(found, np.transpose([rows, rows]))


def test_both_halves_of_a_pali_x_are_stacked():
    config = configs.palix("XS", tower={"scan": True}, text={"scan": True})
    names = ("tower/Transformer/encoderblock", "text/encoder/layers", "text/decoder/layers")
    assert stacking.stacks(config) == {name: [(0, 1, 2)] for name in names}
    assert stacking.stacks(configs.palix("XS")) == {}


@pytest.mark.parametrize("scan", [False, True])
def test_rematerialisation_keeps_what_its_policy_says(scan):
    """Residuals by policy, for four dense blocks: "full" the blocks' inputs, "dots" also their matrix products."""
    size = {}
    params = zoo.params(TINY.replace(depth=4))
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
    # Dispatch and combine of three layers, named once each: computing a block again does not exchange again. With all
    # residuals of a block thrown away (a policy that keeps nothing), the names occur twice.
    params = zoo.params(SIX.replace(**EXPERTS))
    for remat in ("full", "none"):
        model = ViT(SIX.replace(remat=remat, **EXPERTS))
        text = str(jax.make_jaxpr(jax.grad(lambda p, m=model: m.apply({"params": p}, IMAGES)[0].sum()))(params))
        assert text.count(f"name={EXCHANGED}") == 2 * 3


def test_a_scanned_t5_refuses_to_generate_and_says_what_to_do():
    config = T5_TINY.replace(scan=True)
    params = stacking.stack(zoo.params(T5_TINY), config)
    with pytest.raises(ValueError, match=r"scan=False.*unstack"):
        T5(config).apply({"params": params}, jnp.ones((1, 3), jnp.int32), 4, method="init_cache")
