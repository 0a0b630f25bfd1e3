import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from trees import random_params

from kitlib import configs, data
from kitlib.ensembles import methods, uncertainty
from kitlib.ensembles.methods import Mimo, mimo_batch, mimo_loss, predict_members, stack, unstack
from kitlib.models import checkpoint
from kitlib.models.vit import ViT
from kitlib.training import classification, loop, optim

TINY, IMAGES, MOE = zoo.SMALL.replace(depth=1), zoo.SMALL_IMAGES, zoo.AMPLE
RNG = np.random.default_rng(0)
SOURCE = data.from_arrays(
    RNG.integers(256, size=(16, 8, 8, 1)).astype(np.uint8), np.arange(16) % 3, name="noise", class_names="abc"
)


def test_stack_and_unstack_are_inverses():
    trees = [{"a": np.full((2, 3), m), "b": {"c": np.array(10 * m)}} for m in range(3)]
    stacked = stack(trees)
    assert stacked["a"].shape == (3, 2, 3) and stacked["b"]["c"].shape == (3,)
    again = unstack(stacked)
    jax.tree.map(np.testing.assert_array_equal, again, trees)
    jax.tree.map(np.testing.assert_array_equal, stack(again), stacked)


RECIPE = {"num_steps": 4, "batch_size": 8, "warmup": 1, "peak": 1e-3}
# Dropout, router noise, auxiliary losses: everything that could depend on being trained together.
EVERYTHING = ViT(TINY.replace(dropout=0.2, moe=MOE, moe_blocks=(0,)))
SEEDS = (3, 0)


@functools.cache
def trained_together():
    return jax.device_get(methods.train_deep_ensemble(EVERYTHING, SOURCE, SEEDS, **RECIPE))


@pytest.mark.slow
def test_members_trained_as_one_program_are_those_trained_one_by_one():
    """The same initial parameters, images, dropout and router noise; sums have another order, so bits may differ."""
    params, history = trained_together()
    for m, seed in enumerate(SEEDS):
        alone, alone_history = jax.device_get(classification.train_classifier(EVERYTHING, SOURCE, seed=seed, **RECIPE))
        for name, values in history.items():
            np.testing.assert_allclose(values[m], alone_history[name], rtol=1e-3, atol=1e-5, err_msg=name)
        member = unstack(params)[m]
        # Adam turns a gradient that is only rounding error (of the keys' biases) into a step: 1e-3 at most, four times,
        # on either side. The others agree much better, and so do the predictions.
        largest = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), member, alone))
        assert np.max(largest) < 8e-3 and np.median(largest) < 1e-5
        logits = [classification.predict(EVERYTHING, p, IMAGES, batch_size=6) for p in (member, alone)]
        np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-4)
    assert {name: values.shape for name, values in history.items()} == {
        **dict.fromkeys(("loss", "grad_norm", "accuracy", "auxiliary_loss"), (2, 4)),  # members, steps
        **dict.fromkeys(("dropped", "unprocessed", "busiest"), (2, 4, 1)),  # routers
        "load": (2, 4, 1, 4),  # experts
    }
    np.testing.assert_allclose((history["loss"] - history["auxiliary_loss"])[:, 0], np.log(3), rtol=1e-5)  # zero heads
    assert history["loss"][0, -1] != history["loss"][1, -1]


def test_predictions_are_of_every_member_in_order():
    model, first, second = ViT(TINY), random_params(TINY, 0), random_params(TINY, 1)
    logits = predict_members(model, [first, second], IMAGES, batch_size=6)
    assert logits.shape == (2, 6, 3) and logits.dtype == np.float32
    for m, member in enumerate((first, second)):
        np.testing.assert_array_equal(logits[m], classification.predict(model, member, IMAGES, batch_size=6))
    assert np.abs(logits[0] - logits[1]).max() > 0.1


@pytest.mark.slow
def test_an_ensemble_of_ensembles_has_all_members_on_one_axis():
    """M = 2 training runs of M' = 2 members: the members of the first, then those of the second."""
    config = TINY.replace(batch_ensemble=configs.BatchEnsembleConfig((0,), 2))
    model, members = ViT(config), [random_params(config, seed) for seed in (0, 1)]
    logits = predict_members(model, members, IMAGES, batch_size=6)
    assert logits.shape == (4, 6, 3)
    for m, member in enumerate(members):
        alone = classification.predict(model, member, IMAGES, batch_size=6)
        np.testing.assert_array_equal(logits[2 * m : 2 * m + 2], alone)


