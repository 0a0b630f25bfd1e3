"""AP by hand and against a slow oracle, the rules of COCO and LVIS one by one, and refusals."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from kitlib.metrics.detection import Detections, Truth, coco, iou, lvis

A, B, C = [0.0, 0.0, 0.2, 0.2], [0.4, 0.4, 0.6, 0.6], [0.8, 0.8, 1.0, 1.0]  # three separate objects
NOTHING = [0.0, 0.8, 0.1, 1.0]  # away from all of them
UNIT = [0.0, 0.0, 1.0, 1.0]
FULL = pytest.approx(1.0, abs=1e-15)  # precision 1 / (1 + 2 ** -52), the library's first precision


def detections(boxes, scores, classes=None):
    return Detections(np.array(boxes).reshape(-1, 4), scores, [0] * len(boxes) if classes is None else classes)


def truth(boxes, classes=None, **sets):
    return Truth(np.array(boxes).reshape(-1, 4), [0] * len(boxes) if classes is None else classes, **sets)


def one(boxes, scores, objects):
    """AP of one image and one class."""
    return coco([detections(boxes, scores)], [truth(objects)], 1).ap


def bar(y0, y1):
    return [y0 / 16, 0.0, y1 / 16, 1.0]


def same(a, b):
    """Equal results, NaN equal to NaN."""
    for field in dataclasses.fields(a):
        np.testing.assert_allclose(getattr(a, field.name), getattr(b, field.name), rtol=1e-12, atol=1e-15)


FOUND = detections([A], [0.5])


def test_ap_by_hand():
    # Perfect detections.
    looked = [truth([A, B], [0, 1]), truth([C])]
    result = coco([detections([A, B], [0.3, 0.9], [0, 1]), detections([C], [0.1])], looked, 2)
    assert (result.ap, result.ap50, result.ap75) == (FULL, FULL, FULL) and result.per_class.tolist() == [FULL, FULL]
    # One of two found. Recall ends at 1/2: precision 1 at the 51 recalls 0, .01, ..., .50, and 0 at the other 50. One
    # of three: recalls 0 ... .33 are 34.
    assert one([A], [0.9], [A, B]) == pytest.approx(51 / 101)
    assert one([A], [0.9], [A, B, C]) == pytest.approx(34 / 101)
    # A false positive before both: precisions 0, 1/2, 2/3; the best at any recall is 2/3.
    assert one([NOTHING, A, B], [0.9, 0.8, 0.7], [A, B]) == pytest.approx(2 / 3)
    # Between: 1, 1/2, 2/3. Up to recall .50 the best is 1 (51 recalls), after it 2/3 (50). After: nothing.
    assert one([NOTHING, A, B], [0.8, 0.9, 0.7], [A, B]) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert one([NOTHING, A, B], [0.7, 0.9, 0.8], [A, B]) == FULL
    # A duplicate is one, as "between"; but two objects at the same position are two. A box without area finds nothing.
    assert one([A, A, B], [0.9, 0.8, 0.7], [A, B]) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert one([A, A], [0.9, 0.8], [A, A]) == FULL
    assert one([[0.1, 0.0, 0.1, 0.2], A], [0.9, 0.8], [A]) == 0.5


def test_a_box_at_the_threshold_is_found():
    # 3/4 of the object: IoU .75, exactly. Found at .50, .55, ..., .75, six of ten thresholds; one step of float64
    # below: five.
    for side, at_75, ap in ((0.75, FULL, 0.6), (np.nextafter(0.75, 0), 0, 0.5)):
        result = coco([detections([[0.0, 0.0, side, 1.0]], [0.5])], [truth([UNIT])], 1)
        assert (result.ap50, result.ap75) == (FULL, at_75) and result.ap == pytest.approx(ap)


def test_which_object_a_detection_takes():
    # The score matters before the overlap. IoU 5/8 with score .9, IoU 1 with score .8, one object. At .50, .55, .60 the
    # first finds it and the second comes too late, which costs nothing: 1. At the other 7 the first is a false
    # positive: 1/2.
    assert one([[0.0, 0.0, 0.625, 1.0], UNIT], [0.9, 0.8], [UNIT]) == pytest.approx((3 + 7 / 2) / 10)
    # If its object is taken, the next best. Objects 0-10 and 2-12 (of 16, full width). Detection 0-10 takes the first.
    # Detection 0.5-10.5 overlaps more with that one, 9.5/10.5, but gets the second, 8.5/11.5 = .739: found at the 5
    # thresholds .50 ... .70. Above, it is a false positive and one of two is found.
    got = one([bar(0, 10), bar(0.5, 10.5)], [0.9, 0.8], [bar(0, 10), bar(2, 12)])
    assert got == pytest.approx((5 + 5 * 51 / 101) / 10)
    # Of equal overlaps, the last. Objects 0-12 and 4-16: detection 2-14 overlaps by 10/14 = .71 with both and takes the
    # last. Detection 4-16 comes too late there, and overlaps by 8/16 with the first: found at .50 only. At .55 to .70
    # (4 thresholds) one of two is found, and the second is a false positive: 51/101. Above, the first is false, the
    # second found: 1/2.
    got = one([bar(2, 14), bar(4, 16)], [0.9, 0.8], [bar(0, 12), bar(4, 16)])
    assert got == pytest.approx((1 + 4 * 51 / 101 + 5 * 51 / 2 / 101) / 10)


def test_classes_and_images_are_matched_separately_and_scores_are_pooled():
    # The box is right, the class is not: class 0 is not found, and class 1 has no object, so no AP.
    result = coco([detections([A], [0.9], [1])], [truth([A], [0])], 2)
    assert result.ap == 0 and result.per_class[0] == 0 and np.isnan(result.per_class[1])
    # Class 0 found, class 1 not, class 2 without objects and with a detection: (1 + 0) / 2.
    result = coco([detections([A, C], [0.9, 0.8], [0, 2])], [truth([A, B], [0, 1])], 3)
    assert result.ap == pytest.approx(0.5)
    np.testing.assert_allclose(result.per_class, [1, 0, np.nan], rtol=1e-15)
    # The object is in the second image, the box in the first: one false positive, no object found.
    assert coco([detections([A], [0.9]), detections([], [])], [truth([]), truth([A])], 1).ap == 0
    # Found in the second image with a lower score than a false positive in the first: precision 1/2.
    assert coco([detections([A], [0.9]), detections([A], [0.8])], [truth([]), truth([A])], 1).ap == 0.5
    # Equal scores keep the order of images.
    assert coco([FOUND] * 2, [truth([A]), truth([])], 1).ap == FULL
    assert coco([FOUND] * 2, [truth([]), truth([A])], 1).ap == 0.5


def test_recall_is_compared_in_floats_as_in_pycocotools():
    # In exact arithmetic 35 of 100 objects reach recalls 0 ... .35, which are 36. But 35 * 0.01 is above 0.35 in
    # float64, and linspace makes that recall: only 35 are reached.
    assert 35 * 0.01 > 0.35
    objects = [[i / 200, 0.0, (i + 1) / 200, 1.0] for i in range(100)]
    assert one(objects[:35], np.linspace(1, 0.5, 35), objects) == pytest.approx(35 / 101)
    assert one(objects[:34], np.linspace(1, 0.5, 34), objects) == pytest.approx(35 / 101)


def test_only_the_best_detections_of_an_image_count():
    # 100 boxes without object, of either class, and after them the object: cut off, or found at precision 1/101.
    boxes, scores = [NOTHING] * 100 + [A], np.linspace(1, 0, 101)
    for classes, uncut in (([0] * 101, 1 / 101), ([1] * 100 + [0], 1.0)):
        case = [detections(boxes, scores, classes)], [truth([A])]
        assert coco(*case, 2).ap == 0
        assert coco(*case, 2, max_detections=101).ap == pytest.approx(uncut)
        assert lvis(*case, [1, 1]).ap == pytest.approx(uncut)  # up to 300, and class 1 is not annotated
    # The limit is per image.
    assert coco([detections([A], [0.1])] * 3, [truth([A])] * 3, 1, max_detections=1).ap == FULL


def test_classes_that_are_not_annotated_are_dropped():
    # Image 0: an object of class 0, class 1 known to be absent, class 2 not annotated. Image 1: one object per class.
    looked = [truth([A], [0], negatives={1}), truth([A, B, C], [0, 1, 2])]
    says = [detections([A, B, C], [0.95, 0.9, 0.9], [0, 1, 2]), detections([A, B, C], [0.8] * 3, [0, 1, 2])]
    # Class 1: false positive, then found: 1/2. Class 2: the false positive is dropped.
    assert lvis(says, looked, [100] * 3).per_class.tolist() == [FULL, pytest.approx(0.5), FULL]
    # For COCO both are false positives.
    looked[0] = dataclasses.replace(looked[0], negatives=())
    assert coco(says, looked, 3).per_class.tolist() == [1, 0.5, 0.5]
    assert lvis(says, looked, [100] * 3).per_class.tolist() == [FULL, FULL, FULL]
    # The limit is applied before detections are dropped.
    says = [detections([B, A], [0.9, 0.8], [1, 0])]
    assert lvis(says, [truth([A])], [5, 5]).ap == FULL
    assert lvis(says, [truth([A])], [5, 5], max_detections=1).ap == 0


def test_unmatched_detections_of_a_not_exhaustive_class_are_ignored():
    says = [detections([NOTHING, A], [0.9, 0.8])]
    assert lvis(says, [truth([A])], [5]).ap == 0.5
    assert lvis(says, [truth([A], not_exhaustive={0})], [5]).ap == FULL
    # Only there: the same boxes in a second image, annotated in full. By score (ties by image): found in 0, false
    # in 1, found in 0, found in 1; without the ignored one of image 0. Precisions: 0, 1/2, 2/3, the best is 2/3.
    assert lvis(says * 2, [truth([A], not_exhaustive={0}), truth([A])], [5]).ap == pytest.approx(2 / 3)
    # The class still gets a false positive in an image where it is negative.
    assert lvis(says * 2, [truth([A], not_exhaustive={0}), truth([], negatives={0})], [5]).ap == 0.5
    # Ignored at a threshold is found at another. Image 0, not exhaustive: 3/4 of its object, score .9. Image 1: its
    # object, score .8. Up to .75 (6 thresholds) both are found. Above (4), the first is ignored and one of two is
    # found, without a false positive: 51/101.
    says = [detections([[0.0, 0.0, 0.75, 1.0]], [0.9]), detections([UNIT], [0.8])]
    got = lvis(says, [truth([UNIT], not_exhaustive={0}), truth([UNIT])], [5]).ap
    assert got == pytest.approx((6 + 4 * 51 / 101) / 10)
    # Annotated in full it is a false positive: precision 1/2 at 51 recalls.
    assert coco(says, [truth([UNIT])] * 2, 1).ap == pytest.approx((6 + 4 * 51 / 2 / 101) / 10)


def test_groups_by_training_images():
    # AP of classes 0 to 5: 1, 51/101, 0, 1, no object, 0.
    looked = [truth([A, A, B, A, A, A], [0, 1, 1, 2, 3, 5])]
    says = [detections([A, A, A], [0.9, 0.8, 0.7], [0, 1, 3])]
    result = lvis(says, looked, [1, 9, 10, 99, 99, 100])
    np.testing.assert_allclose(result.per_class, [1, 51 / 101, 0, 1, np.nan, 0])
    assert (result.rare, result.common, result.frequent) == pytest.approx(((1 + 51 / 101) / 2, 0.5, 0))
    assert result.ap == pytest.approx((2 + 51 / 101) / 5)
    assert np.isnan([getattr(coco(says, looked, 6), group) for group in ("rare", "common", "frequent")]).all()


def slow_class_ap(says, looked, c, threshold, federated):
    """AP of one class at one threshold as an exact fraction, from the definition; None without objects."""
    number = sum(list(t.classes).count(c) for t in looked)
    if not number:
        return None
    taken, verdicts = set(), []
    queue = [(d.scores[j], i, j) for i, d in enumerate(says) for j in range(len(d.scores)) if d.classes[j] == c]
    for _, i, j in sorted(queue, reverse=True):
        t = looked[i]
        if federated and c not in t.classes and c not in t.negatives:
            continue
        choices = [(iou([says[i].boxes[j]], [t.boxes[k]])[0, 0], k) for k in range(len(t.classes)) if t.classes[k] == c]
        choices = [(overlap, k) for overlap, k in choices if overlap >= threshold and (i, k) not in taken]
        if choices:
            taken.add((i, max(choices)[1]))
            verdicts.append(True)
        elif c not in t.not_exhaustive:
            verdicts.append(False)
    total = Fraction(0)
    for r in range(101):
        found = [(sum(verdicts[:n]), n) for n in range(1, len(verdicts) + 1)]
        total += max((Fraction(k, n) for k, n in found if Fraction(k, number) >= Fraction(r, 100)), default=0)
    return total / 101


def random_problem(seed, federated=False, images=3, classes=3):
    """Up to 4 objects per image; detections near them, of the right class or another, or anywhere; distinct scores."""
    rng = np.random.default_rng(seed)
    says, looked = [], []
    for _ in range(images):
        m, extra = rng.integers(0, 5), rng.integers(0, 4)
        objects = np.sort(rng.uniform(size=(m, 2, 2)), axis=1).reshape(-1, 4)
        # Some almost at the same position.
        objects = np.concatenate([objects, objects[: m // 3] + np.array([0, 0, 0.01, 0.01])])
        names = rng.integers(classes, size=len(objects))
        which = rng.integers(len(objects), size=rng.integers(0, 16)) if len(objects) else np.arange(0)
        near = objects[which] + rng.normal(scale=rng.uniform(0, 0.03), size=(len(which), 4))
        boxes = np.concatenate([near, rng.uniform(size=(extra, 4))])
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        guess = rng.integers(classes, size=len(boxes))
        guess[: len(which)] = np.where(rng.uniform(size=len(which)) < 0.7, names[which], guess[: len(which)])
        says.append(Detections(boxes, rng.uniform(size=len(boxes)), guess))
        absent = [c for c in range(classes) if c not in names and rng.uniform() < 0.5]
        partly = [c for c in range(classes) if c not in absent and rng.uniform() < 0.3]
        sets = {"negatives": frozenset(absent), "not_exhaustive": frozenset(partly)} if federated else {}
        looked.append(Truth(objects, names, **sets))
    return says, looked, classes


def evaluate(says, looked, classes, federated):
    return lvis(says, looked, [1, 50, 500][:classes]) if federated else coco(says, looked, classes)


@pytest.mark.parametrize("federated", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_module_agrees_with_the_oracle(seed, federated):
    says, looked, classes = random_problem(seed, federated)
    result = evaluate(says, looked, classes, federated)
    slow = [[slow_class_ap(says, looked, c, t / 100, federated) for t in range(50, 100, 5)] for c in range(classes)]
    per_class = [np.nan if row[0] is None else float(sum(row) / 10) for row in slow]
    np.testing.assert_allclose(result.per_class, per_class, atol=1e-12)
    some = np.array([row for row in slow if row[0] is not None], float)  # every problem here has objects
    want = some.mean(), some[:, 0].mean(), some[:, 5].mean()
    assert (result.ap, result.ap50, result.ap75) == pytest.approx(want)


@pytest.mark.parametrize("federated", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_images_and_detections_changes_nothing(seed, federated):
    says, looked, classes = random_problem(seed, federated, images=6)
    rng = np.random.default_rng(seed)
    want = evaluate(says, looked, classes, federated)
    order = rng.permutation(6)

    def mixed(image, *fields):
        p = rng.permutation(len(image.classes))
        return dataclasses.replace(image, **{field: np.asarray(getattr(image, field))[p] for field in fields})

    shuffled = [mixed(says[i], "boxes", "scores", "classes") for i in order]
    same(evaluate(shuffled, [looked[i] for i in order], classes, federated), want)
    same(evaluate(says, [mixed(t, "boxes", "classes") for t in looked], classes, federated), want)
    # Nor do the unit, or scores that keep their order.
    larger = [dataclasses.replace(d, boxes=512 * d.boxes, scores=np.log(d.scores)) for d in says]
    same(evaluate(larger, [dataclasses.replace(t, boxes=512 * t.boxes) for t in looked], classes, federated), want)


@pytest.mark.parametrize("seed", range(10))
def test_a_false_positive_never_helps_and_the_last_one_changes_nothing(seed):
    says, looked, classes = random_problem(seed)
    rng = np.random.default_rng(seed)
    before = coco(says, looked, classes)
    for score in (-1.0, *rng.uniform(size=5), 2.0):  # below all, between, above all
        i, c = rng.integers(3), rng.integers(classes)
        far = np.array([[5.0, 5.0, 6.0, 6.0]])  # outside every image
        d = says[i]
        more = list(says)
        more[i] = Detections(np.concatenate([d.boxes, far]), np.append(d.scores, score), np.append(d.classes, c))
        after = coco(more, looked, classes)
        assert np.isnan(before.per_class[c]) or after.per_class[c] <= before.per_class[c] + 1e-12
        if score < 0:
            same(after, before)


def test_empty_problems():
    nothing, none = detections([], []), truth([])
    for result in (coco([], [], 2), coco([nothing], [none], 2), coco([detections([A], [1.0])], [none], 2)):
        assert np.isnan([result.ap, result.ap50, result.ap75, *result.per_class]).all()
        assert result.per_class.shape == (2,)
    result = coco([nothing], [none], 0)
    assert np.isnan(result.ap) and result.per_class.shape == (0,)
    assert np.isnan(lvis([nothing], [none], []).rare)
    assert coco([nothing], [truth([A])], 1).ap == 0  # objects without detections
    assert coco([Detections([], [], [])], [Truth([], [])], 1).per_class.shape == (1,)  # lists are accepted


@pytest.mark.parametrize(
    ("says", "looked", "error", "words"),
    [
        (detections([[0.2, 0.0, 0.1, 1.0]], [0.5]), truth([A]), ValueError, "Detections 1: boxes .* y0 <= y1"),
        (detections([[np.nan, 0.0, 0.1, 1.0]], [0.5]), truth([A]), ValueError, "Detections 1: boxes must be finite"),
        (Detections(np.zeros((1, 3)), [0.5], [0]), truth([A]), ValueError, r"Detections 1: boxes .* \[n, 4\]"),
        (detections([A], [np.nan]), truth([A]), ValueError, "Detections 1: expected one finite score"),
        (detections([A], [0.5], [0, 1]), truth([A]), ValueError, "Detections 1: expected one class"),
        (detections([A], [0.5], [2]), truth([A]), ValueError, r"Detections 1: classes .* \[0, 2\), got 2"),
        (detections([A], [0.5], [-1]), truth([A]), ValueError, r"Detections 1: classes .* \[0, 2\), got -1"),
        (detections([A], [0.5], [0.0]), truth([A]), TypeError, "Detections 1: classes .* float64"),
        (FOUND, truth([[0.2, 0.0, 0.2, 1.0]]), ValueError, "Truth 1: a box has no area"),
        (FOUND, truth([A], negatives={0}), ValueError, r"Truth 1: classes \[0\] .* and among the negatives"),
        (FOUND, truth([A], negatives={2}), ValueError, "Truth 1, negatives"),
        (FOUND, truth([A], not_exhaustive={-1}), ValueError, "Truth 1, not_exhaustive"),
    ],
)
def test_bad_detections_and_truths_are_refused(says, looked, error, words):
    with pytest.raises(error, match=words):
        lvis([FOUND, says], [truth([A]), looked], [1, 1])


def test_other_mistakes_are_refused():
    with pytest.raises(ValueError, match="same pictures"):
        coco([FOUND], [truth([A])] * 2, 1)
    for sets in ({"negatives": {1}}, {"not_exhaustive": {0}}):
        with pytest.raises(ValueError, match="use lvis"):
            coco([FOUND], [truth([A], **sets)], 2)
    with pytest.raises(ValueError, match="max_detections is 0"):
        coco([FOUND], [truth([A])], 1, max_detections=0)
    for counts in (3, [-1], [1.5]):
        with pytest.raises(ValueError, match="image_counts"):
            lvis([FOUND], [truth([A])], counts)


def test_iou_by_hand():
    others = [
        UNIT,
        [0.0, 0.0, 0.5, 1.0],  # half of it: 1/2
        [0.25, 0.25, 0.75, 0.75],  # a quarter
        [0.5, 0.5, 1.5, 1.5],  # a quarter shared: 1/4 / (1 + 1 - 1/4) = 1/7
        [1.0, 0.0, 2.0, 1.0],  # touches
        [3.0, 3.0, 4.0, 4.0],  # apart in both directions: two negative sides are not an area
        [0.5, 0.0, 0.5, 1.0],  # a line inside
    ]
    assert iou([UNIT], others)[0].tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1 / 7, 0, 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_iou_equals_the_ratio_of_counted_cells(seed):
    """Boxes on a grid of 12 x 12 cells, as sets of cells: |a and b| / |a or b|."""
    rng = np.random.default_rng(seed)

    def cells(box):
        return {(y, x) for y in range(box[0], box[2]) for x in range(box[1], box[3])}

    def some(n):
        return np.sort(rng.integers(0, 13, (n, 2, 2)), axis=1).reshape(n, 4)

    a, b = some(20), some(15)
    want = [[len(cells(p) & cells(q)) / max(len(cells(p) | cells(q)), 1) for q in b] for p in a]
    np.testing.assert_allclose(iou(a / 12, b / 12), want, atol=1e-12)
    np.testing.assert_allclose(iou(a, b), want)  # in any unit
    np.testing.assert_array_equal(iou(a, b), iou(b, a).T)
    np.testing.assert_array_equal(np.diag(iou(a, a)), np.all(a[:, 2:] > a[:, :2], axis=1))  # 1, or 0 without area
    np.testing.assert_allclose(iou(12 - a[:, [2, 3, 0, 1]], 12 - b[:, [2, 3, 0, 1]]), want)  # mirrored
