"""How well an ensemble knows when it may be wrong: losses, diversity, out-of-distribution detection, robustness.

Members come first: probabilities and logits are float[M, B, V]; pass `x[None]` for a single model. Labels are int[B].
Results are Python floats in natural units (nats, shares, ratios), or float64[B] where a function says "per example".
Accuracy, Brier score and calibration error of an ensemble are computed from its mean: `metrics.ece(combine(probs),
labels)`. Everything is numpy in float64. Arrays that cannot be probabilities (logits, V on another axis) are refused.

Built in notebooks/09_ensembles_and_uncertainty.ipynb.
"""

import dataclasses
import itertools

import numpy as np
from scipy import special, stats

from kitlib.configs.arguments import finite, indices, number

# M members, B examples, V classes; C corruptions at S severities.


def combine(probs) -> np.ndarray:
    """float[M, B, V] -> float64[B, V], the prediction of an ensemble: the mean of its members' probabilities."""
    return _members(probs).mean(axis=0)


# ---------------------------------------------------------------------------------------------- losses, from logits


def members_nll(logits, labels) -> float:
    """Mean over members of their own NLLs: the loss that an ensemble is trained with."""
    return float(-np.mean(_label_log_probs(logits, labels)))


def ensemble_nll(logits, labels) -> float:
    """NLL of the mean probability: the loss that an ensemble is judged by, never above `members_nll` (Jensen)."""
    log_p = _label_log_probs(logits, labels)
    return float(-np.mean(special.logsumexp(log_p, axis=0) - np.log(len(log_p))))


def _label_log_probs(logits, labels) -> np.ndarray:
    logits = _logits(logits)
    labels = _labels(labels, logits.shape)
    return special.log_softmax(logits, axis=-1)[:, np.arange(len(labels)), labels]  # [M, B]


# ---------------------------------------------------------------------------------------------- diversity


def disagreement(probs) -> float:
    """Share of examples for which two members predict different classes, mean over pairs of members."""
    answers = _members(probs, at_least=2).argmax(axis=-1)
    return float(np.mean([np.mean(a != b) for a, b in itertools.combinations(answers, 2)]))


def kl(probs) -> float:
    """Mean over pairs of members of (KL(p || q) + KL(q || p)) / 2, in nats.

    Published code computes KL(p_i || p_j) for i < j only, which depends on the order of the members; the two agree in
    expectation if members are exchangeable. 0 log 0 is 0. Infinite if one member gives a class probability 0 and
    another does not: float32 probabilities can underflow to 0, `metrics.softmax(logits)` hardly ever does.
    """
    pairs = itertools.combinations(_members(probs, at_least=2), 2)
    both = [np.mean(np.sum(special.rel_entr(p, q) + special.rel_entr(q, p), axis=-1)) for p, q in pairs]
    return float(np.mean(both) / 2)


def cosine_similarity(probs) -> float:
    """Cosine of the angle between two members' probability vectors, mean over pairs: 1 where they agree.

    It is a similarity, though a well-known implementation calls it a distance: more diverse means *smaller*.
    """
    probs = _members(probs, at_least=2)
    unit = probs / np.linalg.norm(probs, axis=-1, keepdims=True)
    return float(np.mean([np.mean(np.sum(p * q, axis=-1)) for p, q in itertools.combinations(unit, 2)]))


# ------------------------------------------------------------------- scores per example: higher is less certain


def msp(probs) -> np.ndarray:
    """1 - maximum of the mean probability (MSP: maximum softmax probability), per example: 0 to 1 - 1 / V."""
    return 1.0 - combine(probs).max(axis=-1)


def entropy(probs) -> np.ndarray:
    """Entropy of the mean probability in nats, per example: 0 to log V."""
    return special.entr(combine(probs)).sum(axis=-1)


def mutual_information(probs) -> np.ndarray:
    """Entropy of the mean - mean of the members' entropies, in nats, per example: 0 to log min(M, V).

    It is the part of the entropy that comes from disagreement: 0 if all members predict the same probabilities.
    """
    apart = special.entr(_members(probs, at_least=2)).sum(axis=-1).mean(axis=0)
    return np.maximum(entropy(probs) - apart, 0.0)  # rounding can make it negative


def energy(logits) -> np.ndarray:
    """-logsumexp(logits), mean over members, per example: high for out-of-distribution images (2010.03759).

    It needs logits: adding a constant to all of them changes the energy, but no probability.
    """
    return -special.logsumexp(_logits(logits), axis=-1).mean(axis=0)


# ---------------------------------------------------------------------------------------------- detection


def auroc(scores, positive) -> float:
    """Probability that a positive scores higher than a negative, ties counted half (Mann-Whitney); 0.5 is chance."""
    scores, positive = _two_classes(scores, positive)
    n = int(positive.sum())
    above = stats.rankdata(scores)[positive].sum() - n * (n + 1) / 2  # minus ranks among positives
    return float(above / (n * (len(scores) - n)))


def average_precision(scores, positive) -> float:
    """Area under the precision-recall curve, as a step function without interpolation; chance: share of positives."""
    hits, alarms = _counts(scores, positive)
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / (hits + alarms)))


def fpr_at(scores, positive, tpr: float = 0.95) -> float:
    """False positive rate at the highest threshold that finds at least `tpr` of the positives."""
    number("tpr", tpr, above=0.0, most=1.0)
    hits, alarms = _counts(scores, positive)
    return float(alarms[np.argmax(hits / hits[-1] >= tpr)] / alarms[-1])


