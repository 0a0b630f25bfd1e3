"""Full and read-only disks: what was there stays as it was, nothing half-written is left, one sentence says why.

Checkpoints, results, caches (full public sets, fetched weights), and build/. Each on a disk of its own (`small_disk`).
"""

import contextlib
import errno
import gc
import gzip
import os
import subprocess
import sys

import jax.numpy as jnp
import nbformat
import numpy as np
import optax
import pytest
import requests
from nbformat.v4 import new_code_cell, new_notebook
from small_disk import small_disk

from kitlib import data
from kitlib.data import download, files, image_batches, tfds_builders
from kitlib.studies import runner
from kitlib.studies.study import Study
from kitlib.training import checkpoints, loop, optim

BOTH = pytest.mark.parametrize("what", ["full", "read-only"])
FULL = r"cannot be written \(No space left on device\); what was there before is as it was\. Free some space"
READ_ONLY = r"cannot be written \(Read-only file system\)"


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as made:
        yield made


def spoil(disk, what: str, free: int = 0) -> str:
    """Makes the disk full or read-only; the pattern of the sentence that is expected then."""
    disk.fill(free) if what == "full" else disk.lock()
    return FULL if what == "full" else READ_ONLY


@BOTH
def test_files(disk, what):
    path = disk.folder / "a.txt"
    files.write_text(path, "old")
    files.write_npz(disk.folder / "b.npz", {"x": np.zeros(3)})
    before = [(disk.folder / name).read_bytes() for name in disk.names()]
    sentence = spoil(disk, what)
    with pytest.raises(OSError, match=rf"a\.txt {sentence}"):
        files.write_text(path, "new" * 100_000)
    with pytest.raises(OSError, match=rf"b\.npz {sentence}"):
        files.write_npz(disk.folder / "b.npz", {"x": np.zeros(100_000)})
    assert disk.names() == ["a.txt", "b.npz"]
    assert [(disk.folder / name).read_bytes() for name in disk.names()] == before


TX = optim.assemble(optax.scale_by_adam(), 0.1)


def state(seed: int) -> loop.TrainState:
    """40 kB of random parameters, which do not compress, and twice as much of the optimiser."""
    values = np.random.default_rng(seed).normal(size=10_000).astype(np.float32)
    return loop.init_state({"p": jnp.asarray(values)}, TX)


def batches():
    return image_batches.batches(data.load("fashion_mnist")[:64], 16)


@BOTH
# Orbax writes in tasks of its own; those that failed are dropped with their errors, of which the first was raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints(disk, what):
    saver = checkpoints.Saver(disk.folder / "run")
    saver.begin(batches())
    for step in (1, 2):
        saver.save(step, state(step), batches(), {"loss": np.zeros(step, np.float32)})
    before = disk.names()
    sentence = spoil(disk, what, free=60_000)
    for _ in range(2):  # the second attempt finds nothing of the first
        with pytest.raises(OSError, match=rf"run/3 {sentence}") as error:
            saver.save(3, state(3), batches(), {"loss": np.zeros(3, np.float32)})
        assert error.value.errno in files.NO_ROOM and "\n" not in str(error.value)
        assert disk.names() == before
    saver.close()  # it has the folder alone
    again = checkpoints.Saver(disk.folder / "run")
    assert again.latest == 2
    np.testing.assert_array_equal(again.restore(state(0), batches())[0].params["p"], state(2).params["p"])
    (disk.folder / "filler").unlink() if what == "full" else disk.unlock()
    again.save(3, state(3), batches(), {"loss": np.zeros(3, np.float32)})
    again.close()
    assert checkpoints.Saver(disk.folder / "run").latest == 3
    gc.collect()  # what was dropped is found here, not in another test


