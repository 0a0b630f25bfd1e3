"""Features of a frozen tower: every different image goes through it once, in chunks of one shape.

    arrays = seen_arrays(examples, tokenizer, config.tower, params["tower"], **lengths)   # "features", no "images"
    features, numbers = features_of(rows, config.tower, params["tower"], num_images)

`mixtures` trains on such output, `generation` writes from it: one image is often asked about in sixteen languages.
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
from kitlib.multimodal import batching
from kitlib.multimodal.batching import Tokenised
from kitlib.multimodal.prompts import Example

CHUNK = 32  # images at a time: on two CPU cores the fastest of 8 to 256, whose arrays stay in the caches


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
            own = batching.stretched(row.images, config.image_size[0])
            number[-len(own) :] = [images.number(image) for image in own]
    features = tower_output(config, params, images.stacked(config))
    return np.concatenate([features, np.zeros((1, *features.shape[1:]), np.float32)]), numbers


def seen_arrays(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: ViTConfig,
    params: dict,
    *,
    num_images: int,
    prompt_length: int,
    target_length: int,
) -> dict[str, np.ndarray]:
    """As `batching.to_arrays`, with "features" float32[B, n, k, D_v] instead of "images"; the same errors."""
    rows = [batching.tokenise(example, tokenizer) for example in examples]
    lengths = {"num_images": num_images, "prompt_length": prompt_length, "target_length": target_length}
    arrays = batching.texts_to_arrays(rows, tokenizer.pad_id, **lengths)
    features, numbers = features_of(rows, config, params, num_images)
    return {"features": features[numbers]} | arrays


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
