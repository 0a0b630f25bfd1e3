"""kitlib.studies.naming_pictures: the questions of fine-tuning, and the sets on which models are measured."""

import numpy as np
import pytest

from kitlib.data import shifts
from kitlib.metrics import fewshot
from kitlib.studies import naming_pictures
from kitlib.studies.ensemble_measures import NUM_DRAWS, NUM_QUERIES, SHOTS
from kitlib.studies.naming_pictures import FOREIGN, NUM_CORRUPTED, late
from kitlib.synthetic import named_pictures
from kitlib.synthetic.named_pictures import SIDE


def test_what_is_asked_was_taught_but_for_the_held_out_pairs():
    pairs = {}
    for split, size in (("train", 5475), ("valid", 500), ("test", 1500), ("held_out", 307)):
        asked = late(split)
        assert len(asked) == size
        pairs[split] = set(zip(asked.objects.tolist(), asked.languages.tolist(), strict=True))
        assert len(pairs[split]) == size and set(asked.languages.tolist()) == set(range(3, 35, 4))
    assert pairs["valid"] | pairs["test"] < pairs["train"]
    assert not pairs["valid"] & pairs["test"] and not pairs["held_out"] & pairs["train"]
    pretrained = named_pictures.questions("taught")
    assert not set(pretrained.languages.tolist()) & set(late("train").languages.tolist())
    with pytest.raises(ValueError, match="Unknown split of the late languages 'novel'"):
        late("novel")


@pytest.mark.slow
def test_sets_show_other_things_above_the_same_languages():
    sets = naming_pictures.pictures()
    assert set(sets) == {"test", "held_out", "corrupted", *FOREIGN}
    for name, images in sets.items():
        assert images.dtype == np.float32 and images.shape[1:] == (36, 24, 3), name
        assert -1 <= images.min() < images.max() <= 1
    asked, corrupted = sets["test"], sets["corrupted"]
    assert len(corrupted) == len(shifts.CORRUPTIONS) * 5 * NUM_CORRUPTED
    for part in np.split(corrupted, len(corrupted) // NUM_CORRUPTED):
        np.testing.assert_array_equal(part[:, SIDE:], asked[:NUM_CORRUPTED, SIDE:])  # languages can be read
        assert (part[:, :SIDE] != asked[:NUM_CORRUPTED, :SIDE]).any()
    n = len(sets["turned"])
    np.testing.assert_array_equal(sets["turned"][:, :SIDE], asked[:n, SIDE - 1 :: -1])
    for name in ("clothes", "noise"):
        np.testing.assert_array_equal(sets[name][:, SIDE:], asked[: len(sets[name]), SIDE:])
    corners = sets["clothes"][:, :2, :2]
    assert corners.mean() > 0.9  # clothes are on white, as the things are: the background tells nothing


@pytest.mark.slow
def test_few_shots_are_clothes_of_ten_classes_above_one_language():
    few, few_labels, asked, asked_labels = naming_pictures.probe()
    assert len(asked) == len(asked_labels) == NUM_QUERIES and len(few) == len(few_labels)
    assert set(few_labels.tolist()) == set(asked_labels.tolist()) == set(range(10))
    strips = np.concatenate([few[:, SIDE:], asked[:, SIDE:]])
    assert np.ptp(strips, axis=0).max() == 0
    for draw in range(NUM_DRAWS):  # the rows that are kept are enough for every draw
        for n in SHOTS:
            rows = fewshot.shots(few_labels, n, seed=draw)
            assert np.bincount(few_labels[rows]).tolist() == [n] * 10
