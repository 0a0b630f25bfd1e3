import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs, moe
from kitlib.models import checkpoint
from kitlib.models.vit import ViT
from kitlib.moe import e3, routing
from kitlib.training import classification
from kitlib.upcycling import surgery

V = 3
SIZES = {"width": 16, "mlp_dim": 20, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": V}
B, N = 3, 5  # 2 x 2 patches and the class token
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (B, 8, 8, 1)), jnp.float32)
TIGHT = {"capacity_factor": 0.5, "capacity_multiple_of": 1}  # slots for about half of the choices
AMPLE = {"capacity_factor": 100.0}


def mixture(**changes):
    return configs.MoEConfig(**{"num_experts": 4, "split_init": True} | AMPLE | changes)


def vmoe(depth=2, **changes):
    """Experts in block 0, dense blocks after it; of depth 4, experts in blocks 1 and 3 (last-2)."""
    if depth == 4:
        return configs.vmoe("tiny/4", "last-2", mixture(**changes), **SIZES, depth=4)
    return configs.vit("tiny/4", moe=mixture(**changes), moe_blocks=(0,), **SIZES, depth=depth)


def ensemble(fields=None, **changes):
    return vmoe(**changes).replace(e3=configs.E3Config(**fields or {}))


def draw(shapes):
    """Parameters away from their special initial values: experts and router logits differ, the head is not 0."""
    rng = np.random.default_rng(0)

    def leaf(path, s):
        names = [key.key for key in path]
        spread = 1.0 if "Router" in names else 0.3
        return jnp.asarray(float(names[-1] == "scale") + rng.normal(scale=spread, size=s.shape), s.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


shapes_of = functools.cache(checkpoint.expected_shapes)


def random_params(config):
    return draw(shapes_of(config))


@functools.cache
def compiled(model):
    """The `apply` of any module, compiled once for all tests."""
    return jax.jit(lambda params, x, **kwargs: model.apply({"params": params}, x, **kwargs), static_argnames="train")


def run(config, params):
    return compiled(ViT(config))(params, IMAGES)


def close(got, want):
    """Equal within 1e-5 of the largest number, the precision of float32 sums."""
    got, want = np.asarray(got), np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1.0, np.abs(want).max()))


def routers_of(out):
    return [block["moe"] for name, block in out.items() if name.startswith("block") and "moe" in block]


def words(x):
    return " ".join(np.asarray(x).reshape(-1))


def test_layouts_are_converted_and_converted_back():
    # 3 images, 4 members, 2 tokens: "b2.1" is token 1 of image b of member 2. Members innermost: the released code.
    outer = np.array([[f"{image}{m}.{token}" for token in range(2)] for m in range(4) for image in "abc"])
    assert words(e3.split(outer, 4)[2]) == "a2.0 a2.1 b2.0 b2.1 c2.0 c2.1"
    inner = e3.interleave(outer, 4)
    assert words(inner[:, 0]) == "a0.0 a1.0 a2.0 a3.0 b0.0 b1.0 b2.0 b3.0 c0.0 c1.0 c2.0 c3.0"
    np.testing.assert_array_equal(e3.deinterleave(inner, 4), outer)
    np.testing.assert_array_equal(e3.interleave(e3.deinterleave(outer, 4), 4), outer)
    for same in (e3.interleave, e3.deinterleave):  # for one member, both layouts are the same
        np.testing.assert_array_equal(same(outer, 1), outer)
        with pytest.raises(ValueError, match="does not hold 2 members"):
            same(jnp.zeros((3, 2)), 2)


def test_the_wrong_layout_averages_different_images():
    # Both members predict 1 for image a, 10 for b and 100 for c, so their means are the same.
    outer = e3.tile(jnp.array([1.0, 10.0, 100.0]), 2)
    np.testing.assert_array_equal(e3.split(outer, 2).mean(axis=0), [1, 10, 100])
    inner = e3.interleave(outer, 2)
    # a a b | b c c: a is averaged with b, a with c, b with c.
    np.testing.assert_array_equal(e3.split(inner, 2).mean(axis=0), [5.5, 50.5, 55])
    np.testing.assert_array_equal(e3.split(e3.deinterleave(inner, 2), 2).mean(axis=0), [1, 10, 100])


