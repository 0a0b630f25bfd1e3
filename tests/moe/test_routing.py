import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs, moe
from kitlib.moe import routing

SHAPES = [(1, 1, 1, 1), (1, 7, 1, 1), (2, 12, 4, 1), (2, 12, 4, 2), (3, 8, 5, 5), (1, 40, 8, 3)]  # G, S, E, K

# Compiled once per shape: operation by operation, every shape would need twenty compilations.
assign = jax.jit(routing.assign, static_argnames=("num_experts", "capacity", "batch_priority"))
top_k = jax.jit(routing.top_k, static_argnames="num_selected")
expert_choice = jax.jit(routing.expert_choice, static_argnames="capacity")
metrics = jax.jit(routing.metrics, static_argnames="num_selected")


def probabilities(g, s, e, seed=0):
    return jax.nn.softmax(2.0 * jax.random.normal(jax.random.key(seed), (g, s, e)), axis=-1)


@jax.jit
def by_token(slots):
    return slots.combine_weights


def choice_of(expert, gate):
    """A Choice of one group from nested lists [S][K]."""
    return routing.Choice(jnp.asarray([expert], jnp.int32), jnp.asarray([gate], jnp.float32))


def slow_assign(choice, num_experts, capacity, batch_priority=False, valid=None):
    """The definition, one choice after the other."""
    expert, gate = np.asarray(choice.expert), np.asarray(choice.gate)
    groups, s, k = expert.shape
    token = np.full((groups, num_experts, capacity), s)
    weight = np.zeros((groups, num_experts, capacity), np.float32)
    for g in range(groups):
        used = [0] * num_experts
        order = np.argsort(-gate[g, :, 0], kind="stable") if batch_priority else range(s)
        for rank, t in itertools.product(range(k), order):
            e = expert[g, t, rank]
            if used[e] < capacity and (valid is None or valid[g, t]):
                token[g, e, used[e]], weight[g, e, used[e]] = t, gate[g, t, rank]
                used[e] += 1
    return token, weight


def test_capacity_in_both_conventions():
    # 1568 tokens, 32 experts, factor 2: 98 slots; V-MoE's multiple of 4 makes it 100.
    assert routing.capacity_of_choices(1568, 32, 1, 2.0) == 98
    assert routing.capacity_of_choices(1568, 32, 1, 2.0, multiple_of=4) == 100
    assert routing.capacity_of_tokens(1568, 32, 2.0) == 98
    # K counts in one and not in the other: 64 tokens, 8 experts, K = 2, factor 1.25: ceil(20) and round(10).
    assert routing.capacity_of_choices(64, 8, 2, 1.25) == 20
    assert routing.capacity_of_tokens(64, 8, 1.25) == 10
    # ceil and round: 10 * 1.05 / 4 = 2.625 and 9 * 1.05 / 4 = 2.3625.
    assert (routing.capacity_of_choices(10, 4, 1, 1.05), routing.capacity_of_tokens(10, 4, 1.05)) == (3, 3)
    assert (routing.capacity_of_choices(9, 4, 1, 1.05), routing.capacity_of_tokens(9, 4, 1.05)) == (3, 2)
    # Not rounded up by a rounding error: in binary, 1.1 * 200 / 2 > 110.
    assert routing.capacity_of_choices(200, 2, 1, 1.1) == 110
    # Never more than the group.
    assert routing.capacity_of_choices(10, 4, 2, 100.0, multiple_of=4) == routing.capacity_of_tokens(10, 4, 100.0) == 10
    # 8 / 32 and 3 * 2 / 32 slots round to zero, but every expert has at least one.
    assert routing.capacity_of_tokens(8, 32, 1.0) == routing.capacity_of_tokens(3, 32, 2.0) == 1


def test_capacity_is_given_or_follows_from_the_factor():
    c = configs.MoEConfig(num_experts=4, num_selected=2, capacity_factor=1.0, capacity_multiple_of=1)
    assert moe.capacity(c, 10) == 5  # 1.0 * 2 * 10 / 4
    assert moe.capacity(c.replace(capacity_multiple_of=4), 10) == 8
    assert moe.capacity(c.replace(router="expert_choice"), 10) == 2  # round(1.0 * 10 / 4), no K; halves to even
    assert moe.capacity(c.replace(capacity=7, capacity_factor=None), 10) == 7
    assert moe.capacity(c.replace(capacity=70, capacity_factor=None), 10) == 10


