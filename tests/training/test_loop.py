import contextlib
import functools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import run_on_devices
from jax.sharding import PartitionSpec as P

from kitlib import configs, data
from kitlib.data import image_batches
from kitlib.models.vit import ViT
from kitlib.parallel import mesh
from kitlib.training import checkpoints, classification, loop, optim

TINY = configs.vit("tiny/14", image_size=(28, 28), channels=1, num_classes=10)
RNG = np.random.default_rng(0)
BATCH = {"image": np.float32(RNG.uniform(-1, 1, (8, 28, 28, 1))), "label": np.int32(RNG.integers(10, size=8))}


@functools.cache
def initialised(config=TINY):
    return classification.init_params(ViT(config), (1, *config.image_size, config.channels))


@functools.cache
def adam_step():
    """(optimiser, step) of TINY, compiled once for all tests for which any optimiser is enough."""
    tx = optim.assemble(optax.scale_by_adam(), 3e-3, clip_norm=1.0)
    return tx, loop.make_step(classification.classification_loss(ViT(TINY)), tx)


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def some_batches(num_epochs=None):
    return image_batches.batches(data.load("fashion_mnist")[:64], 16, num_epochs=num_epochs, augment="crop_flip")


class Batches:
    """Step t gets make(t); the state of a Grain iterator."""

    def __init__(self, make):
        self.make, self.t = make, -1

    def __next__(self):
        self.t += 1
        return self.make(self.t)

    def get_state(self):
        return {"t": self.t}

    def set_state(self, state):
        self.t = state["t"]


def squares(params, batch, key):
    return jnp.sum(params["p"] ** 2), {}


def small_state():
    return loop.init_state({"p": jnp.ones(2)}, SGD)


SGD, FIXED = (optim.assemble(optax.identity(), rate) for rate in (0.1, 0.0))
SMALL_STEP = loop.make_step(squares, SGD)


def test_step_is_the_gradient_step():
    """SGD with rate 1/2 on the mean of |p - x|^2 / 2 over the batch: p moves half-way to the mean of x."""
    tx = optim.assemble(optax.identity(), 0.5)
    step = loop.make_step(lambda params, batch, key: (jnp.mean((params["p"] - batch["x"]) ** 2) / 2, {}), tx)
    state, metrics = step(loop.init_state({"p": jnp.float32(0.0)}, tx), {"x": jnp.array([1.0, 3.0, 8.0])})
    assert float(state.params["p"]) == 2.0
    assert float(metrics["loss"]) == pytest.approx((1 + 9 + 64) / 6)
    assert float(metrics["grad_norm"]) == 4.0
    assert int(state.step) == 1