@pytest.mark.slow
def test_every_intermediate_has_the_members_from_the_tiling_on():
    for tiling, attended in (("lazy", B), ("block", 2 * B)):
        config = ensemble({"tiling": tiling}, depth=4)
        logits, out = jax.eval_shape(compiled(ViT(config)), shapes_of(config), IMAGES)
        assert logits.shape == out["logits"].shape == (2, B, V)
        assert out["block00"]["+mlp"].shape == out["with_posemb"].shape == (B, N, 16)  # the shared part
        assert out["block01"]["sa"].shape == (attended, N, 16)
        assert out["block01"]["attention"].shape == (attended, 2, N, N)
        for name in ("block01", "block02", "block03"):
            assert out[name]["+sa"].shape == out[name]["mlp"].shape == out[name]["+mlp"].shape == (2 * B, N, 16)
        assert len(routers_of(out)) == 2
        for router in routers_of(out):
            assert router["probabilities"].shape == router["combine_weights"].shape == (2 * B, N, 4)
            assert router["auxiliary_loss"].shape == ()
        assert out["encoded"].shape == (2 * B, N, 16) and out["pooled"].shape == (2 * B, 16)


@pytest.mark.slow
def test_every_kind_of_randomness_fits_the_shapes_of_the_members():
    """Dropout, stochastic depth, dropout in the experts and router noise."""
    for dispatch in ({}, DROPLESS):
        for tiling in ("lazy", "block", "none"):
            config = ensemble({"tiling": tiling}, depth=4, expert_dropout=0.1, **dispatch)
            model = compiled(ViT(config.replace(dropout=0.1, drop_path=0.1)))
            rngs = {name: jax.random.key(0) for name in ("dropout", "drop_path", "router")}
            training = functools.partial(model, train=True, rngs=rngs)
            logits, _ = jax.eval_shape(training, shapes_of(config), IMAGES)
            assert logits.shape == ((B, V) if tiling == "none" else (2, B, V))


@pytest.mark.parametrize(
    ("num_experts", "fields", "owned"),
    [
        *[(8, {"num_members": m}, owned) for m, owned in ((1, ["01234567"]), (2, ["0123", "4567"]), (8, "01234567"))],
        (8, {"overlap": 2}, ["012345", "456701"]),  # the last member borrows from the first
        (8, {"overlap": 4}, ["01234567", "45670123"]),  # both members have all experts, in different orders
        (8, {"num_members": 4, "overlap": 1}, ["012", "234", "456", "670"]),
        (6, {"num_members": 3, "overlap": 3}, ["01234", "23450", "45012"]),
        (8, {"routers": "shared"}, ["01234567", "01234567"]),
        (4, {"num_members": 3, "routers": "ranked"}, ["0123"] * 3),  # no partition, so E need not be a multiple of M
    ],
)
def test_experts_of_each_member(num_experts, fields, owned):
    got = e3.experts_of(configs.E3Config(**fields), num_experts)
    assert ["".join(map(str, row)) for row in got] == list(owned)


@pytest.mark.parametrize(
    ("fields", "changes", "slots"),
    [
        # S = 16 tokens per member, E = 8: 32 choices of two members among 8 experts need 4 slots per expert, the same
        # as 16 choices of one member among its 4 experts.
        ({}, {}, 4),
        ({}, {"num_selected": 2}, 8),
        ({}, {"capacity_factor": 1.05}, 5),  # 4.2 rounded up
        ({}, {"capacity_factor": 1.05, "capacity_multiple_of": 4}, 8),
        ({"num_members": 4}, {}, 8),  # 64 / 8, and 16 / 2
        ({"overlap": 2}, {}, 4),  # with more experts, a member makes no more choices
        ({"routers": "shared"}, {}, 4),
        ({"tiling": "none"}, {}, 4),  # 16 tokens with 2 choices each: 32 / 8
        # For any factor, at most as many slots as tokens: 16 per member that may use the expert. With overlap 2,
        # experts 0, 1, 4 and 5 are used by two members; of four members with 2 + 3 experts, up to three use the same.
        ({}, AMPLE, 16),
        ({"overlap": 2}, AMPLE, 32),
        *[({"num_members": 4, "overlap": overlap}, AMPLE, slots) for overlap, slots in ((1, 32), (2, 32), (3, 48))],
        *[({"routers": routers}, AMPLE, 32) for routers in ("shared", "ranked")],
        ({"tiling": "none"}, AMPLE, 16),
        ({"tiling": "none", "overlap": 2}, AMPLE, 32),  # two members may send it the same token
        # A capacity given as a number is that number, up to the same limit.
        ({}, {"capacity": 3, "capacity_factor": None}, 3),
        *[(fields, {"capacity": 20, "capacity_factor": None}, 16) for fields in ({}, {"tiling": "none"})],
        ({"routers": "shared"}, {"capacity": 20, "capacity_factor": None}, 20),
    ],
)
def test_slots_per_expert(fields, changes, slots):
    c = configs.MoEConfig(**{"num_experts": 8, "capacity_factor": 1.0, "capacity_multiple_of": 1} | changes)
    assert e3.slots_of(c, configs.E3Config(**fields), 16) == slots


