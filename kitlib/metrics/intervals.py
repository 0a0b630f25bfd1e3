"""Intervals: how far a mean over seeds or examples can be trusted.

    mean, low, high = t_interval(gains)          # a few seeds; for a comparison, the paired differences
    share, low, high = wilson(right, examples)   # a share of examples
    mean, low, high = bootstrap(scores)          # scores of at least 30 examples

What a nominal 95 % interval of the mean covers, in per cent of simulated samples of n values (40,000 for t, 4,000 for
the bootstrap; "wide" is Student's t with 3 degrees of freedom, "log-normal" has a sigma of 1):

                      t: n = 3     5     8    10      bootstrap: n = 3     5     8    10
    normal                95.2  95.2  95.2  94.9                    75    84    88    90
    wide                  96.1  96.5  96.2  96.0                    75    83    88    89
    exponential           88.3  88.1  89.4  89.7                    70    78    84    85
    log-normal            83.5  81.6  82.9  83.9                    63    73    78    80

So for seeds we take t. It is exact for normal differences and errs on the safe side for wide ones; of skewed ones it
promises too much. (Paired differences of two arms that differ by a shift alone are symmetric, however skewed each is.)

Built in notebooks/02_train_and_measure.ipynb.
"""

import math

import numpy as np

from kitlib.configs.arguments import finite, number, whole

ROOM = 4_000_000  # numbers that a bootstrap draws at once


def t_interval(values, *, confidence=0.95) -> tuple[float, float, float]:
    """(mean, low, high): Student's interval for the mean of at least 2 independent values, such as one per seed."""
    from scipy import special  # here: it would slow down every import of the kit

    values, confidence = _checked(values, 2, "A t-interval"), number("confidence", confidence, above=0.0, below=1.0)
    error = values.std(ddof=1) / math.sqrt(len(values))
    half = float(special.stdtrit(len(values) - 1, (1 + confidence) / 2) * error)  # stdtrit: the quantile of t
    mean = float(values.mean())
    return mean, mean - half, mean + half


def wilson(successes: int, trials: int, *, confidence=0.95) -> tuple[float, float, float]:
    """(share, low, high): Wilson's interval for a share. It stays within [0, 1], and is not empty at 0 or 1."""
    from scipy import stats

    trials, confidence = whole("trials", trials, 1), number("confidence", confidence, above=0.0, below=1.0)
    successes = whole("successes", successes, 0, trials)
    found = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return successes / trials, float(found.low), float(found.high)


def bootstrap(values, *, resamples=10_000, confidence=0.95, seed=0) -> tuple[float, float, float]:
    """(mean, low, high): percentile bootstrap interval for the mean score of at least 30 independent examples.

    With fewer values it is too narrow (3 values allow only 10 distinct resamples), so it refuses them: over seeds, use
    `t_interval`.
    """
    values, confidence = _checked(values, 30, "A bootstrap"), number("confidence", confidence, above=0.0, below=1.0)
    rng, n = np.random.default_rng(whole("seed", seed, 0)), len(values)
    means = np.empty(whole("resamples", resamples, 1))
    at_once = max(1, ROOM // n)  # all draws at once would need 16 bytes a resample and value: 8 GB for 50,000 values
    for start in range(0, resamples, at_once):
        draws = rng.integers(n, size=(min(at_once, resamples - start), n))
        means[start : start + len(draws)] = values[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(values.mean()), float(low), float(high)


def over_examples(scores) -> tuple[float, float, float]:
    """(mean, low, high) of scores, one per example: Wilson's interval if all are right (1) or wrong (0), else the
    bootstrap, or Student's interval for fewer than 30."""
    scores = _checked(scores, 2, "An interval over examples")
    if np.isin(scores, (0.0, 1.0)).all():
        return wilson(int(scores.sum()), len(scores))
    return bootstrap(scores) if len(scores) >= 30 else t_interval(scores)


def _checked(values, at_least: int, what: str) -> np.ndarray:
    values = finite("values", values)
    if values.ndim != 1 or len(values) < at_least:
        raise ValueError(f"{what} needs a list of at least {at_least} values, got shape {values.shape}.")
    return values
