"""Captions (split at spaces), answers and boxes get the scores of the usual libraries: reference/make_metrics.py."""

import json
import pathlib

import numpy as np
import pytest

from kitlib.metrics.detection import Detections, Truth, coco, lvis
from kitlib.metrics.text_metrics import anls, cider_d

REFERENCE = json.loads((pathlib.Path(__file__).parents[1] / "reference" / "metrics.json").read_text())


@pytest.mark.parametrize("case", REFERENCE["captions"], ids=range(len(REFERENCE["captions"])))
def test_captions(case):
    given = cider_d(case["predictions"], case["references"], split=str.split)
    np.testing.assert_allclose(given, case["cider_d"], rtol=1e-9, atol=1e-12)  # pycocoevalcap


def test_text_metrics():
    case = REFERENCE["answers"]
    np.testing.assert_allclose(anls(case["predictions"], case["references"]), case["anls"], rtol=1e-12)
    assert 0 < np.mean(case["anls"]) < 1


def read(case, *, sets):
    """(detections, truths); sets: whether truths have LVIS's negatives and not_exhaustive."""
    found = [Detections(np.array(d["boxes"], float), d["scores"], d["classes"]) for d in case["detections"]]
    truths = []
    for t in case["truths"]:
        more = {"negatives": t["negatives"], "not_exhaustive": t["not_exhaustive"]} if sets else {}
        truths.append(Truth(np.array(t["boxes"], float).reshape(-1, 4), np.array(t["classes"], int), **more))
    return found, truths


@pytest.mark.parametrize("case", REFERENCE["boxes"], ids=range(len(REFERENCE["boxes"])))
def test_boxes(case):
    plain = coco(*read(case, sets=False), len(case["image_counts"]))
    federated = lvis(*read(case, sets=True), case["image_counts"])
    for library, result in (("coco", plain), ("lvis", federated)):
        for name, value in case[library].items():
            np.testing.assert_allclose(getattr(result, name), value, rtol=1e-9, err_msg=f"{library} {name}")
    assert plain.ap != pytest.approx(federated.ap)  # the sets matter
