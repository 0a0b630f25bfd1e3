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

from kitlib import configs, data
from kitlib.data import image_batches
from kitlib.models.vit import ViT
from kitlib.training import checkpoints, classification, loop, optim

TINY = configs.vit("tiny/14", image_size=(28, 28), channels=1, num_classes=10)
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.uniform(-1, 1, (8, 28, 28, 1)).astype(np.float32),
    "label": RNG.integers(10, size=8).astype(np.int32),
}


@functools.cache
def initialised(config):
    return classification.init_params(ViT(config), (1, *config.image_size, config.channels))


def fresh(config=TINY):
    """The model and a tree of parameters that a test may change; drawn only once per config, which takes time."""
    return ViT(config), jax.tree.map(lambda x: x, initialised(config))


@functools.cache
def adam_step():
    """(optimiser, step) of TINY, compiled once for all tests for which any optimiser is enough."""
    tx = optim.assemble(optax.scale_by_adam(), 3e-3, clip_norm=1.0)
    return tx, loop.make_step(classification.classification_loss(ViT(TINY)), tx)


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def some_batches(num_epochs=None):
    return image_batches.batches(data.load("fashion_mnist")[:64], 16, num_epochs=num_epochs, augment="crop_flip")


# ---------------------------------------------------------------------------------------------- the step


def test_step_is_the_gradient_step():
    """SGD with rate 1/2 on the mean of |p - x|^2 / 2 over the batch: p moves half-way to the mean of x."""

    def loss_fn(params, batch, key):
        return jnp.mean((params["p"] - batch["x"]) ** 2) / 2, {}

    tx = optim.assemble(optax.identity(), 0.5)
    state = loop.init_state({"p": jnp.float32(0.0)}, tx)
    state, metrics = loop.make_step(loss_fn, tx)(state, {"x": jnp.array([1.0, 3.0, 8.0])})
    assert float(state.params["p"]) == 2.0
    assert float(metrics["loss"]) == pytest.approx((1 + 9 + 64) / 6)
    assert float(metrics["grad_norm"]) == 4.0
    assert int(state.step) == 1


@functools.cache
def momentum_update(accumulate):
    model, params = fresh()
    tx = optim.assemble(optax.trace(0.9), 0.1, clip_norm=1.0)
    step = loop.make_step(classification.classification_loss(model), tx, accumulate=accumulate)
    return step(loop.init_state(params, tx), BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_is_the_whole_batch(accumulate):
    whole, m1 = momentum_update(1)
    parts, m2 = momentum_update(accumulate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, parts.params)
    for name in m1:
        assert float(m1[name]) == pytest.approx(float(m2[name]), rel=1e-5)


@pytest.mark.slow
def test_accumulation_needs_equal_parts():
    model, params = fresh()
    tx = optim.assemble(optax.identity(), 0.1)
    step = loop.make_step(classification.classification_loss(model), tx, accumulate=3)
    with pytest.raises(ValueError, match="batch of 8 cannot be cut into 3 equal parts"):
        step(loop.init_state(params, tx), BATCH)


@pytest.mark.slow
def test_the_state_is_donated_but_the_callers_parameters_are_not():
    _, params = fresh()
    tx, step = adam_step()
    state = loop.init_state(params, tx)
    step(state, BATCH)
    assert state.params["cls"].is_deleted()
    assert not params["cls"].is_deleted()


@pytest.mark.slow
def test_one_compilation_for_all_steps():
    model, params = fresh()
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(0.1, 10))
    step, state = loop.make_step(classification.classification_loss(model), tx), loop.init_state(params, tx)
    for _ in range(3):
        state, _ = step(state, BATCH)
    assert step._cache_size() == 1


