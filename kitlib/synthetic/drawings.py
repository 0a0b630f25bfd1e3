"""Augmented drawings: an object as several designers draw it, with small changes.

    drawn = cutouts([3, 7])                        # of two emoji: their cut-outs, one per style that has them
    varied(drawn[0][0], keyed_rng(seed, i))        # mirrored, turned, in slightly other colours

A cut-out is uint8[H, W, 4], as in `scenes`. The styles are those of `data.emoji_styles`; Twemoji is held out.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from kitlib.data import emoji_styles
from kitlib.synthetic import scenes

TURN = 15.0  # degrees, at most, to either side
SATURATION, BRIGHTNESS = (0.6, 1.3), (0.8, 1.2)  # factors
TINT = 15.0  # of 255, at most, added to each of red, green and blue


def cutouts(rows: Sequence[int], styles: Sequence[str] = emoji_styles.TAUGHT) -> list[list[np.ndarray]]:
    """Per emoji (rows of `captioned.emoji("train")`) its cut-outs uint8[32, 32, 4], in the styles that have it.

    Raises ValueError for an unknown style, and for an emoji that none of the styles has.
    """
    found: list[list[np.ndarray]] = [[] for _ in rows]
    for style in styles:
        drawings = emoji_styles.drawings(style)
        place = {row: i for i, row in enumerate(drawings.rows.tolist())}
        has = [i for i, row in enumerate(rows) if row in place]
        for i, cutout in zip(has, scenes.cut_outs(drawings.images[[place[rows[i]] for i in has]]), strict=True):
            found[i].append(cutout)
    if not all(found):
        raise ValueError(f"None of {', '.join(styles)} has a drawing of emoji {rows[found.index([])]}.")
    return found


def varied(cutout: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The cut-out, half of the time mirrored, turned by up to `TURN`, and in other colours: `SATURATION`, `BRIGHTNESS`
    and `TINT`. What leaves the frame is cut off."""
    if rng.integers(2):
        cutout = cutout[:, ::-1]
    turned = Image.fromarray(np.ascontiguousarray(cutout)).rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR)
    out = np.array(turned).astype(np.float64)
    grey = out[..., :3].mean(-1, keepdims=True)
    colours = grey + (out[..., :3] - grey) * rng.uniform(*SATURATION)
    out[..., :3] = np.clip(colours * rng.uniform(*BRIGHTNESS) + rng.uniform(-TINT, TINT, 3), 0, 255)
    return np.rint(out).astype(np.uint8)
