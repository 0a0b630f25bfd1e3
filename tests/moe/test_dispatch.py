import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import moe
from kitlib.moe import dispatch, routing
from kitlib.moe.dispatch import Slots
from kitlib.moe.experts import apply_experts, linear_layer

D, F = 6, 10
SIDES = ((0, (D, F)), (1, (F, D)))
CASES = [  # (G, S, E, K), which difficulty, gated experts
    ((1, 1, 1, 1), "ample", False), ((1, 7, 1, 1), "tight", False), ((2, 12, 4, 1), "tight", False),
    ((2, 12, 4, 1), "ties", False), ((2, 12, 4, 2), "ample", False), ((2, 12, 4, 2), "tight", True),
    ((2, 12, 4, 2), "masked", False), ((2, 12, 4, 2), "masked", True), ((3, 8, 5, 5), "tight", False),  # K = E
    ((1, 33, 8, 3), "masked", False),
]  # fmt: skip


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def expert_params(e, gated=False):
    if gated:
        shapes = {"wi_0": (D, F), "wi_1": (D, F), "wo": (F, D)}
        return {name: {"kernel": normal(i, e, *shape)} for i, (name, shape) in enumerate(shapes.items(), 1)}
    return {f"Dense_{i}": {"kernel": normal(2 * i + 1, e, *s), "bias": normal(2 * i + 2, e, s[1])} for i, s in SIDES}


def chosen(g, s, e, k, *, masked=False, ties=False):
    """(choice, valid); with ties, all experts are equally probable for every token."""
    logits = jnp.zeros((g, s, e)) if ties else 2.0 * normal(5, g, s, e)
    valid = jnp.asarray(np.random.default_rng(6).random((g, s)) < 0.6) if masked else None
    return routing.top_k(jax.nn.softmax(logits), k, valid), valid


def loop_over_experts(params, x, weights, gated=False):
    """The definition: every expert on every token, times its weight float32[G, S, E]."""
    y = jnp.zeros_like(x)
    for e in range(weights.shape[-1]):
        one = jax.tree.map(lambda p, e=e: p[e], params)
        y += weights[..., e, None] * (moe.gated_mlp_expert if gated else moe.mlp_expert)(linear_layer, one, x)
    return y


def with_gradients(fn):
    """Outputs and gradients of fn(params, x, gate), weighted so that no two terms cancel."""

    def scalar(*args):
        y = fn(*args)
        return jnp.sum(y.astype(jnp.float32) * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), y

    return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True))


def assert_same(got, want, tol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tol, atol=tol), got, want)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "case", "gated"), CASES)
def test_all_methods_equal_the_loop_over_experts(shape, case, gated):
    g, s, e, _ = shape
    choice, valid = chosen(*shape, masked=case == "masked", ties=case == "ties")
    capacity = 2 if case == "tight" else s
    params, x = expert_params(e, gated), normal(7, g, s, D)
    expert = moe.gated_mlp_expert if gated else moe.mlp_expert

    def slots_of(gate):
        return routing.assign(choice._replace(gate=gate), e, min(capacity, s), valid=valid)

    def oracle(params, x, gate):
        return loop_over_experts(params, x, slots_of(gate).combine_weights, gated)

    def ours(params, x, gate, method):
        slots = slots_of(gate).replace(method=method)
        return slots.combine(apply_experts(expert, params, slots.dispatch(x)))

    def dropless(params, x, gate, how):
        chosen = choice.expert if valid is None else jnp.where(valid[..., None], choice.expert, e)  # padding: no expert
        blocks = dispatch.sort_into_blocks(dispatch.Choice(chosen, gate), e, block=4)
        return blocks.combine(apply_experts(expert, params, blocks.dispatch(x), owner=blocks.owner, how=how))

    variants = {m: functools.partial(ours, method=m) for m in ("einsum", "gather")}
    if case != "tight":  # dropless equals the others with ample capacity
        variants |= {h: functools.partial(dropless, how=h) for h in ("loop", "ragged", "batched")}
    (_, want), want_grads = with_gradients(oracle)(params, x, choice.gate)
    for variant in variants.values():
        (_, got), got_grads = with_gradients(variant)(params, x, choice.gate)
        assert_same(got, want)
        assert_same(got_grads, want_grads)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["einsum", "gather"])
