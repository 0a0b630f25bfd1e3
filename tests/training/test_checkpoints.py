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
    saver = checkpoints.Saver(tmp_path / "run", "width 64")
    saver.save(1, state(), batches(), {"loss": np.zeros(1, np.float32)})
    checkpoints.Saver(tmp_path / "run", "width 64").restore(state(), batches())
    with pytest.raises(ValueError, match=r"checkpoints of another recipe: width 64, now width 128"):
        checkpoints.Saver(tmp_path / "run", "width 128").restore(state(), batches())


def other_batches(size=16, seed=0, source=None):
    source = data.load("fashion_mnist") if source is None else source
    return image_batches.batches(source[:64], size, seed=seed)


def test_other_data_are_refused(tmp_path):
    """A run that began with one set, seed and batch size does not go on with another, at whatever step it is."""
    read, saver = batches(), checkpoints.Saver(tmp_path / "run")
    saver.begin(read)
    for _ in range(3):
        next(read)
    saver.save(3, state(), read, {"loss": np.zeros(3, np.float32)})
    want = next(read)
    flipped = data.from_arrays(*data.load("fashion_mnist")[64:128].arrays(), name="others", class_names=("a",) * 10)
    for wrong in (other_batches(size=8), other_batches(seed=1), other_batches(source=flipped)):
        with pytest.raises(
            ValueError, match=r"began with other data: .* of its first batch has shape .*same set, seed"
        ):
            checkpoints.Saver(tmp_path / "run").restore(state(), wrong)
    again = other_batches()
    checkpoints.Saver(tmp_path / "run").restore(state(), again)
    jax.tree.map(np.testing.assert_array_equal, next(again), want)


def test_noting_the_first_batch_takes_none(tmp_path):
    read = batches()
    checkpoints.Saver(tmp_path / "run").begin(read)
    jax.tree.map(np.testing.assert_array_equal, next(read), next(batches()))


@pytest.mark.slow
def test_one_flipped_bit_anywhere_is_noticed(tmp_path):
    """Every file of a checkpoint in turn, one bit of one byte: restoring names the file, or the checkpoint does not
    count. Orbax alone would restore other parameters."""
    saver = checkpoints.Saver(tmp_path / "run")
    saver.save(1, state(2.0), batches(), {"loss": np.zeros(1, np.float32)})
    rng, folder = np.random.default_rng(0), tmp_path / "run" / "1"
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(paths) >= 5
    for path in paths:
        whole = path.read_bytes()
        for _ in range(4):
            broken = bytearray(whole)
            if not broken:
                continue
            broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            with pytest.raises(ValueError, match=rf"step 1 in .* is damaged: {path.relative_to(folder).as_posix()}"):
                checkpoints.Saver(tmp_path / "run").restore(state(), batches())
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        checkpoints.Saver(tmp_path / "run").restore(state(), batches())
    path.write_bytes(whole)
    got, _ = checkpoints.Saver(tmp_path / "run").restore(state(), batches())
    assert got.params["p"].tolist() == [2.0] * 3


def test_a_checkpoint_without_hashes_does_not_count(tmp_path):
    """As after a kill between the two: the one before is the newest, and the step can be saved again."""
    saver = checkpoints.Saver(tmp_path / "run")
    for step in (1, 2):
        saver.save(step, state(float(step)), batches(), {"loss": np.zeros(step, np.float32)})
    (tmp_path / "run" / "2.sha256").unlink()
    saver = checkpoints.Saver(tmp_path / "run")
    assert saver.latest == 1
    assert saver.restore(state(), batches())[0].params["p"].tolist() == [1.0] * 3
    saver.save(2, state(5.0), batches(), {"loss": np.zeros(2, np.float32)})
    assert saver.restore(state(), batches())[0].params["p"].tolist() == [5.0] * 3
    assert sorted(path.name for path in (tmp_path / "run").glob("*.sha256")) == ["1.sha256", "2.sha256"]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match=r"Cannot write checkpoints to .*run \(it is a file\); choose another folder"):
        checkpoints.Saver(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "a file"


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
