"""Few-shot linear probes: ridge regression in closed form on the features of a frozen model.

    at = shots(labels, 5, seed=0)                                  # 5 examples per class
    probe = fit_probe(features[at], labels[at], l2=1.0)            # features[:, at] for an ensemble
    answers = probe_scores(probe, test_features).argmax(axis=-1)

The probe is ridge regression onto targets of +1 for the class and -1 for the others. It has no iterations and no
learning rate, so two models differ only in their features. Its scores are not probabilities. All is numpy in float64.

Built in notebooks/11_shift_ood_few_shot.ipynb.
"""

import dataclasses

import numpy as np

from kitlib.configs.arguments import finite, indices, number, whole

# M members, N training examples, B test examples, D features, V classes.


@dataclasses.dataclass(frozen=True)
class Probe:
    """One linear map per member, and the mean and deviation of the training examples, which standardise its input."""

    mean: np.ndarray  # float64[M, 1, D]
    std: np.ndarray  # float64[M, 1, D]
    weights: np.ndarray  # float64[M, D + 1, V], the last row is for the constant feature
    bias: float  # value of the constant feature


def shots(labels, n: int, seed: int) -> np.ndarray:
    """Indices int[V * n] of n examples per class, class after class; a larger n adds to the examples of a smaller n.

    Raises ValueError if a class from 0 to the largest label has fewer than n examples.
    """
    labels = indices("labels", labels, None, (None,))
    whole("n", n, 1)
    count = np.bincount(labels)
    if count.min() < n:
        asked = f"{n} are to be picked of every class from 0 to {len(count) - 1}"
        raise ValueError(f"Class {count.argmin()} has {count.min()} examples, {asked}; lower n, or renumber them.")
    order = np.random.default_rng(whole("seed", seed, 0)).permutation(len(labels))
    return np.concatenate([order[labels[order] == v][:n] for v in range(len(count))])


def fit_probe(features, labels, *, l2: float, classes: int | None = None, bias: float = 100.0) -> Probe:
    """Fits the ridge probe, one per member.

    Args:
      features: float[N, D], or float[M, N, D] for an ensemble.
      labels: int[N].
      l2: weight of the squared weights, above 0; features are standardised, so compare it with N.
      classes: V, if it is more than the largest label + 1.
      bias: the constant feature, whose weights are the bias; large, so that l2 hardly shrinks it (V-MoE's probe: 100).
    """
    features, labels = _features(features), indices("labels", labels, None, (None,))
    classes = labels.max() + 1 if classes is None else whole("classes", classes, 1)
    labels = indices("labels", labels, classes, features.shape[1:2])
    number("l2", l2, above=0.0), number("bias", bias, above=0.0)  # without l2, few examples leave the weights open
    mean = features.mean(axis=1, keepdims=True)
    std = features.std(axis=1, keepdims=True) + 1e-5  # a constant feature becomes 0, and so does its weight
    x = _design(features, mean, std, bias)
    y = 2.0 * np.eye(classes)[labels] - 1.0  # [N, V]
    solve = primal if x.shape[1] >= x.shape[2] else dual
    return Probe(mean, std, solve(x, y, l2), bias)


def probe_scores(probe: Probe, features) -> np.ndarray:
    """Features float[B, D] or float[M, B, D] -> scores float64[B, V], mean over members; the largest is the answer."""
    features = _features(features)
    members, _, width = probe.mean.shape
    if (features.shape[0], features.shape[2]) != (members, width):
        raise ValueError(f"Expected features [{members}, B, {width}], as the probe was fitted, got {features.shape}.")
    return (_design(features, probe.mean, probe.std, probe.bias) @ probe.weights).mean(axis=0)


def primal(x, y, l2: float) -> np.ndarray:
    """argmin_w |x w - y|^2 + l2 |w|^2 = (x^T x + l2)^-1 x^T y: a D x D system, the smaller one if N > D."""
    xt = np.swapaxes(x, -1, -2)
    return np.linalg.solve(xt @ x + l2 * np.eye(x.shape[-1]), xt @ y)


def dual(x, y, l2: float) -> np.ndarray:
    """The same w, as x^T (x x^T + l2)^-1 y: an N x N system, because x^T (x x^T + l2) = (x^T x + l2) x^T."""
    xt = np.swapaxes(x, -1, -2)
    return xt @ np.linalg.solve(x @ xt + l2 * np.eye(x.shape[-2]), y)


def _design(features, mean, std, bias) -> np.ndarray:
    return np.pad((features - mean) / std, ((0, 0), (0, 0), (0, 1)), constant_values=bias)  # [M, B, D + 1]


def _features(features) -> np.ndarray:
    """float[N, D] or float[M, N, D] -> float64[M, N, D]."""
    features = finite("features", features)
    if features.ndim not in (2, 3) or not features.size:
        raise ValueError(f"Expected features [N, D], or [M, N, D] for an ensemble, all above 0, got {features.shape}.")
    return features if features.ndim == 3 else features[None]
