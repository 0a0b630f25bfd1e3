"""Examples become arrays: batches for PaLI-X, of several shapes at once, seeded and resumable to the exact batch.

    groups = {
        "one": Group(Mixture(makers, {"captioning": 2, "vqa": 1}), size=32, images=1, inputs=40, targets=32),
        "few": Group(Mixture(makers, {"episodic_vqa": 1}), size=4, images=4, inputs=24, targets=8),
        "text": Group(Mixture(makers, {"span_corruption": 1}), size=4, images=0, inputs=128, targets=48),
    }
    for batch in batches(groups, tokenizer): ...    # {"one": {"images": ..., "inputs": ..., "targets": ...}, ...}

A captioned picture, four of them with questions, and a text have nothing in common but the model. Padded to one shape,
most of a batch would be padding; in three groups, each of a shape of its own, every step still sees all of them, and
the shapes never change, so the step compiles once.

Every text is encoded with a space before it, as the tokenizer expects (`tokenizer.multilingual`), and ends with the end
of sequence. Texts without pictures are short: they are *packed*, several in a row, told apart by segments. Nothing is
ever cut off: what does not fit is refused or, in endless training batches, left out for the next. How much that is,
`shares_that_fit` tells; where it is all of a maker, there are no batches.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from kitlib import pipeline
from kitlib.data import keyed_rng
from kitlib.mixture import Mixture
from kitlib.tasks import Example
from kitlib.tokenizer import Tokenizer

TRIES = 256  # draws for one row; a packed row takes several


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Examples of one shape.

    Attributes:
        mixture: what they are drawn from.
        size: B, rows of every batch.
        images: n, pictures or frames of an example at most; 0: texts alone, packed.
        inputs: N, tokens of a row's prompt; few-shot of each of its n.
        targets: M, tokens of a row's targets.
        image_size: height and width in pixels; others are stretched to it.
    """

    mixture: Mixture
    size: int
    images: int
    inputs: int
    targets: int
    image_size: int = 64


