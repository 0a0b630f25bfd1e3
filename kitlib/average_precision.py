"""Average precision of detectors, COCO's and LVIS's: how many objects are found, and at what price in false alarms.

    truths = [Truth(boxes, classes), ...]                       # one a picture
    detections = [Detections(boxes, scores, classes), ...]      # the same pictures, in the same order
    result = coco(detections, truths, num_classes=3)
    result.ap, result.ap50, result.ap75, result.per_class       # in [0, 1]; papers print 100 times that

For each class and each IoU threshold .50, .55, ..., .95:

1. In a picture the detections, by falling score, each take the free object with which they overlap most, if by the
   threshold or more. One that gets none is a false positive, and so is the second of two on one object.
2. All pictures together, again by falling score: after each detection, recall is the share of objects found so far, and
   precision the share of detections so far that found one.
3. Precision at recall r is the best that is reached at recall r or more, 0 if r is never reached. Its mean over r = 0,
   .01, ..., 1 is the AP, and the mean over thresholds and over the classes that have objects is *the* AP.

Boxes are y0, x0, y1, x1 in any unit, the same for both sides. Equal scores keep the order of pictures and, within one,
of its detections, as in COCO's code: give distinct scores where that matters. Crowd regions (COCO's `iscrowd`) and the
split by size of object are not here. Sources: pycocotools and lvis-api, with whose numbers these agree but for a
rounding (see `interpolated`); LVIS is arXiv 1908.03195. (`uncertainty.average_precision` is of one score, has no boxes,
and does not interpolate.)
"""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from kitlib.boxes import as_boxes, iou

# T thresholds, C classes; of one class in one picture, n detections and m objects.
THRESHOLDS = np.arange(50, 100, 5) / 100


@dataclasses.dataclass(frozen=True)
class Detections:
    """What a detector says about one picture.

    A model that writes text gives no score by itself: Pix2Seq takes the probability of the class token among classes.
    """

    boxes: np.ndarray  # float[n, 4]
    scores: np.ndarray  # float[n], higher is surer; only their order counts
    classes: np.ndarray  # int[n], in 0 ... C - 1


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is in one picture. The sets are for `lvis`, whose pictures are each annotated for some classes only."""

    boxes: np.ndarray  # float[m, 4], each with an area
    classes: np.ndarray  # int[m], in 0 ... C - 1
    negatives: Collection[int] = frozenset()  # classes known to be absent
    not_exhaustive: Collection[int] = frozenset()  # classes of which some objects have no box


@dataclasses.dataclass(frozen=True)
class Result:
    """Average precision, in [0, 1]; NaN where no class has an object. Groups of classes are `lvis`'s only."""

    ap: float  # mean over thresholds and classes
    ap50: float  # at IoU .50
    ap75: float  # at IoU .75
    per_class: np.ndarray  # float64[C], mean over thresholds; NaN for a class without objects, which no mean contains
    rare: float = np.nan  # classes in less than 10 training images
    common: float = np.nan  # in 10 to 99
    frequent: float = np.nan  # in 100 or more


def coco(
    detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int, max_detections: int = 100
) -> Result:
    """AP where every picture is annotated for every class, of the `max_detections` best of each picture.

    pycocotools cuts each class of a picture by itself: the same, where a picture has no more than 100 detections.

    Raises ValueError for a truth with negatives or not_exhaustive (that is `lvis`), lists of unequal length, or boxes,
    scores or classes that are none, and says in which picture; TypeError for classes that are not integers.
    """
    for i, truth in enumerate(truths):
        if len(truth.negatives) or len(truth.not_exhaustive):
            raise ValueError(f"Truth {i} has negatives or not_exhaustive, of which COCO's AP knows nothing: use lvis.")
    return _result(_table(detections, truths, num_classes, max_detections, federated=False))


def lvis(detections: Sequence[Detections], truths: Sequence[Truth], image_counts, max_detections: int = 300) -> Result:
    """AP where a picture is annotated for some classes only (federated), and its means over rare to frequent classes.

    Detections of a class that is neither among the objects of a picture nor among its negatives are dropped: nobody
    looked for it there. Of a class that is not_exhaustive, a detection that finds an object counts and one that finds
    none is ignored. The cut to `max_detections` comes first, so detections that will be dropped take up places.

    Args:
        image_counts: int[C], the number of *training* images with each class.

    Raises ValueError for a class among both the objects and the negatives of a picture, counts below 0, and as `coco`.
    """
    counts = np.asarray(image_counts)
    if counts.ndim != 1 or (counts.size and not (np.issubdtype(counts.dtype, np.integer) and counts.min() >= 0)):
        raise ValueError(f"image_counts must be int[C], none below 0, got {counts.dtype}{list(counts.shape)}.")
    table = _table(detections, truths, len(counts), max_detections, federated=True)
    groups = {"rare": counts < 10, "common": (counts >= 10) & (counts < 100), "frequent": counts >= 100}
    return dataclasses.replace(_result(table), **{name: _mean(table[group]) for name, group in groups.items()})


# ---------------------------------------------------------------------------------------------- the three steps


