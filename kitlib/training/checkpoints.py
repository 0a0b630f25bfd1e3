"""Checkpoints of a run: its state, the position of its data and its history, written atomically by Orbax.

    saver = Saver("build/run")
    saver.save(step, state, batches, history)
    state, history = saver.restore(like, batches)           # like: a state of the same shapes; its devices are kept

A checkpoint gets its name only when it is complete, so that a killed run never leaves half of one. Arrays that are
divided among devices are written and read by parts, and may be restored on another mesh: the new arrays are divided as
those of `like`. The position of the data is kept for every process, as each reads its own part.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.data import files
from kitlib.parallel import processes


class Saver:
    """The checkpoints of one folder; the newest two are kept. Raises OSError for a folder that cannot be written."""

    def __init__(self, directory):
        import orbax.checkpoint as ocp  # here, because it takes longer to import than a small model to train

        self.ocp = ocp
        self.directory = pathlib.Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        try:
            self.manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise OSError(f"Cannot write checkpoints to {self.directory} ({error}); choose another folder.") from error

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return self.manager.latest_step()

    def save(self, step: int, state, batches, history: dict) -> None:
        """Writes a checkpoint, unless the newest is of this step already. state: a `loop.TrainState`."""
        positions = processes.gather_json(batches.get_state())
        if step == self.latest:
            return
        args = self.ocp.args
        self.manager.save(
            step,
            args=args.Composite(
                state=args.StandardSave(state.replace(key=jax.random.key_data(state.key))),
                data=args.JsonSave({"processes": positions}),
                history=args.StandardSave(history),
            ),
        )

    def restore(self, like, batches) -> tuple:
        """(state, history) of the newest checkpoint; batches continue with the next one.

        like: a state of the same shapes, divided as the result shall be. Raises ValueError for another model's.
        """
        args = self.ocp.args
        like = like.replace(key=jax.random.key_data(like.key))
        try:
            got = self.manager.restore(
                self.latest,
                args=args.Composite(
                    state=args.StandardRestore(like), data=args.JsonRestore(), history=args.StandardRestore()
                ),
            )
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(
                f"The checkpoint of step {self.latest} in {self.directory} cannot be read or is of another model or "
                f"optimiser: {error}"
            ) from error
        # Every process is at the same batch. After a restart with more processes, new ones start where the first was.
        positions = got.data["processes"]
        batches.set_state(positions[jax.process_index() if jax.process_index() < len(positions) else 0])
        # Orbax commits arrays to their device. For committed arguments, XLA compiles another program, which may round
        # differently: arrays that are free in a new run must be free again.
        state = jax.tree.map(lambda new, x: x if new.committed else jnp.array(np.asarray(x)), like, got.state)
        state = state.replace(key=jax.random.wrap_key_data(state.key))
        return state, {name: np.asarray(values) for name, values in got.history.items()}

    def close(self) -> None:
        self.manager.close()


def check_recipe(folder: pathlib.Path, recipe: str) -> None:
    """Writes the recipe of a folder of saves into a text file next to it.

    Raises ValueError if the file has another recipe, as training would continue from the wrong saves.
    """
    note = folder.with_suffix(".txt")
    if note.is_file() and note.read_text(encoding="utf-8").strip() != recipe:
        raise ValueError(f"{folder} has saves of another recipe, see {note}. To start again, delete both.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        files.write_text(note, recipe)
