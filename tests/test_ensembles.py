import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import random_params

from kitlib import checkpoint, configs, data, ensembles, metrics, optim, train, uncertainty
from kitlib.vit import ViT

SIZES = {"width": 8, "depth": 1, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
TINY = configs.vit("tiny/4", **SIZES)
MOE = configs.MoEConfig(num_experts=4, capacity_factor=4.0)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
BATCH = {"image": IMAGES, "label": np.array([0, 1, 2, 1, 0, 2])}
SOURCE = data.from_arrays(
    RNG.integers(256, size=(16, 8, 8, 1)).astype(np.uint8), np.arange(16) % 3, name="noise", class_names="abc"
)


def assert_trees_close(a, b, **tolerance):
    def close(path, x, y):
        np.testing.assert_allclose(x, y, err_msg=jax.tree_util.keystr(path), **tolerance)

    jax.tree_util.tree_map_with_path(close, a, b)


# ---------------------------------------------------------------------------------------------- the loss of members


class Echo:
    """A 'model' whose logits are its images: what the loss does with logits can be worked out by hand."""

    def apply(self, variables, images, train, rngs):
        return images, None


def loss_of(logits, labels, **fields):
    loss_fn = train.classification_loss(Echo(), **fields)
    loss, measured = loss_fn({}, {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}, jax.random.key(0))
    return float(loss), float(measured["accuracy"])


# Two members, two examples, two classes. The probability of class 0 is 0.1 and 0.2 for the first example, 0.3 and 0.4
# for the second: means 0.15 and 0.35.
P = np.array([[0.1, 0.3], [0.2, 0.4]])
LOG_P = np.log(np.stack([P, 1 - P], axis=-1)).astype(np.float32)  # [M, B, V]


def test_the_loss_of_members_is_the_mean_of_each_ones_own():
    loss, accuracy = loss_of(LOG_P, [0, 1])
    assert loss == pytest.approx(-np.log([0.1, 0.2, 0.7, 0.6]).mean(), rel=1e-5)
    assert accuracy == 0.5  # both wrong on the first, both right on the second


def test_the_loss_of_the_mean_probability():
    loss, accuracy = loss_of(LOG_P, [0, 1], of_mean=True)
    assert loss == pytest.approx(-np.log([0.15, 0.65]).mean(), rel=1e-5)
    assert accuracy == 0.5


def test_the_sigmoid_loss_of_members_is_the_mean_of_each_ones_own():
    # Independent probabilities 0.1 ... 0.4 of class 0 and 1/2 of class 1 (logit 0).
    logits = np.stack([np.log(P / (1 - P)), np.zeros((2, 2))], axis=-1)
    right, wrong = np.log([0.1, 0.2]) + np.log(1 / 2), np.log([0.7, 0.6]) + np.log(1 / 2)
    loss, _ = loss_of(logits.astype(np.float32), [0, 1], sigmoid=True)
    assert loss == pytest.approx(-np.concatenate([right, wrong]).mean(), rel=1e-5)


def test_members_may_have_labels_of_their_own():
    # Member 0 is asked for classes 0 and 0, member 1 for 1 and 0: probabilities 0.1, 0.3 and 0.8, 0.4. Each prefers
    # class 1 twice, so that one of four answers is right.
    loss, accuracy = loss_of(LOG_P, [[0, 0], [1, 0]])
    assert loss == pytest.approx(-np.log([0.1, 0.3, 0.8, 0.4]).mean(), rel=1e-5)
    assert accuracy == 0.25


def test_the_loss_of_the_mean_never_exceeds_the_mean_loss():
    """Jensen's inequality, for any logits; equal where members agree. Both are what `metrics` measures."""
    rng = np.random.default_rng(1)
    for scale in (0.1, 1.0, 10.0):
        logits, labels = rng.normal(scale=scale, size=(3, 5, 4)).astype(np.float32), rng.integers(4, size=5)
        each, mean = (loss_of(logits, labels, of_mean=of_mean)[0] for of_mean in (False, True))
        assert mean <= each
        combined = uncertainty.combine(metrics.softmax(logits))
        assert mean == pytest.approx(-np.log(combined[np.arange(5), labels]).mean(), rel=1e-4)
        same = np.broadcast_to(logits[:1], logits.shape)
        assert loss_of(same, labels, of_mean=True)[0] == pytest.approx(loss_of(same, labels)[0], rel=1e-5)
        assert loss_of(same, labels)[0] == pytest.approx(loss_of(logits[0], labels)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "labels", "fields"),
    [(LOG_P[0], [0, 1], {}), (LOG_P, [[0, 0], [1, 0]], {}), (LOG_P, [0, 1], {"sigmoid": True})],
    ids=["one model", "labels of their own", "sigmoid"],
)
def test_the_loss_of_the_mean_is_for_members_with_the_same_labels_and_the_softmax(logits, labels, fields):
    with pytest.raises(ValueError, match="of_mean is for the softmax of an ensemble"):
        loss_of(logits, labels, of_mean=True, **fields)