def match(overlaps) -> np.ndarray:
    """Step 1, of one class in one picture: float[n, m] IoUs, detections by falling score -> bool[T, n], which find one.

    A detection whose best object is taken gets the best of the others, if that reaches the threshold; in Pascal VOC it
    would be a false positive. Among equal overlaps the last object is taken, as in COCO's code.
    """
    overlaps = np.asarray(overlaps, np.float64)[:, ::-1]  # argmax takes the first
    n, m = overlaps.shape
    hits = np.zeros((len(THRESHOLDS), n), bool)
    free = np.ones((len(THRESHOLDS), m), bool)
    for i in range(n if m else 0):
        allowed = np.where(free & (overlaps[i] >= THRESHOLDS[:, None]), overlaps[i], 0.0)
        best = allowed.argmax(axis=1)
        hits[:, i] = allowed.max(axis=1) > 0
        free[hits[:, i], best[hits[:, i]]] = False
    return hits


def interpolated(hits, num_objects: int) -> float:
    """Steps 2 and 3: bool[n], which detections by falling score find one of num_objects > 0 -> mean of 101 precisions.

    Recall k / num_objects is compared with r / 100 in integers, so that 35 of 100 reach .35. Of pycocotools' 101 floats
    some are above their decimal value (.35, .41, ...), and a recall of exactly that just misses them.
    """
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(found) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(100 * found, np.arange(101) * num_objects)  # the first detection that reaches each recall
    return float(np.append(best_from_here, 0.0)[first].mean())  # "none does" is the place behind the last


def _table(detections, truths, num_classes, max_detections, federated) -> np.ndarray:
    """float64[C, T]: AP of every class at every threshold, NaN for a class without objects."""
    if len(detections) != len(truths):
        raise ValueError(f"Expected detections and truths of the same pictures, got {len(detections)}, {len(truths)}.")
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}; expected at least 1: 100 for COCO, 300 for LVIS.")
    num_objects = np.zeros(num_classes, np.int64)
    seen = [[] for _ in range(num_classes)]  # of every class, a (scores[n], hits[T, n], counted[T, n]) a picture
    for i, (detected, truth) in enumerate(zip(detections, truths, strict=True)):
        boxes, scores, classes = _checked_detections(detected, f"Detections {i}", num_classes)
        objects, object_classes = _checked_truth(truth, f"Truth {i}", num_classes)
        num_objects += np.bincount(object_classes, minlength=num_classes)
        top = np.argsort(-scores, kind="stable")[:max_detections]
        boxes, scores, classes = boxes[top], scores[top], classes[top]
        judged = set(classes.tolist())
        if federated:
            judged &= {*object_classes.tolist(), *truth.negatives}
        for c in judged:
            hits = match(iou(boxes[classes == c], objects[object_classes == c]))
            seen[c].append((scores[classes == c], hits, hits | (c not in truth.not_exhaustive)))
    table = np.full((num_classes, len(THRESHOLDS)), np.nan)
    table[num_objects > 0] = 0.0
    for c in np.flatnonzero(num_objects):
        if seen[c]:
            scores, hits, counted = (np.concatenate(parts, axis=-1) for parts in zip(*seen[c], strict=True))
            order = np.argsort(-scores, kind="stable")
            hits, counted = hits[:, order], counted[:, order]
            table[c] = [interpolated(h[k], num_objects[c]) for h, k in zip(hits, counted, strict=True)]
    return table


def _result(table) -> Result:
    return Result(_mean(table), _mean(table[:, 0]), _mean(table[:, 5]), table.mean(axis=1))


def _mean(values) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else np.nan


# ---------------------------------------------------------------------------------------------- checks


def _checked_detections(detected, what, num_classes):
    boxes, scores = as_boxes(detected.boxes, f"{what}: boxes"), np.asarray(detected.scores, np.float64)
    if scores.shape != (len(boxes),) or not np.isfinite(scores).all():
        got = f"{len(boxes)} boxes and {np.isfinite(scores).sum()} finite scores in shape {scores.shape}"
        raise ValueError(f"{what}: expected one finite score a box, got {got}.")
    return boxes, scores, _classes(detected.classes, len(boxes), what, num_classes)


def _checked_truth(truth, what, num_classes):
    boxes = as_boxes(truth.boxes, f"{what}: boxes")
    if np.any(boxes[:, 2:] == boxes[:, :2]):
        raise ValueError(f"{what}: a box has no area and could never be found; leave it out.")
    classes = _classes(truth.classes, len(boxes), what, num_classes)
    _classes(list(truth.negatives), len(truth.negatives), f"{what}, negatives", num_classes)
    _classes(list(truth.not_exhaustive), len(truth.not_exhaustive), f"{what}, not_exhaustive", num_classes)
    if both := set(classes.tolist()) & set(truth.negatives):
        raise ValueError(f"{what}: classes {sorted(both)} are among the objects and among the negatives.")
    return boxes, classes


def _classes(classes, count, what, num_classes) -> np.ndarray:
    classes = np.asarray(classes)
    if classes.shape != (count,):
        raise ValueError(f"{what}: expected one class a box, got {count} boxes and classes of shape {classes.shape}.")
    if count and not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(f"{what}: classes must be integers, got {classes.dtype}.")
    if count and not 0 <= classes.min() <= classes.max() < num_classes:
        raise ValueError(f"{what}: classes must be in [0, {num_classes}), got {classes.min()} to {classes.max()}.")
    return classes.astype(np.int64)