def test_members_have_the_slots_of_the_v_moe_that_they_are():
    for m, k, factor, tokens in [(1, 1, 1.05, 17), (2, 1, 1.05, 17), (2, 2, 0.5, 5), (4, 2, 1.5, 100), (4, 1, 1.0, 3)]:
        c = configs.MoEConfig(num_experts=8, num_selected=k, capacity_factor=factor)
        want = moe.capacity(c.replace(num_experts=8 // m), tokens)
        assert e3.slots_of(c, configs.E3Config(m), tokens) == want, (m, k, factor, tokens)


@pytest.mark.slow
def test_one_member_is_bitwise_the_v_moe_with_its_noise():
    """In the released code only without noise, because it splits the key; here all members share one draw."""
    plain = vmoe(depth=1, num_selected=2)
    params = random_params(plain)
    batch, key = {"image": IMAGES, "label": jnp.arange(B)}, jax.random.key(5)
    loss_fn = jax.jit(classification.classification_loss(ViT(plain)))
    want, reported = loss_fn(params, batch, key)
    single = jax.jit(classification.classification_loss(ViT(plain.replace(e3=configs.E3Config(1)))))
    got, reported_too = single(surgery.split_routers(params, 1), batch, key)
    assert got == want
    jax.tree.map(np.testing.assert_array_equal, reported_too, reported)
    assert want != loss_fn(params, batch, jax.random.key(6))[0]  # the control: there was noise


LOSSES = {"importance_weight": 0.7, "load_weight": 0.0, "balance_weight": 0.3, "z_weight": 0.1}
# Name: M, E, and the rest of the mixture.
CASES = {
    "M=1": (1, 4, {"num_selected": 2} | TIGHT),
    "K=1": (2, 4, {}),
    "K=2, two layers": (2, 8, {"num_selected": 2, "depth": 4} | LOSSES),
    "K=1, tight": (4, 8, {"group_size": 8} | TIGHT | LOSSES),
    "K=2, tight": (2, 8, {"num_selected": 2, "batch_priority": True, "renormalize": True} | TIGHT),
}


def case(name):
    m, experts, changes = CASES[name]
    return m, experts // m, ensemble({"num_members": m}, num_experts=experts, **changes)


def cut_out(params, m, size):
    """By hand: router m, experts m * size ... (m + 1) * size - 1, and all other parameters."""
    result, own = jax.tree.map(lambda leaf: leaf, params), slice(m * size, m * size + size)
    for block in result["Transformer"].values():
        if "Moe" in block:
            router, experts = block["Moe"]["Router"]["dense"]["kernel"], block["Moe"]["Mlp"]
            mlp = {dense: {name: leaf[own] for name, leaf in experts[dense].items()} for dense in experts}
            block["Moe"] = {"Router": {"dense": {"kernel": router[:, m, :]}}, "Mlp": mlp}
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_a_member_is_a_v_moe_of_its_own_experts(name):
    """Its gates are block-diagonal, and the auxiliary loss is the mean over members: its weight is not multiplied by M.
    Without noise, the load loss, which has a weight in two of the cases, is 0."""
    m, size, config = case(name)
    params, losses = random_params(config), []
    logits, out = run(config, params)
    if "tight" in name:
        assert out["block00"]["moe"]["metrics"]["dropped"] > 0.2
    alone = vmoe(num_experts=size, **CASES[name][2])
    for i in range(m):
        own, own_config = e3.member(params, config, i)
        by_hand = cut_out(params, i, size)
        jax.tree.map(np.testing.assert_array_equal, own, by_hand)
        assert own_config == alone
        want, want_out = run(alone, by_hand)
        losses.append(want_out["auxiliary_loss"])
        np.testing.assert_allclose(logits[i], want, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(e3.split(out["encoded"], m)[i], want_out["encoded"], rtol=1e-5, atol=1e-5)
        for router, want_router in zip(routers_of(out), routers_of(want_out), strict=True):
            for key in ("probabilities", "combine_weights"):
                gates = np.pad(want_router[key], ((0, 0), (0, 0), (i * size, (m - 1 - i) * size)))
                np.testing.assert_allclose(e3.split(router[key], m)[i], gates, rtol=1e-5, atol=1e-6)
    assert all(np.abs(logits[i] - logits[j]).max() > 0.1 for i in range(m) for j in range(i))  # members differ
    assert min(losses) > 0 and len(set(map(float, losses))) == m
    np.testing.assert_allclose(out["auxiliary_loss"], np.mean(losses), rtol=1e-5)


@pytest.mark.slow
def test_fewer_members_at_test_time_are_the_chosen_ones():
    m, size, config = case("K=1, tight")
    params = random_params(config)
    before = jax.tree.map(np.array, params)
    full, _ = run(config, params)
    for which in ((2, 0), [3]):
        few, few_config = e3.members(params, config, which)
        assert few_config.e3 == configs.E3Config(len(which)) and few_config.moe.num_experts == size * len(which)
        np.testing.assert_allclose(run(few_config, few)[0], full[np.array(which)], rtol=1e-6, atol=1e-6)
    everyone, same = e3.members(params, config, tuple(range(m)))
    assert same == config
    jax.tree.map(np.testing.assert_array_equal, everyone, before)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert e3.members(params, config.replace(e3=configs.E3Config(4, "block")), (1,))[1].e3.tiling == "block"


@pytest.mark.slow
def test_split_routers_have_larger_gates():
    """exp(l_e) / sum over own experts = p_e / (sum of own p): V-MoE's probabilities, renormalised within the block."""
    plain = vmoe()
    params = random_params(plain)
    _, out = run(ensemble(), surgery.split_routers(params, 2))
    p = np.asarray(run(plain, params)[1]["block00"]["moe"]["probabilities"])
    own = e3.split(out["block00"]["moe"]["probabilities"], 2)
    for m, block in enumerate((slice(0, 2), slice(2, 4))):
        close(own[m][..., block], p[..., block] / p[..., block].sum(axis=-1, keepdims=True))


def scalar(config):
    """A loss without symmetries that could hide a mistake, and its gradient."""

    def loss(params):
        logits, out = ViT(config).apply({"params": params}, IMAGES)
        return (logits * jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)).sum() + out["auxiliary_loss"], logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
def test_lazy_tiling_is_block_tiling():
    lazy = ensemble(depth=1, num_selected=2, **TIGHT)
    params = random_params(lazy)
    (_, want), want_grads = scalar(lazy.replace(e3=configs.E3Config(2, "block")))(params)
    (_, got), grads = scalar(lazy)(params)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    jax.tree.map(close, grads, want_grads)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and (grad != 0).any(), path


@pytest.mark.slow
def test_a_parallel_block_needs_tiling_before_it():
    parallel = ensemble({"tiling": "block"}, depth=1).replace(parallel=True, qk_norm=True)
    with pytest.raises(ValueError, match="nothing between attention and MLP; use tiling='block'"):
        parallel.replace(e3=configs.E3Config(2))
    with pytest.raises(ValueError, match="needs moe and moe_blocks"):
        parallel.replace(moe=None, moe_blocks=())
    params = random_params(parallel)
    logits, _ = run(parallel, params)
    for m in range(2):
        np.testing.assert_allclose(logits[m], run(*e3.member(params, parallel, m)[::-1])[0], rtol=1e-6, atol=1e-6)


D, F = 8, 12


def tokens(members, batch=B):
    return jnp.asarray(np.random.default_rng(3).normal(size=(members * batch, N, D)), jnp.float32)


def the_layer(c, fields, x):
    layer = e3.E3Mlp(c, configs.E3Config(**fields), F)
    return layer, draw(jax.eval_shape(layer.init, jax.random.key(0), x)["params"])


def expert_on(params, e, x):
    """One expert on one token, in float64; GELU in its tanh form."""
    first, last = (jax.tree.map(lambda p: np.asarray(p[e], np.float64), params["Mlp"][f"Dense_{i}"]) for i in (0, 1))
    h = x @ first["kernel"] + first["bias"]
    h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    return h @ last["kernel"] + last["bias"]


def by_definition(params, x, owned, ranks, renormalize=False):
    """Member by member, image by image, token by token: the weighted sum over its choices. owned: the experts of each
    member; ranks: of the choices that are its own."""
    x, y = np.asarray(x, np.float64), np.zeros(x.shape)
    kernel, b = np.asarray(params["Router"]["dense"]["kernel"], np.float64), len(x) // len(owned)
    for row, token in np.ndindex(x.shape[:2]):
        m, one = row // b, x[row, token]
        p = np.exp(one @ (kernel[:, m] if kernel.ndim == 3 else kernel))
        p /= p.sum()
        chosen = np.argsort(-p, kind="stable")[list(ranks[m])]
        total = p[chosen].sum() if renormalize else 1.0
        y[row, token] = sum(p[i] / total * expert_on(params, owned[m][i], one) for i in chosen)
    return y


DROPLESS = {"dispatch": "dropless", "capacity_factor": None}
LAYERS = {
    "M=2, K=1": ({}, {}),
    "padded groups": ({}, {"num_selected": 2, "group_size": 8}),  # 15 tokens of each member: 2 groups of 8
    "M=4, uneven groups": ({"num_members": 4}, {"num_selected": 2, "group_size": 7, "renormalize": True}),  # 3 of 5
    "overlap": ({"overlap": 3}, {"num_selected": 3}),
    "shared router": ({"routers": "shared"}, {"num_selected": 2}),
    "ranked": ({"routers": "ranked"}, {"num_selected": 2}),
}


def check_layer(name, params, x, y, out):
    (fields, changes), m = LAYERS[name], LAYERS[name][0].get("num_members", 2)
    size, k = 8 // m, changes.get("num_selected", 1)
    owned = [[(i * size + j) % 8 for j in range(size + fields.get("overlap", 0))] for i in range(m)]
    if fields.get("routers"):
        owned = [list(range(8))] * m
    ranks = [range(i * k, i * k + k) if fields.get("routers") == "ranked" else range(k) for i in range(m)]
    close(y, by_definition(params, x, owned, ranks, changes.get("renormalize", False)))
    works = np.asarray(e3.split(out["combine_weights"], m) > 0)
    assert (works.sum(axis=-1) == k).all()
    for used, experts in zip(works, owned, strict=True):
        assert set(np.flatnonzero(used.any(axis=(0, 1)))) <= set(experts)
    assert abs(out["metrics"]["dropped"]) < 1e-6 and out["metrics"]["unprocessed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "padded groups"])
def test_the_layer_by_definition(name):
    fields, changes = LAYERS[name]
    x = tokens(fields.get("num_members", 2))
    layer, params = the_layer(mixture(num_experts=8, **changes), fields, x)
    check_layer(name, params, x, *compiled(layer)(params, x))


@pytest.mark.slow
def test_all_kinds_of_dispatch_are_the_same_layer_and_have_the_same_gradients():
    name = "padded groups"
    fields, changes = LAYERS[name]
    x, grads = tokens(2), {}
    for dispatch, more in {"gather": {}, "einsum": {"dispatch": "einsum"}, "dropless": DROPLESS}.items():
        layer, params = the_layer(mixture(num_experts=8, **changes | more), fields, x)

        def loss(params, x, layer=layer):
            y, out = layer.apply({"params": params}, x)
            return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), (y, out)

        (_, got), grads[dispatch] = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)
        check_layer(name, params, x, *got)
    for dispatch in ("einsum", "dropless"):
        jax.tree.map(close, grads[dispatch], grads["gather"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads["gather"]):
        assert np.isfinite(grad).all() and (grad != 0).any(), path


@pytest.mark.slow
def test_members_do_not_compete_for_slots():
    """One slot per expert: the first token of the *member* gets it, for any choices of the members before it."""
    c = mixture(capacity=1, capacity_factor=None)
    x = jnp.abs(tokens(2))
    layer, params = the_layer(c, {}, x)
    # With positive tokens and these routers, all tokens of member 0 choose expert 1, all tokens of member 1 expert 2.
    kernel = jnp.zeros((D, 2, 2)).at[:, 0, 1].set(1.0).at[:, 1, 0].set(1.0)
    y, out = compiled(layer)(params | {"Router": {"dense": {"kernel": kernel}}}, x)
    works = np.asarray(e3.split(out["combine_weights"], 2)) > 0
    assert works.sum() == 2 and works[0, 0, 0, 1] and works[1, 0, 0, 2]
    assert (np.any(np.asarray(y) != 0, axis=-1).sum()) == 2
    np.testing.assert_allclose(out["metrics"]["dropped"], 28 / 30, rtol=1e-6)
    np.testing.assert_allclose(out["metrics"]["load"], [0, 0.5, 0.5, 0])


@pytest.mark.slow
def test_every_member_has_noise_of_its_own_m_times_as_large_as_in_the_v_moe():
    # E = 8 and M = 2: standard deviation 1 / (E/M) = 2 / 8 where a V-MoE of 8 experts has 1 / 8.
    router, x = e3.MemberRouter(2, 4, noise_std=1.0), jnp.zeros((1, 2, 5000, D))
    params = router.init(jax.random.key(0), x)
    clean, noisy = router.apply(params, x, train=True, rngs={"router": jax.random.key(1)})
    noise = np.asarray(noisy - clean, np.float64).swapaxes(0, 1).reshape(2, -1)
    n = noise.shape[1]  # 20,000 per member: the standard error of a mean is sigma / sqrt(n), of a std sigma / sqrt(2 n)
    for member in noise:
        assert abs(member.mean()) < 4 * 0.25 / math.sqrt(n)
        assert abs(member.std() - 0.25) < 4 * 0.25 / math.sqrt(2 * n)
    assert abs(np.corrcoef(noise)[0, 1]) < 4 / math.sqrt(n)  # of independent samples: 1 / sqrt(n)
    assert router.apply(params, x)[1] is None  # no noise at test time, and no key needed


@pytest.mark.slow
def test_every_router_starts_like_the_router_of_a_v_moe():
    # lecun_normal: variance 1 / D for every M; the routers are drawn one by one.
    router = e3.MemberDense(4, 8)
    kernel = router.init(jax.random.key(0), jnp.zeros((1, 4, 1, 64)))["params"]["kernel"]
    assert kernel.shape == (64, 4, 8)
    for m in range(4):  # 512 numbers each, std 1/8; Gaussian or narrower, so the standard error is at most 1/8 / 32
        assert abs(np.std(kernel[:, m]) - 1 / 8) < 4 * (1 / 8) / math.sqrt(2 * 512)
    assert np.abs(np.corrcoef(np.asarray(kernel).swapaxes(0, 1).reshape(4, -1)) - np.eye(4)).max() < 4 / math.sqrt(512)


@pytest.mark.slow
def test_tiling_only_makes_identical_members():
    """Copies of a token, one router for all, no noise: nothing distinguishes the members."""
    config = ensemble({"num_members": 3, "routers": "shared"})
    params = random_params(config)
    assert checkpoint.expected_shapes(config) == checkpoint.expected_shapes(vmoe())
    logits, _ = run(config, params)
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[:1], logits.shape))
    np.testing.assert_allclose(logits[0], run(vmoe(), params)[0], rtol=1e-6, atol=1e-6)
    ranked, _ = run(ensemble({"routers": "ranked"}), params)  # the first takes the best choice, as the V-MoE does
    np.testing.assert_allclose(ranked[0], logits[0], rtol=1e-6, atol=1e-6)
    assert np.abs(ranked[0] - ranked[1]).max() > 0.1


