"""kitlib.multimodal.boxes: rounding, text and its objects, dropped objects, noise without loss, overlap, errors."""

from collections import Counter

import numpy as np
import pytest

from kitlib.data.tokenizer import Tokenizer
from kitlib.metrics.detection import iou
from kitlib.multimodal.boxes import NOISE, add_noise, dequantize, from_text, quantize, shuffle, target, to_text

CAT = [0.0, 0.25, 0.5, 1.0]  # with 5 bins, whose width is 1/4: 0 1 2 4
LIGHT = [0.25, 0.0, 1.0, 0.75]  # 1 0 4 3
NAMES = ["cat", "traffic light", "Fahrrad", "自行车", "no. 2 (5 %)", "rock 'n' roll: no. 1"]


def random_boxes(rng, n, low=1e-6, high=1.0):
    """n boxes with sides uniform in (low, high), anywhere in the image."""
    sides = rng.uniform(low, high, (n, 2))
    corner = rng.uniform(0, 1 - sides)
    return np.concatenate([corner, np.minimum(corner + sides, 1)], axis=1)


def picture(seed, n=6):
    rng = np.random.default_rng(seed)
    return random_boxes(rng, n), [NAMES[i] for i in rng.integers(len(NAMES), size=n)], rng


def test_quantisation_by_hand():
    # 5 bins: 4 c is 0, 0.4, 3.6 and 4. Halves go to the even number: 4 * 0.125 = 0.5 to 0, 4 * 0.375 = 1.5 to 2.
    given = [[0.0, 0.1, 0.9, 1.0], [0.125, 0.125, 0.375, 0.375]]
    assert quantize(given, bins=5).tolist() == [[0, 0, 4, 4], [0, 0, 2, 2]]
    assert dequantize([[0, 1, 2, 4]], bins=5).tolist() == [CAT]
    # 1000 bins: the borders are 0 and 999, and the middle, 499.5, goes to 500.
    assert quantize([[0.0, 0.0, 0.5, 1.0]]).tolist() == [[0, 0, 500, 999]]
    assert quantize(np.float32([CAT])).dtype == np.int64 and dequantize([[0, 0, 1, 1]]).dtype == np.float64


@pytest.mark.parametrize("bins", [2, 3, 10, 1000, 1024, 65536])
def test_whole_numbers_are_kept_and_coordinates_are_kept_up_to_rounding(bins):
    q = np.unique(np.linspace(0, bins - 2, 1000).astype(int))
    numbers = np.stack([q, q, q + 1, np.full_like(q, bins - 1)], axis=1)
    np.testing.assert_array_equal(quantize(dequantize(numbers, bins), bins), numbers)
    given = random_boxes(np.random.default_rng(bins), 5000)
    assert np.abs(dequantize(quantize(given, bins), bins) - given).max() <= 0.5 / (bins - 1) + 1e-15  # of float64


def test_iou_lost_to_rounding_is_bounded():
    """1 - IoU is a metric on sets (Jaccard), so moving the edges a few at a time, the losses at most add up.

    Both edges of one dimension, of size h, move by e <= 0.5 / (bins - 1) each. First the edges that move outwards: a
    move costs e / (h + e) <= e / h. Then the edges that move inwards, together: e / h each, or less if the side has
    grown. So a dimension costs at most 2 e / h, and the box 2 e (1/h + 1/w) <= (1/h + 1/w) / (bins - 1).
    """
    given = random_boxes(np.random.default_rng(0), 5_000, low=0.05)
    back = dequantize(quantize(given))
    lost = 1 - np.array([iou([before], [after])[0, 0] for before, after in zip(given, back, strict=True)])
    bound = (1 / (given[:, 2:] - given[:, :2])).sum(axis=1) / 999
    assert (lost <= bound + 1e-12).all()
    # On average an edge moves by half of that. Sides uniform in (0.05, 1) have a mean 1/h of log(20) / 0.95 = 3.15, so
    # the mean loss is near 2 * 3.15 / 999 / 2 = 0.32 %: below 1 % in the mean, though not for every box.
    assert lost.mean() == pytest.approx(np.log(20) / 0.95 / 999, rel=0.1)
    assert bound[(given[:, 2:] - given[:, :2]).min(axis=1) >= 0.2].max() <= 0.0101  # 10 / 999


def test_small_boxes_can_lose_more_than_one_percent():
    # Every edge is rounded down by d, just below half a bin: 0.4999 bins of 1/999. So
    # IoU = (s - d)^2 / (2 s^2 - (s - d)^2), which for s = 50/999 (50 bins) and d = 0.4999/999 is
    # 49.5001^2 / (5000 - 49.5001^2) = 0.9609.
    box = np.array([[100.4999, 200.4999, 150.4999, 250.4999]]) / 999
    assert quantize(box).tolist() == [[100, 200, 150, 250]]
    got = iou(box, dequantize(quantize(box)))[0, 0]
    assert got == pytest.approx(49.5001**2 / (5000 - 49.5001**2)) and 0.03 < 1 - got < 0.04


