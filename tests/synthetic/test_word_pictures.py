"""kitlib.synthetic.word_pictures: which words are in which split, how a picture is made, batches."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from kitlib.data import texts
from kitlib.synthetic import word_pictures
from kitlib.synthetic.rendered_text import font_of_size
from kitlib.synthetic.word_pictures import CELL, NOVEL, SPLITS, Words


def all_words(words: Words) -> list[str]:
    return [words.word(row) for row in range(len(words))]


def test_splits_share_no_word_and_are_whole():
    found = {split: word_pictures.vocabulary(split) for split in SPLITS}
    words = {split: all_words(known) for split, known in found.items()}
    together = [word for known in words.values() for word in known]
    assert len(together) == len(set(together)) > 30_000
    assert found["novel"].categories == tuple(sorted(NOVEL))
    assert found["taught"].categories == found["unseen"].categories
    assert not set(NOVEL) & set(found["taught"].categories)
    share = len(words["unseen"]) / (len(words["unseen"]) + len(words["taught"]))
    assert share == pytest.approx(word_pictures.UNSEEN, abs=1e-4)
    for known in found.values():
        assert set(known.labels.tolist()) == set(range(len(known.categories)))


def test_the_category_is_that_of_the_words_first_entry():
    first = {}
    for category, entry in texts.entries():
        first.setdefault(entry.split(":")[0], category)
    taught = word_pictures.vocabulary("taught")
    for row in range(0, len(taught), 500):
        assert first[taught.word(row)] == taught.categories[taught.labels[row]]


def test_letters_and_rows_by_hand():
    words = Words(
        np.array([[3, 1, 20] + [0] * 9, [26] * 12], np.uint8), np.array([0, 1], np.int32), ("noun.animal", "x")
    )
    assert words.word(0) == "cat" and words.word(1) == "z" * 12
    assert len(words[1:]) == 1 and words[1:].word(0) == "z" * 12
    with pytest.raises(ValueError, match="Unknown split of the words 'test'"):
        word_pictures.vocabulary("test")


def test_pictures_show_ink_where_there_are_letters(monkeypatch):
    """Without noise a cell without a letter has one value, the paper's, and a cell with one has darker ones."""
    monkeypatch.setattr(word_pictures, "NOISE", 0.0)
    images = word_pictures.pictures(np.tile(np.array([[3, 1, 20] + [0] * 9], np.uint8), (200, 1)), rng(0))
    assert images.shape == (200, CELL, 12 * CELL, 1) and images.dtype == np.uint8
    cells = images[..., 0].reshape(200, CELL, 12, CELL).transpose(0, 2, 1, 3) / 255
    empty, written = cells[:, 3:], cells[:, :3]
    assert (np.ptp(empty, axis=(1, 2, 3)) == 0).all() and empty.min() > 0.69
    assert (written.min(axis=(2, 3)) < 0.5).all() and (written.max(axis=(2, 3)) == empty[:, :1, 0, 0]).all()
    assert np.unique(images, axis=0).shape[0] == 200  # every picture is another one


def test_noise_stays_in_its_range():
    flat = word_pictures.pictures(np.zeros((50, 12), np.uint8), rng(0))[..., 0] / 255
    spread = np.ptp(flat, axis=(1, 2))
    assert spread.min() > word_pictures.NOISE and spread.max() <= 2 * word_pictures.NOISE + 0.01


def test_every_glyph_is_whole_and_different():
    """No two letters look the same, and at most a twentieth of a letter's ink is cut off at its cell's borders, of any
    letter in any font, size and place (drawn again on a larger canvas)."""
    glyphs = word_pictures._glyphs()
    assert glyphs.shape == (len(word_pictures.FONTS) * len(word_pictures.SIZES) * 6, 27, CELL, CELL)
    assert not glyphs[:, 0].any()
    for kind, letters in enumerate(glyphs):
        assert np.unique(letters.reshape(27, -1), axis=0).shape == (27, CELL * CELL)
        font = font_of_size(word_pictures.FONTS[kind // 12], word_pictures.SIZES[kind // 6 % 2])
        for letter in range(1, 27):
            canvas = Image.new("L", (30, 30))
            ImageDraw.Draw(canvas).text((15, 15), chr(96 + letter), fill=255, font=font, anchor="ms")
            assert letters[letter].sum() > 0.95 * np.asarray(canvas).sum() / 255, (kind, chr(96 + letter))


def test_batches_are_new_pictures_of_all_words_and_go_on():
    words = word_pictures.vocabulary("novel")[:96]
    iterator = word_pictures.batches(words, 32, seed=3)
    first = [next(iterator) for _ in range(3)]
    assert first[0]["image"].dtype == np.float32 and first[0]["image"].shape == (32, CELL, 12 * CELL, 1)
    assert -1 <= first[0]["image"].min() < first[0]["image"].max() <= 1
    seen = np.sort(np.concatenate([batch["label"] for batch in first]))
    np.testing.assert_array_equal(seen, np.sort(words.labels))  # an epoch has every word once
    state, after = iterator.get_state(), next(iterator)
    again = word_pictures.batches(words, 32, seed=3)
    again.set_state(state)
    np.testing.assert_equal(next(again), after)
    other = next(word_pictures.batches(words, 32, seed=4))
    assert not np.array_equal(other["image"], first[0]["image"])
    with pytest.raises(ValueError, match="batch_size is 97; expected 1 to 96"):
        word_pictures.batches(words, 97)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
