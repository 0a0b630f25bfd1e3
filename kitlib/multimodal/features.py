"""Cached features of a frozen tower: training batches from shards on disk, computed once for many prompts.

    tower = Tower(config.tower, params["tower"])
    for batch in batches(groups, tokenizer, tower, folder): ...  # as `mixture_batches.batches`: "features", no "images"

In stages in which the tower is frozen, its output for an image is always the same. So it is computed once per image,
for all questions about it: names in many languages, boxes of every object, all rows of a receipt (`Task.draw_all`).

A *shard* holds the rows of a number of steps: the features of all different images, and per row the texts and the
numbers of its images. Its rows are shuffled, so that a batch has different images. A shard is a pure function of its
number, the groups and the tower. Between two steps only one is in memory; on disk are the last one and the first, as a
run that goes on compares its first batch. So a run can stop at any step: it continues from the step of its checkpoint,
and a shard that is missing is made again.
"""

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kitlib.data import files, keyed_rng
from kitlib.data.tokenizer import Tokenizer
from kitlib.multimodal import batching
from kitlib.multimodal.batching import Tokenised
from kitlib.multimodal.frozen_tower import Images, Tower
from kitlib.multimodal.mixture_batches import Group, check_groups, fits

STEPS = 100  # per shard
MANY = 10**9  # numbers of draws that a shard has for itself
SHARD = "shard-{:05d}.npz"
FIRST = SHARD.format(0)


