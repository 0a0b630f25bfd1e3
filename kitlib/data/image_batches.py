"""Batches of pictures, or of any rows: shuffled, augmented, split over hosts, and resumable to the exact batch.

    for batch in batches(source, 128, augment="flip", num_epochs=1): ...
    shuffled_batches(len(facts), 256, lambda rows, position: {"inputs": facts.inputs[rows]}, seed=0)   # without end

Every batch is a pure function of (seed, position): the order of an epoch comes from a generator keyed by (seed, epoch),
the augmentation from one keyed by (seed, host, position). So the state of a training run is one integer, and a resumed
run gets the same pictures as one that was never stopped. Grain supplies the iterator, its state and its reader threads.
Its elements are whole batches: in numpy, they are about ten times faster than one Python call per record.
"""

import functools
import os
import sys
from collections.abc import Callable

import grain
import numpy as np
from PIL import Image

from kitlib.configs.arguments import flag, one_of, whole
from kitlib.data.files import keyed_rng
from kitlib.data.images import Source

AUGMENTS = ("none", "flip", "crop_flip", "inception")


def batches(
    source: Source,
    batch_size: int,
    *,
    seed: int = 0,
    train: bool = True,
    image_size: int | None = None,
    augment: str = "none",
    num_epochs: int | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator:
    """An iterator over batches {"image": float32[B, H, W, C] in [-1, 1], "label": int32[B]}.

    `iterator.get_state()` is a small dict that JSON can write; `set_state` on an iterator made with the same arguments
    continues with the very next batch.

    Training reshuffles every epoch and drops the last incomplete batch; all shards give equally many. Evaluation keeps
    the order of the source and ends with a smaller batch; one shard may give one more than another. Shard i takes every
    shard_count-th record from the i-th on (in training: of the shuffled order).

    Args:
        source: from `kitlib.data.load` or `from_arrays`.
        batch_size: B, for this shard.
        seed: the same on all shards; at least 0.
        train: True for training, False for evaluation.
        image_size: H = W of the batch, filled by the largest centred square of each picture; None keeps their size.
        augment: for training. "none"; "flip": half of the pictures left to right; "crop_flip": pad by 2 zeros (by 4
            from 32 pixels on), crop at random, flip (1512.03385, for CIFAR); "inception": crop 5 to 100 % of the area
            at an aspect of 3/4 to 4/3, resize, flip (1409.4842 with 8 to 100 %; the 5 % is big_vision's).
        num_epochs: None means without end in training and once in evaluation.
        shard_index, shard_count: this host and the number of hosts that read the source, as of `jax.process_index()`.

    Raises ValueError for an argument out of range, a shard smaller than one training batch, pictures that differ in
    size without an image_size, and augment in evaluation; TypeError for what is no Source.
    """
    _check(source, batch_size, seed, train, image_size, augment, num_epochs, shard_index, shard_count)
    shard_size = len(range(shard_index, len(source), shard_count))
    # All hosts take part in every training step, so all give as many batches as the smallest shard can.
    steps = len(source) // shard_count // batch_size if train else -(-shard_size // batch_size)
    height, width = (image_size, image_size) if image_size else source.image_shape[:2]

    @functools.lru_cache(maxsize=2)  # the reader threads may be in two epochs at once
    def order(epoch: int) -> np.ndarray:
        everything = keyed_rng(seed, 0, epoch).permutation(len(source)) if train else np.arange(len(source))
        return everything[shard_index::shard_count]

    def batch(position: int) -> dict[str, np.ndarray]:
        epoch, step = divmod(position, steps)
        images, labels = source.take(order(epoch)[step * batch_size : (step + 1) * batch_size])
        rng = keyed_rng(seed, 1, shard_index, position)
        if augment == "inception":
            images = inception(images, rng, height, width)
        else:
            images = resize_and_crop(images, height, width)
            images = {"none": lambda x, _: x, "flip": flip, "crop_flip": crop_flip}[augment](images, rng)
        return {"image": to_float(images), "label": labels}

    epochs = num_epochs if num_epochs is not None else (sys.maxsize // steps if train else 1)
    # For pictures in memory one thread is enough, which works while the device computes. Decoding files uses all cores.
    threads = 1 if source.store.in_memory else min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.range(steps * epochs).map(batch).to_iter_dataset(options))


def shuffled_batches(
    size: int, batch_size: int, make: Callable[[np.ndarray, int], dict[str, np.ndarray]], *, seed: int = 0
) -> grain.DatasetIterator:
    """Yields make(rows int[batch_size], number of the batch) without end.

    `get_state` and `set_state` continue with the very next batch. The last incomplete batch of an epoch is dropped.
    Raises ValueError if there are fewer rows than batch_size, or it is not positive.
    """
    whole("batch_size (of all examples at most)", batch_size, 1, size)
    steps = size // batch_size

    @functools.lru_cache(maxsize=2)  # the reader thread may be in two epochs at once
    def order(epoch: int) -> np.ndarray:
        return keyed_rng(seed, 0, epoch).permutation(size)

    def batch(position: int) -> dict[str, np.ndarray]:
        epoch, step = divmod(position, steps)
        return make(order(epoch)[step * batch_size : (step + 1) * batch_size], position)

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # works while the device computes
    return iter(grain.MapDataset.range(steps * (sys.maxsize // steps)).map(batch).to_iter_dataset(options))


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 0 ... 255 -> float32 in [-1, 1], any shape. Raises ValueError for another type."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"The images are {images.dtype}; expected uint8 with values 0 to 255.")
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def resize_and_crop(images, height: int, width: int) -> np.ndarray:
    """Resizes uint8[n, H, W, C], or a list of uint8[H, W, C], so that the largest centred part of the new aspect fills
    uint8[n, height, width, C]. Pictures that already have this size are not changed."""
    if isinstance(images, np.ndarray) and images.shape[1:3] == (height, width):
        return images
    return np.stack([_resize(image, _centred(image.shape, width / height), height, width) for image in images])


def stretch(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes whole pictures to uint8[n, height, width, C], whatever their aspect: relative boxes stay correct."""
    if images.shape[1:3] == (height, width):
        return images
    return np.stack([_resize(image, (0, 0, image.shape[1], image.shape[0]), height, width) for image in images])


def flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips half of the pictures left to right. uint8[n, H, W, C] -> same."""
    mirrored = rng.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def crop_flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pads with zeros, crops at random to the old size and flips half of the pictures. uint8[n, H, W, C] -> same."""
    n, height, width, _ = images.shape
    pad = 4 if min(height, width) >= 32 else 2
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    top, left = rng.integers(0, 2 * pad + 1, (2, n))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return flip(padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]], rng)


def inception(images, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Crops a random part of each picture, resizes it and flips half of the pictures: uint8[n, height, width, C].

    The part has 5 to 100 % of the area, uniform, and an aspect (width / height) of 3/4 to 4/3, log-uniform; if ten
    tries do not fit into the picture, it is the centre. images: as for `resize_and_crop`.
    """
    return flip(np.stack([_resize(image, _random_box(image.shape, rng), height, width) for image in images]), rng)


def _random_box(shape, rng) -> tuple[float, float, float, float]:
    height, width = shape[:2]
    areas = rng.uniform(0.05, 1.0, 10) * height * width
    aspects = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 10))
    for w, h in zip(np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects)), strict=True):
        if 1 <= w <= width and 1 <= h <= height:
            left, top = rng.integers(0, width - int(w) + 1), rng.integers(0, height - int(h) + 1)
            return left, top, left + w, top + h
    return _centred(shape, float(np.clip(width / height, 3 / 4, 4 / 3)))


def _centred(shape, aspect: float) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) of this aspect (width / height)."""
    height, width = shape[:2]
    w, h = min(width, height * aspect), min(height, width / aspect)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def _resize(image: np.ndarray, box, height: int, width: int) -> np.ndarray:
    """Crops box = (left, top, right, bottom) and resizes it (bilinear, antialiased). uint8[H, W, C], C = 1 or 3."""
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    out = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return out[..., None] if grey else out


def _check(source, batch_size, seed, train, image_size, augment, num_epochs, shard_index, shard_count) -> None:
    if not isinstance(source, Source):
        raise TypeError(f"source is a {type(source).__name__}; expected a Source: use kitlib.data.load or from_arrays.")
    counts = {"batch_size": batch_size, "shard_count": shard_count, "num_epochs": num_epochs, "image_size": image_size}
    for name, value in counts.items():
        if value is not None or name in ("batch_size", "shard_count"):
            whole(name, value, 1)
    flag("train", train)
    whole("seed", seed, 0)
    whole("shard_index", shard_index, 0, shard_count - 1)
    if len(source) < shard_count:
        raise ValueError(f"{source.name} has {len(source)} records for {shard_count} shards: use fewer shards.")
    if train and batch_size > len(source) // shard_count:
        there = f"{len(source) // shard_count} records ({len(source)} over {shard_count} shards)"
        raise ValueError(
            f"batch_size is {batch_size}, but a shard of {source.name} has only {there}: use a smaller one."
        )
    one_of("augment", augment, AUGMENTS)
    if augment != "none" and not train:
        raise ValueError(f"augment is {augment!r} with train=False: evaluate on the pictures as they are, 'none'.")
    if image_size is None and None in source.image_shape:
        raise ValueError(f"The pictures of {source.name} differ in size: pass image_size, for example 224.")
    if source.image_shape[-1] not in (1, 3) and (augment == "inception" or image_size is not None):
        raise ValueError(f"{source.name} has {source.image_shape[-1]} channels; resizing needs 1 (grey) or 3 (RGB).")
