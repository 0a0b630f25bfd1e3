import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kitlib import configs, data, optim, pipeline, train
from kitlib.vit import ViT

TINY = configs.vit("tiny/14", image_size=(28, 28), channels=1, num_classes=10)
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.uniform(-1, 1, (8, 28, 28, 1)).astype(np.float32),
    "label": RNG.integers(10, size=8).astype(np.int32),
}


@functools.cache
def initialised(config):
    return train.init_params(ViT(config), (1, *config.image_size, config.channels))


def fresh(config=TINY):
    """The model and a tree of parameters that a test may change; drawn once a config, which is what takes time."""
    return ViT(config), jax.tree.map(lambda x: x, initialised(config))


@functools.cache
def adam_step():
    """(optimiser, step) of TINY, compiled once for the tests that need any step."""
    tx = optim.assemble(optax.scale_by_adam(), 3e-3, clip_norm=1.0)
    return tx, train.make_step(train.classification_loss(ViT(TINY)), tx)


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def some_batches(num_epochs=None):
    return pipeline.batches(data.load("fashion_mnist")[:64], 16, num_epochs=num_epochs, augment="crop_flip")


# ---------------------------------------------------------------------------------------------- losses


class Echo:
    """A 'model' whose logits are its images: what the loss does with logits can be worked out by hand."""

    def apply(self, variables, images, train, rngs):
        return images * variables["params"], None


def test_losses_by_hand():
    # Logits ln 3 and 0: probabilities 3/4, 1/4. Sigmoids: 3/4 for class 0 and 1/2 for class 1.
    batch = {"image": jnp.array([[np.log(3), 0.0], [np.log(3), 0.0]]), "label": jnp.array([0, 1])}
    key = jax.random.key(0)
    loss, metrics = train.classification_loss(Echo())(jnp.ones(()), batch, key)
    assert float(loss) == pytest.approx(-(np.log(3 / 4) + np.log(1 / 4)) / 2)
    assert float(metrics["accuracy"]) == 0.5
    loss, _ = train.classification_loss(Echo(), sigmoid=True)(jnp.ones(()), batch, key)
    right, wrong = np.log(3 / 4) + np.log(1 / 2), np.log(1 / 4) + np.log(1 / 2)
    assert float(loss) == pytest.approx(-(right + wrong) / 2)


def test_mixup_mixes_images_and_targets_alike():
    # One-hot "images" as logits and labels of the same classes: with weight w >= 1/2, example i has logits w at its own
    # class and 1 - w at its neighbour's, and the same numbers as targets. The loss tells w; every key, another w.
    batch = {"image": jnp.eye(4), "label": jnp.arange(4)}
    w = np.linspace(0.5, 1, 100_001)[:, None]
    logits = np.concatenate([w, 1 - w, 0 * w, 0 * w], axis=1)
    losses = -(logits * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum(axis=1)
    loss_fn = train.classification_loss(Echo(), mixup=1.0)
    got = [float(loss_fn(jnp.ones(()), batch, jax.random.key(i))[0]) for i in range(5)]
    assert len(set(got)) == 5
    for loss in got:
        assert np.abs(losses - loss).min() < 1e-4


# ---------------------------------------------------------------------------------------------- the step


def test_step_is_the_gradient_step():
    """SGD with rate 1/2 on |p - x|^2 / 2 averaged over the batch: p moves half-way to the mean."""

    def loss_fn(params, batch, key):
        return jnp.mean((params["p"] - batch["x"]) ** 2) / 2, {}

    tx = optim.assemble(optax.identity(), 0.5)
    state = train.init_state({"p": jnp.float32(0.0)}, tx)
    state, metrics = train.make_step(loss_fn, tx)(state, {"x": jnp.array([1.0, 3.0, 8.0])})
    assert float(state.params["p"]) == 2.0
    assert float(metrics["loss"]) == pytest.approx((1 + 9 + 64) / 6)
    assert float(metrics["grad_norm"]) == 4.0
    assert int(state.step) == 1


@functools.cache
def momentum_update(accumulate):
    model, params = fresh()
    tx = optim.assemble(optax.trace(0.9), 0.1, clip_norm=1.0)
    step = train.make_step(train.classification_loss(model), tx, accumulate=accumulate)
    return step(train.init_state(params, tx), BATCH)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_is_the_whole_batch(accumulate):
    whole, m1 = momentum_update(1)
    parts, m2 = momentum_update(accumulate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, parts.params)
    for name in m1:
        assert float(m1[name]) == pytest.approx(float(m2[name]), rel=1e-5)


def test_accumulation_needs_equal_parts():
    model, params = fresh()
    tx = optim.assemble(optax.identity(), 0.1)
    step = train.make_step(train.classification_loss(model), tx, accumulate=3)
    with pytest.raises(ValueError, match="batch of 8 cannot be cut into 3 equal parts"):
        step(train.init_state(params, tx), BATCH)


def test_the_state_is_donated_but_the_callers_parameters_are_not():
    _, params = fresh()
    tx, step = adam_step()
    state = train.init_state(params, tx)
    step(state, BATCH)
    assert state.params["cls"].is_deleted()
    assert not params["cls"].is_deleted()


def test_one_compilation_for_all_steps():
    model, params = fresh()
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(0.1, 10))
    step, state = train.make_step(train.classification_loss(model), tx), train.init_state(params, tx)
    for _ in range(3):
        state, _ = step(state, BATCH)
    assert step._cache_size() == 1