@pytest.mark.slow
def test_noise_makes_members_with_one_router_differ():
    x = e3.tile(tokens(1), 2)
    layer, params = the_layer(mixture(num_experts=8), {"routers": "shared"}, x)
    params["Router"]["dense"]["kernel"] *= 0.01  # nearly equal logits, so that the noise decides
    y, _ = compiled(layer)(params, x, train=True, rngs={"router": jax.random.key(0)})
    first, second = e3.split(y, 2)
    assert np.abs(first - second).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("m", "overlap", "batch", "experts", "k", "changes"),
    [
        (2, 0, 3, 8, 2, {}),
        (4, 0, 1, 8, 2, {}),
        (2, 2, 3, 8, 2, {}),
        (2, 2, 3, 8, 2, DROPLESS),
        (2, 2, 3, 4, 3, {}),  # 6 choices among 4 experts, and slots for all
    ],
)
def test_partition_only_is_the_mean_over_members_experts(m, overlap, batch, experts, k, changes):
    """One copy of each token, processed by K experts of every member; with overlap, an expert may process it twice."""
    fields, x, own = {"tiling": "none", "num_members": m, "overlap": overlap}, tokens(1, batch), experts // m
    layer, params = the_layer(mixture(num_experts=experts, num_selected=k, **changes), fields, x)
    y, out = compiled(layer)(params, x)
    owned = [[(i * own + j) % experts for j in range(own + overlap)] for i in range(m)]
    each = by_definition(params, e3.tile(x, m), owned, [range(k)] * m)
    assert y.shape == x.shape
    assert out["probabilities"].shape == out["combine_weights"].shape == (batch, N, experts)
    close(y, e3.split(each, m).mean(axis=0))
    np.testing.assert_allclose(out["probabilities"].sum(axis=-1), 1.0, rtol=1e-5)
    if not overlap:  # a token chooses M * K different experts
        assert ((out["combine_weights"] > 0).sum(axis=-1) == 2 * m).all()
        assert abs(out["metrics"]["dropped"]) < 1e-6