def test_text_by_hand():
    assert to_text([CAT, LIGHT], ["cat", "traffic light"], bins=5) == "0 1 2 4 cat ; 1 0 4 3 traffic light"
    assert to_text([[0.0, 0.0, 0.5, 1.0]], ["dog"]) == "0 0 500 999 dog"
    boxes, names, dropped = from_text("0 1 2 4 cat ; 1 0 4 3 traffic light", bins=5)
    assert boxes.tolist() == [CAT, LIGHT] and names == ["cat", "traffic light"] and dropped == 0
    assert to_text([], []) == "" and target([], []) == []
    boxes, names, dropped = from_text(to_text([[0.5, 0.0, 0.50001, 1.0]], ["line"]))  # thin: without area
    assert boxes[0, 0] == boxes[0, 2] == 500 / 999 and names == ["line"] and dropped == 0


@pytest.mark.parametrize("bins", [2, 100, 1000])
@pytest.mark.parametrize("seed", range(20))
def test_text_loses_nothing_but_the_rounding(seed, bins):
    boxes, names, _ = picture(seed)
    back, names_back, dropped = from_text(to_text(boxes, names, bins), bins)
    np.testing.assert_array_equal(back, dequantize(quantize(boxes, bins), bins))
    assert names_back == names and dropped == 0


# Of 5 bins 4 is the largest; "١" is Arabic-Indic one, a digit to int(), which takes at most 4300 digits.
UNREADABLE = ("", "1 2 3", "1 2 3 4", "1 2 3 cat", "1 2 3 4 5 cat", "1 2 3 4 5", "3 2 1 4 cat", "1 4 3 2 cat")
UNREADABLE += ("1 2 3 5 cat", "-1 2 3 4 cat", "1 2 3 4.0 cat", "1 2 3 1e0 cat", "01 2 3 4 cat", "١ 2 3 4 cat")
UNREADABLE += (f"1 2 3 {'9' * 5000} cat", "cat 1 2 3 4", "cat", "1, 2, 3, 4 cat", "1 2 3 4 2nd cat")


@pytest.mark.parametrize("piece", UNREADABLE)
def test_unreadable_pieces_are_dropped_and_counted(piece):
    good = "0 1 2 4 cat"
    for text in (f"{good} ; {piece} ; 1 0 4 3 dog", f"{piece} ; {good} ; 1 0 4 3 dog", f"{good};1 0 4 3 dog;{piece}"):
        boxes, names, dropped = from_text(text, bins=5)
        assert boxes.tolist() == [CAT, LIGHT] and names == ["cat", "dog"] and dropped == 1


def test_blank_text_has_no_objects_and_white_space_may_differ():
    for text, dropped in (("", 0), ("  \n", 0), (" ; ;", 3), ("no boxes here", 1)):
        boxes, names, count = from_text(text)
        assert boxes.shape == (0, 4) and names == [] and count == dropped
    boxes, names, dropped = from_text("\n0  1 2\t4 traffic   light;1 0 4 3 dog ", bins=5)
    assert boxes.tolist() == [CAT, LIGHT] and names == ["traffic light", "dog"] and dropped == 0


@pytest.mark.parametrize("seed", range(10))
def test_every_prefix_of_a_text_gives_its_whole_objects(seed):
    """A text cut after k characters has all objects before the cut one; at most the cut one is dropped."""
    boxes, names, _ = picture(seed, n=3)
    text = to_text(boxes, names)
    whole = dequantize(quantize(boxes))
    for k in range(len(text)):
        got, got_names, dropped = from_text(text[:k])
        complete = text[:k].count(";")
        assert dropped <= 1 and complete <= len(got) <= complete + 1
        np.testing.assert_array_equal(got, whole[: len(got)])
        assert got_names[:complete] == names[:complete]
        assert all(full.startswith(name) for full, name in zip(names, got_names, strict=False))  # a name may be cut


@pytest.mark.parametrize("seed", range(20))
def test_any_text_is_accepted_and_every_piece_is_counted(seed):
    rng = np.random.default_rng(seed)
    words = ["0", "7", "500", "999", "1000", ";", ";", "cat", "-3", "2nd", " ", "\u00a0", "x;y"]
    for _ in range(100):
        text = " ".join(words[i] for i in rng.integers(len(words), size=rng.integers(0, 30)))
        boxes, names, dropped = from_text(text)
        assert len(boxes) == len(names) and len(names) + dropped == (text.count(";") + 1 if text.strip() else 0)
        assert ((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, :2] <= boxes[:, 2:]).all()


def test_target_by_hand():
    # A cat and a box of noise: only the four numbers of the noise carry no loss.
    pieces = [("0 1 2 4", True), (" cat", True), (" ;", True), (" 1 0 4 3", False), (" noise", True)]
    assert target([CAT, LIGHT], ["cat", NOISE], bins=5) == pieces


