"""kitlib.synthetic.named_pictures: which question is in which split, its label, how a picture is made, batches."""

import numpy as np
import pytest
from resuming import check_exact_resume

from kitlib.data import captioned, keyed_rng, texts
from kitlib.multimodal.kit_data import object_rows
from kitlib.synthetic import named_pictures, scenes
from kitlib.synthetic.named_pictures import LETTERS, NOISE, SIDE, SPLITS, Questions


def test_splits_share_no_question_and_novel_things_are_those_of_the_test_emoji():
    found = {split: named_pictures.questions(split) for split in SPLITS}
    late = {split: named_pictures.questions(split, late=True) for split in SPLITS}
    for split, asked in late.items():
        assert set(asked.languages.tolist()) == set(range(3, 35, 4))
        assert set(found[split].languages.tolist()) == set(range(35)) - set(range(3, 35, 4))
        assert len(asked) == pytest.approx(len(found[split]) * 8 / 27, rel=0.2)
    pairs = {split: set(zip(q.objects.tolist(), q.languages.tolist(), strict=True)) for split, q in found.items()}
    assert {split: len(q) for split, q in found.items()} == {split: len(p) for split, p in pairs.items()}
    assert sum(map(len, pairs.values())) == len(set().union(*pairs.values())) > 21_000
    assert (
        len(set(found["held_out"].objects.tolist()) - set(found["taught"].objects.tolist())) < 10
    )  # with one name only
    assert found["novel"].objects.max() < len(captioned.emoji("test")) <= found["taught"].objects.min()
    share = len(pairs["held_out"]) / (len(pairs["held_out"]) + len(pairs["taught"]))
    assert share == pytest.approx(texts.HELD_OUT, abs=2e-3)
    for asked in found.values():
        assert len(np.unique(asked.labels)) == 26  # of every split
        assert abs(np.bincount(asked.labels)[18] / len(asked) - 0.11) < 0.02  # s is the commonest, in every split


@pytest.fixture(scope="module")
def asked():
    """(thing, language) -> the index of a letter, of all questions."""
    every = [named_pictures.questions(split, late=late) for split in SPLITS for late in (False, True)]
    rows = (zip(q.objects.tolist(), q.languages.tolist(), q.labels.tolist(), strict=True) for q in every)
    return {(thing, language): letter for each in rows for thing, language, letter in each}


def test_a_question_by_hand(asked):
    """The dog (1F415) is "Hund" in German and "koira" in Finnish; "élan" loses its accent; "Øl" is not asked."""
    dog, languages = named_pictures.objects()[0]["\U0001f415"], texts.vocabulary().languages
    assert [LETTERS[asked[dog, languages.index(language)]] for language in ("de", "fi", "fr")] == ["h", "k", "c"]
    assert named_pictures._initial("élan") == "e" and named_pictures._initial("øl") not in LETTERS
    with pytest.raises(ValueError, match="Unknown split of the questions 'test'"):
        named_pictures.questions("test")


def test_labels_are_the_names_first_letters(asked):
    """Every fact about a pictured thing is asked once, unless the name begins with another letter than a to z."""
    known, languages = named_pictures.objects()[0], texts.vocabulary().languages
    facts = [fact for split in texts.SPLITS for fact in texts.facts(split).names if fact[1] in known]
    expected = {
        (known[thing], languages.index(language)): LETTERS.index(name[0])
        for language, thing, name in facts
        if name[0] in LETTERS  # without an accent; those with one are tested above
    }
    assert len(facts) >= len(asked) >= len(expected) > 0.95 * len(facts)
    assert expected.items() <= asked.items()


def test_a_picture_is_the_thing_above_its_language(monkeypatch):
    """Without noise and with the same light, two languages of one thing differ in the strip alone, two things in one
    language above it."""
    monkeypatch.setattr(named_pictures, "NOISE", 0.0)
    monkeypatch.setattr(named_pictures, "LIGHT", (1.0, 1.0))
    one = Questions(np.array([3, 3, 9]), np.array([0, 1, 1]), np.array([0, 0, 0]))
    images = named_pictures.pictures(one, np.random.default_rng(0))
    assert images.shape == (3, *named_pictures.SIZE, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[:2, :SIDE], named_pictures.objects()[1][[3, 3]])
    np.testing.assert_array_equal(images[1, SIDE:], images[2, SIDE:])
    assert (images[0, SIDE:] != images[1, SIDE:]).any() and (images[1, :SIDE] != images[2, :SIDE]).any()


def test_every_language_can_be_told_from_the_others():
    strips = named_pictures._strips()
    assert strips.shape == (35, 12, 24) and strips.max() == 1 and (strips.min(axis=(1, 2)) < 0.2).all()
    distance = np.abs(strips[:, None] - strips[None]).sum(axis=(2, 3)) + 1e9 * np.eye(35)
    assert distance.min() > 4  # in whole black pixels; noise of 0.05 sums to about 0.5 over a strip


def test_light_and_noise_are_new_and_in_their_ranges():
    """Where the picture is white, light of 0.8 to 1.2 leaves 0.8 to 1, and the noise is uniform within 0.05."""
    asked = named_pictures.questions("taught")[np.zeros(300, int)]
    images = named_pictures.pictures(asked, np.random.default_rng(1))
    assert len(np.unique(images, axis=0)) == 300
    white = (named_pictures.objects()[1][asked.objects[0]] == 255).all(axis=-1)
    values = images[:, :SIDE][:, white] / 255
    levels = values.mean(axis=(1, 2))
    assert levels.min() < 0.85 and levels.max() > 0.97
    dim = values[levels < 0.9]  # not clipped
    spread = np.ptp(dim, axis=(1, 2))
    assert spread.min() > NOISE and spread.max() <= 2 * NOISE + 0.01


def test_batches_are_new_pictures_of_all_questions_and_go_on():
    questions = named_pictures.questions("held_out")[:96]
    iterator = named_pictures.batches(questions, 32, seed=3)
    first = [next(iterator) for _ in range(3)]
    assert first[0]["image"].dtype == np.float32 and first[0]["image"].shape == (32, 36, 24, 3)
    assert -1 <= first[0]["image"].min() < first[0]["image"].max() <= 1
    seen = np.sort(np.concatenate([batch["label"] for batch in first]))
    np.testing.assert_array_equal(seen, np.sort(questions.labels))  # an epoch has every question once
    check_exact_resume(lambda: named_pictures.batches(questions, 32, seed=3), 2)
    other = next(named_pictures.batches(questions, 32, seed=4))
    assert not np.array_equal(other["image"], first[0]["image"])


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