def prompt_ids(example: Example, tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of every part of the prompt, each with an end of sequence; one part, or few-shot one for each picture."""
    parts = (example.prompt,) if isinstance(example.prompt, str) else example.prompt
    return [[*tokenizer.encode(f" {part}"), tokenizer.eos_id] for part in parts]


def target_ids(example: Example, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """(ids, whether each carries loss) of the target; the end of sequence does.

    Pieces are encoded one by one, so that no token has a part that carries loss and one that does not.
    """
    ids, weights = [], []
    for i, (piece, weight) in enumerate(example.target):
        tokens = tokenizer.encode(piece if i else f" {piece}")
        ids += tokens
        weights += [weight] * len(tokens)
    return [*ids, tokenizer.eos_id], [*weights, True]


def arrays(
    examples: Sequence[Example], tokenizer: Tokenizer, *, images: int, inputs: int, targets: int, image_size: int = 64
) -> dict[str, np.ndarray]:
    """Examples with pictures, one a row: what `palix.answer_loss` and `decode` (without targets) take.

    {"images" float32[B, n, H, W, 3] in [-1, 1], "images_valid" bool[B, n], "inputs" int32[B, N], "targets" int32[B, M],
    "weights" float32[B, M]}; the lengths as in `Group`. Few-shot, "inputs" is int32[B, n, N], a text for each picture.
    Examples with fewer pictures are padded in front: the query is always the last.

    Weights: 0 for padding and what carries no loss, else 1 / sqrt(tokens that do): an example of 50 tokens counts as
    much as seven of one. Counted by tokens, the boxes of a detection would drown the one word of an answer; counted by
    examples, each coordinate would hardly matter.

    Raises ValueError for an example with more pictures or tokens than there is room for, for none, and for few-shot
    examples beside others.
    """
    if not examples or images < 1:
        raise ValueError(f"Expected examples and room for a picture at least, got {len(examples)} and {images}.")
    b, few_shot = len(examples), [not isinstance(example.prompt, str) for example in examples]
    if any(few_shot) != all(few_shot):
        raise ValueError(f"Few-shot examples need a batch of their own, got {sum(few_shot)} of them among {b}.")
    out = {
        "images": np.zeros((b, images, image_size, image_size, 3), np.float32),
        "images_valid": np.zeros((b, images), bool),
        "inputs": np.full((b, images if few_shot[0] else 1, inputs), tokenizer.pad_id, np.int32),
        "targets": np.full((b, targets), tokenizer.pad_id, np.int32),
        "weights": np.zeros((b, targets), np.float32),
    }
    for row, example in enumerate(examples):
        n, parts = len(example.images), prompt_ids(example, tokenizer)
        ids, carries = target_ids(example, tokenizer)
        if n > images or len(ids) > targets or max(map(len, parts)) > inputs or (few_shot[0] and len(parts) != n):
            raise ValueError(
                f"An example of {example.task} has {n} pictures, {len(parts)} prompts of at most "
                f"{max(map(len, parts))} tokens and {len(ids)} tokens of target; there is room for {images} pictures, "
                f"few-shot with a prompt each, of {inputs} tokens, and {targets} of target."
            )
        if n:
            # Stretched, not cropped: what is asked about may be at the border, and boxes are shares of all of it.
            out["images"][row, -n:] = pipeline.to_float(pipeline.stretch(example.images, image_size, image_size))
            out["images_valid"][row, -n:] = True
        for part, line in zip(parts, out["inputs"][row, -len(parts) :], strict=True):
            line[: len(part)] = part
        out["targets"][row, : len(ids)] = ids
        out["weights"][row, : len(ids)] = np.array(carries) / np.sqrt(sum(carries))
    return out if few_shot[0] else out | {"inputs": out["inputs"][:, 0]}


def packed(rows: Sequence[Sequence[Example]], tokenizer: Tokenizer, *, inputs: int, targets: int):
    """Texts without pictures, several in each row: as `arrays`, but for the pictures, and with their segments.

    "inputs_segments" int32[B, N] and "targets_segments" int32[B, M]: 1, 2, ... for the texts of a row, 0 for padding.
    Raises ValueError for an example with pictures and for a row that does not fit.
    """
    b = len(rows)
    lengths = {"inputs": inputs, "targets": targets}
    out = {name: np.full((b, length), tokenizer.pad_id, np.int32) for name, length in lengths.items()}
    out |= {f"{name}_segments": np.zeros((b, length), np.int32) for name, length in lengths.items()}
    out["weights"] = np.zeros((b, targets), np.float32)
    for row, examples in enumerate(rows):
        ends = {"inputs": 0, "targets": 0}
        for segment, example in enumerate(examples, 1):
            (prompt,), (ids, carries) = prompt_ids(example, tokenizer), target_ids(example, tokenizer)
            if len(example.images):
                raise ValueError(f"Only texts are packed, but an example of {example.task} has pictures.")
            for name, tokens in (("inputs", prompt), ("targets", ids)):
                start, end = ends[name], ends[name] + len(tokens)
                if end > lengths[name]:
                    raise ValueError(f"The {name} of row {row} have {end} tokens or more, of {lengths[name]}.")
                out[name][row, start:end] = tokens
                out[f"{name}_segments"][row, start:end] = segment
                if name == "targets":
                    out["weights"][row, start:end] = np.array(carries) / np.sqrt(sum(carries))
                ends[name] = end
    return out


def batches(groups: Mapping[str, Group], tokenizer: Tokenizer) -> grain.DatasetIterator:
    """An endless iterator over {name of a group: its arrays}.

    Every batch is a pure function of its position, whatever was read before; `iterator.get_state()` is a small dict
    that JSON can write, `set_state` on an iterator made with the same arguments continues with the very next batch.
    Raises ValueError if there is no group, if no example of a maker in `TRIES` fits, and as `group_batch`.
    """
    if not groups:
        raise ValueError("There is no group, so there is nothing to batch.")
    for name, group in groups.items():
        for maker in _drawn_from(group):
            if not any(_fits(example, group, tokenizer) for example in _examples(group, maker, TRIES)):
                raise ValueError(
                    f"No example of {maker} fits into the group {name!r}: all of {TRIES} have more than {group.images} "
                    f"pictures, {group.inputs} tokens of prompt or {group.targets} of target."
                )

    def batch(position: int) -> dict[str, dict[str, np.ndarray]]:
        return {name: group_batch(group, tokenizer, position) for name, group in groups.items()}

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # works while the device computes
    return iter(grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(options))


def group_batch(group: Group, tokenizer: Tokenizer, position: int) -> dict[str, np.ndarray]:
    """Batch `position` of one group, drawn from the group's mixture at places of its own.

    What does not fit is left out and the next one taken: so a group never shows examples longer than its shape, and
    objectives of which less fits come less often than their weights say. Raises ValueError, as `arrays`, if `TRIES` in
    a row do not fit.
    """
    shape = {"inputs": group.inputs, "targets": group.targets}
    rows = []
    for row in range(position * group.size, (position + 1) * group.size):
        draws = range(row * TRIES, (row + 1) * TRIES)
        rows.append(_fitting(map(group.mixture.draw, draws), group, tokenizer))
    if not group.images:
        return packed(rows, tokenizer, **shape)
    examples = [chosen[0] for chosen in rows]
    return arrays(examples, tokenizer, images=group.images, image_size=group.image_size, **shape)


def shares_that_fit(group: Group, tokenizer: Tokenizer, count: int = 100) -> dict[str, float]:
    """{maker: the share of its examples that fit into a row}, of `count` each; training leaves the others out."""
    makers = _drawn_from(group)
    return {
        maker: sum(_fits(example, group, tokenizer) for example in _examples(group, maker, count)) / count
        for maker in makers
    }


def _drawn_from(group: Group) -> list[str]:
    return [name for name, weight in group.mixture.weights.items() if weight]


def _examples(group: Group, maker: str, count: int) -> Iterator[Example]:
    return (group.mixture.makers[maker](keyed_rng(group.mixture.seed, 0, i)) for i in range(count))


def _fits(example: Example, group: Group, tokenizer: Tokenizer) -> bool:
    """Into a row that is still empty."""
    return len(example.images) <= group.images and all(_needs(example, tokenizer) <= (group.inputs, group.targets))


def _needs(example: Example, tokenizer: Tokenizer) -> np.ndarray:
    """int[2]: tokens of the prompt, few-shot of its longest part, and of the target."""
    return np.array([max(map(len, prompt_ids(example, tokenizer))), len(target_ids(example, tokenizer)[0])])


def _fitting(draws: Iterator[Example], group: Group, tokenizer: Tokenizer) -> list[Example]:
    """Of these draws the first that fits into a row, and where texts are packed as many as follow and fit, too."""
    chosen, used = [], np.zeros(2, int)
    for example in draws:
        needs = _needs(example, tokenizer)
        if (used + needs <= (group.inputs, group.targets)).all() and len(example.images) <= group.images:
            chosen.append(example)
            used += needs
            if group.images:
                return chosen
        elif chosen:
            return chosen
    return chosen or [example]  # which does not fit, and is refused where rows are made
