"""Average precision of detectors, as in COCO and LVIS: how many objects are found, with how many false positives.

    truths = [Truth(boxes, classes), ...]                       # one per image
    detections = [Detections(boxes, scores, classes), ...]      # for the same images, in the same order
    result = coco(detections, truths, num_classes=3)
    result.ap, result.ap50, result.ap75, result.per_class       # in [0, 1]; papers print 100 times these

For each class and each IoU threshold .50, .55, ..., .95:

1. In each image the detections, by falling score, each take the free object with the largest overlap, if it reaches the
   threshold. A detection without an object is a false positive, and so is the second of two detections of one object.
2. The detections of all images are pooled, again by falling score. After each detection, recall is the share of objects
   found so far, and precision is the share of detections so far that found one.
3. Precision at recall r is the best precision at any recall of r or more, 0 if r is never reached. Its mean over r = 0,
   .01, ..., 1 is the AP, and the mean over thresholds and over the classes that have objects is *the* AP.

It is computed by faster-coco-eval, whose scores equal those of pycocotools and lvis-api (LVIS: 1908.03195). This module
checks what it is given and puts it into COCO's form. Boxes are y0, x0, y1, x1 in any unit, the same for both sides.
Equal scores keep the order of images and, within an image, of its detections. Crowd regions (COCO's `iscrowd`) and the
split by object size are left out. (`uncertainty.average_precision` has one score per example and does not interpolate.)
"""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from kitlib.configs.arguments import whole

# T thresholds, C classes; n detections and m objects in one image.
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclasses.dataclass(frozen=True)
class Detections:
    """The output of a detector for one image."""

    boxes: np.ndarray  # float[n, 4]
    scores: np.ndarray  # float[n], higher means more certain; only their order matters
    classes: np.ndarray  # int[n], in 0 ... C - 1


@dataclasses.dataclass(frozen=True)
class Truth:
    """The objects in one image. The two sets are for `lvis`, where an image is annotated for some classes only."""

    boxes: np.ndarray  # float[m, 4], each of positive area
    classes: np.ndarray  # int[m], in 0 ... C - 1
    negatives: Collection[int] = frozenset()  # classes known to be absent
    not_exhaustive: Collection[int] = frozenset()  # classes of which some objects have no box


@dataclasses.dataclass(frozen=True)
class Result:
    """Average precision, in [0, 1]; NaN where no class has an object. Only `lvis` sets the groups of classes."""

    ap: float  # mean over thresholds and classes
    ap50: float  # at IoU .50
    ap75: float  # at IoU .75
    per_class: np.ndarray  # float64[C], mean over thresholds; NaN for classes without objects, left out of all means
    rare: float = np.nan  # mean over classes in fewer than 10 training images
    common: float = np.nan  # in 10 to 99
    frequent: float = np.nan  # in 100 or more


def coco(
    detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int, max_detections: int = 100
) -> Result:
    """AP if every image is annotated for every class, from the `max_detections` best detections of each image.

    pycocotools limits each class of an image separately: the same, if an image has no more than 100 detections.

    Raises ValueError for a truth with negatives or not_exhaustive (use `lvis`), lists of unequal length, or invalid
    boxes, scores or classes, naming the image; TypeError for classes that are not integers.
    """
    for i, truth in enumerate(truths):
        if len(truth.negatives) or len(truth.not_exhaustive):
            raise ValueError(f"Truth {i} has negatives or not_exhaustive, of which COCO's AP knows nothing: use lvis.")
    return _result(_table(detections, truths, num_classes, max_detections, federated=False))


def lvis(detections: Sequence[Detections], truths: Sequence[Truth], image_counts, max_detections: int = 300) -> Result:
    """AP if an image is annotated for some classes only (federated), and its means over rare to frequent classes.

    Detections of a class that is neither among the objects nor among the negatives of an image are dropped, after the
    limit `max_detections`. For a class in not_exhaustive, a detection that finds an object counts and one that finds
    none is ignored. image_counts: int[C], the number of *training* images with each class.

    Raises ValueError for a class among both the objects and the negatives of an image, counts below 0, and as `coco`.
    """
    counts = np.asarray(image_counts)
    if counts.ndim != 1 or (counts.size and not (np.issubdtype(counts.dtype, np.integer) and counts.min() >= 0)):
        raise ValueError(f"image_counts must be int[C], none below 0, got {counts.dtype}{list(counts.shape)}.")
    table = _table(detections, truths, len(counts), max_detections, federated=True)
    groups = {"rare": counts < 10, "common": (counts >= 10) & (counts < 100), "frequent": counts >= 100}
    rare, common, frequent = (_mean(table[groups[name]]) for name in ("rare", "common", "frequent"))
    return dataclasses.replace(_result(table), rare=rare, common=common, frequent=frequent)


