"""data/make_pictures.py and make_names.py, which made the captioned files and the names: what they choose and how."""

import hashlib
import io
import json

import numpy as np


def test_indexed_pictures_come_back_exactly(make_pictures):
    images = np.random.default_rng(0).integers(0, 3, (4, 5, 6, 3), np.uint8)
    indices, palettes, sizes = make_pictures.indexed(images)
    starts = np.cumsum(sizes.astype(int)) - sizes
    np.testing.assert_array_equal(palettes[starts[:, None, None] + indices], images)
    assert (indices[:, 0, 0] == 0).all() and len(palettes) == sizes.sum()


def test_choose_keywords_prefers_what_others_share(make_pictures):
    names = ["cat", "dog"]
    many = tuple("abcdefgh")
    got = make_pictures.choose_keywords(names, [("Cat", *many, "pet", "sexy"), ("pet", "h", "dog")])
    assert got == [["a", "b", "c", "d", "h", "pet"], ["pet", "h"]]


def test_families_join_by_person_subgroup_caption_and_pixels(make_pictures):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    images[7] = images[6][:, ::-1]  # a mirrored twin
    names = ["man farmer", "woman farmer", "farmer", "grinning face", "kissing face", "tree", "lamp", "pen"]
    subgroups = ["role"] * 3 + ["face-smiling"] * 2 + ["plant", "light", "writing"]
    other = ["a", "b", "c", "d", "e", "Wald", "g", "h"]
    groups = make_pictures.families({"en": names, "de": other}, subgroups, images)
    assert sorted(map(sorted, groups)) == [[0, 1, 2], [3, 4], [5], [6, 7]]
    other[0] = "wald"  # the same caption in one language
    groups = make_pictures.families({"en": names, "de": other}, subgroups, images)
    assert sorted(map(sorted, groups)) == [[0, 1, 2, 5], [3, 4], [6, 7]]


def test_divide_keeps_families_whole_and_large_ones_in_train(make_pictures):
    groups = [[i] for i in range(80)] + [list(range(80, 90)), [90, 91, 92]]
    ranks = [hashlib.sha256(bytes([i])).hexdigest() for i in range(93)]
    parts = make_pictures.divide(groups, ranks)
    assert parts == make_pictures.divide(groups[::-1], ranks)
    assert sorted(i for rows in parts.values() for i in rows) == list(range(93))
    assert 12 <= len(parts["test"]) <= 15 and 8 <= len(parts["valid"]) <= 11
    assert set(range(80, 90)) <= set(parts["train"])
    assert any({90, 91, 92} <= set(rows) for rows in parts.values())


def test_picture_puts_a_transparent_one_on_white_and_texts_are_clean(make_pictures):
    buffer = io.BytesIO()
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[16:48, 16:48] = (255, 0, 0, 255)
    make_pictures.Image.fromarray(rgba).save(buffer, "PNG")
    image = make_pictures.picture(buffer.getvalue())
    assert image.shape == (32, 32, 3) and (image[0, 0] == 255).all() and image[16, 16].tolist() == [255, 0, 0]
    assert image[..., 0].min() > 200  # there is no dark rim
    assert make_pictures.clean("e\u0301te\u0301\u202f:\u00a0 a\u200bb") == "\u00e9t\u00e9 : ab"


def test_latin_names_only_and_entries_without_a_name_are_left_out(make_names):
    assert make_names.latin("bär") and make_names.latin("paru-paru") and make_names.latin("chef d’orchestre")
    assert not make_names.latin("собака") and not make_names.latin("2 dogs") and not make_names.latin("-x")
    entries = {"a": {"tts": ["dog"]}, "b": {"default": ["x"]}, "c": {"tts": []}}
    content = json.dumps({"annotations": {"annotations": entries}}).encode()
    assert list(make_names.rows_of(content)) == ["a"]
    assert make_names.rows_of(b'{"annotations": {}}') == {}
