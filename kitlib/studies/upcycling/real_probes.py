"""Linear probes of every block of a real DINOv2 on CIFAR-10, and of pixels.

    kit claims upcycling real_probes

The features of a picture are its class token beside the mean of its 16 patches, float[768]. Seeds are draws of the
pictures that the probes are fitted to; nothing else is random.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.data import download, files
from kitlib.metrics import fewshot
from kitlib.models import dinov2
from kitlib.models.vit import ViT
from kitlib.studies.study import Study, kept
from kitlib.studies.upcycling.real_parent import NAME, SIDE, enlarged, pictures
from kitlib.training import classification

SIZES = {"train": 5_000, "valid": 1_000, "test": 2_000}  # of what `real_parent.SPLITS` has
PROBED, SHOTS, L2 = 2_000, (1, 5, 10), (1.0, 10.0, 100.0, 1000.0)


def setting() -> str:
    """What all arms have in common."""
    return f"{NAME}, {SIDE} pixels, frozen; CIFAR-10, ridge probes on [class token, mean of patches], sizes {SIZES}"


def _features() -> dict[str, np.ndarray]:
    """Of all pictures after every block, and their pixels: "train_block03" float16[n, 768], "train_pixels", ..."""
    config, params = dinov2.load(download.weights_file(NAME), (SIDE, SIDE))

    @jax.jit
    def of(images):
        out = ViT(config).apply({"params": params}, enlarged(images))[1]
        tokens = jnp.stack([out[f"block{i:02d}"]["+mlp"] for i in range(config.depth)], axis=1)  # [B, blocks, N, D]
        return jnp.concatenate([tokens[:, :, 0], tokens[:, :, 1:].mean(axis=2)], axis=-1)

    arrays = {}
    for split, size in SIZES.items():
        images, labels = (array[:size] for array in pictures(split))
        found = classification.in_batches(lambda batch, _: of(batch), images, 100)
        arrays |= {f"{split}_block{i:02d}": found[:, i].astype(np.float16) for i in range(config.depth)}
        arrays |= {f"{split}_pixels": images.reshape(size, -1).astype(np.float16), f"{split}_labels": labels}
    return arrays


def features_file(folder: Path) -> Path:
    """Where `cached_features` keeps them."""
    return folder / f"probes-{files.recipe_hash(f'{download.WEIGHTS[NAME].sha256} {SIDE} {SIZES}')}.npz"


@functools.cache  # one process makes many runs
def cached_features(folder: Path) -> dict[str, np.ndarray]:
    """All features, from `folder` if they are there: a minute, 200 MB."""
    return kept(features_file(folder), _features)


def prepare(seed: int, folder: Path) -> None:
    """Makes the file of the features."""
    cached_features(folder)


def run_arm(source: str, seed: int, folder: Path) -> list[dict]:
    """One row: the accuracy of a probe fitted to 2,000 pictures, and with 1, 5 and 10 pictures per class.

    source: where the features are taken, "pixels" or "block00" (after the first block) and so on.
    The weight decay of the first is the best of four on the validation split; the others have 1, as in notebook 11.
    """
    arrays = cached_features(folder)
    x, y = ({split: arrays[f"{split}_{what}"] for split in SIZES} for what in (source, "labels"))

    def score(rows: np.ndarray, l2: float, split: str) -> float:
        probe = fewshot.fit_probe(x["train"][rows], y["train"][rows], l2=l2)
        return float(np.mean(fewshot.probe_scores(probe, x[split]).argmax(axis=-1) == y[split]))

    many = np.random.default_rng([seed, 0]).permutation(len(y["train"]))[:PROBED]
    best = max(L2, key=lambda l2: score(many, l2, "valid"))
    few = {f"shots_{n}": score(fewshot.shots(y["train"], n, seed), 1.0, "test") for n in SHOTS}
    return [{"accuracy": score(many, best, "test"), "l2": best, **few}]


def probes() -> Study:
    """real_probes."""
    arms = {"pixels": "pixels"} | {f"block {i + 1}": f"block{i:02d}" for i in range(12)}
    question = "What does a real parent know about classes, block by block?"
    return Study(question, setting(), arms, run_arm, prepare)


STUDIES = {"real_probes": probes}