@pytest.mark.slow
def test_every_step_draws_different_numbers_which_the_seed_determines():
    config = TINY.replace(dropout=0.5)
    model, params = fresh(config)
    tx = optim.assemble(optax.identity(), 0.0)  # the parameters do not change: only dropout changes the loss
    step = loop.make_step(classification.classification_loss(model), tx)
    params["head"]["kernel"] = jnp.asarray(RNG.normal(size=params["head"]["kernel"].shape), jnp.float32)

    def losses(seed):
        state, got = loop.init_state(params, tx, seed), []
        for _ in range(3):
            state, metrics = step(state, BATCH)
            got.append(float(metrics["loss"]))
        return got

    assert len(set(losses(0))) == 3
    assert losses(0) == losses(0) != losses(1)


@pytest.mark.slow
def test_frozen_parameters_stay_bitwise_the_same():
    model, params = fresh()
    tx = optim.assemble(optax.scale_by_adam(), 0.1, weight_decay=0.1, freeze=("embedding", "Transformer"))
    state, _ = loop.make_step(classification.classification_loss(model), tx)(loop.init_state(params, tx), BATCH)
    for name in ("embedding", "Transformer"):
        assert_trees_equal(state.params[name], params[name])
    assert np.any(state.params["head"]["bias"] != params["head"]["bias"])


# ---------------------------------------------------------------------------------------------- the loop


@pytest.mark.slow
def test_a_vit_memorises_a_batch():
    model, params = fresh()
    tx, step = adam_step()
    state, history = loop.fit(step, loop.init_state(params, tx), iter([BATCH] * 150), 150)
    assert history["loss"].shape == (150,)
    assert history["loss"][0] == pytest.approx(np.log(10), rel=1e-5)  # the zero head predicts 1/10
    assert history["loss"][-1] < 0.05
    assert np.mean(classification.predict(model, state.params, BATCH["image"]).argmax(-1) == BATCH["label"]) == 1.0


def poisoned(params, batch, key):
    """A loss that is finite unless the batch is not."""
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
    step, state = loop.make_step(poisoned, tx), loop.init_state({"p": jnp.ones(2)}, tx)
    folder = {"checkpoint_dir": tmp_path / "run", "save_every": 2} if save_every else {}
    kept = "the last good checkpoint is step 4" if save_every else "none saved"
    with pytest.raises(loop.NonFiniteLoss, match=rf"at step 5 \({kept}\)"):
        loop.fit(step, state, Batches(), 100, **folder)
    if save_every:  # the run can continue from there, for instance with a smaller rate; here, with finite data
        healthy = Batches()
        healthy.set_state = lambda saved: setattr(healthy, "t", 100)
        state, history = loop.fit(step, loop.init_state({"p": jnp.ones(2)}, tx), healthy, 8, **folder)
        assert int(state.step) == 8
        assert np.all(np.isfinite(history["loss"]))
        assert history["loss"].shape == (8,)


def test_a_gradient_that_is_not_finite_stops_the_run_before_its_step_is_saved(tmp_path):
    """sqrt has a finite value at 0 and no finite derivative. Step 3 brings p to 0 (4 - 3 - 1 = 0, by hand): its loss is
    2 * sqrt(0) = 0, and the parameters after it would be NaN."""

    class Batches:
        t = -1

        def __next__(self):
            self.t += 1
            return {"slope": np.float32([(3.0, 1.0, 0.0)[min(self.t, 2)]]), "root": np.float32([self.t >= 2])}

        def get_state(self):
            return {"t": self.t}

        def set_state(self, state):
            self.t = state["t"]

    def rooted(params, batch, key):
        return batch["slope"][0] * params["p"] + batch["root"][0] * 2 * jnp.sqrt(jnp.abs(params["p"])), {}

    tx = optim.assemble(optax.identity(), 1.0)
    start = loop.init_state({"p": jnp.float32(4.0)}, tx)
    with pytest.raises(loop.NonFiniteLoss, match=r"norm of its gradient is (nan|inf) at step 2 \(none saved\)"):
        loop.fit(loop.make_step(rooted, tx), start, Batches(), 10, checkpoint_dir=tmp_path / "run", save_every=3)


