import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import run_on_devices

from kitlib import data
from kitlib.data import image_batches
from kitlib.training import checkpoints, loop, optim

TX = optim.assemble(optax.scale_by_adam(), 0.1)


def batches():
    return image_batches.batches(data.load("fashion_mnist")[:64], 16)


def state(value=1.0):
    return loop.init_state({"p": jnp.full(3, value)}, TX, seed=5)


def test_what_was_saved_comes_back_and_the_data_go_on(tmp_path):
    read, saver = batches(), checkpoints.Saver(tmp_path / "run")
    assert saver.latest is None
    next(read)
    saver.save(1, state(2.0), read, {"loss": np.array([0.5], np.float32)})
    saver.save(1, state(3.0), read, {"loss": np.array([9.0], np.float32)})  # there is one of this step already
    want = next(read)
    again = batches()
    got, history = checkpoints.Saver(tmp_path / "run").restore(state(), again)
    assert got.params["p"].tolist() == [2.0] * 3 and history["loss"].tolist() == [0.5]
    assert (jax.random.key_data(got.key) == jax.random.key_data(state().key)).all()
    jax.tree.map(np.testing.assert_array_equal, next(again), want)


def test_the_newest_two_are_kept(tmp_path):
    saver = checkpoints.Saver(tmp_path / "run")
    for step in (1, 2, 3):
        saver.save(step, state(), batches(), {"loss": np.zeros(step, np.float32)})
    assert saver.latest == 3
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.name.isdigit()) == ["2", "3"]


def test_another_model_is_refused(tmp_path):
    saver = checkpoints.Saver(tmp_path / "run")
    saver.save(1, state(), batches(), {"loss": np.zeros(1, np.float32)})
    other = loop.init_state({"q": jnp.ones((2, 2))}, TX)
    with pytest.raises(ValueError, match=r"step 1 .* cannot be read or is of another model"):
        saver.restore(other, batches())


def test_another_recipe_is_refused(tmp_path):
    checkpoints.check_recipe(tmp_path / "a" / "run", "width 64")
    checkpoints.check_recipe(tmp_path / "a" / "run", "width 64")
    with pytest.raises(ValueError, match=r"another recipe, see .*run\.txt"):
        checkpoints.check_recipe(tmp_path / "a" / "run", "width 128")


ON_EIGHT = """
import optax, tempfile
from kitlib import data
from kitlib.data import image_batches
from kitlib.training import checkpoints, optim, sharded
tx = optim.assemble(optax.scale_by_adam(), 0.1)
def make():
    return {"head": {"kernel": jnp.arange(64.0).reshape(16, 4)}}
read = image_batches.batches(data.load("fashion_mnist")[:64], 16)
with tempfile.TemporaryDirectory() as folder:
    saved = sharded.init_state(make, tx, mesh.make(fsdp=8))
    checkpoints.Saver(folder + "/run").save(1, saved, read, {"loss": np.zeros(1, np.float32)})
    for name, axes in {"same": {"fsdp": 8}, "fewer parts": {"data": 4, "fsdp": 2}, "whole": {"data": 8}}.items():
        like = sharded.init_state(lambda: jax.tree.map(jnp.zeros_like, make()), tx, mesh.make(**axes))
        got, _ = checkpoints.Saver(folder + "/run").restore(like, read)
        kernel = got.params["head"]["kernel"]
        same = bool((np.asarray(kernel) == np.arange(64.0).reshape(16, 4)).all())
        found[name] = same, kernel.addressable_shards[0].data.shape[0]
"""


@pytest.mark.slow
def test_a_checkpoint_is_restored_on_another_mesh():
    assert run_on_devices(ON_EIGHT) == {"same": [True, 2], "fewer parts": [True, 8], "whole": [True, 16]}