@pytest.mark.slow
def test_partition_only_drops_what_the_members_drop():
    """There are as many slots as in the V-MoE of each member, filled in the same order."""
    x = tokens(1)
    c = mixture(num_experts=8, num_selected=2, **TIGHT)
    layer, params = the_layer(c, {"tiling": "none"}, x)
    y, out = compiled(layer)(params, x)
    want, want_out = compiled(e3.E3Mlp(c, configs.E3Config(2), F))(params, e3.tile(x, 2))
    close(y, e3.split(want, 2).mean(axis=0))
    close(out["combine_weights"], e3.split(want_out["combine_weights"], 2).mean(axis=0))
    np.testing.assert_allclose(out["metrics"]["dropped"], want_out["metrics"]["dropped"], rtol=1e-6)
    np.testing.assert_allclose(out["auxiliary_loss"], want_out["auxiliary_loss"], rtol=1e-6)
    assert out["metrics"]["dropped"] > 0.1


def test_partition_only_is_one_model():
    config = ensemble({"tiling": "none"})
    logits, out = jax.eval_shape(compiled(ViT(config)), shapes_of(config), IMAGES)
    assert logits.shape == (B, V) and out["encoded"].shape == (B, N, 16)
    # It has the parameters of the tiled E3, and its members are the same V-MoEs.
    params = random_params(config)
    (own, own_config), (tiled, tiled_config) = (e3.member(params, c, 1) for c in (config, ensemble()))
    assert own_config == tiled_config
    jax.tree.map(np.testing.assert_array_equal, own, tiled)