def test_an_ensemble_without_members_is_refused():
    with pytest.raises(ValueError, match="at least one member, got no parameters"):
        predict_members(ViT(TINY), [], IMAGES)
    with pytest.raises(ValueError, match="at least one member, got no seeds"):
        methods.train_deep_ensemble(ViT(TINY), SOURCE, seeds=())


@functools.cache
def falling():
    """(optimiser, step for M members): the loss is p^2 plus the poison in a member's batch."""

    def loss_fn(params, batch, key):
        return params["p"] ** 2 + batch["poison"], {}

    tx = optim.assemble(optax.identity(), 0.25)
    return tx, jax.jit(jax.vmap(loop.make_step(loss_fn, tx)), donate_argnums=0)


def stacked_state(*values):
    tx, _ = falling()
    return stack([loop.init_state({"p": jnp.float32(p)}, tx, seed=m) for m, p in enumerate(values)])


class Batches:
    """Poison for one member at one step; otherwise none. It can be saved, as Grain's iterators can."""

    def __init__(self, member=0, step=-1, bad=0.0):
        self.poison, self.t = {step: np.where(np.arange(3) == member, bad, 0.0)}, 0

    def __next__(self):
        self.t += 1
        return {"poison": np.float32(self.poison.get(self.t - 1, np.zeros(3)))}

    def get_state(self):
        return {"t": self.t}

    def set_state(self, state):
        self.t = state["t"]


def test_fit_takes_the_states_of_several_members():
    # Gradient 2 p and rate 1/4: p is halved in every step.
    state, history = loop.fit(falling()[1], stacked_state(1.0, 2.0, 4.0), Batches(), 3, check_every=2)
    np.testing.assert_array_equal(state.params["p"], [1 / 8, 2 / 8, 4 / 8])
    np.testing.assert_array_equal(history["loss"], [[1, 4, 16], [1 / 4, 1, 4], [1 / 16, 1 / 4, 1]])
    np.testing.assert_array_equal(state.step, [3, 3, 3])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("member", [0, 2])
def test_a_bad_loss_of_any_member_stops_the_run_and_names_the_step(member, bad):
    with pytest.raises(loop.NonFiniteLoss, match=r"at step 5 \(none saved\)"):
        loop.fit(falling()[1], stacked_state(1.0, 2.0, 4.0), Batches(member, 5, bad), 20, check_every=4)


def test_interrupted_members_continue_where_they_were(tmp_path):
    _, step = falling()
    loop.fit(step, stacked_state(1.0, 2.0, 4.0), Batches(), 2, checkpoint_dir=tmp_path / "run")
    resumed = loop.fit(step, stacked_state(9, 9, 9), Batches(), 4, checkpoint_dir=tmp_path / "run")
    both = resumed, loop.fit(step, stacked_state(1.0, 2.0, 4.0), Batches(), 4)
    parts = [(s.params["p"], s.step, h["loss"], jax.random.key_data(s.key)) for s, h in both]
    jax.tree.map(np.testing.assert_array_equal, *parts)


# -------------------------------------------------------------------------------------------------- Monte Carlo dropout


DROPOUT = TINY.replace(dropout=0.5)


def mc(config, params, images=IMAGES, num_samples=3, **fields):
    return methods.mc_dropout(ViT(config), params, images, num_samples, **{"batch_size": 6} | fields)


@pytest.mark.slow
def test_dropout_samples_differ_and_the_seed_decides():
    params = random_params(DROPOUT)
    samples = mc(DROPOUT, params)
    assert samples.shape == (3, 6, 3) and samples.dtype == np.float32
    for a, b in itertools.combinations(samples, 2):
        assert np.all(np.abs(a - b).max(axis=-1) > 1e-3)
    np.testing.assert_array_equal(mc(DROPOUT, params), samples)
    np.testing.assert_array_equal(mc(DROPOUT, params, num_samples=2), samples[:2])
    assert np.all(np.abs(mc(DROPOUT, params, seed=1) - samples).max(axis=-1) > 1e-3)
    # The padding of the last batch changes nothing.
    whole = mc(DROPOUT, params, np.concatenate([IMAGES, IMAGES]))
    for n in (1, 6, 7, 11):
        some = mc(DROPOUT, params, np.concatenate([IMAGES, IMAGES])[:n])
        np.testing.assert_allclose(some, whole[:, :n], rtol=1e-5, atol=1e-5, strict=True)


def test_every_image_has_its_own_mask():
    samples = mc(DROPOUT, random_params(DROPOUT), np.repeat(IMAGES[:1], 12, axis=0), num_samples=1)[0]
    for a, b in itertools.combinations(samples, 2):  # two batches of six
        assert np.abs(a - b).max() > 1e-4


