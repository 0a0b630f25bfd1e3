"""Stage 0 of PaLI-X: before a tower is frozen, it learns to say which things and which words are in a picture.

    make = labelled("train", tokenizer)                                     # rng -> a picture and its labels
    tower = tune(configs.palix("S").tower, make, steps=3000, batch_size=64, peak=2e-3)
    params = params | {"tower": tower}                                      # of the whole model

PaLI-X's tower knows what is in a picture from JFT and learns to read by another classification: does token t of the
vocabulary occur in the text of the picture? Neither asks where. Here both are one list of labels: first a label for
each id of the tokenizer, then one for each emoji. Pictures are words, one of `mixture.things`, or a scene of several.
Every label is a question of its own, answered yes or no (sigmoid), so that several can be true at once.
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
from kitlib.tokenizer import Tokenizer
from kitlib.vit import ViT

Maker = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]

KINDS = ("words", "thing", "scene")  # of pictures
WORDS = 4  # in a picture, at most
TRUE = 4  # labels of a picture, about: where the head starts


def labelled(split: str, tokenizer: Tokenizer, kinds: Sequence[str] = KINDS) -> Maker:
    """rng -> (picture uint8[64, 64, 3], labels bool[V]), V = the tokenizer's ids and then the emoji of the split.

    Labels of words are the ids of their pieces, each word with a space before it. kinds: of pictures, equally often.
    Raises ValueError for an unknown kind or none.
    """
    if not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"Kinds of pictures are {', '.join(KINDS)}, one of them at least; got {list(kinds)}.")
    emoji = pictures.emoji(split)
    cutouts = scenes.cut_outs(emoji.images)
    named, rows = mixture.things(split), [emoji.names["en"].index(name) for name in scenes.EASY[split]]
    vocabularies = [np.array(words) for words in rendered.words(split).values()]
    count = tokenizer.vocab_size + len(emoji)

    def make(rng):
        kind, labels = kinds[rng.integers(len(kinds))], np.zeros(count, bool)
        if kind == "words":
            words = rng.choice(vocabularies[rng.integers(len(vocabularies))], rng.integers(1, WORDS + 1))
            image, texts, _ = rendered.scattered([str(word) for word in words], rng, scenes.SIZE)
            for text in texts:
                labels[tokenizer.encode(f" {text}")] = True
        elif kind == "thing":
            i = named[rng.integers(len(named))]
            image = mixture.placed(cutouts[i], rng)
            labels[tokenizer.vocab_size + i] = True
        else:  # several things, small enough to have room beside each other: those that stay clear
            chosen = rng.choice(rows, rng.integers(1, mixture.OBJECTS + 1))
            image = scenes.compose(cutouts, chosen, (12, 24), rng).image
            labels[tokenizer.vocab_size + chosen] = True
        return image, labels

    return make


def labelled_batches(make: Maker, size: int, *, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {"image": float32[B, H, W, 3] in [-1, 1], "labels": bool[B, V]}, each a function of its position;
    a Grain iterator, resumable as those of `collate.batches`."""

    def batch(position: int) -> dict[str, np.ndarray]:
        made = [make(keyed_rng(seed, position, row)) for row in range(size)]
        images, labels = zip(*made, strict=True)
        return {"image": pipeline.to_float(np.stack(images)), "labels": np.stack(labels)}

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(options))


def tune(tower: ViTConfig, make: Maker, *, steps: int, batch_size: int, peak: float, seed: int = 0, **saves) -> dict:
    """The tower's parameters after so many steps of AdamW. saves: what `train.fit` takes to save and to tell."""
    state, step, batches = training(tower, make, steps=steps, batch_size=batch_size, peak=peak, seed=seed)
    state, _ = train.fit(step, state, batches, steps, **saves)
    return tower_params(state.params)


def training(tower: ViTConfig, make: Maker, *, steps: int, batch_size: int, peak: float, seed: int = 0) -> tuple:
    """(state, step, batches) of `tune` at its start."""
    labels = len(make(keyed_rng(seed))[1])
    model = ViT(tower_with_head(tower, labels))
    params = start_bias(train.init_params(model, (1, *tower.image_size, tower.channels), seed), TRUE / labels)
    tx, step = _step(model, steps, peak)
    return train.init_state(params, tx, seed), step, labelled_batches(make, batch_size, seed=seed)


@functools.cache  # several seeds of one model compile once
def _step(model, steps: int, peak: float):
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(peak, steps, warmup=min(200, steps // 4)), clip_norm=1.0)
    return tx, train.make_step(labels_loss(model), tx)


def tower_with_head(tower: ViTConfig, num_labels: int) -> ViTConfig:
    """The tower of a `PaLIXConfig` with ViT-22B's attention pooling and a logit for each label.

    An average asks every patch for what the whole picture is; attention may leave to each what is there.
    """
    return tower.replace(pool="map", num_classes=num_labels)


def tower_params(params: dict) -> dict:
    """The tower's parameters out of those of `tower_with_head`."""
    return {name: value for name, value in params.items() if name not in ("head", "MAPHead_0")}


def labels_loss(model) -> Callable:
    """Binary cross-entropy, summed over labels, of a ViT on {"image": float[B, ...], "labels": bool[B, V]}.

    Metric "found": of the true labels of a picture, the share among its n largest logits, n being their number.
    """

    def loss_fn(params, batch, key):
        logits, _ = model.apply({"params": params}, batch["image"], train=True, rngs={"dropout": key})
        labels = batch["labels"]
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).sum(axis=-1)
        return losses.mean(), {"found": found(logits, labels)}

    return loss_fn


def found(logits: jax.Array, labels: jax.Array, most: int = 32) -> jax.Array:
    """Precision at n, the number of true labels of each picture (at most `most`), mean over pictures: float32[]."""
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
