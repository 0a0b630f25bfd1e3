"""Flags, counts and numbers: what is taken, what is refused, and the sentence that says so."""

import math

import numpy as np
import pytest

from kitlib.configs.arguments import flag, indices, number, whole


def test_what_is_meant_is_taken_and_returned():
    assert flag("scan", True) is True and flag("scan", np.bool_(False)) is False
    assert whole("k", 3, 1, 8) == 3 and whole("k", np.int64(8), 1, 8) == 8 and whole("k", -5) == -5
    assert number("rate", 1, 0.0, 1.0) == 1.0 and number("rate", np.float32(0.5), above=0.0, below=1.0) == 0.5


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ([0, 3], ValueError, r"labels go from 0 to 3; expected whole numbers from 0 to 2"),
        ([-1, 0], ValueError, "labels go from -1 to 0"),
        ([0.0, 1.0], TypeError, "labels are float64; expected integers"),
        ([True, False], TypeError, "labels are bool"),
        ([1, 2, 0], ValueError, r"labels have the shape \[3\]; expected \[2\], not empty"),
        (1, ValueError, r"the shape \[\]"),
        ("no", ValueError, r"the shape \[\]"),
    ],
)
def test_labels_and_tokens_that_there_are_not(values, error, words):
    with pytest.raises(error, match=words):
        indices("labels", values, 3, (2,))


def test_labels_of_any_length_and_of_any_number_of_classes():
    np.testing.assert_array_equal(indices("labels", [2, 0, 7], None, (None,)), [2, 0, 7])
    with pytest.raises(ValueError, match=r"expected whole numbers from 0[.]"):
        indices("labels", [-1], None, (None,))
    with pytest.raises(ValueError, match=r"expected \[2, n\], not empty"):
        indices("tokens", np.zeros((2, 0), int), None, (2, None))


def test_a_long_value_is_shown_in_one_line():
    with pytest.raises(ValueError) as error:
        whole("k", np.zeros((9, 9)))
    assert "\n" not in str(error.value) and len(str(error.value)) < 150


@pytest.mark.parametrize("value", ["no", "False", 0, 1, None, 1.0, [], np.ones(1)])
def test_what_would_count_as_true_or_false_is_no_flag(value):
    with pytest.raises(ValueError, match=r"scan is .*; expected True or False"):
        flag("scan", value)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, math.nan, 0, 9, np.float32(2.0), 2 + 0j])
def test_no_whole_number_in_the_range(value):
    with pytest.raises(ValueError, match=r"k is .*; expected a whole number from 1 to 8"):
        whole("k", value, 1, 8)


@pytest.mark.parametrize(
    "value", [True, "0.5", None, math.nan, math.inf, -math.inf, 0.0, 1.0, 1j, np.ones(1), 1e308, 10**400]
)
def test_no_number_in_the_range(value):
    with pytest.raises(ValueError, match=r"rate is .*; expected a finite number, above 0.0 and below 1.0"):
        number("rate", value, above=0.0, below=1.0)


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


def test_without_a_bound_no_range_is_named():
    with pytest.raises(ValueError, match=r"expected a whole number\.$"):
        whole("k", 0.5)