RATE = 0.25
COIN = TINY.replace(width=2, num_heads=1, mlp_dim=1, dropout=RATE)


def coin_params():
    """A ViT that throws a coin. All is zero up to the MLP, which adds its last bias (1, 0) to the class token.

    Dropout acts on the branch: (1, 0) / keep with probability keep, else (0, 0). The last LayerNorm turns these into
    (1, -1) and (0, 0), whatever the size. With rows (2, 0, -4) and (0, 0, 0), the head gives the logits
    (1, 2, 3) + (2, 0, -4) or (1, 2, 3).
    """
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), checkpoint.expected_shapes(COIN))
    params["Transformer"]["encoderblock_0"]["MlpBlock_0"]["Dense_1"]["bias"] = np.float32([1, 0])
    params["Transformer"]["encoder_norm"]["scale"] = np.ones(2, np.float32)
    params["head"] = {"kernel": np.float32([[2, 0, -4], [0, 0, 0]]), "bias": np.float32([1, 2, 3])}
    return params


@pytest.mark.slow
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
    certain = classification.predict(ViT(COIN), coin_params(), IMAGES, batch_size=6)
    np.testing.assert_allclose(certain, np.tile([3.0, 2.0, -1.0], (6, 1)), atol=1e-4)
    # Images and samples are independent: neighbours agree as often as two coins do, keep^2 + (1 - keep)^2.
    agree = keep**2 + (1 - keep) ** 2
    for a, b in ((heads[1:], heads[:-1]), (heads[6:], heads[:-6])):
        assert abs((a == b).mean() - agree) < 4 * np.sqrt(agree * (1 - agree) / len(a))


@pytest.mark.slow
def test_router_noise_and_stochastic_depth_are_off():
    """Experts with dropout at a rate so low that no unit is dropped: only noise could make a difference."""
    moe = MOE.replace(num_experts=2, expert_dropout=1e-9, noise_std=100.0)
    config = TINY.replace(moe=moe, moe_blocks=(0,), drop_path=0.5)
    params, model = random_params(config), ViT(config)
    samples = mc(config, params)
    certain = classification.predict(model, params, IMAGES, batch_size=6)
    np.testing.assert_allclose(samples, np.tile(certain, (3, 1, 1)), atol=1e-4)
    # The dropout of experts is sampled alike with and without router noise.
    noisy = TINY.replace(moe=MOE.replace(num_experts=2, expert_dropout=0.5), moe_blocks=(0,))
    quiet = noisy.replace(moe=noisy.moe.replace(noise_std=0.0, load_weight=0.0))
    params = random_params(noisy)
    samples = mc(noisy, params)
    assert np.abs(samples[0] - samples[1]).max() > 1e-3
    np.testing.assert_array_equal(mc(quiet, params), samples)


def test_what_has_no_dropout_is_refused():
    for fields in ({"drop_path": 0.5}, {"moe": MOE, "moe_blocks": (0,)}):
        with pytest.raises(ValueError, match="trained with dropout"):
            mc(TINY.replace(**fields), {})
    with pytest.raises(TypeError, match="for a ViT, got Mimo"):
        methods.mc_dropout(Mimo(TINY.replace(dropout=0.1), 2), {}, IMAGES, 2)


@pytest.mark.slow
def test_each_sample_of_an_e3_has_all_its_members():
    """Samples are the outer axis, members the inner one. Member 0's experts push one channel down, member 1's up."""
    config = TINY.replace(moe=MOE.replace(expert_dropout=0.5), moe_blocks=(0,), e3=configs.E3Config(2))
    params = random_params(config)
    params["Transformer"]["encoderblock_0"]["Moe"]["Mlp"]["Dense_1"]["bias"][:, 0] = [-100, -100, 100, 100]
    params["Transformer"]["encoder_norm"] = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    params["head"]["kernel"][0] = 10.0
    samples = mc(config, params, IMAGES[:5], batch_size=3)
    assert samples.shape == (6, 5, 3)
    assert np.all(samples[::2] < 0) and np.all(samples[1::2] > 0)
    for a, b in itertools.combinations(samples, 2):
        assert np.abs(a - b).max() > 1e-4


# ----------------------------------------------------------------------------------------------------------------- MIMO


BATCH = {"image": IMAGES, "label": np.array([0, 1, 2, 1, 0, 2])}

PAIR = Mimo(TINY, 2)


def mimo_params(config=TINY, m=2):
    """Random parameters of the wide ViT that a Mimo is."""
    return {"ViT": random_params(config.replace(channels=m * config.channels, num_classes=m * config.num_classes))}