def test_data_that_end_too_early():
    tx = optim.assemble(optax.identity(), 0.1)
    step = loop.make_step(lambda params, batch, key: (jnp.sum(params["p"] ** 2), {}), tx)
    with pytest.raises(ValueError, match="ended at step 4 of 10; let it repeat"):
        loop.fit(step, loop.init_state({"p": jnp.ones(2)}, tx), some_batches(num_epochs=1), 10)


# ---------------------------------------------------------------------------------------------- resuming


@functools.cache
def small_step():
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(1e-2, 12, warmup=2), weight_decay=0.1, clip_norm=1.0)
    model = ViT(TINY.replace(dropout=0.1))
    return tx, loop.make_step(classification.classification_loss(model, mixup=0.2), tx)


def small_run(folder, num_steps=12, save_every=3):
    """A deterministic run with dropout, augmentation and shuffling, so that every kind of state matters.

    Within one process all runs use one compiled step; the processes that are killed compile their own.
    """
    _, params = fresh(TINY.replace(dropout=0.1))
    tx, step = small_step()
    folder = {"checkpoint_dir": folder, "save_every": save_every} if folder else {}
    return loop.fit(step, loop.init_state(params, tx), some_batches(), num_steps, **folder)


@functools.cache
def uninterrupted():
    return small_run(None)


@pytest.mark.slow
def test_stopped_and_resumed_is_bitwise_the_same(tmp_path):
    state, history = uninterrupted()
    small_run(tmp_path / "run", num_steps=7)
    resumed, whole_history = small_run(tmp_path / "run")
    assert_trees_equal((state.params, state.opt_state), (resumed.params, resumed.opt_state))
    assert_trees_equal(history, whole_history)
    # A finished run is returned as it is.
    again, _ = small_run(tmp_path / "run")
    assert_trees_equal(state.params, again.params)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_same_program(tmp_path):
    """Committed to their device, unlike new ones, restored arrays would give another program, with other rounding."""
    _, params = fresh()
    tx, step = adam_step()

    def run(num_steps):
        state = loop.init_state(params, tx)
        return loop.fit(step, state, some_batches(), num_steps, checkpoint_dir=tmp_path / "run")[0]

    run(1)
    restored, new = run(1), loop.init_state(params, tx)  # the second run only reads the checkpoint
    programs = [step.lower(state, next(some_batches())).as_text() for state in (restored, new)]
    assert programs[0] == programs[1]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_loop
