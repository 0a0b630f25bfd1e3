import contextlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import run_on_devices

from kitlib import data
from kitlib.data import files, image_batches
from kitlib.parallel import processes
from kitlib.training import checkpoints, loop, optim

TX = optim.assemble(optax.scale_by_adam(), 0.1)


def batches(size=16, seed=0, source=None):
    source = data.load("fashion_mnist")[:64] if source is None else source
    return image_batches.batches(source, size, seed=seed)


def state(value=1.0):
    return loop.init_state({"p": jnp.full(3, value)}, TX, seed=5)


@pytest.fixture
def opened(tmp_path):
    """opened(recipe): the Saver of tmp_path / "run" as after a restart; the one before is closed."""
    with contextlib.ExitStack() as stack:

        def saver(recipe=""):
            stack.close()
            return stack.enter_context(contextlib.closing(checkpoints.Saver(tmp_path / "run", recipe)))

        yield saver


def save(saver, step, value=1.0):
    saver.save(step, state(value), batches(), {"loss": np.zeros(step, np.float32)})


def restored(saver):
    return saver.restore(state(), batches())[0].params["p"].tolist()


def test_what_was_saved_comes_back_and_the_data_go_on(opened, tmp_path):
    read, saver = batches(), opened()
    assert saver.latest is None
    next(read)
    saver.save(1, state(2.0), read, {"loss": np.array([0.5], np.float32)})
    saver.save(1, state(3.0), read, {"loss": np.array([9.0], np.float32)})  # there is one of this step already
    want = next(read)
    again = batches()
    got, history = opened().restore(state(), again)
    assert got.params["p"].tolist() == [2.0] * 3 and history["loss"].tolist() == [0.5]
    assert (jax.random.key_data(got.key) == jax.random.key_data(state().key)).all()
    jax.tree.map(np.testing.assert_array_equal, next(again), want)
    saver = opened()
    for step in (2, 3):  # the newest two are kept
        save(saver, step)
    assert saver.latest == 3
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.name.isdigit()) == ["2", "3"]


def test_another_model_or_recipe_is_refused(opened):
    saver = opened("width 64")
    save(saver, 1)
    with pytest.raises(ValueError, match=r"step 1 .* cannot be read or is of another model"):
        saver.restore(loop.init_state({"q": jnp.ones((2, 2))}, TX), batches())
    restored(opened("width 64"))
    with pytest.raises(ValueError, match=r"checkpoints of another recipe: width 64, now width 128"):
        restored(opened("width 128"))


def test_other_data_are_refused(opened):
    """A run that began with one set, seed and batch size does not go on with another, at whatever step it is. Noting
    the first batch takes none."""
    read, saver = batches(), opened()
    saver.begin(read)
    jax.tree.map(np.testing.assert_array_equal, next(read), next(batches()))
    next(read), next(read)
    saver.save(3, state(), read, {"loss": np.zeros(3, np.float32)})
    want = next(read)
    source = data.load("fashion_mnist")
    images, labels = source[:64].arrays()
    one_pixel = images.copy()
    one_pixel[:, -1, -1] ^= 1
    for others in (source[64:128].arrays(), (images[:, ::-1], labels), (one_pixel, labels)):
        named = data.from_arrays(*others, name="others", class_names="abcdefghij")
        with pytest.raises(ValueError, match=r"other data: .*'image'.* now \[16, 28, 28, 1\] and other values"):
            opened().restore(state(), batches(source=named))
    for wrong in (batches(size=8), batches(seed=1)):
        with pytest.raises(ValueError, match=r"other data: .* of its first batch has shape .*same set, seed"):
            opened().restore(state(), wrong)
    again = batches()
    opened().restore(state(), again)
    jax.tree.map(np.testing.assert_array_equal, next(again), want)


