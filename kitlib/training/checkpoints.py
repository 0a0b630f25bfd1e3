"""Checkpoints of a run: its state, the position of its data and its history, written atomically by Orbax.

    saver = Saver("build/run", "width 64")
    saver.begin(batches)                                    # of a new run
    saver.save(step, state, batches, history)
    state, history = saver.restore(like, batches)           # like: a state of the same shapes; its devices are kept

A checkpoint gets its name only when it is complete, and counts only when the hashes of its files are written: a killed
run leaves no half of one, and a flipped bit is noticed. A run has its folder alone, and goes on only with the recipe
and the data that it began with. Arrays that are divided among devices are written by parts, and may be restored on
another mesh, divided as those of `like`; the data's position is kept for every process.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import weakref

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.data import files
from kitlib.parallel import processes

PARTS = {"state", "data", "history", "_CHECKPOINT_METADATA", "commit_success.txt"}  # of a checkpoint


class Saver:
    """The checkpoints of one folder, which no other run may have until `close`; the newest two are kept.

    recipe: what has to be the same when the run goes on, in words; "" if nothing but the shapes.
    latest: the step of the newest checkpoint, or None. What killed runs have left of others is deleted.
    Raises OSError for a folder that cannot be written, and ValueError if another run has it.
    """

    def __init__(self, directory, recipe: str = ""):
        import orbax.checkpoint as ocp  # here, because it takes longer to import than a small model to train

        self.ocp, self.recipe = ocp, recipe
        self.first: list | None = None  # of each process: where its data began
        self.directory = pathlib.Path(directory).absolute()
        self._let_go = lambda: None
        _on_first(self._take)
        self.latest = max(processes.gather_json(whole_steps(self.directory))[0], default=None)
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self.manager = ocp.CheckpointManager(self.directory, options=options)

    def _take(self) -> None:
        """Locks the folder, until `close` or the end of this process; without effect where there are no such locks."""
        if self.directory.is_dir() and not os.access(self.directory, os.W_OK):
            return  # it can be read
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.directory / "lock", os.O_RDONLY | os.O_CREAT, 0o666)
        except OSError as error:
            raise files.cannot_write(self.directory, error) from error
        self._let_go = weakref.finalize(self, os.close, lock)
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self.directory / "lock").write_text(f"process {os.getpid()} on {os.uname().nodename}\n")
        except BlockingIOError:
            who = os.read(lock, 300).decode(errors="replace").partition("\n")[0]
            raise ValueError(f"{self.directory} is in use by {who}: end that run, or choose another folder.") from None
        except (ImportError, OSError):
            pass
        self._tidy()

    def begin(self, batches) -> None:
        """Notes the first batch of a new run; the iterator stays where it is."""
        self.first = processes.gather_json(_first_batch(batches))

    def save(self, step: int, state, batches, history: dict) -> None:
        """Writes a checkpoint, unless the newest is of this step already. state: a `loop.TrainState`.

        Raises OSError if the disk is full or may not be written: nothing is left of the checkpoint then, and the ones
        before it are as they were. Raises ValueError if Orbax skips it, as folders with larger numbers are there.
        """
        positions = processes.gather_json(batches.get_state())
        if step == self.latest:
            return
        args = self.ocp.args
        self.manager.reload()  # an attempt that failed may have left its step there
        try:
            self.manager.save(
                step,
                args=args.Composite(
                    state=args.StandardSave(state.replace(key=jax.random.key_data(state.key))),
                    data=args.JsonSave({"processes": positions, "first": self.first, "recipe": self.recipe}),
                    history=args.StandardSave(history),
                ),
            )
            _on_first(lambda: self._seal(step))
        except (OSError, ValueError) as error:
            number = files.disk_error(error)
            if number is None:
                raise
            raise files.cannot_write(self.directory / str(step), OSError(number, "")) from error
        finally:
            self._tidy()  # half a checkpoint would keep the disk full
        self.latest = step

    def _seal(self, step: int) -> None:
        files.write_text(self.directory / f"{step}.sha256", json.dumps(hashes_of(self.directory / str(step))))
        if step not in whole_steps(self.directory):
            larger = f"{self.directory} has others of larger numbers"
            raise ValueError(f"No step {step} was saved, as {larger}: name another.")

    def restore(self, like, batches) -> tuple:
        """(state, history) of the newest checkpoint; batches continue with the next one.

        like: a state of the same shapes, divided as the result shall be. Raises ValueError for another model's, for a
        file that has changed, and for another recipe or other data than the run began with.
        """
        step, args = self.latest, self.ocp.args
        self._check_files(step)
        like = like.replace(key=jax.random.key_data(like.key))
        stored = self._read(step, data=args.JsonRestore()).data
        self._check_recipe(stored["recipe"])
        got = self._read(step, state=args.StandardRestore(like), history=args.StandardRestore())
        self._check_data(stored, batches)
        # Every process is at the same batch. After a restart with more processes, new ones start where the first was.
        positions = stored["processes"]
        batches.set_state(positions[jax.process_index() if jax.process_index() < len(positions) else 0])
        # Orbax commits arrays to their device. For committed arguments, XLA compiles another program, which may round
        # differently: arrays that are free in a new run must be free again.
        state = jax.tree.map(lambda new, x: x if new.committed else jnp.array(np.asarray(x)), like, got.state)
        state = state.replace(key=jax.random.wrap_key_data(state.key))
        return state, {name: np.asarray(values) for name, values in got.history.items()}

    def _tidy(self) -> None:
        """Deletes what there is of checkpoints that are not whole, and nothing that may be of others."""
        whole = whole_steps(self.directory)
        for path in self.directory.glob("[0-9]*") if jax.process_index() == 0 else ():
            step, _, rest = path.name.partition(".")
            if not step.isdecimal() or int(step) in whole:
                continue
            if rest == "sha256":
                path.unlink(missing_ok=True)
            elif rest.startswith("orbax") or (not rest and {part.name for part in path.glob("*")} <= PARTS):
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        self.manager.close()
        self._let_go()

    def _check_files(self, step: int) -> None:
        folder, hashes, wrong = self.directory / str(step), self.directory / f"{step}.sha256", [f"{step}.sha256"]
        with contextlib.suppress(ValueError, RecursionError, AttributeError):  # no JSON, or no dict
            expected, found = json.loads(hashes.read_bytes()), hashes_of(folder)
            wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            what = f"The checkpoint of step {step} in {self.directory} is damaged: {wrong[0]} is not as it was written."
            raise ValueError(f"{what} Delete {folder}, to go on from the one before.")

    def _read(self, step: int, **parts):
        """These parts of a checkpoint; raises ValueError with its folder if they cannot be read."""
        try:
            return self.manager.restore(step, args=self.ocp.args.Composite(**parts))
        except (ValueError, KeyError, OSError) as error:
            what = f"The checkpoint of step {step} in {self.directory} cannot be read"
            raise ValueError(f"{what} or is of another model or optimiser: {error}") from error

    def _check_recipe(self, recipe: str) -> None:
        """Before anything else is read: another model's shapes would fail with a less helpful message."""
        if recipe != self.recipe:
            was, now = ([part.strip("()") for part in text.split(", ")] for text in (recipe, self.recipe))
            differ = [", ".join(part for part in a if part not in b) for a, b in ((was, now), (now, was))]
            what = f"another recipe: {differ[0] or recipe}, now {differ[1] or self.recipe}"
            raise ValueError(
                f"{self.directory} has checkpoints of {what}. That is another run (of more steps, too: its learning "
                "rates are others): name another folder; or delete this one, to start again."
            )

    def _check_data(self, stored: dict, batches) -> None:
        self.first = stored["first"]
        if not self.first or len(self.first) != jax.process_count():  # each process reads other examples then
            return
        first = self.first[jax.process_index()]
        batches.set_state(first["start"])
        now = _first_batch(batches)["batch"]
        for name in sorted(first["batch"].keys() | now.keys()):
            was, got = (found.get(name, {"shape": None}) for found in (first["batch"], now))
            # Checkpoints of older versions have no hash: shapes are compared, and the run goes on.
            if was["shape"] != got["shape"] or was.get("sha256", got["sha256"]) != got["sha256"]:
                now_got = f"now {got['shape']}{' and other values' * (was['shape'] == got['shape'])}"
                raise ValueError(
                    f"The run in {self.directory} began with other data: {name} of its first batch has shape "
                    f"{was['shape']}, {now_got}. Give it the same set, seed and batch size, or another folder."
                )


