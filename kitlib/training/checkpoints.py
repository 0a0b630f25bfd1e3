"""Checkpoints of a run: its state, the position of its data and its history, written atomically by Orbax.

    saver = Saver("build/run", "width 64")
    saver.begin(batches)                                    # of a new run
    saver.save(step, state, batches, history)
    state, history = saver.restore(like, batches)           # like: a state of the same shapes; its devices are kept

A checkpoint gets its name only when it is complete, and counts only when the hashes of its files are written: a killed
run leaves no half of one, and a flipped bit is noticed. A run goes on only with the recipe and the data that it began
with. Arrays that are divided among devices are written and read by parts, and may be restored on another mesh: the new
arrays are divided as those of `like`. The position of the data is kept for every process, as each reads its own part.
"""

import hashlib
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.data import files
from kitlib.parallel import processes

SAMPLE = 32  # numbers of each array of the first batch that are kept, to recognise the data


class Saver:
    """The checkpoints of one folder; the newest two are kept.

    recipe: what has to be the same when the run goes on, in words; "" if nothing but the shapes.

    Raises OSError for a folder that cannot be written.
    """

    def __init__(self, directory, recipe: str = ""):
        import orbax.checkpoint as ocp  # here, because it takes longer to import than a small model to train

        self.ocp, self.recipe = ocp, recipe
        self.first: list | None = None  # of each process: where its data began
        self.directory = pathlib.Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        try:
            if self.directory.exists() and not self.directory.is_dir():
                raise NotADirectoryError("it is a file")
            self.manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise OSError(f"Cannot write checkpoints to {self.directory} ({error}); choose another folder.") from error

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint; None if there is none."""
        whole = [step for step in self._steps() if self._hashes(step).is_file()]
        return max(whole, default=None)

    def _steps(self) -> list[int]:
        """The steps on disk, also those that another process has written."""
        self.manager.reload()
        return list(self.manager.all_steps())

    def begin(self, batches) -> None:
        """Notes the first batch of a new run; the iterator stays where it is."""
        self.first = processes.gather_json(_first_batch(batches))

    def save(self, step: int, state, batches, history: dict) -> None:
        """Writes a checkpoint, unless the newest is of this step already. state: a `loop.TrainState`.

        Raises OSError if the disk is full or may not be written: nothing is left of the checkpoint then, and the ones
        before it are as they were.
        """
        positions = processes.gather_json(batches.get_state())
        if step == self.latest:
            return
        if step in self.manager.all_steps():  # without hashes: a run was killed between the two
            self.manager.delete(step)
        args = self.ocp.args
        try:
            self.manager.save(
                step,
                args=args.Composite(
                    state=args.StandardSave(state.replace(key=jax.random.key_data(state.key))),
                    data=args.JsonSave({"processes": positions, "first": self.first, "recipe": self.recipe}),
                    history=args.StandardSave(history),
                ),
            )
            if jax.process_index() == 0:
                files.write_text(self._hashes(step), json.dumps(hashes_of(self.directory / str(step))))
        except (OSError, ValueError) as error:
            number = files.disk_error(error)
            if number is None:
                raise
            self._discard(step)
            raise files.cannot_write(self.directory / str(step), OSError(number, "")) from error
        if jax.process_index() == 0:
            kept = {self._hashes(other) for other in self.manager.all_steps()}
            for old in set(self.directory.glob("*.sha256")) - kept:
                old.unlink(missing_ok=True)

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

    def _discard(self, step: int) -> None:
        """Deletes what there is of a checkpoint that could not be written: it would keep the disk full."""
        for path in self.directory.glob(f"{step}*"):
            if path.name.split(".")[0] == str(step):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def close(self) -> None:
        self.manager.close()

    def _hashes(self, step: int) -> pathlib.Path:
        return self.directory / f"{step}.sha256"

    def _check_files(self, step: int) -> None:
        folder, expected = self.directory / str(step), json.loads(self._hashes(step).read_text(encoding="utf-8"))
        found = hashes_of(folder)
        if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
            raise ValueError(
                f"The checkpoint of step {step} in {self.directory} is damaged: {wrong[0]} is not as it was written. "
                f"Delete {folder}, to go on from the one before."
            )

    def _read(self, step: int, **parts):
        """These parts of a checkpoint; raises ValueError with its folder if they cannot be read."""
        try:
            return self.manager.restore(step, args=self.ocp.args.Composite(**parts))
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(
                f"The checkpoint of step {step} in {self.directory} cannot be read or is of another model or "
                f"optimiser: {error}"
            ) from error

    def _check_recipe(self, recipe: str) -> None:
        """Before anything else is read: another model's shapes would fail with a less helpful message."""
        if recipe != self.recipe:
            was, now = recipe.split(", "), self.recipe.split(", ")
            differ = [", ".join(part for part in a if part not in b) for a, b in ((was, now), (now, was))]
            raise ValueError(
                f"{self.directory} has checkpoints of another recipe: {differ[0] or recipe}, now "
                f"{differ[1] or self.recipe}. Name another folder; or delete this one, to start again."
            )

    def _check_data(self, stored: dict, batches) -> None:
        self.first = stored["first"]
        if not self.first or len(self.first) != jax.process_count():  # each process reads other examples then
            return
        first = self.first[jax.process_index()]
        batches.set_state(first["start"])
        now = _first_batch(batches)["batch"]
        for name in first["batch"].keys() | now.keys():
            was, got = (found.get(name, {"shape": None, "values": []}) for found in (first["batch"], now))
            if was["shape"] != got["shape"] or not np.allclose(was["values"], got["values"], atol=1e-3, equal_nan=True):
                raise ValueError(
                    f"The run in {self.directory} began with other data: {name} of its first batch has shape "
                    f"{was['shape']} and begins {was['values'][:4]}, now {got['shape']} and {got['values'][:4]}. Give "
                    f"it the same set, seed and batch size, or another folder."
                )


def hashes_of(folder: pathlib.Path) -> dict[str, str]:
    """{relative path: sha256} of all files below a folder."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _first_batch(batches) -> dict:
    """{"start": the iterator's state, "batch": {name: {"shape", "values"}}} of its next batch, as JSON can write it;
    this process's part of it. The iterator is put back."""
    start = batches.get_state()
    leaves, _ = jax.tree_util.tree_flatten_with_path(next(batches))
    batches.set_state(start)
    found = {}
    for path, leaf in leaves:
        part = np.asarray(leaf.addressable_shards[0].data if isinstance(leaf, jax.Array) else leaf)
        values = part.reshape(-1)[:SAMPLE].astype(np.float64).tolist()
        found[jax.tree_util.keystr(path)] = {"shape": list(np.shape(leaf)), "values": values}
    return {"start": start, "batch": found}
