import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import moe
from kitlib.moe import dispatch, routing
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
    g, s, e, k = shape
    choice, valid = chosen(*shape, masked=case == "masked", ties=case == "ties")
    capacity = 2 if case == "tight" else s
    params, x = expert_params(e, gated), normal(7, g, s, D)
    expert = moe.gated_mlp_expert if gated else moe.mlp_expert

    def assigned(gate):
        return routing.assign(choice._replace(gate=gate), e, min(capacity, s), valid=valid)

    def oracle(params, x, gate):
        a = assigned(gate)
        return loop_over_experts(params, x, routing.slots_to_tokens(a, a.weight, s), gated)

    def ours(params, x, gate, method):
        a = assigned(gate)
        buffers = dispatch.dispatch(x, a, method)
        return dispatch.combine(apply_experts(expert, params, buffers), a, s, method)

    def dropless(params, x, gate, how):
        chosen = choice.expert if valid is None else jnp.where(valid[..., None], choice.expert, e)  # padding: no expert
        flat = routing.Choice(chosen.reshape(1, g * s, k), gate.reshape(1, g * s, k))
        slots, owner = dispatch.sort_into_blocks(flat, e, block=4)
        buffers = dispatch.dispatch(x.reshape(1, g * s, D), slots)
        y = dispatch.combine(apply_experts(expert, params, buffers, owner=owner, how=how), slots, g * s)
        return y.reshape(x.shape)

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
    a = routing.Assignment(jnp.array([[[1, 0], [1, 2]]]), jnp.array([[[0.5, 1.0], [0.25, 0.0]]]))
    buffers = dispatch.dispatch(jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), a, method)
    assert buffers.tolist() == [[[3, 4], [1, 2]], [[3, 4], [0, 0]]]
    # Token 0: 1.0 * (1, 2). Token 1: 0.5 * (3, 4) + 0.25 * (3, 4).
    np.testing.assert_allclose(dispatch.combine(buffers, a, 2, method), [[[1.0, 2.0], [2.25, 3.0]]])
    # Two groups of one token, one expert: the buffer holds group 0's slot, then group 1's.
    a = routing.Assignment(jnp.zeros((2, 1, 1), jnp.int32), jnp.ones((2, 1, 1)))
    assert dispatch.dispatch(jnp.array([[[1.0]], [[2.0]]]), a, method).tolist() == [[[1.0], [2.0]]]
    assert dispatch.combine(jnp.array([[[3.0], [5.0]]]), a, 1, method).tolist() == [[[3.0]], [[5.0]]]


def test_an_unknown_method_is_refused():
    for call in (
        lambda: dispatch.dispatch(None, None, "dropless"),
        lambda: dispatch.combine(None, None, 1, "dropless"),
    ):
        with pytest.raises(ValueError, match="Unknown method of dispatch 'dropless'"):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("block", [None, 1, 3, 16])
def test_blocks_hold_every_choice_once(block):
    choice, _ = chosen(1, 33, 8, 3)
    (token, weight), expert = dispatch.sort_into_blocks(choice, 8, block=block)
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
    choice = routing.Choice(jnp.full((1, 10, 1), 2), jnp.ones((1, 10, 1)))
    (token, _), expert = dispatch.sort_into_blocks(choice, 4, block=4)
    assert token.shape == (1, 3 + 4, 4)  # ceil(10 / 4) + E
    assert sorted(token[0][expert == 2].reshape(-1).tolist())[:10] == list(range(10))


@pytest.mark.slow
def test_tokens_may_be_dispatched_in_bfloat16():
    """The sum over experts is float32: only tokens and outputs are rounded, and in the same way by both methods."""
    choice, _ = chosen(1, 12, 4, 2)
    a = routing.assign(choice, 4, 12)
    x = normal(7, 1, 12, D)
    outputs = []
    for method in ("einsum", "gather"):
        buffers = dispatch.dispatch(x.astype(jnp.bfloat16), a, method)
        assert buffers.dtype == jnp.bfloat16
        y = dispatch.combine(buffers, a, 12, method)
        assert y.dtype == jnp.float32
        outputs.append(y)
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-7)
    exact = dispatch.combine(dispatch.dispatch(x, a), a, 12)
    assert 0 < np.abs(outputs[0] - exact).max() < 2**-8 * np.abs(exact).max()


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_nothing_of_size_tokens_by_experts_by_capacity():
    """The compiled layer with gather has no array of G * S * E * C elements; with einsum it has one."""
    g, s, e, k, capacity = 1, 256, 16, 1, 20
    choice, _ = chosen(g, s, e, k)
    x = normal(7, g, s, D)

    def layer(x, method):
        a = routing.assign(choice, e, capacity)
        return dispatch.combine(dispatch.dispatch(x, a, method), a, s, method).sum()

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
    a = jax.eval_shape(lambda: routing.Assignment(jnp.zeros((1, e, s // e), jnp.int32), jnp.zeros((1, e, s // e))))
    x, w1, w2 = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, s, width), (e, width, f), (e, f, width)))

    def layer(x, a, w1, w2, method):
        params = {"Dense_0": {"kernel": w1}, "Dense_1": {"kernel": w2}}
        buffers = dispatch.dispatch(x, a, method)
        return dispatch.combine(apply_experts(moe.mlp_expert, params, buffers), a, s, method)

    def flops(method):
        lowered = jax.jit(functools.partial(layer, method=method)).lower(x, a, w1, w2)
        return lowered.compile().cost_analysis()["flops"]

    experts = 4 * s * width * f
    assert flops("einsum") / experts == pytest.approx(1 + s / f, rel=0.1)
    assert flops("gather") / experts == pytest.approx(1.0, rel=0.1)