@pytest.mark.slow
def test_one_flipped_bit_anywhere_is_noticed(opened, tmp_path):
    """Every file of a checkpoint in turn, one bit of one byte: restoring names the file, or the checkpoint does not
    count. Orbax alone would restore other parameters."""
    saver = opened()
    save(saver, 1, 2.0)
    rng, folder = np.random.default_rng(0), tmp_path / "run" / "1"
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(paths) >= 5
    for path in paths:
        whole = path.read_bytes()
        for _ in range(4 if whole else 0):
            broken = bytearray(whole)
            broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            with pytest.raises(ValueError, match=rf"step 1 in .* is damaged: {path.relative_to(folder).as_posix()}"):
                restored(opened())
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        restored(opened())
    path.write_bytes(whole)
    assert restored(opened()) == [2.0] * 3


def test_a_run_of_an_older_version_goes_on(opened):
    """It has the first values of one device in place of a hash; only shapes can be compared."""
    saver = opened()
    saver.begin(batches())
    for found in saver.first[0]["batch"].values():
        found["values"] = [0.0] * len(found.pop("sha256"))
    save(saver, 1)
    restored(opened())
    with pytest.raises(ValueError, match=r"other data: .*shape \[16.*, now \[8"):
        opened().restore(state(), batches(size=8))