def test_mimo_of_one_is_the_vit():
    params, model = random_params(TINY), Mimo(TINY, 1)
    want = classification.predict(ViT(TINY), params, IMAGES, batch_size=6)
    logits, out = zoo.applied(model)({"ViT": params}, IMAGES)
    for got in (logits, out["logits"]):
        np.testing.assert_array_equal(got, want[None])
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    assert jax.tree.map(lambda s: s.shape, shapes) == {"ViT": jax.tree.map(lambda p: p.shape, params)}


def test_mimo_has_the_parameters_of_a_vit_with_wider_ends():
    # M images of one channel in, M times V logits out: only the first kernel and the head grow.
    shapes = jax.eval_shape(PAIR.init, jax.random.key(0), IMAGES)["params"]["ViT"]
    assert shapes["embedding"]["kernel"].shape == (4, 4, 2, 8)
    assert shapes["head"]["kernel"].shape == (8, 6) and shapes["head"]["bias"].shape == (6,)
    wide, plain = (sum(s.size for s in jax.tree.leaves(t)) for t in (shapes, checkpoint.expected_shapes(TINY)))
    assert wide - plain == 4 * 4 * 8 + 8 * 3 + 3


@pytest.mark.slow
def test_in_testing_all_members_read_the_same_images():
    params = mimo_params()
    logits, _ = zoo.applied(PAIR)(params, IMAGES)
    assert logits.shape == (2, 6, 3) and logits.dtype == jnp.float32
    np.testing.assert_array_equal(zoo.applied(PAIR)(params, np.stack([IMAGES] * 2))[0], logits)
    predicted = classification.predict(PAIR, params, IMAGES, batch_size=4)  # padded
    np.testing.assert_allclose(predicted, logits, rtol=1e-4, atol=1e-4)
    ensemble = predict_members(PAIR, [params, params], IMAGES, batch_size=4)
    np.testing.assert_array_equal(ensemble, np.concatenate([predicted, predicted]))


def test_image_i_of_one_member_changes_prediction_i_of_all_members_only():
    params = mimo_params()
    pictures = np.stack([IMAGES, IMAGES[::-1]])
    before, _ = zoo.applied(PAIR)(params, pictures)
    for m in (0, 1):
        changed = pictures.copy()
        changed[m, 2] = 0.0
        after, _ = zoo.applied(PAIR)(params, changed)
        difference = np.abs(after - before).max(axis=-1)
        assert np.all(difference[:, 2] > 1e-3) and np.all(difference[:, [0, 1, 3, 4, 5]] < 1e-5)


@pytest.mark.slow
def test_images_lie_side_by_side_in_the_channels_and_classes_in_the_head():
    # Two channels per image: channels 0-1 of the wide image are member 0's, 2-3 member 1's. With zero weights for 2-3,
    # member 1's image has no effect. The head is member 0's classes, then member 1's.
    config = TINY.replace(channels=2)
    model, params = Mimo(config, 2), mimo_params(config)
    pictures = np.random.default_rng(2).uniform(-1, 1, (2, 6, 8, 8, 2)).astype(np.float32)
    params["ViT"]["embedding"]["kernel"][:, :, 2:] = 0.0
    full, _ = zoo.applied(model)(params, pictures)
    for m, seen in ((0, True), (1, False)):
        changed = pictures.copy()
        changed[m] = 0.0
        assert np.array_equal(zoo.applied(model)(params, changed)[0], full) != seen
    params["ViT"]["head"] = {"kernel": np.zeros((8, 6), np.float32), "bias": np.arange(6, dtype=np.float32)}
    logits, _ = zoo.applied(model)(params, pictures)
    np.testing.assert_array_equal(logits[:, 0], [[0, 1, 2], [3, 4, 5]])


def test_other_images_and_other_models_than_a_plain_vit_are_refused():
    for shape in ((3, 6, 8, 8, 1), (8, 8, 1)):
        with pytest.raises(ValueError, match=r"Expected images \[M=2"):
            jax.eval_shape(PAIR.apply, {"params": mimo_params()}, jax.ShapeDtypeStruct(shape, jnp.float32))
    members = configs.BatchEnsembleConfig((0,), 2)
    for fields in ({"num_classes": 0}, {"pool": "none"}, {"batch_ensemble": members}):
        with pytest.raises(ValueError, match="plain ViT"):
            jax.eval_shape(Mimo(TINY.replace(**fields), 2).init, jax.random.key(0), IMAGES)