def test_mixup_of_members_with_labels_of_their_own_is_refused():
    with pytest.raises(ValueError, match=r"mixup is for one label a picture, labels \[B\]; got \(2, 2\)"):
        loss_of(LOG_P, [[0, 0], [1, 0]], mixup=0.2)


def test_mixup_mixes_the_targets_of_every_member_over_the_batch():
    """Members that are copies of one model have its loss."""

    class Twice:
        def apply(self, variables, images, train, rngs):
            return jnp.stack([images, images]), None

    @jax.jit
    def losses(batch, key):
        return [train.classification_loss(model, mixup=1.0)({}, batch, key)[0] for model in (Twice(), Echo())]

    twice, once = losses({"image": jnp.eye(4), "label": jnp.arange(4)}, jax.random.key(0))
    assert float(twice) == pytest.approx(float(once), rel=1e-6)


# ---------------------------------------------------------------------------------------------- stacks


def test_stack_and_unstack_are_inverses():
    trees = [{"a": np.full((2, 3), m), "b": {"c": np.array(10 * m)}} for m in range(3)]
    stacked = ensembles.stack(trees)
    assert stacked["a"].shape == (3, 2, 3) and stacked["b"]["c"].shape == (3,)
    again = ensembles.unstack(stacked)
    assert len(again) == 3
    jax.tree.map(np.testing.assert_array_equal, again, trees)
    jax.tree.map(np.testing.assert_array_equal, ensembles.stack(again), stacked)


# ---------------------------------------------------------------------------------------------- deep ensembles

RECIPE = {"num_steps": 4, "batch_size": 8, "warmup": 1, "peak": 1e-3}
# Dropout, router noise, auxiliary losses: all that could depend on being trained together.
EVERYTHING = ViT(TINY.replace(dropout=0.2, moe=MOE, moe_blocks=(0,)))
SEEDS = (3, 0)


@functools.cache
def trained_together():
    return jax.device_get(ensembles.fit_images(EVERYTHING, SOURCE, SEEDS, **RECIPE))


def test_members_trained_as_one_program_are_those_trained_apart():
    """Same initial parameters, pictures, dropout, router noise; sums in another order, so not to the last bit."""
    params, history = trained_together()
    for m, seed in enumerate(SEEDS):
        alone, alone_history = jax.device_get(train.fit_images(EVERYTHING, SOURCE, seed=seed, **RECIPE))
        assert_trees_close({n: h[m] for n, h in history.items()}, alone_history, rtol=1e-3, atol=1e-5)
        member = ensembles.unstack(params)[m]
        # Adam turns a gradient that is all rounding error (that of the keys' biases) into a step: 1e-3 at most, four
        # times, on either side. The others agree much better, and so do the predictions.
        assert_trees_close(member, alone, atol=8e-3, rtol=0)
        largest = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (member, alone)), strict=True)]
        assert np.median(largest) < 1e-5
        logits = [train.predict(EVERYTHING, p, IMAGES, batch_size=6) for p in (member, alone)]
        np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-4)


