"""Intervals: by hand, and what they cover by simulation."""

import numpy as np
import pytest
from scipy import stats

from kitlib.metrics import intervals
from kitlib.metrics.intervals import bootstrap, over_examples, t_interval, wilson


def covered(draw, mean: float, n: int, samples: int = 4_000) -> float:
    """Share of samples of n values whose 95 % t-interval holds the mean."""
    intervals = [t_interval(row) for row in draw((samples, n))]
    return float(np.mean([low <= mean <= high for _, low, high in intervals]))


def test_t_interval_by_hand():
    # Values 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3) = 0.57735; with 2 degrees of freedom the
    # quantile is 4.30265, so the interval is 2 -+ 2.48414.
    np.testing.assert_allclose(t_interval([1.0, 2.0, 3.0]), (2.0, 2 - 2.48414, 2 + 2.48414), atol=1e-5)
    # Two values 0 and 1: one degree of freedom (Cauchy), whose quartile is 1: the central half is 1/2 -+ 1/2.
    np.testing.assert_allclose(t_interval([0.0, 1.0], confidence=0.5), (0.5, 0.0, 1.0), atol=1e-9)
    assert t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)


def test_intervals_are_scipys():
    values = np.random.default_rng(0).normal(size=7)
    want = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    np.testing.assert_allclose(t_interval(values, confidence=0.9)[1:], want, rtol=1e-12)
    values = np.random.default_rng(0).exponential(size=200)
    want = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=0).confidence_interval
    np.testing.assert_allclose(bootstrap(values)[1:], want, atol=0.01)


@pytest.mark.parametrize("n", [5, 8, 10])
def test_t_interval_covers_what_the_docstring_says(n):
    rng = np.random.default_rng(n)
    assert 0.93 <= covered(lambda shape: 1.0 + rng.normal(size=shape), 1.0, n) <= 0.97
    rng = np.random.default_rng(n)
    exponential, log_normal = {5: (0.881, 0.816), 8: (0.894, 0.829), 10: (0.897, 0.839)}[n]
    assert covered(lambda shape: rng.exponential(size=shape), 1.0, n) == pytest.approx(exponential, abs=0.03)
    assert covered(lambda shape: rng.lognormal(size=shape), np.exp(0.5), n) == pytest.approx(log_normal, abs=0.03)
    assert 0.94 <= covered(lambda shape: rng.standard_t(3, size=shape), 0.0, n) <= 0.985
    # Differences of two skewed arms of the same shape are symmetric: the interval errs on the safe side.
    assert 0.94 <= covered(lambda shape: rng.lognormal(size=shape) - rng.lognormal(size=shape), 0.0, n) <= 0.99


def test_wilson_by_hand():
    # z = 1.959964, z^2 = 3.841459. 0 of 10: [0, z^2 / (10 + z^2)] = [0, 0.277533].
    np.testing.assert_allclose(wilson(0, 10), (0.0, 0.0, 3.841459 / 13.841459), atol=1e-6)
    # 5 of 10: centre 1/2, half width z / (2 sqrt(10 + z^2)) = 1.959964 / 7.440822 = 0.263407.
    np.testing.assert_allclose(wilson(5, 10), (0.5, 0.5 - 0.263407, 0.5 + 0.263407), atol=1e-6)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_wilson_covers(share):
    # Exact: the probability of every count whose interval holds the share. Wilson's is nominal on average over shares.
    counts = np.arange(301)
    holds = [low <= share <= high for _, low, high in (wilson(k, 300) for k in counts)]
    assert 0.93 <= stats.binom.pmf(counts, 300, share)[holds].sum() <= 0.98


def test_bootstrap_by_hand():
    # Of 30 equal values every resample has the same mean. Of 15 zeros and 15 ones the resampled mean is a binomial
    # share of 30: its 2.5 % quantile is 10 / 30 (P(X <= 9) = 0.021, P(X <= 10) = 0.049), its 97.5 % quantile 20 / 30.
    assert bootstrap([2.0] * 30) == (2.0, 2.0, 2.0)
    np.testing.assert_allclose(bootstrap([0.0, 1.0] * 15), (1 / 2, 1 / 3, 2 / 3), atol=1e-12)


def test_bootstrap_covers():
    # Of 200 samples of 200 normals with mean 1, about 95 % of the intervals hold it.
    rng = np.random.default_rng(0)
    intervals = [bootstrap(1 + rng.normal(size=200), resamples=500, seed=i) for i in range(200)]
    assert 0.91 <= np.mean([low <= 1 <= high for _, low, high in intervals]) <= 0.99


def test_a_bootstrap_in_parts_is_the_same(monkeypatch):
    values = np.random.default_rng(0).exponential(size=50)
    whole = bootstrap(values, resamples=1000)
    monkeypatch.setattr(intervals, "ROOM", 333)  # six resamples at a time
    assert bootstrap(values, resamples=1000) == whole


def test_over_examples_takes_the_interval_that_fits():
    assert over_examples([True, False, True]) == wilson(2, 3)
    assert over_examples([0.5, 1.0]) == t_interval([0.5, 1.0])
    assert over_examples([0.5, 1.0] * 15) == bootstrap([0.5, 1.0] * 15)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: wilson(6, 5), "successes is 6"),
        (lambda: t_interval([1.0]), "at least 2"),
        (lambda: bootstrap([1.0] * 29), "at least 30"),
    ],
)
def test_intervals_refuse(call, word):
    with pytest.raises(ValueError, match=word):
        call()
