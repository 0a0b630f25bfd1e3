"""kitlib.multimodal.kit_data: which emoji are objects, how a cut-out is placed, and retries of what does not fit."""

import numpy as np
import pytest

from kitlib.data import captioned, keyed_rng
from kitlib.multimodal.kit_data import kit_data, object_rows, place_on_background, retry_until_fits
from kitlib.multimodal.kit_tasks import kit_tasks
from kitlib.synthetic import scenes


@pytest.mark.slow
def test_objects_have_a_name_of_one_word_or_are_in_scenes():
    for split, count in (("train", 417), ("test", 83)):
        names = captioned.emoji(split).names["en"]
        objects = [names[row] for row in object_rows(split)]
        assert len(objects) == count and set(scenes.EASY[split]) <= set(objects)
        assert sum(" " in name for name in objects) == sum(" " in name for name in scenes.EASY[split])
        assert not {name for name in set(names) - set(objects) if " " not in name}


@pytest.mark.slow
def test_the_fields_belong_together():
    for split in ("train", "test"):
        data = kit_data(split)
        names = data.emoji.names["en"]
        assert [names[row] for row in data.scene_rows] == list(data.scene_names) == list(scenes.EASY[split])
        assert len(data.cutouts) == len(data.emoji) and data.object_rows == object_rows(split)
        np.testing.assert_array_equal(data.cutouts[data.scene_rows], data.scene_cutouts)
        for language, words, short in data.vocabularies:
            assert language in captioned.LANGUAGES and short == [word for word in words if len(word) <= 5]
        for rows in data.related:
            assert len(rows) > 4 and set(rows) <= set(data.object_rows)
            assert set.intersection(*(set(data.emoji.keywords["en"][row]) for row in rows))


def test_other_splits_raise():
    for function in (kit_data, kit_tasks):
        with pytest.raises(ValueError, match="There is no split 'valid' of all the kit's data: use 'train' or 'test'"):
            function("valid")


def test_an_object_is_placed_whole_and_blended():
    """A cut-out of one colour, whose left half has alpha 1/2: a pixel is background, colour, or the mean of both."""
    cutout = np.zeros((32, 32, 4), np.uint8)
    cutout[..., :3], cutout[:, :16, 3], cutout[:, 16:, 3] = (200, 10, 30), 128, 255
    white, tops = 0, set()
    for i in range(60):
        image, box = place_on_background(cutout, keyed_rng(5, i), (32, 40))
        image = image.astype(int)
        opaque = (image == (200, 10, 30)).all(-1)
        rows, columns = np.nonzero(opaque)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 32 <= height <= 40 and abs(width - height / 2) <= 2 and opaque.sum() == height * width
        tops.add(int(rows.min()))
        # The box is the box of the whole cut-out; the opaque part is its right half.
        y0, x0, y1, x1 = (64 * box).tolist()
        assert (y0, y1, x1) == (rows.min(), rows.max() + 1, columns.max() + 1) and x1 - x0 == height
        if (image[opaque.any(1)][:, -1] == 255).all() and (image[~opaque.any(1)] == 255).all():
            white += 1
            blended = (image == np.rint(128 / 255 * np.array([200, 10, 30]) + 127 / 255 * 255)).all(-1)
            assert abs(blended.sum() - opaque.sum()) <= 2 * height
    assert 5 <= white <= 30 and len(tops) > 15


def test_a_cut_out_of_its_own_size_keeps_all_its_pixels():
    cutout = scenes.cut_outs(captioned.emoji("train").images[:1])[0]
    images = (place_on_background(cutout, keyed_rng(6, i), (32, 32))[0] for i in range(99))
    image = next(image for image in images if image.min(-1).max() == 255)  # on white
    alpha = cutout[..., 3:] / 255
    expected = np.rint(alpha * cutout[..., :3] + (1 - alpha) * 255)
    windows = np.lib.stride_tricks.sliding_window_view(image, (32, 32, 3))[:, :, 0]
    assert (windows == expected).all((2, 3, 4)).sum() == 1


def test_draws_that_do_not_fit_are_repeated_and_a_permanent_error_is_raised():
    results = iter([ValueError("too long"), ValueError("too long"), "fits", "also"])

    def draw():
        value = next(results)
        if isinstance(value, ValueError):
            raise value
        return value

    assert retry_until_fits(draw) == "fits" and next(results) == "also"

    def never():
        raise ValueError("no such word")

    with pytest.raises(ValueError, match="no such word"):
        retry_until_fits(never, tries=3)
    with pytest.raises(KeyError):  # other errors have nothing to do with the size
        retry_until_fits(lambda: {}["a"])