@functools.cache
def momentum_update(accumulate):
    tx = optim.assemble(optax.trace(0.9), 0.1, clip_norm=1.0)
    step = loop.make_step(classification.classification_loss(ViT(TINY)), tx, accumulate=accumulate)
    return step(loop.init_state(initialised(), tx), BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_is_the_whole_batch(accumulate):
    whole, m1 = momentum_update(1)
    parts, m2 = momentum_update(accumulate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, parts.params)
    for name in m1:
        assert float(m1[name]) == pytest.approx(float(m2[name]), rel=1e-5)


def test_the_state_is_donated_but_the_callers_parameters_are_not():
    params = {"p": jnp.ones(2)}
    state = loop.init_state(params, SGD)
    SMALL_STEP(state, BATCH)
    assert state.params["p"].is_deleted() and not params["p"].is_deleted()


def test_every_step_draws_different_numbers_which_the_seed_determines():
    step = loop.make_step(lambda params, batch, key: (params["p"].sum() + jax.random.uniform(key), {}), FIXED)

    def losses(seed):
        state, got = loop.init_state({"p": jnp.ones(2)}, FIXED, seed), []
        for _ in range(3):
            state, metrics = step(state, BATCH)
            got.append(float(metrics["loss"]))
        return got

    assert len(set(losses(0))) == 3
    assert losses(0) == losses(0) != losses(1)


@pytest.mark.slow
def test_a_vit_memorises_a_batch():
    tx, step = adam_step()
    state, history = loop.fit(step, loop.init_state(initialised(), tx), iter([BATCH] * 150), 150)
    assert history["loss"].shape == (150,)
    assert history["loss"][0] == pytest.approx(np.log(10), rel=1e-5)  # the zero head predicts 1/10
    assert history["loss"][-1] < 0.05
    assert np.mean(classification.predict(ViT(TINY), state.params, BATCH["image"]).argmax(-1) == BATCH["label"]) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("save_every", [0, 2])
def test_a_bad_loss_stops_the_run_and_names_the_step(tmp_path, bad, save_every):
    step = loop.make_step(lambda params, batch, key: (jnp.sum(params["p"] ** 2) + batch["poison"][0], {}), SGD)
    batches = Batches(lambda t: {"poison": np.float32([bad if t == 5 else 0.0])})
    folder = {"checkpoint_dir": tmp_path / "run", "save_every": 2} if save_every else {}
    kept = "the last good checkpoint is step 4" if save_every else "none saved"
    with pytest.raises(loop.NonFiniteLoss, match=rf"at step 5 \({kept}\)"):
        loop.fit(step, small_state(), batches, 100, **folder)
    if save_every:  # the run can continue from there, for instance with a smaller rate; here, with finite data
        state, history = loop.fit(step, small_state(), Batches(lambda t: {"poison": np.float32([0.0])}), 8, **folder)
        assert int(state.step) == 8
        assert np.all(np.isfinite(history["loss"])) and history["loss"].shape == (8,)


def test_a_gradient_that_is_not_finite_stops_the_run_before_its_step_is_saved(tmp_path):
    """sqrt has a finite value at 0 and no finite derivative. Step 3 brings p to 0 (4 - 3 - 1 = 0, by hand): its loss is
    2 * sqrt(0) = 0, and the parameters after it would be NaN."""

    def rooted(params, batch, key):
        return batch["slope"][0] * params["p"] + batch["root"][0] * 2 * jnp.sqrt(jnp.abs(params["p"])), {}

    batches = Batches(lambda t: {"slope": np.float32([(3.0, 1.0, 0.0)[min(t, 2)]]), "root": np.float32([t >= 2])})
    tx = optim.assemble(optax.identity(), 1.0)
    start = loop.init_state({"p": jnp.float32(4.0)}, tx)
    with pytest.raises(loop.NonFiniteLoss, match=r"norm of its gradient is (nan|inf) at step 2 \(none saved\)"):
        loop.fit(loop.make_step(rooted, tx), start, batches, 10, checkpoint_dir=tmp_path / "run", save_every=3)


def test_data_that_end_too_early():
    with pytest.raises(ValueError, match="ended at step 4 of 10; let it repeat"):
        loop.fit(SMALL_STEP, small_state(), some_batches(num_epochs=1), 10)


@functools.cache
def small_step():
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(1e-2, 12, warmup=2), weight_decay=0.1, clip_norm=1.0)
    model = ViT(TINY.replace(dropout=0.1))
    return tx, loop.make_step(classification.classification_loss(model, mixup=0.2), tx)


def small_run(folder, num_steps=12, save_every=3):
    """A deterministic run with dropout, augmentation and shuffling, so that every kind of state matters.

    Within one process all runs use one compiled step; the processes that are killed compile their own.
    """
    params = initialised(TINY.replace(dropout=0.1))
    tx, step = small_step()
    folder = {"checkpoint_dir": folder, "save_every": save_every} if folder else {}
    return loop.fit(step, loop.init_state(params, tx), some_batches(), num_steps, **folder)