@pytest.mark.slow
@pytest.mark.parametrize("routers", ["own", "ranked"])
def test_the_load_loss_is_the_mean_over_members(routers):
    """K = 2. Of M = 2 ranked members with K = 1, which divide a token's M * K = 2 choices, it counts an expert that is
    among the two. The last of 15 tokens is padding."""
    k = 2 if routers == "own" else 1
    c = mixture(num_experts=8, num_selected=k, noise_std=1.0, importance_weight=0.0, load_weight=1.0)
    logits, noise = (jnp.asarray(x, jnp.float32) for x in np.random.default_rng(0).normal(size=(2, 1, 2, 15, 8)))
    wanted, valid = routing.Choice(jnp.zeros((1, 2, 15, k), jnp.int32), jnp.ones((1, 2, 15, k))), jnp.arange(15) < 14
    noisy = logits + noise / 8
    got = e3.member_losses(c, configs.E3Config(2, routers=routers), logits, noisy, wanted, valid[None])
    two, one = (
        [float(routing.load_loss(logits[:, m], noisy[:, m], k, 1.0, valid[None])) for m in range(2)] for k in (2, 1)
    )
    np.testing.assert_allclose(got, np.mean(two), rtol=1e-5)
    assert abs(np.mean(two) - np.mean(one)) > 0.01 and abs(two[0] - two[1]) > 1e-4