def test_the_history_of_an_ensemble_has_a_row_for_each_member():
    params, history = trained_together()
    assert {name: values.shape for name, values in history.items()} == {
        **dict.fromkeys(("loss", "grad_norm", "accuracy", "auxiliary_loss"), (2, 4)),  # trainings, steps
        **dict.fromkeys(("dropped", "unprocessed"), (2, 4, 1)),  # routers
        "load": (2, 4, 1, 4),  # experts
    }
    np.testing.assert_allclose((history["loss"] - history["auxiliary_loss"])[:, 0], np.log(3), rtol=1e-5)  # zero heads
    assert history["loss"][0, -1] != history["loss"][1, -1]
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(params))


def test_predict_is_every_member_in_order():
    model, first, second = ViT(TINY), random_params(TINY, 0), random_params(TINY, 1)
    logits = ensembles.predict(model, [first, second], IMAGES, batch_size=6)
    assert logits.shape == (2, 6, 3) and logits.dtype == np.float32
    for m, member in enumerate((first, second)):
        np.testing.assert_array_equal(logits[m], train.predict(model, member, IMAGES, batch_size=6))
    assert np.abs(logits[0] - logits[1]).max() > 0.1
    np.testing.assert_array_equal(ensembles.predict(model, [second, first], IMAGES, batch_size=6), logits[::-1])
    assert ensembles.predict(model, [first], IMAGES, batch_size=6).shape == (1, 6, 3)


def test_an_ensemble_of_ensembles_has_all_members_in_one_row():
    """M = 2 trainings of M' = 2 members: the members of the first, then those of the second."""
    config = TINY.replace(batch_ensemble=configs.BatchEnsembleConfig((0,), 2))
    model, members = ViT(config), [random_params(config, seed) for seed in (0, 1)]
    logits = ensembles.predict(model, members, IMAGES, batch_size=6)
    assert logits.shape == (4, 6, 3)
    for m, member in enumerate(members):
        np.testing.assert_array_equal(logits[2 * m : 2 * m + 2], train.predict(model, member, IMAGES, batch_size=6))


@pytest.mark.parametrize("members", [None, 2])
def test_predict_knows_the_axis_of_the_batch_where_a_model_answers_for_every_token(members):
    """float32[B, N, V], or [M, B, N, V]: of a last batch that was padded, the right examples are kept."""
    config = TINY.replace(pool="none", batch_ensemble=members and configs.BatchEnsembleConfig((0,), members))
    model, params = ViT(config), random_params(config)
    assert train.has_members(model) == bool(members)
    want = train.predict(model, params, IMAGES, batch_size=6)
    assert want.shape == ((2, 6, 4, 3) if members else (6, 4, 3))
    np.testing.assert_allclose(train.predict(model, params, IMAGES, batch_size=4), want, rtol=1e-4, atol=1e-4)


def test_an_ensemble_without_members_is_refused():
    with pytest.raises(ValueError, match="at least one member, got no parameters"):
        ensembles.predict(ViT(TINY), [], IMAGES)
    with pytest.raises(ValueError, match="at least one member, got no seeds"):
        ensembles.fit_images(ViT(TINY), SOURCE, seeds=())


@functools.cache
def falling():
    """(optimiser, step for M members): the loss is p^2 plus the poison in a member's batch."""

    def loss_fn(params, batch, key):
        return params["p"] ** 2 + batch["poison"], {}

    tx = optim.assemble(optax.identity(), 0.25)
    return tx, jax.jit(jax.vmap(train.make_step(loss_fn, tx)), donate_argnums=0)


def stacked_state(*values):
    tx, _ = falling()
    return ensembles.stack([train.init_state({"p": jnp.float32(p)}, tx, seed=m) for m, p in enumerate(values)])


class Batches:
    """Poison for one member at one step; otherwise none. It can be saved, as Grain's iterators can."""

    def __init__(self, member=0, step=-1, bad=0.0, t=0):
        self.member, self.step, self.bad, self.t = member, step, bad, t

    def __next__(self):
        poison = np.zeros(3, np.float32)
        if self.t == self.step:
            poison[self.member] = self.bad
        self.t += 1
        return {"poison": poison}

    def get_state(self):
        return {"t": self.t}

    def set_state(self, state):
        self.t = state["t"]


