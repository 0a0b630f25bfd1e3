"""Makes metrics.json next to it: the scores of random captions, answers and boxes by the usual libraries.

    python tests/reference/make_metrics.py

Needs pycocoevalcap, pycocotools, lvis and anls (made with 1.2, 2.0.11, 0.5.3 and 0.0.2), on which the kit does not
depend: use a separate environment. The file is the reference of tests/metrics/test_reference.py. Running this script
again gives the same numbers.
"""

import json
import pathlib
import tempfile

import numpy as np
from anls import anls_score
from lvis import LVIS, LVISEval, LVISResults
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

vars(np)["float"] = float  # lvis was written for a numpy that still had it
FILE = pathlib.Path(__file__).with_name("metrics.json")
PICTURES, CLASSES = 12, 5
# Of 20, 50 or 100 objects, shares such as .35 are among the recalls, and pycocotools' rounding of these matters.
OBJECTS = (20, 11, 50, 7, 100)
RARITY = {"r": 3, "c": 30, "f": 300}  # training pictures


def captions(seed: int) -> dict:
    """Texts of one to twelve words out of six, so that many n-grams are shared; one to four references."""
    rng = np.random.default_rng(seed)

    def text():
        return " ".join(rng.choice(["a", "b", "c", "d", "e", "f"], size=rng.integers(1, 13)))

    predictions = [text() for _ in range(40)]
    references = [[text() for _ in range(rng.integers(1, 5))] for _ in range(40)]
    cider = CiderScorer(n=4, sigma=6.0)
    for prediction, texts in zip(predictions, references, strict=True):
        cider += (prediction, texts)
    return {"predictions": predictions, "references": references, "cider_d": cider.compute_score()[1].tolist()}


def answers(seed: int) -> dict:
    """Short strings, and what is left of them when letters are changed."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefgh"), size=rng.integers(1, 9))) for _ in range(40)]
    predictions = ["".join(letter if rng.random() < 0.7 else "x" for letter in word) for word in words]
    references = [[word, str(rng.choice(words))] for word in words]
    pairs = zip(predictions, references, strict=True)
    scores = [anls_score(prediction=p, gold_labels=r, threshold=0.5) for p, r in pairs]
    return {"predictions": predictions, "references": references, "anls": scores}


def boxes(seed: int) -> dict:
    """Objects of five classes in pictures of 100 x 100 and, around most of them and elsewhere, detections.

    As y0, x0, y1, x1. For LVIS, every picture has some classes known to be absent and some not boxed exhaustively.
    """
    rng = np.random.default_rng(seed)
    truths = [{"boxes": [], "classes": []} for _ in range(PICTURES)]
    detections = [{"boxes": [], "classes": [], "scores": []} for _ in range(PICTURES)]
    scores = iter(rng.permutation(1000) / 1000)  # all different
    for kind, count in enumerate(OBJECTS):
        for _ in range(count):
            picture, corner, sides = rng.integers(PICTURES), rng.integers(0, 60, 2), rng.integers(10, 40, 2)
            box = np.concatenate([corner, corner + sides])
            truths[picture]["boxes"].append(box.tolist())
            truths[picture]["classes"].append(kind)
            for _ in range(rng.integers(0, 3)):
                near = np.clip(box + rng.integers(-4, 5, 4), 0, 100)
                detections[picture]["boxes"].append(near.tolist())
                detections[picture]["classes"].append(kind if rng.random() < 0.8 else int(rng.integers(CLASSES)))
                detections[picture]["scores"].append(next(scores))
    for picture in range(PICTURES):
        for _ in range(3):
            corner, sides = rng.integers(0, 60, 2), rng.integers(10, 40, 2)
            detections[picture]["boxes"].append(np.concatenate([corner, corner + sides]).tolist())
            detections[picture]["classes"].append(int(rng.integers(CLASSES)))
            detections[picture]["scores"].append(next(scores))
        here = set(truths[picture]["classes"])
        absent = sorted(set(range(CLASSES)) - here)
        truths[picture]["negatives"] = absent[: rng.integers(0, len(absent) + 1)]
        truths[picture]["not_exhaustive"] = [kind for kind in sorted(here) if rng.random() < 0.3]
    frequency = ["r", "c", "f", "c", "f"]
    return {
        "truths": truths,
        "detections": detections,
        "image_counts": [RARITY[letter] for letter in frequency],
        "coco": by_coco(truths, detections),
        "lvis": by_lvis(truths, detections, frequency),
    }


def flat(truths, detections, frequency=None) -> tuple[dict, list]:
    """(ground truth, results) in COCO's or LVIS's form: boxes x, y, width, height, ids from 1."""

    def corners(box):
        y0, x0, y1, x1 = map(float, box)
        return [x0, y0, x1 - x0, y1 - y0]

    images, annotations, results = [], [], []
    for i, (truth, detected) in enumerate(zip(truths, detections, strict=True), 1):
        image = {"id": i, "height": 100, "width": 100}
        if frequency:
            image |= {"neg_category_ids": [kind + 1 for kind in truth["negatives"]]}
            image |= {"not_exhaustive_category_ids": [kind + 1 for kind in truth["not_exhaustive"]]}
        images.append(image)
        for box, kind in zip(truth["boxes"], truth["classes"], strict=True):
            x, y, w, h = corners(box)
            one = {"id": len(annotations) + 1, "image_id": i, "category_id": kind + 1, "iscrowd": 0, "area": w * h}
            annotations.append(one | {"bbox": [x, y, w, h], "segmentation": [[x, y, x + w, y, x + w, y + h]]})
        for box, kind, score in zip(detected["boxes"], detected["classes"], detected["scores"], strict=True):
            results.append({"image_id": i, "category_id": kind + 1, "bbox": corners(box), "score": score})
    kinds = [{"id": kind + 1, "name": str(kind)} for kind in range(CLASSES)]
    if frequency:
        kinds = [k | {"frequency": f, "image_count": RARITY[f]} for k, f in zip(kinds, frequency, strict=True)]
    return {"images": images, "annotations": annotations, "categories": kinds, "info": {}}, results


def by_coco(truths, detections) -> dict:
    dataset, results = flat(truths, detections)
    truth = COCO()
    truth.dataset = dataset
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    per_class = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    return dict(zip(("ap", "ap50", "ap75"), evaluation.stats[:3].tolist(), strict=True)) | {
        "per_class": per_class.tolist()
    }


def by_lvis(truths, detections, frequency) -> dict:
    dataset, results = flat(truths, detections, frequency)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "truth.json"
        path.write_text(json.dumps(dataset))
        truth = LVIS(str(path))
        evaluation = LVISEval(truth, LVISResults(truth, results), "bbox")
        evaluation.run()
    found = evaluation.get_results()
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "rare": "APr", "common": "APc", "frequent": "APf"}
    return {name: float(found[theirs]) for name, theirs in names.items()}


def main() -> None:
    made = {"captions": [captions(seed) for seed in (1, 2, 3)], "answers": answers(1), "boxes": [boxes(1), boxes(2)]}
    FILE.write_text(json.dumps(made, indent=None, separators=(",", ":")) + "\n")
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
