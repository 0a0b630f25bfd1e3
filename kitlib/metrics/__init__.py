"""Metrics: plain functions on numpy arrays and strings, each tested by hand or against the usual library.

Read `classification` and `intervals` first; `fewshot` fits a ridge probe. `text_metrics` scores captions (CIDEr-D) and
answers (VQA accuracy, ANLS, WUPS); `detection` has average precision and the IoU of boxes.
"""

from kitlib.metrics.classification import (
    Reliability,
    accuracy,
    brier,
    ece,
    fit_temperature,
    nll,
    reliability,
    softmax,
)  # fmt: skip
from kitlib.metrics.intervals import bootstrap, over_examples, t_interval, wilson

__all__ = [
    "Reliability", "accuracy", "bootstrap", "brier", "ece", "fit_temperature", "nll", "over_examples", "reliability",
    "softmax", "t_interval", "wilson",
]  # fmt: skip