def test_fit_takes_the_states_of_several_members():
    # Gradient 2 p and rate 1/4: p is halved in every step.
    state, history = train.fit(falling()[1], stacked_state(1.0, 2.0, 4.0), Batches(), 3, check_every=2)
    np.testing.assert_array_equal(state.params["p"], [1 / 8, 2 / 8, 4 / 8])
    np.testing.assert_array_equal(history["loss"], [[1, 4, 16], [1 / 4, 1, 4], [1 / 16, 1 / 4, 1]])
    np.testing.assert_array_equal(state.step, [3, 3, 3])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("member", [0, 2])
def test_a_bad_loss_of_any_member_stops_the_run_and_names_the_step(member, bad):
    with pytest.raises(train.NonFiniteLoss, match=r"at step 5 \(none saved\)"):
        train.fit(falling()[1], stacked_state(1.0, 2.0, 4.0), Batches(member, 5, bad), 20, check_every=4)


def test_members_that_were_stopped_go_on_where_they_were(tmp_path):
    _, step = falling()
    whole, history = train.fit(step, stacked_state(1.0, 2.0, 4.0), Batches(), 4)
    train.fit(step, stacked_state(1.0, 2.0, 4.0), Batches(), 2, checkpoint_dir=tmp_path / "run")
    resumed, resumed_history = train.fit(step, stacked_state(9, 9, 9), Batches(), 4, checkpoint_dir=tmp_path / "run")
    np.testing.assert_array_equal(resumed.params["p"], whole.params["p"])
    np.testing.assert_array_equal(resumed.step, whole.step)
    np.testing.assert_array_equal(resumed_history["loss"], history["loss"])
    np.testing.assert_array_equal(jax.random.key_data(resumed.key), jax.random.key_data(whole.key))


# ---------------------------------------------------------------------------------------------- MC dropout

DROPOUT = TINY.replace(dropout=0.5)


def mc(config, params, images=IMAGES, num_samples=3, **fields):
    return ensembles.mc_dropout(ViT(config), params, images, num_samples, **{"batch_size": 6} | fields)


def test_no_pass_is_no_ensemble():
    with pytest.raises(ValueError, match="at least one pass, got num_samples=0"):
        mc(DROPOUT, random_params(DROPOUT), num_samples=0)


def test_dropout_samples_differ_and_the_seed_decides():
    params = random_params(DROPOUT)
    samples = mc(DROPOUT, params)
    assert samples.shape == (3, 6, 3) and samples.dtype == np.float32
    for i in range(3):
        for j in range(i):
            assert np.all(np.abs(samples[i] - samples[j]).max(axis=-1) > 1e-3)
    np.testing.assert_array_equal(mc(DROPOUT, params), samples)
    np.testing.assert_array_equal(mc(DROPOUT, params, num_samples=2), samples[:2])
    assert np.all(np.abs(mc(DROPOUT, params, seed=1) - samples).max(axis=-1) > 1e-3)


def test_every_picture_has_its_own_mask():
    samples = mc(DROPOUT, random_params(DROPOUT), np.repeat(IMAGES[:1], 12, axis=0), num_samples=1)[0]
    for i in range(12):  # two batches of six
        for j in range(i):
            assert np.abs(samples[i] - samples[j]).max() > 1e-4


def test_the_padding_of_the_last_batch_changes_nothing():
    params = random_params(DROPOUT)
    whole = mc(DROPOUT, params, np.concatenate([IMAGES, IMAGES]))
    for n in (1, 6, 7, 11):
        some = mc(DROPOUT, params, np.concatenate([IMAGES, IMAGES])[:n])
        assert some.shape == (3, n, 3)
        np.testing.assert_allclose(some, whole[:, :n], rtol=1e-5, atol=1e-5)


RATE = 0.25
COIN = TINY.replace(width=2, num_heads=1, mlp_dim=1, dropout=RATE)


def coin_params():
    """A ViT that throws a coin. All is zero up to the MLP, which adds its last bias (1, 0) to the class token.

    Dropout acts on the branch: (1, 0) / keep with probability keep, else (0, 0). The last LayerNorm makes (1, -1) of
    the one and (0, 0) of the other, whatever the size. The head turns that into logits (1, 2, 3) + (2, 0, -4) or
    (1, 2, 3): its rows are (2, 0, -4) and (0, 0, 0).
    """
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), checkpoint.expected_shapes(COIN))
    params["Transformer"]["encoderblock_0"]["MlpBlock_0"]["Dense_1"]["bias"] = np.float32([1, 0])
    params["Transformer"]["encoder_norm"]["scale"] = np.ones(2, np.float32)
    params["head"] = {"kernel": np.float32([[2, 0, -4], [0, 0, 0]]), "bias": np.float32([1, 2, 3])}
    return params