# ---------------------------------------------------------------------------------------------- the library


def _table(detections, truths, num_classes, max_detections, federated) -> np.ndarray:
    """float64[C, T]: AP of each class at each threshold, NaN for a class without objects."""
    if len(detections) != len(truths):
        raise ValueError(f"Expected detections and truths of the same pictures, got {len(detections)}, {len(truths)}.")
    whole("num_classes", num_classes, 0)
    whole("max_detections", max_detections, 1)
    images, objects, found = [], [], []
    for i, (detected, truth) in enumerate(zip(detections, truths, strict=True)):
        boxes, scores, classes = _checked_detections(detected, f"Detections {i}", num_classes)
        true_boxes, true_classes = _checked_truth(truth, f"Truth {i}", num_classes)
        images.append({"id": i, "height": 1, "width": 1, "neg_category_ids": [*map(int, truth.negatives)]})
        images[i]["not_exhaustive_category_ids"] = [*map(int, truth.not_exhaustive)]
        for box, kind in zip(true_boxes, true_classes, strict=True):
            objects.append(_entry(i, box, kind) | {"id": len(objects) + 1, "iscrowd": 0})
        top = np.argsort(-scores, kind="stable")[:max_detections]
        rows = zip(boxes[top], classes[top], scores[top], strict=True)
        found += [_entry(i, box, kind) | {"score": float(score)} for box, kind, score in rows]
    table = np.full((num_classes, len(THRESHOLDS)), np.nan)
    table[[one["category_id"] for one in objects]] = 0.0
    if not objects or not found:
        return table
    # LVIS's groups of classes are made from the table, in `lvis`; the library only asks that each class has one.
    kinds = [{"id": c, "name": str(c), "frequency": "f"} for c in range(num_classes)]
    truth = COCO({"images": images, "annotations": objects, "categories": kinds, "info": {}}, print_function=_quiet)
    judge = COCOeval_faster(truth, truth.loadRes(found), "bbox", lvis_style=federated, print_function=_quiet)
    judge.params.maxDets = [max_detections]
    judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]  # all sizes
    judge.evaluate()
    judge.accumulate()
    precisions = judge.eval["precision"][..., 0, 0]  # [T, 101, C], -1 for a class without objects
    return np.where(np.isnan(table), np.nan, precisions.mean(axis=1).T)


def _entry(image: int, box, kind) -> dict:
    """A box in COCO's form: x, y, width, height."""
    y0, x0, y1, x1 = map(float, box)
    corner_and_sides = [x0, y0, x1 - x0, y1 - y0]
    return {"image_id": image, "category_id": int(kind), "bbox": corner_and_sides, "area": (y1 - y0) * (x1 - x0)}


def _quiet(*_, **__) -> None:
    """The library reports its times."""


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
    for name in ("negatives", "not_exhaustive"):
        _classes(list(getattr(truth, name)), len(getattr(truth, name)), f"{what}, {name}", num_classes)
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


# ---------------------------------------------------------------------------------------------- boxes


def iou(a, b) -> np.ndarray:
    """Intersection over union of all pairs: float[n, 4], float[m, 4] -> float64[n, m] in [0, 1].

    Any unit, the same for both. A box without area has IoU 0, also with itself, so it never counts as found; so have
    boxes that only touch. Raises the errors of `as_boxes`.
    """
    a, b = as_boxes(a)[:, None], as_boxes(b)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # below 0 where apart
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    union = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def as_boxes(boxes, what: str = "Boxes") -> np.ndarray:
    """Boxes in any unit as float64[n, 4]; [] means no boxes. Error messages begin with `what`.

    Raises ValueError for boxes that are not [n, 4], NaN, infinite or inverted.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{what} must be [n, 4], each y0, x0, y1, x1, got shape {boxes.shape}.")
    if bad := np.sum(~np.isfinite(boxes)):
        raise ValueError(f"{what} must be finite, got {bad} NaN or infinite values of {boxes.size}.")
    if (inverted := np.any(boxes[:, 2:] < boxes[:, :2], axis=1)).any():
        got = boxes[inverted][0].tolist()
        raise ValueError(f"{what} must have y0 <= y1 and x0 <= x1, got {got}; is the order y0, x0, y1, x1?")
    return boxes