@pytest.mark.parametrize("seed", range(5))
def test_pieces_join_to_the_text_and_encode_one_by_one(seed):
    boxes, names, rng = picture(seed)
    boxes, names = add_noise(boxes, names, 9, rng)
    pieces, text, tokenizer = target(boxes, names), to_text(boxes, names), Tokenizer.load()
    assert "".join(piece for piece, _ in pieces) == text
    assert tokenizer.decode([i for piece, _ in pieces for i in tokenizer.encode(piece)]) == text


def test_all_orders_are_equally_likely():
    """3 objects have 6 orders. Of 6,000 draws each should come 1,000 times, with a standard deviation of 29. Boxes and
    names stay together."""
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(6000):
        boxes, names = shuffle([CAT, LIGHT, [0, 0, 1, 1]], ["cat", "light", "all"], rng)
        assert [boxes[names.index(name)].tolist() for name in ("cat", "light", "all")] == [CAT, LIGHT, [0, 0, 1, 1]]
        seen[tuple(names)] += 1
    assert len(seen) == 6 and max(abs(count - 1000) for count in seen.values()) < 5 * 29
    assert shuffle([], [], rng)[1] == []


@pytest.mark.parametrize("n", [0, 1, 6])
def test_noise_is_added_after_the_objects(n):
    boxes, names, rng = picture(1, n)
    got, got_names = add_noise(boxes, names, 6, rng)
    assert got.shape == (6, 4) and got_names == names + [NOISE] * (6 - n)
    np.testing.assert_array_equal(got[:n], boxes)
    # One piece per box of noise carries no loss: its coordinates.
    without_loss = [piece for piece, weight in target(got, got_names) if not weight]
    assert len(without_loss) == 6 - n and all(len(piece.split()) == 4 for piece in without_loss)


def test_noise_boxes_are_boxes_of_all_sizes():
    boxes, _ = add_noise([], [], 20_000, np.random.default_rng(0))
    quantize(boxes)  # none is inverted, empty or outside
    # Two uniform points in [0, 1] are 1/3 apart on average, with variance 1/18; the smaller is 1/3 on average too.
    # Standard errors are sqrt(1/18 / 20,000) = 0.0017.
    assert boxes[:, 2:].mean(axis=0) - boxes[:, :2].mean(axis=0) == pytest.approx(1 / 3, abs=0.01)
    assert boxes[:, :2].mean(axis=0) == pytest.approx(1 / 3, abs=0.01)


def test_boxes_without_area_overlap_nothing():
    point, line = [0.5, 0.5, 0.5, 0.5], [0.5, 0.0, 0.5, 1.0]
    assert iou([point, line], [point, line]).tolist() == [[0, 0], [0, 0]]  # 0 / 0, without a warning
    assert iou([], [point]).shape == (0, 1) and iou([point], []).shape == (1, 0) and iou([], []).shape == (0, 0)


RNG = np.random.default_rng(0)
TAKE_NAMES = (to_text, target, lambda b, n: shuffle(b, n, RNG), lambda b, n: add_noise(b, n, 3, RNG))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0.0, 0.0, 1.5, 1.0], "are these pixels"),
        ([-0.1, 0.0, 1.0, 1.0], r"in \[0, 1\]"),
        ([0.0, 0.0, 1.0000001, 1.0], "to 1.0000001"),
        ([0.5, 0.0, 0.2, 1.0], "y0 <= y1 and x0 <= x1"),
        ([0.5, 0.0, 0.5, 1.0], "must have an area"),
        ([np.nan, 0.0, 1.0, 1.0], "finite"),
    ],
)
def test_invalid_boxes_are_refused(box, message):
    for function in (quantize, lambda b: to_text(b, ["cat", "dog"]), lambda b: target(b, ["cat", "dog"])):
        with pytest.raises(ValueError, match=message):
            function([CAT, box])


@pytest.mark.parametrize("name", ["", " cat", "cat ", "a  cat", "a\tcat", "cat; dog", ";", "2 cats", "²", 7, None])
def test_names_that_could_not_be_read_back_are_refused(name):
    for function in TAKE_NAMES:
        with pytest.raises(ValueError, match="so that it can be read back"):
            function([CAT, LIGHT], ["dog", name])
        with pytest.raises(ValueError, match="1 names for 2 boxes"):
            function([CAT, LIGHT], ["dog"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize([CAT[:3]]), r"\[n, 4\]"),
        (lambda: add_noise([CAT, LIGHT], ["cat", "dog"], 1, RNG), "more than the total of 1"),
        (lambda: add_noise([CAT], [NOISE], 2, RNG), "hold nothing"),
        (lambda: dequantize([[0, 0, 1, 5]], bins=5), r"in 0 \.\.\. 4"),
        (lambda: dequantize([[-1, 0, 1, 1]], bins=5), r"in 0 \.\.\. 4"),
        (lambda: dequantize([[0.0, 0.0, 1.0, 1.0]]), "integers"),
        (lambda: dequantize([[0, 0, 0, 0]], bins=1), "bins"),
    ],
)
def test_other_input_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