class FeatureBatches:
    """An endless iterator over {name of a group: its arrays}: "features" float16[B, n, k, D_v] and "images_valid"
    bool[B, n], and the texts of `batching.to_arrays`; of a group without images, those of `batching.pack`.

    `get_state` is a small dict that can be written as JSON; `set_state` on an iterator made with the same arguments
    continues with the next batch.
    """

    def __init__(self, groups: Mapping[str, Group], tokenizer: Tokenizer, tower: Tower, folder: str | Path, steps: int):
        self.groups, self.tokenizer, self.tower = groups, tokenizer, tower
        self.folder, self.steps = Path(folder), steps
        self.step, self.number, self.shard = 0, -1, {}
        self.recipe, self.data = files.recipe_hash(recipe(groups, steps)), first_rows(groups, tokenizer)

    def __iter__(self):
        return self

    def get_state(self) -> dict:
        return {"step": self.step}

    def set_state(self, state: dict) -> None:
        self.step = state["step"]

    def __next__(self) -> dict[str, dict[str, np.ndarray]]:
        number, at = divmod(self.step, self.steps)
        if number != self.number:
            self.shard = {}  # before the next one is made: each has hundreds of megabytes
            self.shard, self.number = self._open(number), number
        batch = {}
        for name, group in self.groups.items():
            rows = slice(at * group.size, (at + 1) * group.size)
            arrays = {
                key.partition("/")[2]: array[rows] for key, array in self.shard.items() if key.startswith(f"{name}/")
            }
            if group.num_images:
                arrays["features"] = self.shard["features"][arrays.pop("numbers")]  # [B, n, k, D_v]
            batch[name] = arrays
        self.step += 1
        return batch

    def _open(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of a shard, from its file if there is one. A folder with features of others is refused; own
        shards of other numbers are removed, but for the first."""
        path = self.folder / SHARD.format(number)
        made_by = {"tower": self.tower.fingerprint, "recipe": self.recipe, "data": self.data}
        old_shards = sorted(self.folder.glob("shard-*.npz"))
        for old in old_shards:
            arrays = files.read_arrays(old)
            for name, want in made_by.items():
                if (got := str(arrays.pop(name, ""))) != want:
                    raise ValueError(
                        f"{old} has features of another {name} ({got or 'unknown'}; this run's is {want}): "
                        f"delete the folder, and they are computed again."
                    )
            if old == path:
                return arrays
            del arrays
        arrays = make_shard(self.groups, self.tokenizer, self.tower, number, self.steps)
        files.write_npz(path, arrays | {name: np.array(text) for name, text in made_by.items()})
        for old in old_shards:
            if old.name != FIRST:
                old.unlink()
        return arrays


def batches(
    groups: Mapping[str, Group], tokenizer: Tokenizer, tower: Tower, folder: str | Path, *, steps: int = STEPS
) -> FeatureBatches:
    """Training batches of these groups whose images went through the tower before. folder: for shards; steps: of each.

    Raises ValueError as `mixture_batches.batches`. The iterator raises it, with the file's name, for a shard in the
    folder that is damaged or was made with another tower, other groups or data, or another number of steps.
    """
    check_groups(groups, tokenizer)
    return FeatureBatches(groups, tokenizer, tower, folder, steps)


# ---------------------------------------------------------------------------------------------- one shard


def make_shard(
    groups: Mapping[str, Group], tokenizer: Tokenizer, tower: Tower, number: int, steps: int
) -> dict[str, np.ndarray]:
    """The arrays of shard `number`: "features" float16[P, k, D_v] of all different images, and of every group
    "group/name" for each of its arrays and "group/numbers" int32[R, n], the images of its R = B * steps rows."""
    images, arrays = Images(), {}
    for name, group in groups.items():
        rows = draw_rows(group, tokenizer, number, group.size * steps)
        lengths = {"prompt_length": group.prompt_length, "target_length": group.target_length}
        if group.num_images:
            found = batching.texts_to_arrays(
                [row[0] for row in rows], tokenizer.pad_id, num_images=group.num_images, **lengths
            )
            found["numbers"] = np.zeros((len(rows), group.num_images), np.int32)  # padding: any, as it is not valid
            for i, (row,) in enumerate(rows):
                numbers = [images.number(image) for image in batching.stretched(row.images, group.image_size)]
                found["numbers"][i, group.num_images - len(numbers) :] = numbers
        else:
            found = batching.pack(rows, tokenizer.pad_id, **lengths)
        order = keyed_rng(group.mixture.seed, 1, number).permutation(len(rows))
        arrays |= {f"{name}/{key}": array[order] for key, array in found.items()}
    return arrays | {"features": tower.features(images.stacked(tower.config))}


def draw_rows(group: Group, tokenizer: Tokenizer, number: int, count: int) -> list[list[Tokenised]]:
    """The examples of `count` rows of shard `number`: one each, or packed texts; those that do not fit are left out."""
    rows = []
    for i in itertools.count(number * MANY):
        examples = (batching.tokenise(example, tokenizer) for example in group.mixture.draw_all(i))
        for example in (example for example in examples if fits(example, group)):
            if rows and not group.num_images and fits(example, group, rows[-1]):
                rows[-1].append(example)
            elif len(rows) == count:
                return rows
            else:
                rows.append([example])


def first_rows(groups: Mapping[str, Group], tokenizer: Tokenizer) -> str:
    """A hash of the first row of every group, texts and images: other builders, files or tokens have another one."""
    rows = [one for group in groups.values() for one in draw_rows(group, tokenizer, 0, 1)[0]]
    texts = [(one.prompt_tokens, one.target_tokens) for one in rows]
    images = [np.asarray(image).tobytes() for one in rows for image in one.images]
    return files.recipe_hash(f"{texts} {[hashlib.sha256(image).hexdigest() for image in images]}")


def recipe(groups: Mapping[str, Group], steps: int) -> str:
    """All that decides a shard but its number, the tower and the data, in words."""
    parts = [
        f"{name}: {dict(sorted(group.mixture.weights.items()))} seed {group.mixture.seed} {group.size} rows, "
        f"{group.num_images} images of {group.image_size}, {group.prompt_length} and {group.target_length} tokens"
        for name, group in groups.items()
    ]
    return "; ".join([f"{steps} steps", *parts])
