"""Training batches from mixtures of tasks: seeded, resumable to the exact batch, with images or a tower's features.

    groups = {
        "one": Group(Mixture(tasks, {"captioning": 2, "vqa": 1}), 32, num_images=1, prompt_length=40, target_length=32),
        "few": Group(Mixture(tasks, {"episodic_vqa": 1}), 4, num_images=5, prompt_length=24, target_length=8),
        "text": Group(Mixture(tasks, {"span_corruption": 1}), 4, num_images=0, prompt_length=128, target_length=48),
    }
    batches(groups, tokenizer)                          # {"one": {"images": ..., "prompt_tokens": ..., ...}, ...}
    feature_batches(groups, tokenizer, tower, folder)   # {"one": {"features": ..., "prompt_tokens": ..., ...}, ...}

Example i of a mixture is a pure function of (seed, i). We found no text that gives the weights of PaLI-X (arXiv
2305.18565); its second stage has split_ocr, screenshot_to_markup and detection alone.

An image with a caption, four images with questions, and a text have little in common. Padded to one shape, most of a
batch would be padding. In three groups, each with its own shape, every step still sees all of them, and the shapes
never change, so the step compiles once. An example that does not fit into the shape of its group is left out and the
next one is drawn: `shares_that_fit` reports how many fit.

In stages in which the tower is frozen, its output for an image is always the same. So it is computed once per image,
for all questions about it: names in many languages, boxes of every object, all rows of a receipt (`Task.draw_all`). A
*shard* holds the rows of a number of steps: the features of all different images, and per row the texts and the
numbers of its images. Its rows are shuffled, so that a batch has different images. A shard is a pure function of its
number, the groups and the tower. Between two steps only one is in memory; on disk are the last one and the first, as a
run that goes on compares its first batch. So a run can stop at any step: it continues from the step of its checkpoint,
and a shard that is missing is made again.
"""

import hashlib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grain
import numpy as np

from kitlib.configs.arguments import one_of
from kitlib.data import files, keyed_rng
from kitlib.data.tokenizer import Tokenizer
from kitlib.multimodal import batching
from kitlib.multimodal.batching import Images, Tokenised, Tower
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.tasks import Task

TRIES = 256  # draws for one row; a packed row takes several
STEPS = 100  # per shard
DRAWS_PER_SHARD = 10**9  # numbers of draws that a shard has for itself
SHARD = "shard-{:05d}.npz"
FIRST = SHARD.format(0)

# ---------------------------------------------------------------------------------------------- mixtures


@dataclass(frozen=True, eq=False)
class Mixture:
    """Tasks that are drawn at random.

    Attributes:
        tasks: by name.
        weights: how often each task is drawn, relative to the others, 0 or more; a task without a weight is not drawn.
            `draw` gives one example of a draw, `draw_all` all of them: there, tasks with several have larger shares.
        seed: other seeds give other examples.

    Raises ValueError for the weight of an unknown task or of one that is for tests alone, for a weight that is negative
    or not finite, and if none is above 0.
    """

    tasks: Mapping[str, Task]
    weights: Mapping[str, float]
    seed: int = 0

    def __post_init__(self):
        for name, weight in self.weights.items():
            one_of("task", name, self.tasks)
            if not 0 <= weight < np.inf:
                raise ValueError(f"The weight of {name} is {weight}; expected 0 or a finite number above.")
            if weight and self.tasks[name].draw is None:
                raise ValueError(f"{name} is a test alone (it has no draw): leave it out of the mixture.")
        if not any(self.weights.values()):
            raise ValueError("No task has a weight above 0, so there is nothing to draw.")

    def draw(self, i: int) -> Example:
        """The i-th example, i = 0, 1, ... The order in which the weights were written down does not matter."""
        task, rng = self._task(i)
        return task.draw(rng)

    def draw_all(self, i: int) -> list[Example]:
        """The i-th examples about the same images: several, if their task has several (`Task.draw_all`)."""
        task, rng = self._task(i)
        return task.draw_all(rng) if task.draw_all else [task.draw(rng)]

    def _task(self, i: int) -> tuple[Task, np.random.Generator]:
        rng = keyed_rng(self.seed, i)
        names = sorted(self.weights)
        weights = np.array([self.weights[name] for name in names], np.float64)
        return self.tasks[str(rng.choice(names, p=weights / weights.sum()))], rng


@dataclass(frozen=True, eq=False)
class Group:
    """Examples of one shape.

    Attributes:
        mixture: the tasks that they are drawn from.
        size: B, rows per batch.
        num_images: n, images or frames per example at most; 0: texts alone, packed.
        prompt_length: N, tokens of a row's prompt; few-shot, of each of its n prompts.
        target_length: M, tokens of a row's targets.
        image_size: height and width in pixels; images of another size are stretched to it.
    """

    mixture: Mixture
    size: int
    num_images: int
    prompt_length: int
    target_length: int
    image_size: int = 64

    def fits(self, example: Tokenised, beside: Sequence[Tokenised] = ()) -> bool:
        """Whether the example fits into a row, beside those that are packed into it already."""
        prompt = sum(other.prompt_length for other in (example, *beside))
        target = sum(len(other.target_tokens) for other in (example, *beside))
        few = len(example.images) <= self.num_images
        return few and prompt <= self.prompt_length and target <= self.target_length

    def texts(self, rows: Sequence[Sequence[Tokenised]], pad_id: int) -> dict[str, np.ndarray]:
        """The arrays of rows of one example each, or of packed texts, without images."""
        lengths = {"prompt_length": self.prompt_length, "target_length": self.target_length}
        if not self.num_images:
            return batching.pack(rows, pad_id, **lengths)
        return batching.texts_to_arrays([row[0] for row in rows], pad_id, num_images=self.num_images, **lengths)