@functools.cache
def uninterrupted():
    return small_run(None)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_same_program(tmp_path):
    """Committed to their device, unlike new ones, restored arrays would give another program, with other rounding."""
    tx, step = adam_step()

    def run(num_steps):
        state = loop.init_state(initialised(), tx)
        return loop.fit(step, state, some_batches(), num_steps, checkpoint_dir=tmp_path / "run")[0]

    run(1)
    restored, new = run(1), loop.init_state(initialised(), tx)  # the second run only reads the checkpoint
    programs = [step.lower(state, next(some_batches())).as_text() for state in (restored, new)]
    assert programs[0] == programs[1]


SCRIPT = """
import sys
sys.path += {paths!r}
import test_loop
print("started", flush=True)
test_loop.small_run({folder!r}, num_steps=12, save_every=1)
print("finished", flush=True)
"""


def start(folder):
    """The process and the file of its errors: a pipe that is not read while it runs could fill up and stop it."""
    paths = [str(path) for path in pathlib.Path(__file__).parents[:2]]  # of this file, and of what it imports
    script = SCRIPT.format(paths=paths, folder=str(folder))
    errors, env = folder.with_name("errors.txt"), os.environ | {"JAX_PLATFORMS": "cpu"}
    with errors.open("w") as file:
        command = [sys.executable, "-c", script]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=env), errors


@pytest.mark.slow
def test_killed_at_several_moments_is_bitwise_the_same(tmp_path):
    """kill -9 while it compiles, in the middle of a save (as soon as a temporary folder appears), and between saves."""
    state, history = uninterrupted()
    folder, killed = tmp_path / "run", 0

    def writing():
        return any(".orbax-checkpoint-tmp" in p.name for p in folder.glob("*"))

    for moment in (lambda: True, writing, (folder / "4").is_dir, writing, (folder / "9").is_dir):
        process, errors = start(folder)
        assert process.stdout.readline() == "started\n", errors.read_text()
        while process.poll() is None and not moment():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert killed >= 4  # the last kill may come too late, when the run has finished
    for _ in range(2):  # a finished run is returned as it is
        resumed, whole_history = small_run(folder, save_every=1)
        assert_trees_equal(history, whole_history)
        assert_trees_equal((state.params, state.opt_state), (resumed.params, resumed.opt_state))


def test_counts_are_checked_and_a_run_beyond_its_end_is_refused(tmp_path):
    def fit(num_steps=1, **options):
        options = {"checkpoint_dir": tmp_path / "run"} | options
        return loop.fit(SMALL_STEP, small_state(), some_batches(), num_steps, **options)

    least = {"num_steps": 0, "save_every": 0, "evaluate_every": 0, "check_every": 1}
    for name, low in least.items():
        for wrong in (low - 1, 2.5):
            with pytest.raises(ValueError, match=rf"{name} is {wrong!r}; expected a whole number, {low} or more"):
                fit(**{name: wrong})
    for call in (loop.make_step, lambda *_, **options: loop.gradients(squares, {}, BATCH, None, **options)):
        with pytest.raises(ValueError, match="accumulate is 0; expected a whole number, 1 or more"):
            call(squares, SGD, accumulate=0)
    with pytest.raises(ValueError, match="batch of 8 cannot be cut into 3 equal parts"):
        loop.make_step(squares, SGD, accumulate=3)(small_state(), BATCH)
    with pytest.raises(ValueError, match="needs a checkpoint_dir"):
        fit(save_every=1, checkpoint_dir=None)
    assert not (tmp_path / "run").exists()
    assert int(fit(np.int64(2), save_every=0)[0].step) == 2
    with pytest.raises(ValueError, match="already at step 2, beyond the 1 asked for"):
        fit(1)


def test_writers_are_made_when_the_folder_is_taken_and_closed_whatever_happens(tmp_path):
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
        folder = {"checkpoint_dir": tmp_path / "run", "writer": writer}
        return loop.fit(SMALL_STEP, small_state(), some_batches(), 2, **folder)

    with contextlib.closing(checkpoints.Saver(tmp_path / "run")), pytest.raises(ValueError, match="in use"):
        fit(Writer)
    assert calls == []
    with pytest.raises(KeyboardInterrupt):
        fit(Writer)
    assert calls == ["made", "rewind", "closed"]
    with pytest.raises(KeyboardInterrupt):
        fit(Writer())  # made by the caller, who closes it
    assert calls[3:] == ["made", "rewind"]
    assert int(fit(lambda: None)[0].step) == 2  # no writer, as on all processes but the first