def test_dropout_samples_have_the_distribution_worked_out_by_hand():
    samples = mc(COIN, coin_params(), num_samples=100).reshape(600, 3)
    heads = np.abs(samples - [3, 2, -1]).max(axis=-1) < 1e-4
    tails = np.abs(samples - [1, 2, 3]).max(axis=-1) < 1e-4
    assert np.all(heads ^ tails)
    keep, n = 1 - RATE, 600
    assert abs(heads.mean() - keep) < 4 * np.sqrt(keep * (1 - keep) / n)
    # The mean of the samples: the logits at keep, not those without dropout (3, 2, -1), where the coin is always heads.
    error = 4 * np.abs([2, 0, -4]) * np.sqrt(keep * (1 - keep) / n) + 1e-4
    assert np.all(np.abs(samples.mean(axis=0) - [1 + 2 * keep, 2, 3 - 4 * keep]) < error)
    np.testing.assert_allclose(
        train.predict(ViT(COIN), coin_params(), IMAGES, batch_size=6), np.tile([3.0, 2.0, -1.0], (6, 1)), atol=1e-4
    )
    # And pictures and samples are independent: neighbours agree as often as two coins do, keep^2 + (1 - keep)^2.
    agree = keep**2 + (1 - keep) ** 2
    for a, b in ((heads[1:], heads[:-1]), (heads[6:], heads[:-6])):
        assert abs((a == b).mean() - agree) < 4 * np.sqrt(agree * (1 - agree) / len(a))


def test_router_noise_and_stochastic_depth_are_off():
    """Experts with dropout at a rate so low that no unit drops: what is left would be the noise, and there is none."""
    moe = MOE.replace(num_experts=2, expert_dropout=1e-9, noise_std=100.0)
    config = TINY.replace(moe=moe, moe_blocks=(0,), drop_path=0.5)
    params, model = random_params(config), ViT(config)
    samples = mc(config, params)
    np.testing.assert_allclose(
        samples, np.tile(train.predict(model, params, IMAGES, batch_size=6), (3, 1, 1)), atol=1e-4
    )


def test_the_dropout_of_experts_is_sampled_alike_with_and_without_router_noise():
    noisy = TINY.replace(moe=MOE.replace(num_experts=2, expert_dropout=0.5), moe_blocks=(0,))
    quiet = noisy.replace(moe=noisy.moe.replace(noise_std=0.0, load_weight=0.0))
    params = random_params(noisy)
    samples = mc(noisy, params)
    assert np.abs(samples[0] - samples[1]).max() > 1e-3
    np.testing.assert_array_equal(mc(quiet, params), samples)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"drop_path": 0.5},
        {"moe": MOE, "moe_blocks": (0,)},
        {"moe": MOE.replace(expert_dropout=0.0), "moe_blocks": (0,), "drop_path": 0.5},
    ],
)
def test_a_model_without_dropout_is_refused(fields):
    with pytest.raises(ValueError, match=r"needs a model trained with dropout; set dropout or moe\.expert_dropout"):
        mc(TINY.replace(**fields), {})


def test_mc_dropout_is_for_a_vit():
    with pytest.raises(TypeError, match="for a ViT, got Mimo"):
        ensembles.mc_dropout(ensembles.Mimo(TINY.replace(dropout=0.1), 2), {}, IMAGES, 2)


