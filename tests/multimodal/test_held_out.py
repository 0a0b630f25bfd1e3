"""kitlib.multimodal.held_out: which pairs of thing and language no picture teaches."""

import pytest

from kitlib.data.captioned import LANGUAGES, emoji
from kitlib.multimodal import held_out
from kitlib.multimodal.kit_data import object_rows

CODES = [emoji("train").codes[row] for row in object_rows("train")]


def test_half_of_the_languages_lack_a_quarter_of_the_things():
    for language in LANGUAGES:
        share = sum(held_out.by_text_alone(code, language) for code in CODES) / len(CODES)
        assert 0.19 < share < 0.31 if language in held_out.BY_TEXT else share == 0
    assert len(held_out.BY_TEXT) == len(LANGUAGES) / 2


def test_the_other_languages_of_a_thing_are_taught_with_pictures():
    for code in CODES:
        known = held_out.languages_with_pictures(code)
        assert [language for language in LANGUAGES if not held_out.by_text_alone(code, language)] == list(known)
        assert set(LANGUAGES) - set(held_out.BY_TEXT) <= set(known)


def test_languages_lack_different_things():
    """Two independent quarters share a quarter of a quarter: 1 in 16 of all."""
    shared = sum(held_out.by_text_alone(code, "fr") and held_out.by_text_alone(code, "ko") for code in CODES)
    assert 0.03 < shared / len(CODES) < 0.10


def test_an_unknown_language():
    with pytest.raises(ValueError, match="did you mean 'fr'"):
        held_out.by_text_alone("1F415", "french")
