"""Accuracy, likelihood and calibration of a classifier.

Probabilities are float[B, V], labels int[B], results Python floats. Everything is computed with numpy in float64: a
metric is computed only once, so precision matters more than speed.

Built in notebooks/02_train_and_measure.ipynb.
"""

import dataclasses

import numpy as np
from scipy import optimize, special

from kitlib.configs.arguments import finite, indices, whole


def softmax(logits) -> np.ndarray:
    """float[..., V] -> float64[..., V], rows sum to one."""
    return special.softmax(finite("logits", logits), axis=-1)


def accuracy(probs, labels) -> float:
    """Share of examples whose most probable class is the label; ties go to the lowest class."""
    probs, labels = _checked(probs, labels)
    return float(np.mean(probs.argmax(axis=-1) == labels))


def nll(probs, labels) -> float:
    """Negative log-likelihood in nats per example; infinite if a label was given probability zero."""
    probs, labels = _checked(probs, labels)
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(probs[np.arange(len(labels)), labels])))


def brier(probs, labels) -> float:
    """Brier score, the mean over examples of sum_v (p_v - [v = label])^2: 0 is perfect, 2 is the worst."""
    probs, labels = _checked(probs, labels)
    return float(np.mean(np.sum((probs - np.eye(probs.shape[-1])[labels]) ** 2, axis=-1)))


@dataclasses.dataclass(frozen=True)
class Reliability:
    """The numbers in a reliability diagram, one entry per bin; confidence and accuracy of empty bins are NaN."""

    edges: np.ndarray  # float64[bins + 1]
    confidence: np.ndarray  # float64[bins], mean largest probability
    accuracy: np.ndarray  # float64[bins]
    count: np.ndarray  # int64[bins]


def reliability(probs, labels, bins: int = 15) -> Reliability:
    """Examples grouped by confidence (largest probability) into equal bins (a, b] of [0, 1]."""
    probs, labels = _checked(probs, labels)
    whole("bins", bins, 1)
    confidence = probs.max(axis=-1)
    correct = probs.argmax(axis=-1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, right = (np.bincount(index, values, bins) / count for values in (confidence, correct))
        return Reliability(edges, mean, right, count)


def ece(probs, labels, bins: int = 15) -> float:
    """Expected calibration error: sum over bins of (share of examples) * |accuracy - confidence| (1706.04599)."""
    r = reliability(probs, labels, bins)
    return float(np.nansum(r.count * np.abs(r.accuracy - r.confidence)) / r.count.sum())


LOG_T = 6.0  # the largest logarithm of a temperature that is tried: 400


def fit_temperature(logits, labels) -> float:
    """The T > 0 that minimises the NLL of softmax(logits / T); the data must be held out (1706.04599).

    Raises ValueError for logits that are not finite or of fewer than two classes, and where there is no minimum: if all
    examples are right, the NLL only falls as T goes to 0, and if the logits say less than chance, as it grows.
    """
    logits, labels = finite("logits", logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[-1] < 2 or not len(logits):
        raise ValueError(f"Expected logits [B, V] of two classes or more, got {logits.shape}.")
    _checked(softmax(logits), labels)
    if (logits.argmax(axis=-1) == labels).all():
        raise ValueError("The NLL has no minimum: every example is right, so it falls as T falls.")

    def loss(log_t):  # convex in 1/T, so it has one minimum in log T
        scaled = logits / np.exp(log_t)
        return np.mean(special.logsumexp(scaled, axis=-1) - scaled[np.arange(len(labels)), labels])

    best = optimize.minimize_scalar(loss, bounds=(-LOG_T, LOG_T), method="bounded", options={"xatol": 1e-8})
    if abs(best.x) > LOG_T - 1e-3:
        change = "grows" if best.x > 0 else "falls"
        raise ValueError(f"The NLL has no minimum: it still falls as T {change} past {np.exp(best.x):.3g}.")
    return float(np.exp(best.x))


def _checked(probs, labels) -> tuple[np.ndarray, np.ndarray]:
    probs = finite("probs", probs)
    if probs.ndim != 2 or not probs.size:
        raise ValueError(f"Expected probs [B, V], both above 0, got {probs.shape}.")
    labels = indices("labels", labels, probs.shape[1], probs.shape[:1])
    sums = probs.sum(axis=-1)
    if not np.allclose(sums, 1.0, atol=1e-4) or probs.min() < 0:
        raise ValueError(f"Probabilities must sum to one; row sums go from {sums.min():.4g} to {sums.max():.4g}.")
    return probs, labels