def test_the_builder_makes_the_model_of_the_paper():
    config = configs.e3("H/14", "last-5")
    assert config == configs.vmoe("H/14", "last-5").replace(e3=configs.E3Config())
    assert config.e3 == configs.E3Config(num_members=2, tiling="lazy", routers="own", overlap=0)
    assert (config.moe.num_experts, config.moe.num_selected) == (32, 1)
    few = configs.e3("B/16", "every-2", 4, configs.MoEConfig(num_experts=8), num_classes=10)
    assert (few.e3.num_members, few.moe.num_experts, few.num_classes) == (4, 8, 10)
    for c, tiled in (
        (config, (2, 23, True)),
        (config.replace(e3=configs.E3Config(4, "block")), (4, 23, False)),
        (config.replace(e3=configs.E3Config(tiling="none")), (None, None, False)),
        (configs.vmoe("B/16", "last-2"), (None, None, False)),
    ):
        assert (c.num_members, c.tiled_block, c.tiled_after_attention) == tiled


@pytest.mark.parametrize(("m", "tiling"), [(1, "lazy"), (2, "lazy"), (4, "lazy"), (2, "block"), (2, "none")])
def test_an_e3_has_the_parameters_of_its_v_moe(m, tiling):
    plain = vmoe(depth=4, num_experts=8)
    config, plain = plain.replace(e3=configs.E3Config(m, tiling)), surgery.flat_shapes(plain)
    router = "Transformer/encoderblock_1/Moe/Router/dense/kernel"
    want = {n: (16, m, 8 // m) if n.endswith("Router/dense/kernel") else leaf.shape for n, leaf in plain.items()}
    assert router in want and plain[router].shape == (16, 8)
    shapes = surgery.flat_shapes(config)
    assert {n: (leaf.shape, leaf.dtype) for n, leaf in shapes.items()} == {n: (want[n], plain[n].dtype) for n in plain}
    if m == 2:  # a member that borrows has a wider router; experts are not copied
        wider = surgery.flat_shapes(config.replace(e3=configs.E3Config(2, tiling, overlap=1)))
        assert {n: leaf.shape for n, leaf in wider.items() if leaf.shape != want[n]} == {
            router.replace("_1", f"_{i}"): (16, 2, 5) for i in (1, 3)
        }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "where", "width", "millions"), [("VMoE-S/32", "last-2", 512, 166.7), ("H/14", "last-5", 1280, 2_688.6)]
)
def test_published_sizes(name, where, width, millions):
    config = configs.e3(name, where, num_classes=18291, representation_size=width)
    shapes = checkpoint.expected_shapes(config)
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == millions