def check_groups(groups: Mapping[str, Group], tokenizer: Tokenizer) -> None:
    """Raises ValueError if there is no group, and if no example of a task in `TRIES` fits into its group."""
    if not groups:
        raise ValueError("There is no group, so there is nothing to batch.")
    for name, group in groups.items():
        for task in _drawn_from(group):
            if not any(group.fits(example) for example in _examples(group, task, TRIES, tokenizer)):
                raise ValueError(
                    f"No example of {task} fits into the group {name!r}: all of {TRIES} have more than "
                    f"{group.num_images} images, {group.prompt_length} prompt tokens or {group.target_length} target "
                    f"tokens."
                )


def shares_that_fit(group: Group, tokenizer: Tokenizer, count: int = 100) -> dict[str, float]:
    """{task: the share of its examples that fit into a row}, of `count` examples; training leaves the others out."""
    return {
        task: sum(group.fits(example) for example in _examples(group, task, count, tokenizer)) / count
        for task in _drawn_from(group)
    }


def _drawn_from(group: Group) -> list[str]:
    return [name for name, weight in group.mixture.weights.items() if weight]


def _examples(group: Group, task: str, count: int, tokenizer: Tokenizer) -> Iterator[Tokenised]:
    draw, seed = group.mixture.tasks[task].draw, group.mixture.seed
    return (batching.tokenise(draw(keyed_rng(seed, 0, i)), tokenizer) for i in range(count))


# ---------------------------------------------------------------------------------------------- batches of images


def batches(groups: Mapping[str, Group], tokenizer: Tokenizer) -> grain.DatasetIterator:
    """An endless iterator over {name of a group: its arrays}.

    Every batch is a pure function of its position, whatever was read before. `iterator.get_state()` is a small dict
    that can be written as JSON; `set_state` on an iterator made with the same arguments continues with the next batch.
    Raises ValueError if there is no group, if no example of a task in `TRIES` fits, and as `group_batch`.
    """
    check_groups(groups, tokenizer)

    def batch(position: int) -> dict[str, dict[str, np.ndarray]]:
        return {name: group_batch(group, tokenizer, position) for name, group in groups.items()}

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # works while the device computes
    return iter(grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(options))


def group_batch(group: Group, tokenizer: Tokenizer, position: int) -> dict[str, np.ndarray]:
    """Batch `position` of one group; no two batches draw the same examples of the group's mixture.

    An example that does not fit is left out and the next one is drawn. So no example is longer than the group's shape,
    and tasks of which fewer examples fit come less often than their weights say. Raises ValueError, as
    `batching.to_arrays`, if `TRIES` examples one after the other do not fit.
    """
    rows = []
    for row in range(position * group.size, (position + 1) * group.size):
        draws = map(group.mixture.draw, range(row * TRIES, (row + 1) * TRIES))
        rows.append(_fitting((batching.tokenise(example, tokenizer) for example in draws), group))
    texts = group.texts(rows, tokenizer.pad_id)
    if not group.num_images:
        return texts
    return {"images": batching.images_to_array([row[0] for row in rows], group.num_images, group.image_size)} | texts


def _fitting(draws: Iterator[Tokenised], group: Group) -> list[Tokenised]:
    """The first of these draws that fits into a row; of packed texts, also the following ones, as long as they fit."""
    chosen = []
    for example in draws:
        if group.fits(example, chosen):
            chosen.append(example)
            if group.num_images:
                return chosen
        elif chosen:
            return chosen
    return chosen or [example]  # one that does not fit: making the row raises ValueError


# ---------------------------------------------------------------------------------------------- batches of features


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


def feature_batches(
    groups: Mapping[str, Group], tokenizer: Tokenizer, tower: Tower, folder: str | Path, *, steps: int = STEPS
) -> FeatureBatches:
    """Training batches of these groups whose images went through the tower before. folder: for shards; steps: of each.

    Raises ValueError as `batches`. The iterator raises it, with the file's name, for a shard in the
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
        found = group.texts(rows, tokenizer.pad_id)
        if group.num_images:
            found["numbers"] = np.zeros((len(rows), group.num_images), np.int32)  # padding: any, as it is not valid
            for i, (row,) in enumerate(rows):
                numbers = [images.number(image) for image in batching.stretched(row.images, group.image_size)]
                found["numbers"][i, group.num_images - len(numbers) :] = numbers
        order = keyed_rng(group.mixture.seed, 1, number).permutation(len(rows))
        arrays |= {f"{name}/{key}": array[order] for key, array in found.items()}
    return arrays | {"features": tower.features(images.stacked(tower.config))}


def draw_rows(group: Group, tokenizer: Tokenizer, number: int, count: int) -> list[list[Tokenised]]:
    """The examples of `count` rows of shard `number`: one each, or packed texts; those that do not fit are left out."""
    rows = []
    for i in itertools.count(number * DRAWS_PER_SHARD):
        examples = (batching.tokenise(example, tokenizer) for example in group.mixture.draw_all(i))
        for example in (example for example in examples if group.fits(example)):
            if rows and not group.num_images and group.fits(example, rows[-1]):
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
