"""Collating examples: every example is tokenised once, then padded to rows of fixed lengths, with images or features.

    words = tokenizer.multilingual()
    lengths = {"num_images": 1, "prompt_length": 40, "target_length": 32}
    batch = to_arrays(examples, words, **lengths)                                      # "images" and the texts
    batch = seen_arrays(examples, words, config.tower, params["tower"], **lengths)     # "features", no "images"

Every text is encoded with a space before it, as the tokenizer expects (`tokenizer.multilingual`), and ends with the end
of sequence. Texts without images are short: they are *packed*, several per row, and distinguished by segments. Nothing
is ever cut off: an example that does not fit raises ValueError.

Features are the output of a frozen tower. Every different image goes through it once, in chunks of one shape, as one
image is often asked about in sixteen languages. `mixtures` trains on features, `generation` writes from them.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from kitlib.configs import ViTConfig
from kitlib.data import image_batches
from kitlib.data.tokenizer import Tokenizer
from kitlib.models.vit import ViT
from kitlib.multimodal.prompts import Example

CHUNK = 32  # images at a time: on two CPU cores the fastest of 8 to 256, whose arrays stay in the caches

# ---------------------------------------------------------------------------------------------- tokens


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
    few_shot, prompt = not isinstance(example.prompt, str), prompt_tokens(example, tokenizer)
    return Tokenised(example.task, example.images, few_shot, prompt, *target_tokens(example, tokenizer))


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


# ---------------------------------------------------------------------------------------------- arrays


def to_arrays(
    examples: Sequence[Example], tokenizer: Tokenizer, *, num_images: int, image_size: int = 64, **lengths: int
) -> dict[str, np.ndarray]:
    """Examples with images, one per row, as `palix.answer_loss` and (without targets) `decode` take them.

    {"images" float32[B, n, H, W, 3] in [-1, 1], "images_valid" bool[B, n], "prompt_tokens" int32[B, N], "targets"
    int32[B, M], "weights" float32[B, M]} with n = num_images, H = W = image_size, and of the lengths N = prompt_length
    and M = target_length. Few-shot, "prompt_tokens" is int32[B, n, N], a text per image. Examples with fewer images are
    padded in front: the query is always the last.

    Weights: 0 for padding and tokens without loss, else 1 / sqrt(number of tokens with loss): an example of 50 tokens
    counts as much as seven of one token. If every token counted the same, the boxes of a detection would outweigh the
    one word of an answer; if every example did, each coordinate would hardly matter.

    Raises ValueError for an example with more images or tokens than fit, for no examples, and for a mix of few-shot and
    other examples.
    """
    rows = [tokenise(example, tokenizer) for example in examples]
    texts = texts_to_arrays(rows, tokenizer.pad_id, num_images=num_images, **lengths)
    return {"images": images_to_array(rows, num_images, image_size)} | texts


def images_to_array(rows: Sequence[Tokenised], num_images: int, image_size: int) -> np.ndarray:
    """The "images" of `to_arrays`, for rows of which none has more images."""
    images = np.zeros((len(rows), num_images, image_size, image_size, 3), np.float32)
    for i, row in enumerate(rows):
        if len(row.images):
            images[i, -len(row.images) :] = image_batches.to_float(stretched(row.images, image_size))
    return images


def stretched(images: np.ndarray, image_size: int) -> np.ndarray:
    """uint8[n, H, W, 3] -> uint8[n, image_size, image_size, 3]. Stretched, not cropped: a question may be about the
    border, and boxes are shares of the whole image."""
    return image_batches.stretch(images, image_size, image_size)


def texts_to_arrays(
    rows: Sequence[Tokenised], pad_id: int, *, num_images: int, prompt_length: int, target_length: int
) -> dict[str, np.ndarray]:
    """As `to_arrays`, without "images", for examples that are already tokenised."""
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


# ---------------------------------------------------------------------------------------------- features


class Images:
    """Different images, numbered in the order in which they came."""

    def __init__(self):
        self.images, self.numbers = [], {}

    def number(self, image: np.ndarray) -> int:
        """The number of an image uint8[H, W, 3]; the same for equal ones."""
        key = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        if key not in self.numbers:
            self.numbers[key] = len(self.images)
            self.images.append(image)
        return self.numbers[key]

    def stacked(self, tower: ViTConfig) -> np.ndarray:
        """uint8[P, H, W, 3]; P may be 0."""
        return np.stack(self.images) if self.images else np.zeros((0, *tower.image_size, tower.channels), np.uint8)


def tower_output(config: ViTConfig, params: dict, images: np.ndarray, dtype=np.float32) -> np.ndarray:
    """uint8[P, H, W, 3] -> [P, k, D_v] of `dtype`, the tower's output, `CHUNK` images at a time. P may be 0."""
    out = np.zeros((len(images), config.num_tokens, config.width), dtype)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        padded = np.concatenate([chunk, np.zeros((CHUNK - len(chunk), *chunk.shape[1:]), np.uint8)])
        out[start : start + CHUNK] = _forward(config, params, image_batches.to_float(padded))[: len(chunk)]
    return out


@functools.partial(jax.jit, static_argnums=0)
def _forward(config: ViTConfig, params, images):
    return ViT(config).apply({"params": params}, images)[0]


def features_of(
    rows: Sequence[Tokenised], config: ViTConfig, params: dict, num_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """(features float32[P + 1, k, D_v] of the P different images of B examples, numbers int[B, n] of theirs).

    The last features are zeros: they stand for images that an example does not have, which come before its own.
    """
    images, numbers = Images(), np.full((len(rows), num_images), -1)
    for number, row in zip(numbers, rows, strict=True):
        if len(row.images):
            own = stretched(row.images, config.image_size[0])
            number[-len(own) :] = [images.number(image) for image in own]
    features = tower_output(config, params, images.stacked(config))
    return np.concatenate([features, np.zeros((1, *features.shape[1:]), np.float32)]), numbers


def seen_arrays(
    examples: Sequence[Example], tokenizer: Tokenizer, config: ViTConfig, params: dict, *, num_images: int, **lengths
) -> dict[str, np.ndarray]:
    """As `to_arrays`, with "features" float32[B, n, k, D_v] instead of "images"; the same errors."""
    rows = [tokenise(example, tokenizer) for example in examples]
    texts = texts_to_arrays(rows, tokenizer.pad_id, num_images=num_images, **lengths)
    features, numbers = features_of(rows, config, params, num_images)
    return {"features": features[numbers]} | texts


@dataclasses.dataclass(frozen=True, eq=False)
class Tower:
    """A frozen tower: its configuration and parameters, without a head."""

    config: ViTConfig
    params: dict

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ for another configuration and for another value of any parameter."""
        return fingerprint(self.params, repr(self.config))

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8[P, H, W, 3] -> float16[P, k, D_v]: what the tower says of every patch."""
        return tower_output(self.config, self.params, images, np.float16)


def fingerprint(params: dict, words: str = "") -> str:
    """16 hexadecimal digits that differ for other words and for another value of any parameter."""
    digest = hashlib.sha256(words.encode())
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]
