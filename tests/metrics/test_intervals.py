import numpy as np
import pytest

from kitlib.metrics.intervals import bootstrap


def test_bootstrap_by_hand():
    # Of two values 0 and 1, resampled means are 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the 95 % interval is [0, 1],
    # and the central 40 % is the single value 1/2.
    assert bootstrap([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert bootstrap([0.0, 1.0], confidence=0.4) == (0.5, 0.5, 0.5)
    assert bootstrap([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)


def test_bootstrap_covers():
    # Of 200 samples of 30 normals with mean 1, about 95 % of the intervals hold it (percentile intervals: a bit fewer).
    rng = np.random.default_rng(0)
    intervals = [bootstrap(1 + rng.normal(size=30), resamples=500, seed=i) for i in range(200)]
    covered = np.mean([low <= 1 <= high for _, low, high in intervals])
    assert 0.88 <= covered <= 0.99


@pytest.mark.parametrize("values", [[1.0], [[1.0, 2.0]], [1.0, np.nan]])
def test_bootstrap_refuses(values):
    with pytest.raises(ValueError, match="needs"):
        bootstrap(values)
