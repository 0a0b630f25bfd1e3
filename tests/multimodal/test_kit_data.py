"""kitlib.multimodal.kit_data: which emoji are objects, their styles and languages; placing cut-outs; retries."""

import numpy as np
import pytest

from kitlib.data import captioned, keyed_rng, tokenizer
from kitlib.multimodal import held_out
from kitlib.multimodal.kit_data import kit_data, object_rows, place_on_background, retry_until_fits
from kitlib.multimodal.tasks import kit_tasks
from kitlib.synthetic import episodes, named_pictures, scenes


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
        assert len(data.drawn) == len(data.languages) == len(data.emoji) and data.object_rows == object_rows(split)
        for cutouts in data.scene_cutouts:
            assert len(cutouts) == len(data.scene_rows)
            for row, cutout in zip(data.scene_rows, cutouts, strict=True):
                assert any((cutout == drawn).all() for drawn in data.drawn[row])
        for language, words, short in data.vocabularies:
            assert language in captioned.LANGUAGES and short == [word for word in words if len(word) <= 5]
        for rows in data.related:
            assert len(rows) > 4 and set(rows) <= set(data.object_rows)
            assert set.intersection(*(set(data.emoji.keywords["en"][row]) for row in rows))


@pytest.mark.slow
def test_styles_and_languages_are_for_training():
    """Things are taught in up to four styles, of which Noto's is the first, and in the languages of `held_out`. Things
    of the test split have one style and all languages; what is no object of the captions has one style."""
    data, test = kit_data("train"), kit_data("test")
    np.testing.assert_array_equal([drawn[0] for drawn in data.drawn], scenes.cut_outs(captioned.emoji("train").images))
    counts = np.array([len(drawn) for drawn in data.drawn])
    # Beside Noto's 417: 409 flat, 412 solid and 288 old ones, as `captioned` counts them.
    assert counts[data.object_rows].sum() == 417 + 409 + 412 + 288 and len(data.scene_cutouts) == 4
    assert (np.delete(counts, data.object_rows) == 1).all() and {len(drawn) for drawn in test.drawn} == {1}
    for code, languages in zip(data.emoji.codes, data.languages, strict=True):
        assert languages == held_out.languages_with_pictures(code)
    assert set(test.languages) == {tuple(captioned.LANGUAGES)} and len(test.scene_cutouts) == 1


@pytest.mark.slow
def test_a_drawing_is_one_of_its_styles_varied(monkeypatch):
    data = kit_data("train")
    row = data.scene_rows[0]
    assert (data.drawing(row, keyed_rng(0)) != data.drawing(row, keyed_rng(1))).any()
    monkeypatch.setattr(named_pictures, "varied", lambda cutout, rng: cutout)
    found = {data.drawing(row, keyed_rng(0, i)).tobytes() for i in range(60)}
    assert found == {cutout.tobytes() for cutout in data.drawn[row]} and len(found) == 4


def test_other_splits_raise():
    for function in (kit_data, kit_tasks):
        with pytest.raises(ValueError, match="There is no split 'valid'"):
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
    results = iter([None, None, "fits", "also"])

    def draw():
        if (value := next(results)) is None:
            raise ValueError("too long")
        return value

    assert retry_until_fits(draw) == "fits" and next(results) == "also"
    with pytest.raises(ValueError, match="nonsense"):
        retry_until_fits(lambda: int("nonsense"), tries=3)
    with pytest.raises(KeyError):  # other errors have nothing to do with the size
        retry_until_fits(lambda: {}["a"])


def test_short_words_are_short_and_none_of_the_made_up_ones():
    words, encode = kit_data("train").short_words, tokenizer.multilingual().encode
    assert len(words) == len(set(words)) > 3000
    assert all(3 <= len(word) <= 7 and len(encode(f" {word}")) <= 3 for word in words)
    assert not set(words) & {*episodes.nonsense(), *kit_data("test").short_words}
