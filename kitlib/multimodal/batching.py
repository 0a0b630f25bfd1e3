"""Collating examples: every example is tokenised once, then padded to rows of fixed lengths.

    words = tokenizer.multilingual()
    batch = to_arrays(examples, words, num_images=1, prompt_length=40, target_length=32)

Every text is encoded with a space before it, as the tokenizer expects (`tokenizer.multilingual`), and ends with the end
of sequence. Texts without images are short: they are *packed*, several per row, and distinguished by segments. Nothing
is ever cut off: an example that does not fit raises ValueError.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kitlib.data import image_batches
from kitlib.data.tokenizer import Tokenizer
from kitlib.multimodal.prompts import Example


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenised:
    """An example as token ids.

    Attributes:
        objective: for error messages.
        images: uint8[n, H, W, 3].
        few_shot: whether every image has its own text.
        prompt_tokens: the ids of every part of the prompt; one part, or few-shot one per image.
        target_tokens: the ids of the target.
        carries_loss: whether each token of the target carries loss.
    """

    objective: str
    images: np.ndarray
    few_shot: bool
    prompt_tokens: list[list[int]]
    target_tokens: list[int]
    carries_loss: list[bool]

    @property
    def prompt_length(self) -> int:
        """Tokens of the longest part."""
        return max(map(len, self.prompt_tokens))


def tokenise(example: Example, tokenizer: Tokenizer) -> Tokenised:
    """The example's prompt and target as ids."""
    few_shot = not isinstance(example.prompt, str)
    return Tokenised(
        example.task,
        example.images,
        few_shot,
        prompt_tokens(example, tokenizer),
        *target_tokens(example, tokenizer),
    )


