"""kitlib.multimodal.public_sets: what it refuses by itself; whole files are in test_public_sets."""

import numpy as np
import pytest

from kitlib.multimodal import public_sets


@pytest.mark.parametrize("part", ["..", ".", "", "a/b.jpg", "/etc/passwd", "..\\secret", "a\\b", None, 3])
def test_names_that_lead_elsewhere_are_refused(part):
    with pytest.raises(ValueError, match="is no name of a picture in folder"):
        public_sets.picture_path("folder", "val2017", part)


def test_boxes_as_shares_by_hand():
    # 10, 20 to 40, 60 in an image 100 wide and 80 high: y 20/80 to 60/80, x 10/100 to 40/100.
    found = public_sets.shares_of([{"bbox": [10, 20, 30, 40]}], {"id": 1, "height": 80, "width": 100})
    np.testing.assert_allclose(found, [[0.25, 0.1, 0.75, 0.4]])


def test_answers_are_texts():
    assert public_sets.answers_of("question 1", "red", "blue") == ["red", "blue"]
    with pytest.raises(ValueError, match="question 1 has no answers"):
        public_sets.answers_of("question 1")
    with pytest.raises(ValueError, match="an answer to question 1 is None, expected a text"):
        public_sets.answers_of("question 1", "red", None)