def test_what_killed_runs_left_is_deleted_and_nothing_else(opened, tmp_path):
    """Orbax would skip steps before 8. Its folders have the names of steps; others may have such names, too. Without
    hashes a checkpoint does not count: the one before is the newest, and the step can be saved again."""
    saver, folder = opened(), tmp_path / "run"
    for step in (2, 8):
        save(saver, step, float(step))
    (folder / "8.sha256").unlink()  # killed between the two
    for name in ("5.orbax-checkpoint-tmp/state", "9/state", "6"):  # while it wrote; while it deleted
        (folder / name).mkdir(parents=True)
    (folder / "7.sha256").write_text("{}")
    (folder / "1.txt").write_text("notes")
    (folder / "0" / "photos").mkdir(parents=True)
    saver = opened()
    assert saver.latest == 2 == max(checkpoints.whole_steps(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1.txt", "2", "2.sha256", "lock"]
    assert restored(saver) == [2.0] * 3
    for step in (5, 8):
        save(saver, step, step + 1.0)
        saver = opened()
        assert restored(saver) == [step + 1.0] * 3


def test_what_was_not_written_is_not_called_saved(opened, tmp_path):
    """A folder that is not the kit's has a larger number: Orbax writes nothing, and says nothing."""
    (tmp_path / "run" / "2024" / "photos").mkdir(parents=True)
    saver = opened()
    with pytest.raises(ValueError, match=r"No step 5 was saved, as .*run has others of larger numbers"):
        save(saver, 5)
    assert saver.latest is None
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["2024", "lock"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000], ids=range(6))
def test_damaged_hashes_are_named(opened, tmp_path, content):
    save(opened(), 2)
    (tmp_path / "run" / "2.sha256").write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: 2\.sha256 is not as it was written. Delete .*run/2, to go on"):
        restored(opened())


HOLDS = """
import sys, time
from kitlib.training import checkpoints
saver = checkpoints.Saver(sys.argv[1])
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_two_processes_do_not_share_a_folder_and_a_killed_one_lets_go(opened, tmp_path):
    save(opened(), 1, 2.0)
    opened().close()
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "ready\n"
            with pytest.raises(ValueError, match=rf"run is in use by process {other.pid} on \S+: end that run"):
                opened()
        finally:
            other.kill()
    assert opened().latest == 1


def test_one_process_opens_a_folder_again_when_it_is_closed(tmp_path, monkeypatch):
    first = checkpoints.Saver(tmp_path)
    with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on"):
        checkpoints.Saver(tmp_path)
    first.close()
    second = checkpoints.Saver(tmp_path)
    first.close()  # twice does no harm, not even to the second
    with pytest.raises(ValueError, match="in use"):
        checkpoints.Saver(tmp_path)
    del second  # forgotten, not closed
    checkpoints.Saver(tmp_path).close()
    monkeypatch.setitem(sys.modules, "fcntl", None)  # without locks, as on Windows and some disks, nothing is refused
    for saver in (checkpoints.Saver(tmp_path), checkpoints.Saver(tmp_path)):
        saver.close()


@pytest.mark.parametrize("name", ["file", "file/run", "/dev/null", "taken"])
def test_what_is_no_folder_is_refused_in_one_sentence(tmp_path, name):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "taken" / "lock").mkdir(parents=True)
    with pytest.raises(OSError, match=r"cannot be written \(.*\); .*choose another folder") as error:
        checkpoints.Saver(tmp_path / name)
    assert "\n" not in files.sentence(error.value)  # what commands say; another error would be raised
    assert (tmp_path / "file").read_text() == "a file"


def test_what_the_first_process_cannot_do_is_raised_on_the_others(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "gather_json", lambda value: ["run is in use by process 7", value])
    with pytest.raises(ValueError, match="in use by process 7"):
        checkpoints._on_first(lambda: pytest.fail("called on the second process"))


ON_EIGHT = """
import contextlib, optax, tempfile
from kitlib import data
from kitlib.data import image_batches
from kitlib.training import checkpoints, loop, optim
tx = optim.assemble(optax.scale_by_adam(), 0.1)
def make():
    return {"head": {"kernel": jnp.arange(64.0).reshape(16, 4)}}
read = image_batches.batches(data.load("fashion_mnist")[:64], 16)
with tempfile.TemporaryDirectory() as folder:
    saved = loop.init_sharded(make, tx, mesh.make(fsdp=8))
    with contextlib.closing(checkpoints.Saver(folder + "/run")) as saver:
        saver.save(1, saved, read, {"loss": np.zeros(1, np.float32)})
    for name, axes in {"same": {"fsdp": 8}, "fewer parts": {"data": 4, "fsdp": 2}, "whole": {"data": 8}}.items():
        like = loop.init_sharded(lambda: jax.tree.map(jnp.zeros_like, make()), tx, mesh.make(**axes))
        with contextlib.closing(checkpoints.Saver(folder + "/run")) as saver:
            got, _ = saver.restore(like, read)
        kernel = got.params["head"]["kernel"]
        same = bool((np.asarray(kernel) == np.arange(64.0).reshape(16, 4)).all())
        found[name] = same, kernel.addressable_shards[0].data.shape[0]
"""


@pytest.mark.slow
def test_a_checkpoint_is_restored_on_another_mesh():
    assert run_on_devices(ON_EIGHT) == {"same": [True, 2], "fewer parts": [True, 8], "whole": [True, 16]}


AGAIN = """
import contextlib, optax, tempfile
from kitlib import data
from kitlib.data import image_batches
from kitlib.runs.train import OnMesh
from kitlib.training import checkpoints, loop, optim
tx = optim.assemble(optax.scale_by_adam(), 0.1)
images, labels = data.load("fashion_mnist")[:256].arrays()
def on(count, images=images):
    source = data.from_arrays(images, labels, name="set", class_names=tuple("abcdefghij"))
    where = mesh.make(devices=jax.devices()[:count], data=count)
    return OnMesh(image_batches.batches(source, 128, augment="crop_flip"), where)
state = loop.init_state({"p": jnp.ones(3)}, tx)
for was, now in ((1, 8), (8, 1), (2, 4)):
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(checkpoints.Saver(folder)) as saver:
            saver.begin(on(was))
            saver.save(1, state, on(was), {"loss": np.zeros(1, np.float32)})
        with contextlib.closing(checkpoints.Saver(folder)) as saver:
            saver.restore(state, on(now))
            try:
                saver.restore(state, on(now, images[:, ::-1]))
            except ValueError as error:
                found[f"{was} to {now}"] = str(error)
"""


@pytest.mark.slow
def test_the_data_are_the_same_on_another_number_of_devices():
    """At the batch size of `kit train`, of which each of 8 devices has 16 rows; other pictures are refused on any."""
    found = run_on_devices(AGAIN)
    assert len(found) == 3 and all("began with other data: ['image']" in said for said in found.values())
