"""Stage 0 of PaLI-X: before a tower is frozen, it learns to say which things and which letters are in a picture.

    make = labelled("train")                                                # rng -> a picture and its labels
    tower = tune(configs.palix("S").tower, make, steps=3000, batch_size=64, peak=2e-3)
    params = params | {"tower": tower}                                      # of the whole model

PaLI-X's tower knows what is in a picture from JFT and learns to read by another classification: does token t of the
vocabulary occur in the text of the picture? Here both are one list of labels: first one for each letter, then one for
each of `mixture.things`. Pictures are words, a thing, or a scene of several. Every label is a question of its own,
answered yes or no (sigmoid), so that several can be true at once.

Where we depart: PaLI-X asks whether a token is in the picture, we ask it of every patch. Our pictures are drawn, so it
is known where each letter is. Without being told, the small model did not learn to read: after 160,000 such pictures
it found 13 % of the words' pieces. And tokens are single letters here: far fewer to learn, and test words share them.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib import mixture, optim, pictures, pipeline, rendered, scenes, train
from kitlib.configs import ViTConfig
from kitlib.data import keyed_rng
from kitlib.mixture import GRID
from kitlib.vit import ViT

Maker = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]

KINDS = ("words", "thing", "scene")  # of pictures
WORDS = 4  # in a picture, at most
TRUE = 0.5  # labels of a patch, about: where the head starts


def labelled(split: str, kinds: Sequence[str] = KINDS) -> Maker:
    """rng -> (picture uint8[64, 64, 3], labels bool[P, V]), P patches of 8 x 8 pixels, V labels as in `names`.

    kinds: of pictures, equally often. Raises ValueError for an unknown kind or none.
    """
    if not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"Kinds of pictures are {', '.join(KINDS)}, one of them at least; got {list(kinds)}.")
    cutouts = scenes.cut_outs(pictures.emoji(split).images[mixture.things(split)])
    labels = names(split)
    rows = [labels.index(name) - len(letters()) for name in scenes.EASY[split]]
    vocabularies = [np.array(words) for words in rendered.words(split).values()]
    number = {letter: i for i, letter in enumerate(letters())}

    def draw(rng):
        """(picture, labels int[n], boxes float[n, 4])"""
        kind = kinds[rng.integers(len(kinds))]
        if kind == "words":
            words = rng.choice(vocabularies[rng.integers(len(vocabularies))], rng.integers(1, WORDS + 1))
            image, text, boxes = rendered.spelled([str(word) for word in words], rng, scenes.SIZE)
            return image, [number[letter] for letter in text], boxes
        if kind == "thing":
            i = rng.integers(len(cutouts))
            image, box = mixture.placed(cutouts[i], rng)
            return image, [len(number) + i], box[None]
        # Several things, small enough to have room beside each other: those that stay clear.
        chosen = rng.choice(rows, rng.integers(1, mixture.OBJECTS + 1))
        scene = scenes.compose(cutouts, chosen, mixture.SIDES, rng)
        return scene.image, len(number) + scene.indices, scene.boxes

    def make(rng):
        image, known, boxes = draw(rng)
        true = np.zeros((np.prod(GRID), len(labels)), bool)
        for i, where in zip(known, cells(boxes), strict=True):
            true[where, i] = True
        return image, true

    return make


@functools.cache
def letters() -> tuple[str, ...]:
    """All characters of the words to read, of all splits, sorted."""
    splits = [rendered.words(split).values() for split in ("train", "valid", "test")]
    return tuple(sorted({letter for lists in splits for words in lists for word in words for letter in word}))


def names(split: str) -> tuple[str, ...]:
    """What the labels stand for: the letters, then the English names of the things of the split."""
    english = pictures.emoji(split).names["en"]
    return letters() + tuple(english[i] for i in mixture.things(split))


def cells(boxes) -> np.ndarray:
    """bool[n, P], for each of boxes float[n, 4] the patches whose middle is in it, and the patch of its own middle."""
    boxes, (height, width) = np.asarray(boxes, np.float64).reshape(-1, 4), GRID
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    down = (boxes[:, :1] <= y) & (y < boxes[:, 2:3])
    across = (boxes[:, 1:2] <= x) & (x < boxes[:, 3:])
    out = down[:, :, None] & across[:, None]
    middle = np.clip((boxes[:, :2] + boxes[:, 2:]) / 2 * GRID, 0, np.array(GRID) - 1).astype(int)
    out[np.arange(len(boxes)), middle[:, 0], middle[:, 1]] = True
    return out.reshape(len(boxes), height * width)


def labelled_batches(make: Maker, size: int, *, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {"image": float32[B, H, W, 3] in [-1, 1], "labels": bool[B, P, V]}, each a function of its
    position; a Grain iterator, resumable as those of `collate.batches`."""

    def batch(position: int) -> dict[str, np.ndarray]:
        made = [make(keyed_rng(seed, position, row)) for row in range(size)]
        images, labels = zip(*made, strict=True)
        return {"image": pipeline.to_float(np.stack(images)), "labels": np.stack(labels)}

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(options))


