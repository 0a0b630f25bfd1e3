"""kitlib.synthetic.named_pictures: every style's cut-outs, and what a variation may change."""

import numpy as np
import pytest

from kitlib.data import captioned, keyed_rng
from kitlib.multimodal.kit_data import object_rows
from kitlib.synthetic import named_pictures, scenes

GREY = np.zeros((32, 32, 4), np.uint8)
GREY[8:24, 2:14] = (120, 120, 120, 255)  # left of the middle


def test_an_emoji_has_a_cut_out_in_every_style_that_draws_it():
    rows = object_rows("train")
    found = named_pictures.cutouts(rows)
    has = {style: captioned.drawings(style).rows.tolist() for style in captioned.TAUGHT}
    assert [len(cutouts) for cutouts in found] == [sum(row in has[style] for style in has) for row in rows]
    for i in (0, 100, 400):  # in the order of the styles
        expected = [
            scenes.cut_outs(captioned.drawings(style).images[[has[style].index(rows[i])]])[0]
            for style in captioned.TAUGHT
            if rows[i] in has[style]
        ]
        np.testing.assert_array_equal(np.stack(found[i]), np.stack(expected))
    taught = {cutout.tobytes() for cutouts in found[:5] for cutout in cutouts}  # the held-out style only if it is named
    assert not taught & {cutout.tobytes() for [cutout] in named_pictures.cutouts(rows[:5], ("twemoji",))}
    other = next(row for row in range(1235) if row not in rows)
    assert len(named_pictures.cutouts([other])) == 1  # Noto has them all
    with pytest.raises(ValueError, match=f"None of flat, solid has a drawing of emoji {other}"):
        named_pictures.cutouts([other], ("flat", "solid"))


def test_a_variation_is_mirrored_half_of_the_time_and_turned_a_little():
    """The centre of the object lies 8 pixels left of the middle. Turned by up to 15 degrees it stays 7.7 or more to
    the side, and at most 8 sin 15 = 2.1 above or below."""
    left, lower = 0, []
    for i in range(400):
        varied = named_pictures.varied(GREY, keyed_rng(0, i))
        assert varied.dtype == np.uint8 and (varied == named_pictures.varied(GREY.copy(), keyed_rng(0, i))).all()
        opacity = varied[..., 3].astype(float)
        y, x = ((np.arange(32) - 15.5) @ opacity.sum(axis) / opacity.sum() for axis in (1, 0))
        assert 7 < abs(x) < 8.6 and abs(y) < 2.6
        left += x < 0
        lower.append(y)
    assert abs(left - 200) < 60 and min(lower) < -1.5 and max(lower) > 1.5


def test_colours_change_within_their_ranges():
    """A grey object has no saturation to change: 120 times the brightness, and a tint of its own for each channel. A
    red one has its distance to grey, 160 - 40, multiplied by the saturation and the brightness."""
    inner = (slice(12, 20), slice(12, 20))
    grey, red = np.full((32, 32, 4), 255, np.uint8), np.full((32, 32, 4), 255, np.uint8)
    grey[..., :3], red[..., :3] = 120, (160, 40, 40)
    values, spreads = [], []
    for i in range(300):
        a, b = (named_pictures.varied(cutout, keyed_rng(1, i))[inner].astype(float)[..., :3] for cutout in (grey, red))
        assert (a == a[0, 0]).all() and a.max() - a.min() <= 2 * named_pictures.TINT + 1
        values.append(a.mean())
        tint = a[0, 0] - a.mean()
        clean = b[0, 0] - tint
        spreads.append((clean[0] - clean[1]) / (a.mean() / 120))
    assert 120 * 0.8 - 15 <= min(values) < 100 and 140 < max(values) <= 120 * 1.2 + 15
    assert 0.5 * 120 < min(spreads) < 0.7 * 120 and 1.2 * 120 < max(spreads) < 1.5 * 120
