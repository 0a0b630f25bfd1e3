"""Stage 0 of PaLI-X: before the tower is frozen, it learns to classify which objects and letters are in an image.

    builder = labelled_builder("train")                                     # rng -> an image and its labels
    tower, history = pretrain(configs.palix("S").tower, builder, steps=3000, batch_size=64, peak=2e-3)
    params = params | {"tower": tower}                                      # of the whole model

The tower of PaLI-X learns objects from JFT and learns to read from a second classification: does token t of the
vocabulary occur in the text of the image? Here both are one list of labels: first one per letter, then one per object
of `kit_data.object_rows`. An image shows words, one object, or a scene of several objects. Every label has its own
sigmoid, so that several labels can be true. Objects come in the four styles of `captioned.TAUGHT`, varied; Twemoji is
held out. The words are those of all languages whose letters the tests read, at 8 to 20 pixels.

We depart from PaLI-X in three points. PaLI-X classifies the whole image, we classify every patch: our images are drawn,
so the position of each letter is known. Without the positions the small model did not learn to read: after 160,000
images it found 13 % of the words' tokens. Our tokens are single letters: there are far fewer of them, and the words
of the test have the same letters. Third, the tower is trained by Muon (`optim.scale_by_muon`): within the same time it
names and reads more than with Adam.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib.configs import ViTConfig
from kitlib.data import captioned, image_batches, keyed_rng
from kitlib.models.vit import ViT
from kitlib.multimodal.example_builders import GRID, OBJECTS, SIDES
from kitlib.multimodal.kit_data import object_rows, pick, place_on_background
from kitlib.synthetic import named_pictures, rendered_text, scenes
from kitlib.training import classification, loop, optim

LabelledBuilder = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]

KINDS = ("words", "thing", "scene")  # of images; a "thing" is one object
WORDS = 4  # per image, at most
SIZES = (8, 20)  # of letters, in pixels
TRUE = 0.5  # expected number of true labels per patch, from which the head's bias starts


def labelled_builder(split: str, kinds: Sequence[str] = KINDS) -> LabelledBuilder:
    """rng -> (image uint8[64, 64, 3], labels bool[P, V]), P patches of 8 x 8 pixels, V labels as in `label_names`.

    kinds: of images, equally often; one may be given several times. Raises ValueError for an unknown kind and for none.
    """
    if not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"Kinds of images are {', '.join(KINDS)}; expected at least one of them, got {list(kinds)}.")
    drawn = drawn_objects(split)
    labels = label_names(split)
    scene_objects = [labels.index(name) - len(letters()) for name in scenes.EASY[split]]
    vocabularies = [*rendered_text.words(split).values(), rendered_text.more_words(split)]
    number = {letter: i for i, letter in enumerate(letters())}

    def draw(rng):
        """(image, labels int[n], boxes float[n, 4])"""
        kind = kinds[rng.integers(len(kinds))]
        if kind == "words":
            words = vocabularies[rng.integers(len(vocabularies))]
            chosen = [words[i] for i in rng.integers(len(words), size=rng.integers(1, WORDS + 1))]
            image, text, boxes = rendered_text.spelled(chosen, rng, scenes.SIZE, SIZES)
            return image, [number[letter] for letter in text], boxes
        if kind == "thing":
            i = rng.integers(len(drawn))
            image, box = place_on_background(named_pictures.varied(pick(drawn[i], rng), rng), rng)
            return image, [len(number) + i], box[None]
        # Several objects in one image are small: only those that can still be recognised.
        chosen = rng.choice(scene_objects, rng.integers(1, OBJECTS + 1))
        cutouts = [named_pictures.varied(pick(drawn[i], rng), rng) for i in chosen]
        scene = scenes.compose(cutouts, np.arange(len(chosen)), SIDES, rng)
        return scene.image, len(number) + chosen[scene.indices], scene.boxes

    def builder(rng):
        image, true_labels, boxes = draw(rng)
        of_patches = np.zeros((np.prod(GRID), len(labels)), bool)
        for label, patches in zip(true_labels, patches_in_boxes(boxes), strict=True):
            of_patches[patches, label] = True
        return image, of_patches

    return builder


def drawn_objects(split: str) -> list[list[np.ndarray]]:
    """Per object of `object_rows`, its cut-outs uint8[32, 32, 4]: for "train" in all taught styles, else in Noto's."""
    rows = object_rows(split)
    if split == "train":
        return named_pictures.cutouts(rows, captioned.TAUGHT)
    return [[cutout] for cutout in scenes.cut_outs(captioned.emoji(split).images[rows])]


@functools.cache
def letters() -> tuple[str, ...]:
    """All characters of the words to read, of all splits, sorted."""
    splits = [rendered_text.words(split).values() for split in ("train", "valid", "test")]
    return tuple(sorted({letter for lists in splits for words in lists for word in words for letter in word}))


def label_names(split: str) -> tuple[str, ...]:
    """The names of the labels: the letters, then the English names of the objects of the split."""
    english = captioned.emoji(split).names["en"]
    return letters() + tuple(english[i] for i in object_rows(split))