print("started", flush=True)
test_loop.small_run({folder!r}, num_steps=12, save_every=1)
print("finished", flush=True)
"""


def start(folder):
    """The process and the file of its errors: a pipe that is not read while it runs could fill up and stop it."""
    script = SCRIPT.format(tests=str(pathlib.Path(__file__).parent), folder=str(folder))
    errors = folder.with_name("errors.txt")
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=file, text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
    return process, errors


@pytest.mark.slow
def test_killed_at_several_moments_is_bitwise_the_same(tmp_path):
    """kill -9 while it compiles, in the middle of a save (as soon as a temporary folder appears), and between saves."""
    state, history = uninterrupted()
    folder = tmp_path / "run"
    moments = (
        lambda: True,  # directly after the start
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
    assert killed >= 4  # the last kill may come too late, when the run has finished
    resumed, whole_history = small_run(folder, save_every=1)
    assert_trees_equal(history, whole_history)
    assert_trees_equal((state.params, state.opt_state), (resumed.params, resumed.opt_state))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    small_run(tmp_path / "run", num_steps=3)
    for file in (tmp_path / "run" / "3" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"checkpoint of step 3 in .*run is damaged: .* is not as it was written"):
        small_run(tmp_path / "run")


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    small_run(tmp_path / "run", num_steps=3)
    model, params = fresh(TINY.replace(depth=3))
    tx = optim.assemble(optax.scale_by_adam(), 1e-3)
    step = loop.make_step(classification.classification_loss(model), tx)
    with pytest.raises(ValueError, match="is of another model or optimiser"):
        loop.fit(step, loop.init_state(params, tx), some_batches(), 12, checkpoint_dir=tmp_path / "run")


def test_a_run_beyond_its_end_is_refused(tmp_path):
    small_run(tmp_path / "run", num_steps=6)
    with pytest.raises(ValueError, match="already at step 6, beyond the 3 asked for"):
        small_run(tmp_path / "run", num_steps=3)


def test_save_every_needs_a_folder():
    tx = optim.assemble(optax.identity(), 0.1)
    with pytest.raises(ValueError, match="needs a checkpoint_dir"):
        loop.fit(lambda *_: None, loop.init_state({}, tx), iter([]), 1, save_every=1)


def test_counts_are_checked(tmp_path):
    tx = optim.assemble(optax.identity(), 0.1)

    def loss(params, batch, key):
        return jnp.sum(params["p"] ** 2), {}

    step = loop.make_step(loss, tx)

    def fit(num_steps=1, **options):
        state = loop.init_state({"p": jnp.ones(2)}, tx)
        return loop.fit(step, state, some_batches(), num_steps, checkpoint_dir=tmp_path / "run", **options)

    least = {"num_steps": 0, "save_every": 0, "evaluate_every": 0, "check_every": 1}
    for name, low in least.items():
        for wrong in (low - 1, True, 2.5, None, "3"):
            with pytest.raises(ValueError, match=rf"{name} is {wrong!r}; expected a whole number, {low} or more"):
                fit(**{name: wrong})
    for wrong in (0, -2, True, 2.0):
        with pytest.raises(ValueError, match=rf"accumulate is {wrong!r}; expected a whole number, 1 or more"):
            loop.make_step(loss, tx, accumulate=wrong)
        with pytest.raises(ValueError, match="accumulate is"):
            loop.gradients(loss, {"p": jnp.ones(2)}, BATCH, jax.random.key(0), accumulate=wrong)
    assert not (tmp_path / "run").exists()
    assert int(fit(np.int64(1), save_every=0)[0].step) == 1


def test_writers_are_made_when_the_folder_is_taken_and_closed_whatever_happens(tmp_path):
    tx = optim.assemble(optax.identity(), 0.1)
    step = loop.make_step(lambda params, batch, key: (jnp.sum(params["p"] ** 2), {}), tx)
    calls = []

    class Writer:
        def __init__(self):
            calls.append("made")

        def rewind(self, step):
            calls.append("rewind")

        def write(self, step, metrics):
            raise KeyboardInterrupt

        def close(self):
            calls.append("closed")

    def fit(writer):
        state = loop.init_state({"p": jnp.ones(2)}, tx)
        return loop.fit(step, state, some_batches(), 2, checkpoint_dir=tmp_path / "run", writer=writer)

    other = checkpoints.Saver(tmp_path / "run")
    with pytest.raises(ValueError, match="in use"):
        fit(Writer)
    other.close()
    assert calls == []
    with pytest.raises(KeyboardInterrupt):
        fit(Writer)
    assert calls == ["made", "rewind", "closed"]
    with pytest.raises(KeyboardInterrupt):
        fit(Writer())  # made by the caller, who closes it
    assert calls[3:] == ["made", "rewind"]
    assert int(fit(lambda: None)[0].step) == 2  # no writer, as on all processes but the first


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model, params = fresh()
    tx = optim.assemble(optax.identity(), 0.1)
    step, state = loop.make_step(classification.classification_loss(model), tx), loop.init_state(params, tx)
    with pytest.raises(OSError, match=r"file/run cannot be written \(Not a directory\); .*choose another folder"):
        loop.fit(step, state, some_batches(), 2, checkpoint_dir=tmp_path / "file" / "run")