def dealt(size, m, **fields):
    """The index of the image that each member reads at each position, int[M, R * B]; checks the labels as well."""
    # All pixels of image i are i and its label is 10 * i.
    images = np.tile(np.arange(size)[:, None, None, None], (1, 2, 2, 1))
    batch = mimo_batch({"image": images, "label": 10 * np.arange(size)}, jax.random.key(0), m, **fields)
    images, labels = np.asarray(batch["image"]), np.asarray(batch["label"])
    assert images.shape == (m, fields.get("repetitions", 1) * size, 2, 2, 1) and labels.shape == images.shape[:2]
    assert np.all(10 * images == labels[..., None, None, None])
    return images[..., 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("repetitions", [1, 3])
@pytest.mark.parametrize("same", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("m", [1, 3])
def test_every_member_reads_every_image_equally_often(m, same, repetitions):
    numbers = dealt(5, m, repetitions=repetitions, same=same)
    for row in numbers:
        np.testing.assert_array_equal(np.sort(row), np.repeat(np.arange(5), repetitions))
    equal = np.all(numbers == numbers[:1], axis=0).sum()
    assert equal >= 5 * repetitions - round((1 - same) * 5 * repetitions)
    if same == 1.0 or m == 1:
        assert equal == 5 * repetitions


@pytest.mark.slow
@pytest.mark.parametrize("repetitions", [1, 2])
@pytest.mark.parametrize("same", [0.0, 0.25, 0.9])
def test_members_read_the_same_image_at_the_given_share_of_positions(same, repetitions):
    # In addition, two independent orders agree by chance at as many positions as there are copies of an image, on
    # average (Poisson): with two copies, at 15 or more with a probability of 1e-8.
    numbers = dealt(200, 3, same=same, repetitions=repetitions)
    shared = round(200 * repetitions * same)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert shared <= (numbers[a] == numbers[b]).sum() < shared + 15


@pytest.mark.slow
def test_members_are_independent_where_they_are_not_the_same():
    # Fixed points of a random order of 4: mean 1, variance 1. Over 500 keys, within 4 standard errors; at every
    # position with probability 1/4.
    keys = jax.random.split(jax.random.key(0), 500)
    deal = jax.jit(jax.vmap(lambda key: mimo_batch({"label": jnp.arange(4)}, key, 2)["label"]))
    labels = np.asarray(deal(keys))
    equal = labels[:, 0] == labels[:, 1]
    assert abs(equal.sum(axis=1).mean() - 1.0) < 4 / np.sqrt(500)
    assert np.all(np.abs(equal.mean(axis=0) - 1 / 4) < 4 * np.sqrt(3 / 16 / 500))
    for m in (0, 1):  # and each member's order is uniform: an image is at each position with probability 1/4
        share = np.stack([(labels[:, m] == i).mean(axis=0) for i in range(4)])
        assert np.all(np.abs(share - 1 / 4) < 4 * np.sqrt(3 / 16 / 500))
    np.testing.assert_array_equal(dealt(50, 2, same=0.5), dealt(50, 2, same=0.5))  # by the key alone


@pytest.mark.slow
def test_the_loss_of_one_member_is_that_of_its_vit():
    # Every image occurs twice and in another order, but the loss is a mean.
    params = random_params(TINY)
    want = jax.jit(classification.classification_loss(ViT(TINY)))(params, BATCH, jax.random.key(0))
    got = jax.jit(mimo_loss(Mimo(TINY, 1), repetitions=2))({"ViT": params}, BATCH, jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)
    # Of members that read the same images it is their mean loss.
    params = mimo_params()
    logits, _ = zoo.applied(PAIR)(params, IMAGES)
    loss, measured = jax.jit(mimo_loss(PAIR, same=1.0))(params, BATCH, jax.random.key(0))
    assert float(loss) == pytest.approx(uncertainty.members_nll(logits, BATCH["label"]), rel=1e-5)
    assert float(measured["accuracy"]) == pytest.approx(np.mean(logits.argmax(axis=-1) == BATCH["label"][None]))


def test_mimo_trains_with_the_recipe_and_with_experts():
    """Initial parameters are those of a Mimo; a V-MoE inside adds its auxiliary loss."""
    config = TINY.replace(moe=MOE, moe_blocks=(0,))
    model = Mimo(config, 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[:1])["params"]
    loss, measured = jax.eval_shape(mimo_loss(model, repetitions=2), shapes, BATCH, jax.random.key(0))
    names = {"accuracy", "auxiliary_loss", "dropped", "unprocessed", "load", "busiest"}
    assert loss.shape == () and set(measured) == names
