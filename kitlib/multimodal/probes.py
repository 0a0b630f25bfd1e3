"""Linear probes on patch features.

    tower = Tower(model.config.tower, params["tower"])
    named_by_style(tower)          # things that were trained, also in the held-out style
    read_by_size(tower)            # letters of words that were not trained
    position_accuracy(model, params, examples)     # which patch is it? from the tower's output and from the encoder's

A probe (`metrics.fewshot`) is fitted to some images and judged on others. It separates two reasons for a wrong answer:
the tower does not show what was asked for, or the text model does not use it.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd

from kitlib.data import captioned, keyed_rng, tokenizer
from kitlib.metrics import over_examples
from kitlib.metrics.fewshot import fit_probe, probe_scores
from kitlib.multimodal import batching, generation
from kitlib.multimodal.batching import Tower
from kitlib.multimodal.kit_data import object_rows, pick, place_on_background
from kitlib.multimodal.kit_scores import LETTERS_OF_A_WORD, cutouts_of
from kitlib.multimodal.ocr_pretraining import drawn_objects, letters
from kitlib.multimodal.prompts import Example
from kitlib.synthetic import named_pictures, rendered_text
from kitlib.synthetic.scenes import SIZE

SIZES = (10, 12, 14, 16, 18, 20)  # of letters, in pixels
L2 = 1.0


def answers_of(features, labels, new, classes: int | None = None) -> np.ndarray:
    """int[n]: the labels that a probe, fitted to features float[N, D] and labels int[N], gives new float[n, D]."""
    return probe_scores(fit_probe(features, labels, l2=L2, classes=classes), new).argmax(axis=-1)


def named_by_style(
    tower: Tower, styles: Sequence[str] = captioned.EMOJI_STYLES, *, views: int = 16, seed: int = 0
) -> pd.DataFrame:
    """How many of the 417 things does a probe of an image's patches (their mean and largest values) name?

    Fitted to `views` images of each thing, in the taught styles and varied, and judged on two images of each thing in
    each of `styles`. Columns: "style", "taught", "right", "low", "high" (95 %), "n".
    """
    rows, drawn = object_rows("train"), drawn_objects("train")
    labels = np.repeat(np.arange(len(rows)), views)
    shown = []
    for k, label in enumerate(labels):
        rng = keyed_rng(seed, 0, k)
        shown.append(place_on_background(named_pictures.varied(pick(drawn[label], rng), rng), rng)[0])
    fitted = _pooled(tower, shown)
    table = []
    for style in styles:
        cutouts = cutouts_of("train", style)
        test = np.repeat([label for label, row in enumerate(rows) if row in cutouts], 2)
        images = [place_on_background(cutouts[rows[i]], keyed_rng(seed, 1, k))[0] for k, i in enumerate(test)]
        right, low, high = over_examples(answers_of(fitted, labels, _pooled(tower, images)) == test)
        taught = style in captioned.TAUGHT
        table.append({"style": style, "taught": taught, "right": right, "low": low, "high": high, "n": len(test)})
    return pd.DataFrame(table)


def _pooled(tower: Tower, images: Sequence[np.ndarray]) -> np.ndarray:
    """float32[N, 2 D_v]"""
    patches = tower.features(np.stack(images)).astype(np.float32)  # [N, k, D_v]
    return np.concatenate([patches.mean(axis=1), patches.max(axis=1)], axis=1)


def read_by_size(tower: Tower, *, words: int = 6000, tested: int = 300, seed: int = 0) -> pd.DataFrame:
    """How many letters of new words of 4 to 6 letters does a probe of the patch at a letter's centre read?

    Fitted to `words` images of one training word each, in all sizes, and judged on `tested` images per size of words of
    the test split. Columns: "pixels" (per em), "letters", "words" (the share of which all letters are right), "n".
    """
    patches, found, _ = _letters(tower, "train", words, (SIZES[0], SIZES[-1]), (seed, 0))
    table = []
    for size in SIZES:
        new, true, word = _letters(tower, "test", tested, (size, size), (seed, 1, size))
        right = answers_of(patches, found, new, classes=len(letters())) == true
        whole = pd.Series(right).groupby(word).all()
        table.append({"pixels": size, "letters": right.mean(), "words": whole.mean(), "n": len(whole)})
    return pd.DataFrame(table)


def _letters(tower: Tower, split: str, count: int, sizes: tuple[int, int], seed: tuple) -> tuple:
    """(vectors float32[n, D_v], letters int[n], words int[n]): of every letter the vector of the patch at its centre,
    its number among `letters`, and the number of its word. Words that do not fit into an image are left out."""
    low, high = LETTERS_OF_A_WORD
    lists = [found for language, found in rendered_text.words(split).items() if language in captioned.LANGUAGES]
    fitting = [word for found in lists for word in found if low <= len(word) <= high]
    number = {letter: i for i, letter in enumerate(letters())}
    rows, columns = tower.config.grid
    images, at, found = [], [], []
    for i in range(count):
        rng = keyed_rng(*seed, i)
        try:
            image, text, boxes = rendered_text.spelled([pick(fitting, rng)], rng, SIZE, sizes)
        except ValueError:
            continue  # too wide
        y, x = (boxes[:, 0] + boxes[:, 2]) / 2 * rows, (boxes[:, 1] + boxes[:, 3]) / 2 * columns
        at.append(np.clip(y, 0, rows - 1).astype(int) * columns + np.clip(x, 0, columns - 1).astype(int))
        found.append([number[letter] for letter in text])
        images.append(image)
    patches = tower.features(np.stack(images)).astype(np.float32)  # [N, k, D_v]
    vectors = np.concatenate([patches[i, places] for i, places in enumerate(at)])
    return vectors, np.concatenate(found), np.repeat(np.arange(len(found)), [len(text) for text in found])


def position_accuracy(model, params, examples: Sequence[Example], *, fitted: int = 200) -> dict[str, float]:
    """Of how many patches does a probe tell both row and column? {"tower": share, "encoder": share}

    From the tower's output, and from what the encoder makes of the visual tokens. The probes, one for rows and one for
    columns, are fitted to the patches of the first `fitted` examples and judged on those of all others. Examples with
    one image each. Raises ValueError for fewer examples than two more than `fitted`.
    """
    if len(examples) < fitted + 2:
        raise ValueError(f"Got {len(examples)} examples; expected at least {fitted + 2}, {fitted} of them to fit to.")
    batch = batching.to_arrays(examples, tokenizer.multilingual(), **generation.batch_shape(model, examples))
    k, columns = model.config.tower.num_tokens, model.config.tower.grid[1]
    inputs = {name: batch[name] for name in ("images", "prompt_tokens", "images_valid")}

    def both(model, images, prompt_tokens, images_valid):
        seen, _ = model.see(images)
        encoded, _ = model.encode(None, prompt_tokens, images_valid, features=seen)
        return seen[:, 0], encoded[:, :k]  # [B, k, D_v], [B, k, D]

    patch = np.tile(np.arange(k), len(examples))
    test = np.repeat(np.arange(len(examples)) >= fitted, k)
    outputs = jax.jit(functools.partial(model.apply, method=both))({"params": params}, *inputs.values())
    shares = {}
    for name, vectors in zip(("tower", "encoder"), outputs, strict=True):
        flat = np.asarray(vectors, np.float32).reshape(len(patch), -1)
        right = np.ones(test.sum(), bool)
        for labels in np.divmod(patch, columns):
            right &= answers_of(flat[~test], labels[~test], flat[test]) == labels[test]
        shares[name] = float(right.mean())
    return shares