@dataclasses.dataclass(frozen=True)
class Detection:
    """How well a score separates out-of-distribution examples (the positive class) from in-distribution ones."""

    auroc: float
    auprc: float  # by chance it equals the share of out-of-distribution examples
    fpr95: float  # lower is better


def detection(scores_in, scores_out) -> Detection:
    """Scores float[any] of in-distribution and of out-of-distribution examples, which should have the higher ones."""
    for name, values in (("scores_in", scores_in), ("scores_out", scores_out)):
        if finite(name, values).ndim != 1 or not np.size(values):
            raise ValueError(f"{name} must hold one score an example, at least one, got shape {np.shape(values)}.")
    scores = np.concatenate([scores_in, scores_out])
    out = np.arange(len(scores)) >= len(scores_in)
    return Detection(auroc(scores, out), average_precision(scores, out), fpr_at(scores, out))


def calibration_auc(probs, labels) -> float:
    """AUROC of `msp` for detecting wrong predictions: is the ensemble less certain when it is wrong?"""
    wrong = combine(probs).argmax(axis=-1) != _labels(labels, np.shape(probs))  # ties go to the lowest class
    if wrong.all() or not wrong.any():
        got = f"all {len(wrong)} answers are {'wrong' if wrong.any() else 'right'}"
        raise ValueError(f"The calibration AUC needs right and wrong answers, but {got}; use more examples.")
    return auroc(msp(probs), wrong)


def _counts(scores, positive) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of positives and of negatives at or above each distinct score, from the highest score down."""
    scores, positive = _two_classes(scores, positive)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each group of ties
    hits = np.cumsum(positive[order])[last]
    return hits, last + 1 - hits


# ---------------------------------------------------------------------------------------------- corruptions


def corruption_error(errors, baseline=None) -> float:
    """Mean over corruptions of the mean error over severities, each divided by the baseline's if there is one.

    errors: float[C, S], shares of wrong predictions. baseline: float[C, S], those of another model (AlexNet for
    ImageNet-C); float[C, 1] if only means are known.
    """
    if baseline is None:
        return float(np.mean(_shares("errors", errors, 2)))
    return relative_corruption_error(errors, 0.0, baseline, 0.0)


def relative_corruption_error(errors, clean: float, baseline, baseline_clean: float) -> float:
    """`corruption_error` of the loss against clean data: (error - clean) / (baseline - its clean error), mean over C.

    Below 1, the model loses less accuracy than the baseline; a better clean error alone does not lower it.
    """
    mine = _shares("errors", errors, 2).mean(axis=1) - _shares("clean", clean, 0)
    theirs = _shares("baseline", baseline, 2).mean(axis=1) - _shares("baseline_clean", baseline_clean, 0)
    if mine.shape != theirs.shape:
        raise ValueError(f"Expected errors and baseline for the same C corruptions, got {len(mine)} and {len(theirs)}.")
    if theirs.min() <= 0:
        got = f"{theirs.min():.4g} at corruption {theirs.argmin()}"
        raise ValueError(f"The baseline's error less its clean error must be above 0, got {got}; leave that one out.")
    return float(np.mean(mine / theirs))


def _shares(name, values, ndim) -> np.ndarray:
    values = finite(name, values)
    if values.ndim != ndim or not values.size:
        raise ValueError(f"{name} must be {'float[C, S]' if ndim else 'one number'}, got shape {values.shape}.")
    if not np.all((values >= 0) & (values <= 1)):  # written so that NaN fails
        raise ValueError(f"{name} must be shares in [0, 1], got {values.min():.4g} to {values.max():.4g}.")
    return values


# ---------------------------------------------------------------------------------------------- checks


def _logits(logits, name="Logits") -> np.ndarray:
    logits = finite(name, logits)
    if logits.ndim != 3 or not logits.size:
        raise ValueError(f"{name} must be [M, B, V], all above 0, got {logits.shape}; of a single model, pass x[None].")
    return logits


def _members(probs, at_least=1) -> np.ndarray:
    probs = _logits(probs, "Probabilities")
    if len(probs) < at_least:
        raise ValueError(f"Members differ only if there are {at_least} or more, got M = {len(probs)}; leave M = 1 out.")
    if probs.min() < 0:
        raise ValueError(f"Probabilities must not be negative, got {probs.min():.4g}; are these logits?")
    sums = probs.sum(axis=-1)
    if not np.allclose(sums, 1.0, rtol=0, atol=1e-4):
        raise ValueError(f"Probabilities must sum to one over the last axis, got {sums.min():.4g} to {sums.max():.4g}.")
    return probs


def _labels(labels, shape) -> np.ndarray:
    return indices("labels", labels, shape[2], (shape[1],))


def _two_classes(scores, positive) -> tuple[np.ndarray, np.ndarray]:
    scores, positive = finite("Scores", scores), np.asarray(positive)
    if scores.ndim != 1 or positive.shape != scores.shape or positive.dtype != bool:
        got = f"{scores.shape} and {positive.dtype}{positive.shape}"
        raise ValueError(f"Expected scores float[B] and positive bool[B], got {got}.")
    if positive.all() or not positive.any():
        raise ValueError(f"Both classes are needed, got {positive.sum()} positives among {len(scores)} scores.")
    return scores, positive