@BOTH
def test_results(disk, what, monkeypatch):
    """A run whose rows cannot be written is not counted as made; an old table stays."""
    rows = [{"extra_steps": t, "loss": float(t)} for t in range(3)]
    study = Study("Is it steep?", "lines", {"flat": 0.0}, lambda *run: rows, seeds=2)
    monkeypatch.setattr(runner, "studies_of", lambda paper: {"one": lambda: study})
    monkeypatch.setattr(runner, "WORK", disk.folder / "work")
    monkeypatch.setattr(runner, "RESULTS", disk.folder / "results")
    monkeypatch.setattr(runner, "in_processes", lambda units, jobs, label: [runner.run_unit(*unit) for unit in units])
    runner.main("lines", ("one",))
    table = disk.folder / "results" / "lines_one.csv"
    before, names = table.read_bytes(), [name for name in disk.names() if not name.endswith(".lock")]
    longer = [*rows, {"extra_steps": 3, "loss": 0.5}] * 500
    changed = Study("Is it steep?", "lines", {"flat": 1.0}, lambda *run: longer, seeds=2)
    monkeypatch.setattr(runner, "studies_of", lambda paper: {"one": lambda: changed})
    spoil(disk, what)
    with pytest.raises(OSError, match=FULL if what == "full" else "Read-only file system"):
        runner.main("lines", ("one",))
    assert table.read_bytes() == before
    assert [name for name in disk.names() if not name.endswith(".lock")] == names


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


@pytest.mark.slow
@BOTH
def test_full_public_sets(disk, what, tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 400), ("t10k", 4)):
        images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), np.zeros(n, np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    spoil(disk, what, free=100_000)
    error, message = (OSError, f"fashion_mnist.* {FULL}") if what == "full" else (PermissionError, "cannot be written")
    with pytest.raises(error, match=message):
        tfds_builders.prepare("fashion_mnist", disk.folder, files=tmp_path)
    assert disk.names() == []


@BOTH
def test_fetched_weights(disk, what, monkeypatch):
    """The part that has come would keep the disk full; it is deleted."""

    class Answer(contextlib.nullcontext):
        status_code, headers = 200, {"Content-Length": "3000000"}

        def __enter__(self):
            return self

        def raise_for_status(self):
            return None

        def iter_content(self, size):
            return iter([os.urandom(100_000)] * 30)

    monkeypatch.setenv("KIT_WEIGHTS_DIR", str(disk.folder / "weights"))
    monkeypatch.setattr(requests, "get", lambda *args, **kwargs: Answer())
    monkeypatch.setattr(download, "_address", lambda *args: "made")
    (disk.folder / "weights").mkdir()
    (disk.folder / "weights" / "other.onnx").write_bytes(b"other weights")
    if what == "read-only":
        disk.lock()
    with pytest.raises(OSError, match=FULL if what == "full" else READ_ONLY):
        download.fetch("dinov2-s14")
    assert disk.names() == ["weights/other.onnx"]
    assert (disk.folder / "weights" / "other.onnx").read_bytes() == b"other weights"


@pytest.mark.slow
@BOTH
def test_build(disk, what, tmp_path):
    """`kit run`, with build/ on such a disk: one sentence, exit status 1, no traceback, the page as it was."""
    root = tmp_path / "kit"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (root / "build").symlink_to(disk.folder)
    nbformat.write(new_notebook(cells=[new_code_cell("print(6 * 7)")]), root / "notebooks" / "01_short.ipynb")
    (disk.folder / "index.html").write_text("the page as it was")
    spoil(disk, what)
    code = (
        "import sys; from pathlib import Path; from kitlib.tools import cli, notebook_files, notebooks; "
        f"notebooks.ROOT = Path({str(root)!r}); notebooks.execute_all.__kwdefaults__['root'] = notebooks.ROOT; "
        "notebook_files.find.__defaults__ = (notebooks.ROOT,); sys.argv = ['kit', 'run']; raise SystemExit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    reason = "No space left on device" if what == "full" else "Read-only file system"
    assert reason in done.stderr and done.stderr.strip().splitlines()[-1].startswith("kit: ")
    assert disk.names() == ["index.html"] and (disk.folder / "index.html").read_text() == "the page as it was"


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file"):
        files.write_text(tmp_path / "missing" / "a.txt", "x")
    with pytest.raises(OSError, match="broken"):
        files.sentence(OSError(errno.EIO, "broken"))
    assert files.sentence(OSError(errno.ENOSPC, "No space left on device", "/x/y")) == "No space left on device: /x/y."