def test_samples_of_an_e3_have_all_its_members():
    """Samples outside, members inside: the experts of member 0 push one channel down, those of member 1 up."""
    config = TINY.replace(moe=MOE.replace(expert_dropout=0.5), moe_blocks=(0,), e3=configs.E3Config(2))
    params = random_params(config)
    params["Transformer"]["encoderblock_0"]["Moe"]["Mlp"]["Dense_1"]["bias"][:, 0] = [-100, -100, 100, 100]
    params["Transformer"]["encoder_norm"] = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    params["head"]["kernel"][0] = 10.0
    samples = mc(config, params, IMAGES[:5], batch_size=3)
    assert samples.shape == (6, 5, 3)
    assert np.all(samples[::2] < 0) and np.all(samples[1::2] > 0)
    for i in range(6):
        for j in range(i):
            assert np.abs(samples[i] - samples[j]).max() > 1e-4


# ---------------------------------------------------------------------------------------------- MIMO

PAIR = ensembles.Mimo(TINY, 2)


def mimo_params(config=TINY, m=2):
    """Random parameters of the wide ViT that a Mimo is."""
    wide = config.replace(channels=m * config.channels, num_classes=m * config.num_classes)
    return {"ViT": random_params(wide)}


@functools.cache
def mimo_apply(model):
    return jax.jit(lambda params, images: model.apply({"params": params}, images))


def test_mimo_of_one_is_the_vit():
    params, model = random_params(TINY), ensembles.Mimo(TINY, 1)
    want = train.predict(ViT(TINY), params, IMAGES, batch_size=6)
    logits, out = mimo_apply(model)({"ViT": params}, IMAGES)
    np.testing.assert_array_equal(logits, want[None])
    np.testing.assert_array_equal(out["logits"], logits)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    assert jax.tree.map(lambda s: s.shape, shapes) == {"ViT": jax.tree.map(lambda p: p.shape, params)}


def test_mimo_has_the_parameters_of_a_vit_with_wider_ends():
    # M pictures of one channel in, M answers of V out: only the first kernel and the head grow, by what M adds.
    shapes = jax.eval_shape(PAIR.init, jax.random.key(0), IMAGES)["params"]["ViT"]
    assert shapes["embedding"]["kernel"].shape == (4, 4, 2, 8)
    assert shapes["head"]["kernel"].shape == (8, 6) and shapes["head"]["bias"].shape == (6,)
    more = sum(s.size for s in jax.tree.leaves(shapes)) - sum(
        s.size for s in jax.tree.leaves(checkpoint.expected_shapes(TINY))
    )
    assert more == 4 * 4 * 8 + 8 * 3 + 3


def test_in_a_test_all_members_read_the_same_pictures():
    params = mimo_params()
    logits, _ = mimo_apply(PAIR)(params, IMAGES)
    assert logits.shape == (2, 6, 3) and logits.dtype == jnp.float32
    tiled, _ = mimo_apply(PAIR)(params, np.broadcast_to(IMAGES, (2, *IMAGES.shape)))
    np.testing.assert_array_equal(tiled, logits)
    predicted = train.predict(PAIR, params, IMAGES, batch_size=4)  # padded
    assert predicted.shape == (2, 6, 3)
    np.testing.assert_allclose(predicted, logits, rtol=1e-4, atol=1e-4)
    ensemble = ensembles.predict(PAIR, [params, params], IMAGES, batch_size=4)
    np.testing.assert_array_equal(ensemble, np.concatenate([predicted, predicted]))


def test_every_member_reads_all_pictures():
    """But an example only its own: picture i of either member changes the answers i of both, and no others."""
    params = mimo_params()
    pictures = np.stack([IMAGES, IMAGES[::-1]])
    before, _ = mimo_apply(PAIR)(params, pictures)
    for m in (0, 1):
        changed = pictures.copy()
        changed[m, 2] = 0.0
        after, _ = mimo_apply(PAIR)(params, changed)
        difference = np.abs(after - before).max(axis=-1)
        assert np.all(difference[:, 2] > 1e-3)
        assert np.all(difference[:, [0, 1, 3, 4, 5]] < 1e-5)


