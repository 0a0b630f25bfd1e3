"""Intervals: how far a mean over seeds or examples can be trusted.

    mean, low, high = bootstrap(gains)

Built in notebooks/02_train_and_measure.ipynb.
"""

import numpy as np


def bootstrap(values, *, resamples=10_000, confidence=0.95, seed=0) -> tuple[float, float, float]:
    """(mean, low, high): percentile interval for the mean of independent values, one per seed or per example.

    For a comparison, pass the paired differences. With few values the interval is too narrow (3 values allow only 10
    distinct resamples), so read it together with the number of seeds.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"A bootstrap needs a list of at least 2 values, got shape {values.shape}.")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"A bootstrap needs finite values, got {values}.")
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(values.mean()), float(low), float(high)