def tune(tower: ViTConfig, make: Maker, *, steps: int, batch_size: int, peak: float, seed: int = 0, **saves) -> dict:
    """The tower's parameters after so many steps of Adam. saves: what `train.fit` takes to save and to tell.

    Raises ValueError for a tower whose patches are not those of the labels.
    """
    state, step, batches = training(tower, make, steps=steps, batch_size=batch_size, peak=peak, seed=seed)
    state, _ = train.fit(step, state, batches, steps, **saves)
    return tower_params(state.params)


def training(tower: ViTConfig, make: Maker, *, steps: int, batch_size: int, peak: float, seed: int = 0) -> tuple:
    """(state, step, batches) of `tune` at its start."""
    if tower.grid != GRID:
        raise ValueError(f"The tower has {tower.grid} patches, the labels {GRID}: take 64 x 64 pixels in patches of 8.")
    count = make(keyed_rng(seed))[1].shape[-1]
    model = ViT(tower_with_head(tower, count))
    params = start_bias(train.init_params(model, (1, *tower.image_size, tower.channels), seed), TRUE / count)
    tx, step = _step(model, steps, peak)
    return train.init_state(params, tx, seed), step, labelled_batches(make, batch_size, seed=seed)


@functools.cache  # several seeds of one model compile once
def _step(model, steps: int, peak: float):
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(peak, steps, warmup=min(200, steps // 4)), clip_norm=1.0)
    return tx, train.make_step(labels_loss(model), tx)


def tower_with_head(tower: ViTConfig, num_labels: int) -> ViTConfig:
    """The tower of a `PaLIXConfig` with a logit for each label of each patch."""
    return tower.replace(pool="none", num_classes=num_labels)


def tower_params(params: dict) -> dict:
    """The tower's parameters out of those of `tower_with_head`."""
    return {name: value for name, value in params.items() if name != "head"}


def labels_loss(model) -> Callable:
    """Binary cross-entropy, summed over labels, mean over patches, of a `tower_with_head` on {"image": float[B, ...],
    "labels": bool[B, P, V]}.

    Metric "found", of the picture whatever the patch: of its true labels, the share among its n largest logits, n
    being their number.
    """

    def loss_fn(params, batch, key):
        logits, _ = model.apply({"params": params}, batch["image"], train=True, rngs={"dropout": key})
        labels = batch["labels"]
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).sum(axis=-1)
        return losses.mean(), {"found": found(logits.max(axis=1), labels.any(axis=1))}

    return loss_fn


def found(logits: jax.Array, labels: jax.Array, most: int = 32) -> jax.Array:
    """Precision at n, the number of true labels of each picture (at most `most`), mean over pictures: float32[].

    logits: float[B, V]. labels: bool[B, V].
    """
    count = labels.sum(axis=-1, keepdims=True)
    order = jax.lax.top_k(logits, min(most, logits.shape[-1]))[1]  # [B, most]
    hits = jnp.take_along_axis(labels, order, axis=-1) & (jnp.arange(order.shape[-1])[None] < count)
    return jnp.mean(hits.sum(axis=-1) / jnp.maximum(count[:, 0], 1))


def start_bias(params: dict, rate: float) -> dict:
    """The head's bias set so that every label starts at probability `rate`, about the share of labels that are true.

    From zero, a thousand labels would each have to be unlearned first: ViT-22B's family starts at -10 (2106.04560).
    """
    bias = jnp.full_like(params["head"]["bias"], np.log(rate / (1 - rate)))
    return params | {"head": params["head"] | {"bias": bias}}