def test_pictures_lie_side_by_side_in_the_channels_and_answers_in_the_head():
    # Two channels a picture: channels 0-1 of the wide picture are member 0's, 2-3 member 1's. Without the weights of
    # 2-3, nobody sees member 1's picture. The head is member 0's classes, then member 1's.
    config = TINY.replace(channels=2)
    model, params = ensembles.Mimo(config, 2), mimo_params(config)
    pictures = np.random.default_rng(2).uniform(-1, 1, (2, 6, 8, 8, 2)).astype(np.float32)
    params["ViT"]["embedding"]["kernel"][:, :, 2:] = 0.0
    full, _ = mimo_apply(model)(params, pictures)
    for m, seen in ((0, True), (1, False)):
        changed = pictures.copy()
        changed[m] = 0.0
        assert np.array_equal(mimo_apply(model)(params, changed)[0], full) != seen
    params["ViT"]["head"] = {"kernel": np.zeros((8, 6), np.float32), "bias": np.arange(6, dtype=np.float32)}
    logits, _ = mimo_apply(model)(params, pictures)
    np.testing.assert_array_equal(logits[:, 0], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("shape", [(3, 6, 8, 8, 1), (1, 6, 8, 8, 1), (8, 8, 1)])
def test_another_number_of_pictures_is_refused(shape):
    with pytest.raises(ValueError, match=r"Expected images \[M=2, B, height, width, channels\] or \[B, \.\.\.\], got"):
        jax.eval_shape(PAIR.apply, {"params": mimo_params()}, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    "fields", [{"num_classes": 0}, {"pool": "none"}, {"batch_ensemble": configs.BatchEnsembleConfig((0,), 2)}]
)
def test_mimo_of_another_model_than_a_plain_vit_is_refused(fields):
    model = ensembles.Mimo(TINY.replace(**fields), 2)
    with pytest.raises(ValueError, match="made of a plain ViT"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


# ---------------------------------------------------------------------------------------------- MIMO, training


def numbered(size):
    """A batch in which picture i shows the number i and has the label 10 * i."""
    numbers = np.arange(size)
    return {"image": np.tile(numbers[:, None, None, None], (1, 2, 2, 1)).astype(np.float32), "label": 10 * numbers}


def dealt(size, m, seed=0, **fields):
    """Who reads which picture where, int[M, R * B]; on the way, that pictures and labels stay together."""
    batch = ensembles.mimo_batch(numbered(size), jax.random.key(seed), m, **fields)
    total = fields.get("repetitions", 1) * size
    assert batch["image"].shape == (m, total, 2, 2, 1) and batch["label"].shape == (m, total)
    numbers = np.asarray(batch["image"])[..., 0, 0, 0].astype(int)
    np.testing.assert_array_equal(
        np.asarray(batch["image"]), np.broadcast_to(numbers[..., None, None, None], batch["image"].shape)
    )
    np.testing.assert_array_equal(batch["label"], 10 * numbers)
    return numbers


@pytest.mark.parametrize("repetitions", [1, 3])
@pytest.mark.parametrize("same", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("m", [1, 3])
def test_every_member_reads_every_picture_as_often(m, same, repetitions):
    numbers = dealt(5, m, repetitions=repetitions, same=same)
    for row in numbers:
        np.testing.assert_array_equal(np.sort(row), np.repeat(np.arange(5), repetitions))
    equal = np.all(numbers == numbers[:1], axis=0).sum()
    assert equal >= 5 * repetitions - round((1 - same) * 5 * repetitions)
    if same == 1.0 or m == 1:
        assert equal == 5 * repetitions


@pytest.mark.parametrize("repetitions", [1, 2])
@pytest.mark.parametrize("same", [0.0, 0.25, 0.9])
def test_members_read_the_same_picture_at_the_share_of_places_asked_for(same, repetitions):
    # Besides these, two independent orders agree by chance at as many places as there are copies of a picture, on
    # average (Poisson): with two copies at 15 or more with a probability of 1e-8.
    numbers = dealt(200, 3, same=same, repetitions=repetitions)
    shared = round(200 * repetitions * same)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert shared <= (numbers[a] == numbers[b]).sum() < shared + 15


def test_members_are_independent_where_they_are_not_the_same():
    # Fixed points of a random order of 4: mean 1, variance 1. Over 500 keys, within 4 standard errors; every place
    # alike, with probability 1/4.
    keys = jax.random.split(jax.random.key(0), 500)
    deal = jax.jit(jax.vmap(lambda key: ensembles.mimo_batch({"label": jnp.arange(4)}, key, 2)["label"]))
    labels = np.asarray(deal(keys))
    equal = labels[:, 0] == labels[:, 1]
    assert abs(equal.sum(axis=1).mean() - 1.0) < 4 / np.sqrt(500)
    assert np.all(np.abs(equal.mean(axis=0) - 1 / 4) < 4 * np.sqrt(3 / 16 / 500))
    for m in (0, 1):  # and each one's order is uniform: a picture is at each place a quarter of the time
        share = np.stack([(labels[:, m] == i).mean(axis=0) for i in range(4)])
        assert np.all(np.abs(share - 1 / 4) < 4 * np.sqrt(3 / 16 / 500))


def test_the_key_decides_the_deal():
    np.testing.assert_array_equal(dealt(50, 2, seed=0, same=0.5), dealt(50, 2, seed=0, same=0.5))
    assert not np.array_equal(dealt(50, 2, seed=0, same=0.5), dealt(50, 2, seed=1, same=0.5))


@pytest.mark.parametrize("same", [-0.1, 1.1, np.nan])
def test_a_share_outside_0_to_1_is_refused(same):
    with pytest.raises(ValueError, match=r"same is .*; it is a share in \[0, 1\]"):
        ensembles.mimo_batch(numbered(4), jax.random.key(0), 2, same=same)


def test_no_repetition_is_refused():
    with pytest.raises(ValueError, match="repetitions is 0; a batch holds each picture at least once"):
        ensembles.mimo_batch(numbered(4), jax.random.key(0), 2, repetitions=0)


def test_the_loss_of_one_member_is_that_of_its_vit():
    # Every picture twice and in another order, and the loss is a mean.
    params = random_params(TINY)
    want = jax.jit(train.classification_loss(ViT(TINY)))(params, BATCH, jax.random.key(0))
    loss_fn = ensembles.mimo_loss(ensembles.Mimo(TINY, 1), repetitions=2)
    assert_trees_close(jax.jit(loss_fn)({"ViT": params}, BATCH, jax.random.key(1)), want, rtol=1e-5)


def test_the_loss_of_members_that_read_the_same_is_their_mean_loss():
    params = mimo_params()
    logits, _ = mimo_apply(PAIR)(params, IMAGES)
    loss_fn = ensembles.mimo_loss(PAIR, same=1.0)
    loss, measured = jax.jit(loss_fn)(params, BATCH, jax.random.key(0))
    assert float(loss) == pytest.approx(loss_of(logits, BATCH["label"])[0], rel=1e-5)
    assert float(measured["accuracy"]) == pytest.approx(loss_of(logits, BATCH["label"])[1])


def test_mimo_learns_a_batch_by_heart():
    """Every member its own half of what is shown: in a test, where all see the same picture, all know it."""
    tx = optim.assemble(optax.scale_by_adam(), 1e-2, clip_norm=1.0)
    step = train.make_step(ensembles.mimo_loss(PAIR, repetitions=2, same=0.5), tx)
    params = mimo_params()
    params["ViT"]["head"] = jax.tree.map(np.zeros_like, params["ViT"]["head"])
    state, history = train.fit(step, train.init_state(params, tx), iter([BATCH] * 200), 200)
    assert history["loss"].shape == (200,)
    assert history["loss"][0] == pytest.approx(np.log(3), rel=1e-5)  # the zero head
    assert history["loss"][-10:].mean() < 0.5 * np.log(3)
    logits = train.predict(PAIR, state.params, IMAGES, batch_size=4)
    assert np.mean(logits.argmax(axis=-1) == BATCH["label"][None]) > 0.8


def test_mimo_trains_with_the_recipe_and_with_experts():
    """Initial parameters are those of a Mimo; a V-MoE inside adds its auxiliary loss."""
    config = TINY.replace(moe=MOE, moe_blocks=(0,))
    model = ensembles.Mimo(config, 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[:1])["params"]
    loss_fn = ensembles.mimo_loss(model, repetitions=2)
    loss, measured = jax.eval_shape(loss_fn, shapes, BATCH, jax.random.key(0))
    assert loss.shape == () and set(measured) == {"accuracy", "auxiliary_loss", "dropped", "unprocessed", "load"}