# --------------------------------------------------------------------------------------------------------- asked to end


def test_the_signal_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with loop.Watch(every=10) as watch:
        assert not watch.asked(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.asked(2)
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_nothing_is_noticed():
    found = []

    def watched():
        with loop.Watch(every=1) as watch:
            found.append(watch.asked(1))

    thread = threading.Thread(target=watched)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_run_that_is_asked_to_end_saves_and_goes_on_later(tmp_path, capsys):
    tx, folder = optim.assemble(optax.identity(), 0.1), tmp_path / "run"
    step = loop.make_step(lambda params, batch, key: (jnp.sum(params["p"] ** 2), {}), tx)

    def run(num_steps, step):
        read = image_batches.batches(data.load("fashion_mnist")[:64], 16)
        state = loop.init_state({"p": jnp.ones(2)}, tx)
        return loop.fit(step, state, read, num_steps, checkpoint_dir=folder, save_every=100)

    def signal_at(moment):
        def step_and_signal(state, batch):
            if int(state.step) == moment:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, batch)

        return step_and_signal

    with pytest.raises(loop.Preempted) as ended:
        run(10, signal_at(3))
    assert ended.value.step == 4 == max(checkpoints.whole_steps(folder)) and ended.value.code == 143
    state, history = run(10, step)
    assert int(state.step) == 10 and len(history["loss"]) == 10
    (folder / "10.sha256").unlink()  # killed between checkpoint and hashes: the run goes on from step 4
    with pytest.raises(loop.Preempted) as ended:
        run(20, signal_at(6))
    assert ended.value.step == 7 == max(checkpoints.whole_steps(folder)) and "; saved," in capsys.readouterr().out
    loop.Preempted(8, saved=False)
    assert "at step 8; lost" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ on a mesh


PARAMS = {"head": {"kernel": jnp.arange(8.0).reshape(4, 2), "bias": jnp.zeros(2)}}


def test_shapes_and_specs_of_a_state():
    tx = optim.assemble(optax.scale_by_adam(), 1e-3)
    shapes = loop.state_shapes(PARAMS, tx)
    assert shapes.params["head"]["kernel"].shape == (4, 2) and shapes.step.shape == ()
    specs = loop.state_specs(PARAMS, tx, mesh.make())
    assert specs.params["head"]["kernel"] == P("fsdp") and specs.step == P()
    moments = [s for s in jax.tree.leaves(specs.opt_state, is_leaf=lambda x: isinstance(x, P)) if s == P("fsdp")]
    assert len(moments) == 2  # the two of Adam, for the kernel


def test_a_state_on_one_device_is_that_of_the_loop():
    tx = optim.assemble(optax.scale_by_adam(), 1e-3)
    want = loop.init_state(PARAMS, tx, seed=3)
    got = loop.init_sharded(lambda: PARAMS, tx, mesh.make(), seed=3)
    jax.tree.map(np.testing.assert_array_equal, got.replace(key=0), want.replace(key=0))
    assert (jax.random.key_data(got.key) == jax.random.key_data(want.key)).all()