def test_the_public_checkpoint_fits():
    # eee_s32_last2_ilsvrc2012: S/32, E=8, M=2, K=1 in blocks 5 and 7.
    config = configs.e3("VMoE-S/32", "last-2", 2, configs.MoEConfig(num_experts=8), representation_size=512)
    shapes = {n: leaf.shape for n, leaf in surgery.flat_shapes(config).items() if "/Moe/" in n}
    assert shapes == {
        f"Transformer/encoderblock_{i}/Moe/{name}": shape
        for i in (5, 7)
        for name, shape in {
            "Router/dense/kernel": (512, 2, 4),
            "Mlp/Dense_0/kernel": (8, 512, 2048), "Mlp/Dense_0/bias": (8, 2048),
            "Mlp/Dense_1/kernel": (8, 2048, 512), "Mlp/Dense_1/bias": (8, 512),
        }.items()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        *[({"routers": "shared"} | more, {}, "members' own routers") for more in ({"overlap": 1}, {"tiling": "none"})],
        ({"num_members": 3}, {}, "do not divide among 3 members"),
        ({}, {"num_selected": 3}, "cannot select K=3"),
        ({"overlap": 3}, {}, "can borrow 2 more, got 3"),
        ({"routers": "ranked"}, {"num_selected": 3}, "need 6 experts"),
        ({"tiling": "none"}, {"batch_priority": True}, "no one priority"),
        ({}, {"router": "soft"}, "router 'top_k', got 'soft'"),
    ],
)
def test_experts_that_cannot_be_divided(fields, changes, message):
    with pytest.raises(ValueError, match=message):
        ensemble(fields, **changes)


@pytest.mark.parametrize(
    ("config", "which", "message"),
    [
        *[(ensemble(), which, "members 0 to 1, got") for which in ((), (2,), (0, -1))],
        *[(ensemble(fields), (0,), "experts of their own") for fields in ({"overlap": 1}, {"routers": "shared"})],
        (vmoe(), (0,), "experts of their own, got e3=None"),
        (ensemble().replace(scan=True), (0,), "block by block"),
    ],
)
def test_members_that_cannot_be_taken_out(config, which, message):
    with pytest.raises(ValueError, match=message):
        e3.members({}, config, which)


def test_configurations_at_the_limits_are_allowed():
    ensemble({"overlap": 2}, num_selected=4)
    ensemble({"routers": "ranked"}, num_selected=2)
    ensemble({"num_members": 3, "routers": "shared"}, num_selected=4)
    ensemble({"num_members": 4})