def test_dispatch_by_hand(method):
    # Slots of expert 0: tokens 1 and 0; of expert 1: token 1 and an empty slot (S = 2).
    slots = Slots(jnp.array([[[1, 0], [1, 2]]]), jnp.array([[[0.5, 1.0], [0.25, 0.0]]]), 2, method)
    buffers = slots.dispatch(jnp.array([[[1.0, 2.0], [3.0, 4.0]]]))
    assert buffers.tolist() == [[[3, 4], [1, 2]], [[3, 4], [0, 0]]]
    # Token 0: 1.0 * (1, 2). Token 1: 0.5 * (3, 4) + 0.25 * (3, 4).
    np.testing.assert_allclose(slots.combine(buffers), [[[1.0, 2.0], [2.25, 3.0]]])
    # Two groups of one token, one expert: the buffer holds group 0's slot, then group 1's.
    slots = Slots(jnp.zeros((2, 1, 1), jnp.int32), jnp.ones((2, 1, 1)), 1, method)
    assert slots.dispatch(jnp.array([[[1.0]], [[2.0]]])).tolist() == [[[1.0], [2.0]]]
    assert slots.combine(jnp.array([[[3.0], [5.0]]])).tolist() == [[[3.0]], [[5.0]]]
    with pytest.raises(ValueError, match="Unknown method of dispatch 'dropless'"):
        slots.replace(method="dropless")


@pytest.mark.slow
@pytest.mark.parametrize("block", [None, 1, 3, 16])
def test_blocks_hold_every_choice_once(block):
    choice, _ = chosen(1, 33, 8, 3)
    blocks = dispatch.sort_into_blocks(choice, 8, block=block)
    (token, weight), expert = (blocks.slots.token, blocks.slots.weight), blocks.owner
    assert (np.diff(expert) >= 0).all()
    owner, tokens = np.broadcast_to(expert[:, None], token[0].shape), np.broadcast_to(np.arange(33)[:, None], (33, 3))
    found, wanted = (
        sorted(zip(*(np.asarray(x).ravel().tolist() for x in columns), strict=True))
        for columns in ((token[0], owner, weight[0]), (tokens, choice.expert[0], choice.gate[0]))
    )
    assert [row for row in found if row[0] < 33] == wanted
    assert (weight[token == 33] == 0).all()


@pytest.mark.slow
def test_blocks_suffice_when_one_expert_takes_all():
    choice = dispatch.Choice(jnp.full((2, 5, 1), 2), jnp.ones((2, 5, 1)))
    blocks = dispatch.sort_into_blocks(choice, 4, block=4)
    assert blocks.slots.token.shape == (1, 3 + 4, 4)  # ceil(10 / 4) + E
    assert sorted(blocks.slots.token[0][blocks.owner == 2].reshape(-1).tolist())[:10] == list(range(10))


@pytest.mark.slow
def test_tokens_may_be_dispatched_in_bfloat16():
    """The sum over experts is float32: only tokens and outputs are rounded, and in the same way by both methods."""
    choice, _ = chosen(1, 12, 4, 2)
    slots = routing.assign(choice, 4, 12)
    x = normal(7, 1, 12, D)
    outputs = []
    for method in ("einsum", "gather"):
        slots = slots.replace(method=method)
        buffers = slots.dispatch(x.astype(jnp.bfloat16))
        assert buffers.dtype == jnp.bfloat16
        outputs.append(slots.combine(buffers))
        assert outputs[-1].dtype == jnp.float32
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-7)
    exact = slots.combine(slots.dispatch(x))
    assert 0 < np.abs(outputs[0] - exact).max() < 2**-8 * np.abs(exact).max()


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_nothing_of_size_tokens_by_experts_by_capacity():
    """The compiled layer with gather has no array of G * S * E * C elements; with einsum it has one."""
    g, s, e, k, capacity = 1, 256, 16, 1, 20
    choice, _ = chosen(g, s, e, k)
    x = normal(7, g, s, D)

    def layer(x, method):
        slots = routing.assign(choice, e, capacity).replace(method=method)
        return slots.combine(slots.dispatch(x)).sum()

    def peak(method):
        compiled = jax.jit(jax.grad(functools.partial(layer, method=method))).lower(x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one_hot = 4 * g * s * e * capacity
    assert peak("einsum") >= one_hot
    assert peak("gather") < one_hot / 2


@pytest.mark.parametrize("s", [64, 256, 1024])
@pytest.mark.usefixtures("optimised")
def test_einsum_dispatch_costs_s_over_f_of_the_experts(s):
    """In one group: 2 * 2 * S * (E * C) * D for dispatch and combine, 2 * 2 * (E * C) * D * F in the experts; the ratio
    is S / F.

    XLA counts every operation, including the copies of gather: within 10 %.
    """
    e, f, width = 8, 256, 64
    slots = jax.eval_shape(lambda: Slots(jnp.zeros((1, e, s // e), jnp.int32), jnp.zeros((1, e, s // e)), s))
    x, w1, w2 = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, s, width), (e, width, f), (e, f, width)))

    def layer(x, slots, w1, w2):
        params = {"Dense_0": {"kernel": w1}, "Dense_1": {"kernel": w2}}
        return slots.combine(apply_experts(moe.mlp_expert, params, slots.dispatch(x)))

    def flops(method):
        return jax.jit(layer).lower(x, slots.replace(method=method), w1, w2).compile().cost_analysis()["flops"]

    experts = 4 * s * width * f
    assert flops("einsum") / experts == pytest.approx(1 + s / f, rel=0.1)
    assert flops("gather") / experts == pytest.approx(1.0, rel=0.1)
