"""What a tower says of images: every different image goes through it once, in chunks of one shape.

    images = Images()
    numbers = [images.number(image) for image in many]                       # equal images have equal numbers
    features = tower_output(config.tower, params["tower"], images.stacked(config.tower))[numbers]

`features` trains on such output, `generation` writes from it: one image is often asked about in sixteen languages.
"""

import dataclasses
import functools
import hashlib

import jax
import numpy as np

from kitlib.configs import ViTConfig
from kitlib.data import image_batches
from kitlib.models.vit import ViT

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