def test_every_step_draws_other_numbers_and_the_seed_decides():
    config = TINY.replace(dropout=0.5)
    model, params = fresh(config)
    tx = optim.assemble(optax.identity(), 0.0)  # the parameters stand still: only dropout changes the loss
    step = train.make_step(train.classification_loss(model), tx)
    params["head"]["kernel"] = jnp.asarray(RNG.normal(size=params["head"]["kernel"].shape), jnp.float32)

    def losses(seed):
        state, got = train.init_state(params, tx, seed), []
        for _ in range(3):
            state, metrics = step(state, BATCH)
            got.append(float(metrics["loss"]))
        return got

    assert len(set(losses(0))) == 3
    assert losses(0) == losses(0) != losses(1)


def test_frozen_parameters_stay_bit_by_bit():
    model, params = fresh()
    tx = optim.assemble(optax.scale_by_adam(), 0.1, weight_decay=0.1, freeze=("embedding", "Transformer"))
    state, _ = train.make_step(train.classification_loss(model), tx)(train.init_state(params, tx), BATCH)
    for name in ("embedding", "Transformer"):
        assert_trees_equal(state.params[name], params[name])
    assert np.any(state.params["head"]["bias"] != params["head"]["bias"])


# ---------------------------------------------------------------------------------------------- the loop


def test_a_vit_learns_a_batch_by_heart():
    model, params = fresh()
    tx, step = adam_step()
    state, history = train.fit(step, train.init_state(params, tx), iter([BATCH] * 150), 150)
    assert history["loss"].shape == (150,)
    assert history["loss"][0] == pytest.approx(np.log(10), rel=1e-5)  # the zero head predicts 1/10
    assert history["loss"][-1] < 0.05
    assert np.mean(train.predict(model, state.params, BATCH["image"]).argmax(-1) == BATCH["label"]) == 1.0


def test_predict_pads_the_last_batch():
    model, params = fresh()
    params["head"]["kernel"] = jnp.asarray(RNG.normal(size=params["head"]["kernel"].shape), jnp.float32)
    whole = train.predict(model, params, BATCH["image"])
    np.testing.assert_allclose(train.predict(model, params, BATCH["image"], batch_size=3), whole, atol=1e-4)
    assert train.predict(model, params, BATCH["image"][:1]).shape == (1, 10)


def poisoned(params, batch, key):
    """A loss that is fine until the batch says otherwise."""
    return jnp.sum(params["p"] ** 2) + batch["poison"][0], {}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("save_every", [0, 2])
def test_a_bad_loss_stops_the_run_and_names_the_step(tmp_path, bad, save_every):
    class Batches:
        """Poison in the batch of step 5; the state of a Grain iterator."""

        t = -1

        def __next__(self):
            self.t += 1
            return {"poison": np.float32([bad if self.t == 5 else 0.0])}

        def get_state(self):
            return {"t": self.t}

        def set_state(self, state):
            self.t = state["t"]

    tx = optim.assemble(optax.identity(), 0.1)
    step, state = train.make_step(poisoned, tx), train.init_state({"p": jnp.ones(2)}, tx)
    folder = {"checkpoint_dir": tmp_path / "run", "save_every": 2} if save_every else {}
    kept = "the last good checkpoint is step 4" if save_every else "none saved"
    with pytest.raises(train.NonFiniteLoss, match=rf"at step 5 \({kept}\)"):
        train.fit(step, state, Batches(), 100, **folder)
    if save_every:  # and from there the run can go on, with a smaller rate say; here the data are healthy
        healthy = Batches()
        healthy.set_state = lambda saved: setattr(healthy, "t", 100)
        state, history = train.fit(step, train.init_state({"p": jnp.ones(2)}, tx), healthy, 8, **folder)
        assert int(state.step) == 8
        assert np.all(np.isfinite(history["loss"]))
        assert history["loss"].shape == (8,)


def test_data_that_end_too_early():
    tx = optim.assemble(optax.identity(), 0.1)
    step = train.make_step(lambda params, batch, key: (jnp.sum(params["p"] ** 2), {}), tx)
    with pytest.raises(ValueError, match="ended at step 4 of 10; let it repeat"):
        train.fit(step, train.init_state({"p": jnp.ones(2)}, tx), some_batches(num_epochs=1), 10)