def patches_in_boxes(boxes) -> np.ndarray:
    """bool[n, P]: for each box of float[n, 4], the patches whose centre is in it, and the patch of its own centre."""
    boxes, (height, width) = np.asarray(boxes, np.float64).reshape(-1, 4), GRID
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    down = (boxes[:, :1] <= y) & (y < boxes[:, 2:3])
    across = (boxes[:, 1:2] <= x) & (x < boxes[:, 3:])
    out = down[:, :, None] & across[:, None]
    centre = np.clip((boxes[:, :2] + boxes[:, 2:]) / 2 * GRID, 0, np.array(GRID) - 1).astype(int)
    out[np.arange(len(boxes)), centre[:, 0], centre[:, 1]] = True
    return out.reshape(len(boxes), height * width)


def labelled_batches(make: LabelledBuilder, size: int, *, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {"image": float32[B, H, W, 3] in [-1, 1], "labels": bool[B, P, V]}, each a function of its
    position; a Grain iterator, resumable as that of `mixtures.batches`."""

    def batch(position: int) -> dict[str, np.ndarray]:
        examples = [make(keyed_rng(seed, position, row)) for row in range(size)]
        images, labels = zip(*examples, strict=True)
        return {"image": image_batches.to_float(np.stack(images)), "labels": np.stack(labels)}

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.range(sys.maxsize).map(batch).to_iter_dataset(options))


def pretrain(
    tower: ViTConfig, make: LabelledBuilder, *, steps: int, batch_size: int, peak: float, seed: int = 0, **saves
) -> tuple[dict, dict[str, np.ndarray]]:
    """(parameters, history) of the tower after so many steps. saves: arguments of `loop.fit` for saves and progress.

    peak: the highest learning rate, Adam's; Muon's is ten times as high.

    Raises ValueError for a tower whose patches are not those of the labels.
    """
    state, step, batches = start_pretraining(tower, make, steps=steps, batch_size=batch_size, peak=peak, seed=seed)
    state, history = loop.fit(step, state, batches, steps, **saves)
    return jax.device_get(tower_params(state.params)), history


def start_pretraining(
    tower: ViTConfig, make: LabelledBuilder, *, steps: int, batch_size: int, peak: float, seed: int = 0
) -> tuple:
    """(state, step, batches) of `pretrain` at its start."""
    if tower.grid != GRID:
        raise ValueError(f"The tower has {tower.grid} patches, the labels {GRID}: take 64 x 64 pixels in patches of 8.")
    count = make(keyed_rng(seed))[1].shape[-1]
    model = ViT(tower_with_head(tower, count))
    params = start_bias(classification.init_params(model, (1, *tower.image_size, tower.channels), seed), TRUE / count)
    tx = optim.assemble(optim.scale_by_muon(), optim.cosine(peak, steps, min(200, steps // 4)), clip_norm=1.0)
    step = loop.make_step(labels_loss(model), tx)
    return loop.init_state(params, tx, seed), step, labelled_batches(make, batch_size, seed=seed)


def tower_with_head(tower: ViTConfig, num_labels: int) -> ViTConfig:
    """The tower of a `PaLIXConfig` with one logit per label and patch."""
    return tower.replace(pool="none", num_classes=num_labels)


def tower_params(params: dict) -> dict:
    """The parameters of `tower_with_head` without those of the head."""
    return {name: value for name, value in params.items() if name != "head"}


def labels_loss(model) -> Callable:
    """Binary cross-entropy, summed over labels, mean over patches, of a `tower_with_head` on {"image": float[B, ...],
    "labels": bool[B, P, V]}.

    Metric "found", for whole images: the share of an image's n true labels that are among its n largest logits.
    """

    def loss_fn(params, batch, key):
        logits, _ = model.apply({"params": params}, batch["image"], train=True, rngs={"dropout": key})
        labels = batch["labels"]
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).sum(axis=-1)
        return losses.mean(), {"found": found(logits.max(axis=1), labels.any(axis=1))}

    return loss_fn


def found(logits: jax.Array, labels: jax.Array, most: int = 32) -> jax.Array:
    """Precision at n, the number of true labels of an image (at most `most`), averaged over images: float32[].

    logits: float[B, V]. labels: bool[B, V].
    """
    count = labels.sum(axis=-1, keepdims=True)
    order = jax.lax.top_k(logits, min(most, logits.shape[-1]))[1]  # [B, most]
    hits = jnp.take_along_axis(labels, order, axis=-1) & (jnp.arange(order.shape[-1])[None] < count)
    return jnp.mean(hits.sum(axis=-1) / jnp.maximum(count[:, 0], 1))


def start_bias(params: dict, rate: float) -> dict:
    """The parameters with a head's bias that gives every label probability `rate`, about the share of true labels.

    With a bias of zero, the model would first have to learn that each of a thousand labels is rare: the family of
    ViT-22B starts at -10 (2106.04560).
    """
    bias = jnp.full_like(params["head"]["bias"], np.log(rate / (1 - rate)))
    return params | {"head": params["head"] | {"bias": bias}}