def test_top_k_keeps_the_raw_softmax_values():
    choice = top_k(jax.nn.softmax(jnp.log(jnp.array([[[0.2, 0.5, 0.3]]]))), 2)
    assert choice.expert.tolist() == [[[1, 2]]]
    np.testing.assert_allclose(choice.gate, [[[0.5, 0.3]]], rtol=1e-6)
    ties = top_k(jnp.full((1, 2, 3), 1 / 3), 2)  # go to the first expert
    assert ties.expert.tolist() == [[[0, 1], [0, 1]]]


def test_impossible_sizes_are_refused():
    choice, p, zeros = choice_of([[0], [3]], [[1], [1]]), probabilities(1, 8, 2), jnp.zeros((1, 2, 2))
    huge = jax.eval_shape(lambda: routing.Choice(jnp.zeros((1, 2**24, 2), jnp.int32), jnp.zeros((1, 2**24, 2))))
    for message, call in (
        ("num_selected is 4; .* 1 to 3", lambda: top_k(jnp.ones((1, 2, 3)), 4)),
        ("at least one slot, got capacity 0", lambda: assign(choice, 4, 0)),
        ("use more groups", lambda: jax.eval_shape(lambda x: assign(x, 128, 8), huge)),
        ("chose expert 3", lambda: routing.assign(choice, 3, 1)),
        *((f"1 to S=8 tokens, got capacity {c}", lambda c=c: expert_choice(p, c)) for c in (0, 9)),
        ("needs router noise", lambda: routing.load_loss(zeros, zeros, 1, 0.0)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_noise_has_standard_deviation_one_over_e():
    logits = jnp.zeros((1, 5000, 8))
    noise = np.asarray(routing.add_noise(logits, jax.random.key(0), 1.0))
    assert abs(noise.std() * 8 - 1) < 0.02
    assert abs(noise.mean()) < 3 / 8 / np.sqrt(noise.size)


def test_assign_in_order_of_position_and_of_priority():
    # Tokens 0, 1, 3 choose expert 0, token 2 chooses expert 1; one slot each. By position, token 0 gets the slot; by
    # priority token 1, which has the largest gate.
    choice = choice_of([[0], [0], [1], [0]], [[0.6], [0.9], [0.7], [0.8]])
    vanilla = assign(choice, 2, 1)
    assert vanilla.token.tolist() == [[[0], [2]]]
    np.testing.assert_allclose(vanilla.weight, [[[0.6], [0.7]]])
    assert assign(choice, 2, 1, batch_priority=True).token.tolist() == [[[1], [2]]]
    # Two slots: priority fills them in order of the gate; expert 1's second stays empty, marked by S = 4.
    both = assign(choice, 2, 2, batch_priority=True)
    assert both.token.tolist() == [[[1, 3], [2, 4]]]
    np.testing.assert_allclose(both.weight, [[[0.9, 0.8], [0.7, 0.0]]])


def test_first_choices_come_before_second_choices():
    # Token 0 chooses expert 0, then 1; token 1 chooses 1, then 0. With one slot no token gets its second choice,
    # although token 0 comes before token 1.
    choice = choice_of([[0, 1], [1, 0]], [[0.7, 0.3], [0.6, 0.4]])
    assert assign(choice, 2, 1).token.tolist() == [[[0], [1]]]
    both = assign(choice, 2, 2)
    assert both.token.tolist() == [[[0, 1], [1, 0]]]
    np.testing.assert_allclose(both.weight, [[[0.7, 0.4], [0.6, 0.3]]])


@pytest.mark.slow
@pytest.mark.parametrize("batch_priority", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_assign_equals_the_definition(shape, masked, batch_priority):
    g, s, e, k = shape
    valid = jax.random.bernoulli(jax.random.key(1), 0.6, (g, s)) if masked else None
    choice = top_k(probabilities(g, s, e), k, valid)
    for capacity in sorted({1, 2, -(-s * k // e), s}):
        got = assign(choice, e, capacity, batch_priority=batch_priority, valid=valid)
        token, weight = slow_assign(choice, e, capacity, batch_priority, valid)
        np.testing.assert_array_equal(got.token, token)
        np.testing.assert_array_equal(got.weight, weight)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_batch_priority_keeps_the_largest_gates(seed):
    rng = np.random.default_rng(seed)
    g, s, e, capacity = 2, int(rng.integers(8, 60)), int(rng.integers(2, 9)), int(rng.integers(1, 5))
    choice = top_k(probabilities(g, s, e, seed), 1)
    kept = {p: assign(choice, e, capacity, batch_priority=p) for p in (False, True)}
    # The gates kept per expert sum to at most the C largest, and with priority to exactly these.
    for group, expert in itertools.product(range(g), range(e)):
        gates = np.asarray(choice.gate[group, :, 0])[np.asarray(choice.expert[group, :, 0]) == expert]
        best = np.sort(gates)[::-1][:capacity].sum()
        np.testing.assert_allclose(kept[True].weight[group, expert].sum(), best, rtol=1e-5)
        assert kept[False].weight[group, expert].sum() <= best + 1e-5
    assert (kept[True].token < s).sum() == (kept[False].token < s).sum()


def test_every_expert_takes_its_largest_probabilities():
    # Column 0: 0.9, 0.6, 0.2 -> tokens 0 and 1. Column 1: 0.1, 0.4, 0.8 -> tokens 2 and 1.
    p = jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]])
    got = expert_choice(p, 2)
    assert got.token.tolist() == [[[0, 1], [2, 1]]]
    np.testing.assert_allclose(got.weight, [[[0.9, 0.6], [0.8, 0.4]]])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_expert_choice_invariants(seed):
    rng = np.random.default_rng(seed)
    g, s, e = int(rng.integers(1, 4)), 8 * int(rng.integers(1, 6)), int(rng.choice([2, 4, 8]))
    p = probabilities(g, s, e, seed)
    capacity = routing.capacity_of_tokens(s, e, 1.0)
    got = expert_choice(p, capacity)
    assert all(len(set(row)) == capacity for row in got.token.reshape(-1, capacity).tolist())  # C distinct tokens each
    assert (got.token < s).sum() == g * s  # C = S / E slots for each of E experts
    # At factor E all experts take all tokens: the weights of each are its whole softmax row.
    everything = expert_choice(p, routing.capacity_of_tokens(s, e, float(e)))
    np.testing.assert_allclose(by_token(everything).sum(-1), np.ones((g, s)), rtol=1e-6)
    # Permuting the tokens permutes the chosen tokens, and nothing else.
    order = rng.permutation(s)
    permuted = expert_choice(p[:, order], capacity)
    np.testing.assert_array_equal(order[np.asarray(permuted.token)], got.token)
    np.testing.assert_array_equal(permuted.weight, got.weight)


@pytest.mark.slow
def test_expert_choice_depends_on_later_tokens_and_token_choice_does_not():
    first = jnp.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
    p = jnp.stack([first, 1 - first], axis=-1)[None]
    later = p.at[0, 7].set(jnp.array([0.95, 0.05]))  # now token 7 takes the slot of token 3 in expert 0

    def weights_of_the_first_seven(route):
        return [by_token(route(q)).sum(-1)[0, :7] for q in (p, later)]

    # Expert 0 has slots for half of the tokens; expert 1 takes the others.
    before, after = weights_of_the_first_seven(lambda q: expert_choice(q, 4))
    np.testing.assert_allclose(before, [0.9, 0.8, 0.7, 0.6, 0.6, 0.7, 0.8], rtol=1e-6)
    np.testing.assert_allclose(after, [0.9, 0.8, 0.7, 0.4, 0.6, 0.7, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(*weights_of_the_first_seven(lambda q: assign(top_k(q, 1), 2, 8)))


@pytest.mark.slow
def test_renormalisation_of_the_paper():
    # 2212.05055, B.7: 0.3, 0.2, 0.1 -> 0.5, 0.333, 0.167; a single expert -> 1; no expert (token 2) -> 0.
    token = jnp.array([[[0, 1], [0, 3], [0, 3]]])  # S = 3: 3 marks an empty slot
    weight = jnp.array([[[0.3, 0.4], [0.2, 0.0], [0.1, 0.0]]])
    got = routing.renormalize(moe.Slots(token, weight, 3))
    np.testing.assert_allclose(got.weight, [[[0.5, 1.0], [1 / 3, 0.0], [1 / 6, 0.0]]], rtol=1e-6)
    np.testing.assert_array_equal(got.token, token)
    np.testing.assert_allclose(by_token(got).sum(-1), [[1.0, 1.0, 0.0]], rtol=1e-6)
    dropless = routing.renormalize(choice_of([[0, 1, 2], [1, 0, 2]], [[0.3, 0.2, 0.1], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(dropless.gate, [[[0.5, 1 / 3, 1 / 6], [0.0, 0.0, 0.0]]], rtol=1e-6)


@pytest.mark.slow
def test_a_single_expert_gives_the_router_no_gradient():
    # w / w is 1 for every w (2212.05055, B.7, a disadvantage that the authors note).
    def loss(logits):
        choice = top_k(jax.nn.softmax(logits), 1)
        return (routing.renormalize(assign(choice, 4, 6)).weight * jnp.cos(jnp.arange(24.0).reshape(1, 4, 6))).sum()

    logits = jax.random.normal(jax.random.key(0), (1, 6, 4))
    assert np.abs(jax.jit(jax.grad(loss))(logits)).max() < 1e-7


@pytest.mark.slow
def test_dropless_is_ample_capacity():
    """And a dispatcher may be made in one compiled function and used in another."""
    choice = top_k(probabilities(2, 9, 3), 2)
    ample = configs.MoEConfig(num_experts=3, num_selected=2, capacity_factor=3 / 2)
    configurations = (ample, ample.replace(dispatch="dropless", capacity_factor=None))
    want, got = (jax.jit(functools.partial(routing.dispatcher_of, c))(choice, None) for c in configurations)
    np.testing.assert_array_equal(got.combine_weights, want.combine_weights)
    assert isinstance(got, moe.Blocks) and want.owner is None


@functools.partial(jax.jit, static_argnames="k")
def losses(logits, k, valid=None, noise=0.1):
    """All four, of noisy logits that are larger by `noise`."""
    p = jax.nn.softmax(logits)
    importance, load = routing.importance_loss(p, valid), routing.load_loss(logits, logits + noise, k, 1.0, valid)
    balance = routing.balance_loss(p, routing.top_k(p, k).expert, valid)
    return jnp.stack([importance, load, balance, routing.z_loss(logits, valid)])


@pytest.mark.slow
@pytest.mark.parametrize("e", [1, 2, 8])
def test_importance_and_load_vanish_at_balance_and_peak_at_collapse(e):
    # Sums over two tokens: (0.9 + 0.7, 0.1 + 0.3) = (1.6, 0.4): mean 1, variance 0.36.
    np.testing.assert_allclose(routing.importance_loss(jnp.array([[[0.9, 0.1], [0.7, 0.3]]])), 0.36, rtol=1e-5)
    uniform = jnp.full((2, 5, e), 1 / e)
    one = jnp.zeros((2, 5, e)).at[..., 0].set(1.0)
    assert routing.importance_loss(uniform) < 1e-12
    # All mass on one: mean S/E, variance (S^2/E)(1 - 1/E), ratio variance / mean^2 = E - 1.
    np.testing.assert_allclose(routing.importance_loss(one), e - 1, rtol=1e-5, atol=1e-6)
    collapsed = 100.0 * one
    np.testing.assert_allclose(routing.load_loss(collapsed, collapsed, 1, 1.0), e - 1, rtol=1e-5, atol=1e-6)
    assert routing.load_loss(jnp.zeros((2, 5, e)), jnp.zeros((2, 5, e)), 1, 1.0) < 1e-12


@pytest.mark.slow
def test_gradients_are_finite_at_perfect_balance():
    # sqrt has an infinite derivative at 0: (std / mean)^2 gives NaN here (google-research/vmoe issue 218).
    def naive(logits):
        importance = jax.nn.softmax(logits).sum(axis=1)
        return ((importance.std(axis=-1) / importance.mean(axis=-1)) ** 2).mean()

    zero = jnp.zeros((1, 8, 4))
    assert np.isnan(jax.jit(jax.grad(naive))(zero)).any()
    assert np.isfinite(jax.jacobian(losses)(zero, 2, noise=0.0)).all()


@pytest.mark.slow
def test_load_equals_monte_carlo():
    # p_e is the probability that expert e would be among the K if only its own noise were drawn again.
    g, s, e, k, std, draws = 1, 3, 4, 2, 1.0, 100_000
    logits = 0.3 * jax.random.normal(jax.random.key(0), (g, s, e))
    noisy = routing.add_noise(logits, jax.random.key(1), std)
    threshold = np.sort(np.asarray(noisy), axis=-1)[..., -k, None]
    fresh = np.random.default_rng(2).normal(scale=std / e, size=(draws, g, s, e)).astype(np.float32)
    hits = (np.asarray(logits) + fresh >= threshold).mean(axis=0)
    load = hits.sum(axis=1)
    want = (load.var(axis=-1) / load.mean(axis=-1) ** 2).mean()
    got = float(routing.load_loss(logits, noisy, k, std))
    # The error of a share is below 0.5 / sqrt(draws); three of them, through a ratio near `want`.
    assert abs(got - want) < 3 * 0.5 / np.sqrt(draws) * 4


def test_balance_and_z_loss_by_hand():
    for k in (1, 2, 4):
        # Each token takes K neighbours of 4 experts, each expert is taken equally often: E * E * (K/E) * (1/E) = K.
        expert = (jnp.arange(8)[:, None] + jnp.arange(k)[None]) % 4
        np.testing.assert_allclose(routing.balance_loss(jnp.full((1, 8, 4), 1 / 4), expert[None]), k, rtol=1e-6)
    # At collapse it is E.
    one = jnp.zeros((1, 6, 4)).at[..., 2].set(1.0)
    np.testing.assert_allclose(routing.balance_loss(one, jnp.full((1, 6, 1), 2)), 4.0)
    # Choices (0, 0, 1): shares (2/3, 1/3). Mean probabilities ((.8+.6+.1)/3, (.2+.4+.9)/3) = (.5, .5). 2 * .5 = 1.
    p = jnp.array([[[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]])
    np.testing.assert_allclose(routing.balance_loss(p, jnp.array([[[0], [0], [1]]])), 1.0, rtol=1e-6)
    np.testing.assert_allclose(routing.z_loss(jnp.zeros((2, 3, 8))), math.log(8) ** 2, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("e", [1, 4])
def test_padding_changes_nothing(e):
    """Six tokens with two of padding after them have the same losses and, chosen by experts, the same slots."""
    logits, k = jax.random.normal(jax.random.key(0), (2, 6, e)), min(2, e)
    padded, valid = (
        jnp.concatenate([logits, 5.0 * jnp.ones((2, 2, e))], axis=1),
        jnp.arange(8)[None] < jnp.full((2, 1), 6),
    )
    alone = expert_choice(jax.nn.softmax(logits), 2)
    with_padding = expert_choice(jax.nn.softmax(padded), 2, valid)
    np.testing.assert_array_equal(with_padding.token, alone.token)
    np.testing.assert_array_equal(with_padding.weight, alone.weight)
    np.testing.assert_allclose(losses(padded, k, valid), losses(logits, k), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_expert_choice_with_more_slots_than_tokens():
    # Three slots, two real tokens: the third slot stays empty.
    got = expert_choice(probabilities(1, 4, 2), 3, jnp.array([[True, False, True, False]]))
    assert all(sorted(row) == [0, 2, 4] for row in got.token[0].tolist())
    assert (got.weight[got.token == 4] == 0).all()


def test_metrics_of_a_hand_worked_case():
    # K = 1, one slot each: tokens 0, 1, 3 choose expert 0, token 2 chooses expert 1. Two of four choices are dropped.
    choice = choice_of([[0], [0], [1], [0]], [[0.6], [0.9], [0.7], [0.8]])
    p = jnp.array([[[0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]])
    got = metrics(by_token(assign(choice, 2, 1)) > 0, p, num_selected=1)
    want = {"dropped": 0.5, "unprocessed": 0.5, "experts_per_token": 0.5, "entropy": math.log(2) / 2}
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(got["load"], [0.5, 0.5])
    # Of expert choice: tokens 0, 1 and 2, 1 are chosen: token 1 twice, four slots for three tokens.
    p = jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]])
    got = metrics(by_token(expert_choice(p, 2)) > 0, p)
    assert got["dropped"] == 0 and got["unprocessed"] == 0
    np.testing.assert_allclose(got["experts_per_token"], 4 / 3, rtol=1e-6)
    # Half of the slots where a quarter would be even: twice an equal load. The block without experts has no metrics.
    one = {"dropped": jnp.zeros(()), "unprocessed": jnp.zeros(()), "load": jnp.array([0.5, 0.25, 0.25, 0.0])}
    out = {"auxiliary_loss": jnp.ones(()), "block00": {"mlp": 0}, "block01": {"moe": {"metrics": one}}}
    assert routing.router_metrics(out)["busiest"].tolist() == [2.0]
    assert set(routing.router_metrics({"auxiliary_loss": 0.0})) == {"auxiliary_loss"}


def test_padding_alone_has_no_loss_and_no_metric_that_is_nan():
    """All losses and metrics of a batch of padding are 0, with zero gradients; a group of padding changes no mean."""
    logits, none = jax.random.normal(jax.random.key(3), (2, 6, 4)), jnp.zeros((2, 6), bool)
    np.testing.assert_array_equal(losses(logits, 1, none), 0)
    np.testing.assert_array_equal(jax.jacobian(losses)(logits, 1, none), 0)
    for value in routing.metrics(
        jnp.zeros((2, 6, 4), bool), jax.nn.softmax(logits), num_selected=1, valid=none
    ).values():
        np.testing.assert_array_equal(value, 0)
    # Of two groups only the first is real: the losses are those of the first alone.
    first = none.at[0].set(True)
    alone = losses(logits.at[1].set(logits[0]), 1, first)
    np.testing.assert_allclose(losses(logits, 1, first), alone, rtol=1e-6)
    assert (alone > 0).all()