def whole_steps(directory) -> list[int]:
    """The steps of a folder's checkpoints that are whole: those with the hashes of their files."""
    paths = [path for path in pathlib.Path(directory).glob("[0-9]*") if path.name.isdecimal() and path.is_dir()]
    return sorted(int(path.name) for path in paths if path.with_suffix(".sha256").is_file())


def _on_first(work) -> None:
    """work() on process 0; what it raises is raised on all of them, so that none waits for the others."""
    error: Exception | None = None
    if jax.process_index() == 0:
        try:
            work()
        except (OSError, ValueError) as raised:
            error = raised
    if said := processes.gather_json(str(error or ""))[0]:
        raise error or ValueError(said)


def hashes_of(folder: pathlib.Path) -> dict[str, str]:
    """{relative path: sha256} of all files below a folder."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _first_batch(batches) -> dict:
    """{"start": the iterator's state, "batch": {name: {"shape", "sha256"}}} of its next batch, of this process's rows
    on however many devices. The iterator is put back. Every bit counts: features that a model computes
    (`multimodal.mixtures`) may differ on another machine, unless their files move with the run."""
    start = batches.get_state()
    leaves, _ = jax.tree_util.tree_flatten_with_path(next(batches))
    batches.set_state(start)
    found = {}
    for path, leaf in leaves:
        parts = {0: leaf}
        if not getattr(leaf, "is_fully_addressable", True):
            parts = {shard.index[0].start: shard.data for shard in leaf.addressable_shards}  # some may be copies
        digest = hashlib.sha256(b"".join(np.asarray(parts[row]).tobytes() for row in sorted(parts))).hexdigest()
        found[jax.tree_util.keystr(path)] = {"shape": list(np.shape(leaf)), "sha256": digest}
    return {"start": start, "batch": found}
