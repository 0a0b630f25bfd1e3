"""Endless training batches from mixtures, in groups of several shapes at once, seeded and resumable to the exact batch.

    groups = {
        "one": Group(Mixture(tasks, {"captioning": 2, "vqa": 1}), 32, num_images=1, prompt_length=40, target_length=32),
        "few": Group(Mixture(tasks, {"episodic_vqa": 1}), 4, num_images=5, prompt_length=24, target_length=8),
        "text": Group(Mixture(tasks, {"span_corruption": 1}), 4, num_images=0, prompt_length=128, target_length=48),
    }
    for batch in batches(groups, tokenizer): ...    # {"one": {"images": ..., "prompt_tokens": ..., ...}, ...}

An image with a caption, four images with questions, and a text have little in common. Padded to one shape, most of a
batch would be padding. In three groups, each with its own shape, every step still sees all of them, and the shapes
never change, so the step compiles once.

An example that does not fit into the shape of its group is left out and the next one is drawn. `shares_that_fit`
reports how many fit. If no example of a task fits, `batches` raises ValueError.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from kitlib.data import keyed_rng
from kitlib.data.tokenizer import Tokenizer
from kitlib.multimodal import batching
from kitlib.multimodal.batching import Tokenised
from kitlib.multimodal.mixture import Mixture

TRIES = 256  # draws for one row; a packed row takes several


@dataclasses.dataclass(frozen=True, eq=False)
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


def check_groups(groups: Mapping[str, Group], tokenizer: Tokenizer) -> None:
    """Raises ValueError if there is no group, and if no example of a task in `TRIES` fits into its group."""
    if not groups:
        raise ValueError("There is no group, so there is nothing to batch.")
    for name, group in groups.items():
        for task in _drawn_from(group):
            if not any(fits(example, group) for example in _examples(group, task, TRIES, tokenizer)):
                raise ValueError(
                    f"No example of {task} fits into the group {name!r}: all of {TRIES} have more than "
                    f"{group.num_images} images, {group.prompt_length} prompt tokens or {group.target_length} target "
                    f"tokens."
                )


def group_batch(group: Group, tokenizer: Tokenizer, position: int) -> dict[str, np.ndarray]:
    """Batch `position` of one group; no two batches draw the same examples of the group's mixture.

    An example that does not fit is left out and the next one is drawn. So no example is longer than the group's shape,
    and tasks of which fewer examples fit come less often than their weights say. Raises ValueError, as
    `batching.to_arrays`, if `TRIES` examples one after the other do not fit.
    """
    lengths = {"prompt_length": group.prompt_length, "target_length": group.target_length}
    rows = []
    for row in range(position * group.size, (position + 1) * group.size):
        draws = map(group.mixture.draw, range(row * TRIES, (row + 1) * TRIES))
        rows.append(_fitting((batching.tokenise(example, tokenizer) for example in draws), group))
    if not group.num_images:
        return batching.pack(rows, tokenizer.pad_id, **lengths)
    chosen = [examples[0] for examples in rows]
    shape = {"num_images": group.num_images, "image_size": group.image_size} | lengths
    return batching.rows_to_arrays(chosen, tokenizer.pad_id, **shape)


def shares_that_fit(group: Group, tokenizer: Tokenizer, count: int = 100) -> dict[str, float]:
    """{task: the share of its examples that fit into a row}, of `count` examples; training leaves the others out."""
    return {
        task: sum(fits(example, group) for example in _examples(group, task, count, tokenizer)) / count
        for task in _drawn_from(group)
    }


def _drawn_from(group: Group) -> list[str]:
    return [name for name, weight in group.mixture.weights.items() if weight]


def _examples(group: Group, task: str, count: int, tokenizer: Tokenizer) -> Iterator[Tokenised]:
    draw, seed = group.mixture.tasks[task].draw, group.mixture.seed
    return (batching.tokenise(draw(keyed_rng(seed, 0, i)), tokenizer) for i in range(count))


def fits(example: Tokenised, group: Group, beside: Sequence[Tokenised] = ()) -> bool:
    """Whether the example fits into a row of the group, beside those that are packed into it already."""
    needs = sum((_needs(other) for other in beside), _needs(example))
    return len(example.images) <= group.num_images and bool((needs <= _lengths(group)).all())


def _needs(example: Tokenised) -> np.ndarray:
    """int[2]: tokens of the prompt (few-shot, of its longest part) and of the target."""
    return np.array([example.prompt_length, len(example.target_tokens)])


def _lengths(group: Group) -> np.ndarray:
    return np.array([group.prompt_length, group.target_length])


def _fitting(draws: Iterator[Tokenised], group: Group) -> list[Tokenised]:
    """The first of these draws that fits into a row; of packed texts, also the following ones, as long as they fit."""
    chosen = []
    for example in draws:
        if fits(example, group, chosen):
            chosen.append(example)
            if group.num_images:
                return chosen
        elif chosen:
            return chosen
    return chosen or [example]  # one that does not fit: making the row raises ValueError
