"""Flags, counts, numbers and names: what is taken, what is refused, and the sentence that says so."""

import math

import numpy as np
import pytest

from kitlib.configs.arguments import flag, indices, number, one_of, whole


def test_what_is_meant_is_taken_and_returned():
    assert flag("scan", True) is True and flag("scan", np.bool_(False)) is False
    assert whole("k", 3, 1, 8) == 3 and whole("k", np.int64(8), 1, 8) == 8 and whole("k", -5) == -5
    assert number("rate", 1, 0.0, 1.0) == 1.0 and number("rate", np.float32(0.5), above=0.0, below=1.0) == 0.5
    np.testing.assert_array_equal(indices("labels", [2, 0, 7], None, (None,)), [2, 0, 7])


@pytest.mark.parametrize(
    ("values", "below", "shape", "error", "words"),
    [
        ([0, 3], 3, (2,), ValueError, r"labels go from 0 to 3; expected whole numbers from 0 to 2\."),
        ([-1], None, (None,), ValueError, r"expected whole numbers from 0\."),
        ([0.0, 1.0], 3, (2,), TypeError, "labels are float64; expected integers"),
        ([True, False], 3, (2,), TypeError, "labels are bool"),
        ([1, 2, 0], 3, (2,), ValueError, r"labels have the shape \[3\]; expected \[2\], not empty"),
        ("no", 3, (2,), ValueError, r"the shape \[\]"),
        (np.zeros((2, 0), int), 3, (2, None), ValueError, r"expected \[2, n\], not empty"),
    ],
)
def test_labels_and_tokens_that_there_are_not(values, below, shape, error, words):
    with pytest.raises(error, match=words):
        indices("labels", values, below, shape)


def test_a_long_value_is_shown_in_one_line():
    with pytest.raises(ValueError, match=r"expected a whole number\.$") as error:  # no bound, no range
        whole("k", np.zeros((9, 9)))
    assert "\n" not in str(error.value) and len(str(error.value)) < 150


def test_what_is_no_flag_no_whole_number_and_no_number():
    for value in ("no", 1, None, 1.0, np.ones(1)):
        with pytest.raises(ValueError, match=r"x is .*; expected True or False\."):
            flag("x", value)
    for value in (True, 1.0, "1", None, math.nan, 0, 9, np.float32(2.0)):
        with pytest.raises(ValueError, match=r"x is .*; expected a whole number from 1 to 8\."):
            whole("x", value, 1, 8)
    for value in (True, "0.5", math.nan, -math.inf, 0.0, 1.0, 1j, np.ones(1), 1e308, 10**400):
        with pytest.raises(ValueError, match=r"x is .*; expected a finite number, above 0.0 and below 1.0\."):
            number("x", value, above=0.0, below=1.0)


def test_bounds_are_included_or_not_as_their_names_say():
    for bounds, inside, outside, words in [
        ({"least": 0.0}, 0.0, -1e-9, "0.0 or more"),
        ({"most": 1.0}, 1.0, 1.1, "1.0 or less"),
        ({"above": 0.0}, 1e-9, 0.0, "above 0.0"),
        ({"below": 1.0}, 0.9, 1.0, "below 1.0"),
    ]:
        assert number("x", inside, **bounds) == inside
        with pytest.raises(ValueError, match=rf"x is {outside}; expected a finite number, {words}\."):
            number("x", outside, **bounds)


def test_known_names_pass():
    for known in (("top_k", "soft"), {"top_k": 1, "soft": 2}, iter(["top_k", "soft"])):  # any iterable
        assert one_of("router", "soft", known) is None
    assert one_of("layer", 2, (1, 2)) is None  # names need not be strings


@pytest.mark.parametrize(
    ("got", "known", "text"),
    [
        ("topk", ("soft", "top_k"), "Unknown router 'topk'; did you mean 'top_k'? Known: soft, top_k."),
        ("zzz", ("float32", "bfloat16"), "Unknown router 'zzz'. Known: float32, bfloat16."),  # like no other
        ("dense", (), "Unknown router 'dense'. Known: none."),
        (16, ("top_k", "soft"), "Unknown router 16. Known: top_k, soft."),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_known_names(got, known, text):
    for error in (ValueError, SystemExit):  # the caller chooses
        with pytest.raises(error) as refused:
            one_of("router", got, known, error)
        assert str(refused.value) == text