ON_EIGHT = """
import optax
from kitlib.training import loop, optim
from kitlib.layers.initialize import init_params
m = mesh.make(data=2, fsdp=4)
def make():
    return {"head": {"kernel": jax.random.normal(jax.random.key(0), (64, 8)), "bias": jnp.zeros(8)}}
tx = optim.assemble(optax.scale_by_adam(), 0.1)
def loss(params, batch, key):
    return jnp.mean((batch["x"] @ params["head"]["kernel"] + params["head"]["bias"] - batch["y"]) ** 2), {}
rng = np.random.default_rng(0)
batch = {"x": rng.normal(size=(32, 64)).astype(np.float32), "y": rng.normal(size=(32, 8)).astype(np.float32)}
plain, state = loop.init_state(make(), tx), loop.init_sharded(make, tx, m)
kernel = state.params["head"]["kernel"]
found["spec"], found["rows"] = str(kernel.sharding.spec), kernel.addressable_shards[0].data.shape[0]
shardings = loop.state_shardings(jax.eval_shape(make), tx, m)
steps = loop.make_step(loss, tx), loop.make_step(loss, tx, shardings=shardings)
accumulated = loop.make_step(loss, tx, accumulate=4, shardings=shardings)
again = loop.init_sharded(make, tx, m)
with jax.set_mesh(m):
    rows = mesh.global_batch(m, batch)
    for _ in range(3):
        plain, _ = steps[0](plain, batch)
        state, _ = steps[1](state, rows)
        again, _ = accumulated(again, rows)
    text = {n: s.lower(again, rows).compile().as_text() for n, s in (("once", steps[1]), ("accumulated", accumulated))}
found["after"] = str(state.params["head"]["kernel"].sharding.spec)
for name, other in (("difference", state), ("accumulated", again)):
    pairs = zip(jax.tree.leaves(plain.params), jax.tree.leaves(other.params))
    found[name] = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
found["volumes"] = {n: {k: list(v) for k, v in ahead_of_time.totals(t).items()} for n, t in text.items()}
only = mesh.make(data=8)
def volumes(accumulate):
    with jax.set_mesh(only):
        step = loop.make_step(loss, tx, accumulate=accumulate)
        state = loop.init_sharded(make, tx, only)
        text = step.lower(state, mesh.global_batch(only, batch)).compile().as_text()
        return {k: list(v) for k, v in ahead_of_time.totals(text).items()}
found["data"] = volumes(1), volumes(4)
try:
    with jax.set_mesh(m):
        loop.gradients(loss, make(), batch, jax.random.key(0), 3)
except ValueError as error:
    found["error"] = str(error)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_training_on_a_mesh_is_training_on_one_device():
    found = run_on_devices(ON_EIGHT)
    assert found["spec"] == found["after"] == "P('fsdp',)" and found["rows"] == 16
    assert found["difference"] < 1e-5 and found["accumulated"] < 1e-5
    # With data=8, four parts send what one part sends: gradients and loss, once. No example travels.
    once, parts = found["data"]
    assert once["all-reduce"][1] == parts["all-reduce"][1] and parts["all-gather"][1] == once["all-gather"][1] == 0
    # With fsdp=4, the kernel is gathered for all parts together, before the loop.
    assert found["volumes"]["accumulated"]["all-gather"][1] == 64 * 8 * 4
    assert found["error"] == "A batch of 32 cannot be cut into 3 equal parts on each of 8 devices; change one of them."


ON_TWO = """
from kitlib.training import loop
def loss(params, batch, key):
    return params["p"] * batch.mean(), {"drawn": jax.random.uniform(key)}
key, batch = jax.random.key(3), np.ones((4, 1), np.float32)
with jax.set_mesh(mesh.make(data=2)):
    (_, metrics), _ = jax.jit(lambda p: loop.gradients(loss, p, batch, key, 2))({"p": jnp.float32(1)})
found["mean"] = float(metrics["drawn"])
found["drawn"] = [
    float(jax.random.uniform(part)) for d in range(2) for part in jax.random.split(jax.random.fold_in(key, d), 2)
]
"""


@pytest.mark.slow
def test_every_part_on_every_device_draws_its_own_numbers():
    """Two devices with two parts each draw four numbers; the metric is their mean."""
    found = run_on_devices(ON_TWO, count=2)
    assert len(set(found["drawn"])) == 4
    assert found["mean"] == pytest.approx(np.mean(found["drawn"]), abs=1e-6)