def prompt_tokens(example: Example, tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of every part of the prompt, each with an end of sequence; one part, or few-shot one per image."""
    parts = (example.prompt,) if isinstance(example.prompt, str) else example.prompt
    return [[*tokenizer.encode(f" {part}"), tokenizer.eos_id] for part in parts]


def target_tokens(example: Example, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """(ids, whether each carries loss) of the target; the end of sequence carries loss.

    Pieces are encoded one by one, so that no token spans a piece that carries loss and one that does not.
    """
    ids, weights = [], []
    for i, (piece, weight) in enumerate(example.target):
        tokens = tokenizer.encode(piece if i else f" {piece}")
        ids += tokens
        weights += [weight] * len(tokens)
    return [*ids, tokenizer.eos_id], [*weights, True]


def to_arrays(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    num_images: int,
    prompt_length: int,
    target_length: int,
    image_size: int = 64,
) -> dict[str, np.ndarray]:
    """Examples with images, one per row, as `palix.answer_loss` and (without targets) `decode` take them.

    {"images" float32[B, n, H, W, 3] in [-1, 1], "images_valid" bool[B, n], "prompt_tokens" int32[B, N], "targets"
    int32[B, M], "weights" float32[B, M]} with n = num_images, N = prompt_length, M = target_length, H = W = image_size.
    Few-shot, "prompt_tokens" is int32[B, n, N], a text per image. Examples with fewer images are padded in front: the
    query is always the last.

    Weights: 0 for padding and tokens without loss, else 1 / sqrt(number of tokens with loss): an example of 50 tokens
    counts as much as seven of one token. If every token counted the same, the boxes of a detection would outweigh the
    one word of an answer; if every example did, each coordinate would hardly matter.

    Raises ValueError for an example with more images or tokens than fit, for no examples, and for a mix of few-shot and
    other examples.
    """
    rows = [tokenise(example, tokenizer) for example in examples]
    lengths = {"num_images": num_images, "prompt_length": prompt_length, "target_length": target_length}
    return rows_to_arrays(rows, tokenizer.pad_id, **lengths, image_size=image_size)


def rows_to_arrays(
    rows: Sequence[Tokenised],
    pad_id: int,
    *,
    num_images: int,
    prompt_length: int,
    target_length: int,
    image_size: int = 64,
) -> dict[str, np.ndarray]:
    """As `to_arrays`, for examples that are already tokenised."""
    lengths = {"num_images": num_images, "prompt_length": prompt_length, "target_length": target_length}
    texts = texts_to_arrays(rows, pad_id, **lengths)
    images = np.zeros((len(rows), num_images, image_size, image_size, 3), np.float32)
    for i, row in enumerate(rows):
        if len(row.images):
            images[i, -len(row.images) :] = image_batches.to_float(stretched(row.images, image_size))
    return {"images": images} | texts


def stretched(images: np.ndarray, image_size: int) -> np.ndarray:
    """uint8[n, H, W, 3] -> uint8[n, image_size, image_size, 3]. Stretched, not cropped: a question may be about the
    border, and boxes are shares of the whole image."""
    return image_batches.stretch(images, image_size, image_size)


def texts_to_arrays(
    rows: Sequence[Tokenised], pad_id: int, *, num_images: int, prompt_length: int, target_length: int
) -> dict[str, np.ndarray]:
    """As `rows_to_arrays`, without "images"."""
    if not rows or num_images < 1:
        raise ValueError(f"Expected at least one example and num_images >= 1, got {len(rows)} and {num_images}.")
    b, few_shot = len(rows), [row.few_shot for row in rows]
    if any(few_shot) != all(few_shot):
        raise ValueError(f"Few-shot examples need a batch of their own, got {sum(few_shot)} of them among {b}.")
    out = {
        "images_valid": np.zeros((b, num_images), bool),
        "prompt_tokens": np.full((b, num_images if few_shot[0] else 1, prompt_length), pad_id, np.int32),
        "targets": np.full((b, target_length), pad_id, np.int32),
        "weights": np.zeros((b, target_length), np.float32),
    }
    for i, row in enumerate(rows):
        n, parts, target = len(row.images), row.prompt_tokens, row.target_tokens
        too_long = n > num_images or len(target) > target_length or row.prompt_length > prompt_length
        if too_long or (few_shot[0] and len(parts) != n):
            raise ValueError(
                f"An example of {row.objective} has {n} images, {len(parts)} prompts of at most {row.prompt_length} "
                f"tokens and a target of {len(target)} tokens; the batch takes {num_images} images, few-shot with a "
                f"prompt each, of {prompt_length} tokens, and a target of {target_length}."
            )
        out["images_valid"][i, num_images - n :] = True
        for part, line in zip(parts, out["prompt_tokens"][i, -len(parts) :], strict=True):
            line[: len(part)] = part
        out["targets"][i, : len(target)] = target
        out["weights"][i, : len(target)] = loss_weights(row)
    return out if few_shot[0] else out | {"prompt_tokens": out["prompt_tokens"][:, 0]}


def loss_weights(row: Tokenised) -> np.ndarray:
    """float64[M]: 1 / sqrt(number of tokens that carry loss) for a token that carries loss, else 0."""
    return np.array(row.carries_loss) / np.sqrt(sum(row.carries_loss))


def pack(
    rows: Sequence[Sequence[Tokenised]], pad_id: int, *, prompt_length: int, target_length: int
) -> dict[str, np.ndarray]:
    """Texts without images, several per row: as `to_arrays`, but without images, and with the texts' segments.

    "prompt_segments" int32[B, N] and "target_segments" int32[B, M]: 1, 2, ... for the texts of a row, 0 for padding.
    Raises ValueError for an example with images and for a row that does not fit.
    """
    b = len(rows)
    lengths = {"prompt": prompt_length, "target": target_length}
    tokens = {name: np.full((b, length), pad_id, np.int32) for name, length in lengths.items()}
    segments = {name: np.zeros((b, length), np.int32) for name, length in lengths.items()}
    weights = np.zeros((b, target_length), np.float32)
    for i, examples in enumerate(rows):
        ends = {"prompt": 0, "target": 0}
        for segment, example in enumerate(examples, 1):
            if len(example.images):
                raise ValueError(f"Only texts are packed, but an example of {example.objective} has images.")
            for name, ids in (("prompt", example.prompt_tokens[0]), ("target", example.target_tokens)):
                start, end = ends[name], ends[name] + len(ids)
                if end > lengths[name]:
                    raise ValueError(f"The {name}s of row {i} have {end} tokens or more, of {lengths[name]}.")
                tokens[name][i, start:end] = ids
                segments[name][i, start:end] = segment
                if name == "target":
                    weights[i, start:end] = loss_weights(example)
                ends[name] = end
    return {
        "prompt_tokens": tokens["prompt"],
        "prompt_segments": segments["prompt"],
        "targets": tokens["target"],
        "target_segments": segments["target"],
        "weights": weights,
    }