def test_fit_images_is_decided_by_its_seed():
    source = data.load("fashion_mnist")[:32]
    model = ViT(TINY.replace(dropout=0.1))

    def run(seed):
        return train.fit_images(model, source, seed=seed, num_steps=4, batch_size=16, warmup=1)

    (params, history), (again, history_again), (_, other) = run(0), run(0), run(1)
    assert_trees_equal((params, history), (again, history_again))
    assert history["loss"][0] == other["loss"][0]  # the zero head
    assert history["loss"][-1] != other["loss"][-1]


# ---------------------------------------------------------------------------------------------- resuming


@functools.cache
def small_step():
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(1e-2, 12, warmup=2), weight_decay=0.1, clip_norm=1.0)
    model = ViT(TINY.replace(dropout=0.1))
    return tx, train.make_step(train.classification_loss(model, mixup=0.2), tx)


def small_run(folder, num_steps=12, save_every=3):
    """Deterministic, with dropout, augmentation and shuffling, so that every kind of state matters.

    Within one process every run uses one compiled step; the killed processes compile their own.
    """
    _, params = fresh(TINY.replace(dropout=0.1))
    tx, step = small_step()
    folder = {"checkpoint_dir": folder, "save_every": save_every} if folder else {}
    return train.fit(step, train.init_state(params, tx), some_batches(), num_steps, **folder)


@functools.cache
def uninterrupted():
    return small_run(None)


def test_stopped_and_resumed_is_bitwise_the_same(tmp_path):
    state, history = uninterrupted()
    small_run(tmp_path / "run", num_steps=7)
    resumed, whole_history = small_run(tmp_path / "run")
    assert_trees_equal((state.params, state.opt_state), (resumed.params, resumed.opt_state))
    assert_trees_equal(history, whole_history)
    # A finished run is returned as it is.
    again, _ = small_run(tmp_path / "run")
    assert_trees_equal(state.params, again.params)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_train
print("started", flush=True)
test_train.small_run({folder!r}, num_steps=12, save_every=1)
print("finished", flush=True)
"""


def start(folder):
    """The process and the file of its errors: nobody reads while it runs, and a full pipe would stop it for good."""
    script = SCRIPT.format(tests=str(pathlib.Path(__file__).parent), folder=str(folder))
    errors = folder.with_name("errors.txt")
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=file, text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
    return process, errors


def test_killed_at_several_moments_is_bitwise_the_same(tmp_path):
    """kill -9 while it compiles, in the middle of a save (as soon as a temporary folder appears), and between saves."""
    state, history = uninterrupted()
    folder = tmp_path / "run"
    moments = (
        lambda: True,  # at once after the start
        lambda: any(".orbax-checkpoint-tmp" in p.name for p in folder.glob("*")),  # while writing
        lambda: (folder / "4").is_dir(),
        lambda: any(".orbax-checkpoint-tmp" in p.name for p in folder.glob("*")),
        lambda: (folder / "9").is_dir(),
    )
    killed = 0
    for moment in moments:
        process, errors = start(folder)
        assert process.stdout.readline() == "started\n", errors.read_text()
        while process.poll() is None and not moment():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert killed >= 4  # the last ones may come too late: a run that finished is a run that was not killed
    resumed, whole_history = small_run(folder, save_every=1)
    assert_trees_equal(history, whole_history)
    assert_trees_equal((state.params, state.opt_state), (resumed.params, resumed.opt_state))


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    small_run(tmp_path / "run", num_steps=3)
    for file in (tmp_path / "run" / "3" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"checkpoint of step 3 in .*run cannot be read"):
        small_run(tmp_path / "run")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    small_run(tmp_path / "run", num_steps=3)
    model, params = fresh(TINY.replace(depth=3))
    tx = optim.assemble(optax.scale_by_adam(), 1e-3)
    step = train.make_step(train.classification_loss(model), tx)
    with pytest.raises(ValueError, match="is of another model or optimiser"):
        train.fit(step, train.init_state(params, tx), some_batches(), 12, checkpoint_dir=tmp_path / "run")


def test_a_run_beyond_its_end_is_refused(tmp_path):
    small_run(tmp_path / "run", num_steps=6)
    with pytest.raises(ValueError, match="already at step 6, beyond the 3 asked for"):
        small_run(tmp_path / "run", num_steps=3)


def test_save_every_needs_a_place():
    tx = optim.assemble(optax.identity(), 0.1)
    with pytest.raises(ValueError, match="needs a checkpoint_dir"):
        train.fit(lambda *_: None, train.init_state({}, tx), iter([]), 1, save_every=1)


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model, params = fresh()
    tx = optim.assemble(optax.identity(), 0.1)
    with pytest.raises(OSError, match=r"Cannot write checkpoints to .*file.*choose another folder"):
        train.fit(
            train.make_step(train.classification_loss(model), tx), train.init_state(params, tx), some_batches(), 2,
            checkpoint_dir=tmp_path / "file" / "run",
        )  # fmt: skip
