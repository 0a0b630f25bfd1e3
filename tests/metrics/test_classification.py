import numpy as np
import pytest
from sklearn import metrics as sk

from kitlib import metrics

# Four examples, three classes. Largest probabilities: 0.7 (right), 0.5 (wrong), 0.9 (right), 0.4 (wrong).
PROBS = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.05, 0.05, 0.9], [0.3, 0.4, 0.3]])
LABELS = np.array([0, 1, 2, 2])


def random_case(seed, n=500, classes=7):
    rng = np.random.default_rng(seed)
    return metrics.softmax(rng.normal(size=(n, classes))), rng.integers(classes, size=n)


def test_by_hand():
    assert metrics.accuracy(PROBS, LABELS) == 0.5
    assert metrics.nll(PROBS, LABELS) == pytest.approx(-np.log([0.7, 0.3, 0.9, 0.3]).mean())
    # Example 0: 0.3^2 + 0.2^2 + 0.1^2 = 0.14; example 1: 0.25 + 0.49 + 0.04 = 0.78;
    # example 2: 0.0025 + 0.0025 + 0.01 = 0.015; example 3: 0.09 + 0.16 + 0.49 = 0.74.
    assert metrics.brier(PROBS, LABELS) == pytest.approx((0.14 + 0.78 + 0.015 + 0.74) / 4)


def test_reliability_and_ece_by_hand():
    # Two bins, (0, 0.5] and (0.5, 1]. Low: 0.5 and 0.4, none right; high: 0.7 and 0.9, both right.
    r = metrics.reliability(PROBS, LABELS, bins=2)
    np.testing.assert_allclose(r.confidence, [0.45, 0.8])
    np.testing.assert_allclose(r.accuracy, [0, 1])
    np.testing.assert_array_equal(r.count, [2, 2])
    # 1/2 * |0 - 0.45| + 1/2 * |1 - 0.8| = 0.325.
    assert metrics.ece(PROBS, LABELS, bins=2) == pytest.approx(0.325)
    # Empty bins are NaN and do not count.
    r = metrics.reliability(PROBS, LABELS, bins=10)
    assert np.isnan(r.accuracy[0]) and r.count.sum() == 4 and np.isfinite(metrics.ece(PROBS, LABELS, bins=10))


def test_certainty_falls_into_the_last_bin():
    assert metrics.reliability(np.eye(3), np.arange(3)).count[-1] == 3
    assert metrics.ece(np.eye(3), np.arange(3)) == 0.0
    assert metrics.nll(np.eye(3), np.array([1, 1, 1])) == np.inf


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed):
    probs, labels = random_case(seed)
    assert metrics.nll(probs, labels) == pytest.approx(sk.log_loss(labels, probs, labels=range(7)))
    assert metrics.accuracy(probs, labels) == pytest.approx(sk.accuracy_score(labels, probs.argmax(-1)))
    # scikit-learn's Brier score is of one binary problem; ours is their sum over the classes.
    binary = [sk.brier_score_loss(labels == v, probs[:, v]) for v in range(7)]
    assert metrics.brier(probs, labels) == pytest.approx(sum(binary))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_is_recovered(temperature):
    # Labels drawn from softmax(logits): multiplied by T, the logits need dividing by T.
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 5))
    labels = (rng.uniform(size=(20_000, 1)) > metrics.softmax(logits).cumsum(axis=1)).sum(axis=1)
    assert metrics.fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.03)


def test_temperature_is_a_minimum_and_keeps_the_prediction():
    probs, labels = random_case(0)
    logits = 3 * np.log(probs)
    t = metrics.fit_temperature(logits, labels)
    best = metrics.nll(metrics.softmax(logits / t), labels)
    for factor in (0.98, 1.02):
        assert metrics.nll(metrics.softmax(logits / (factor * t)), labels) > best
    assert metrics.accuracy(metrics.softmax(logits / t), labels) == metrics.accuracy(metrics.softmax(logits), labels)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((4, 1)), [0, 0, 0, 0], "two classes or more"),
        ([[2.0, 0.0], [0.0, 1.0]], [0, 1], "falls as T falls"),  # both right: the surer the better
        (1e-5 * np.array([[9.0, 0.0], [0.0, 9.0], [0.0, 1.0]]), [0, 1, 0], "falls as T falls past"),
        ([[2.0, 0.0], [0.0, 1.0]], [1, 0], "falls as T grows past"),  # both wrong
    ],
)
def test_temperatures_that_do_not_exist_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.fit_temperature(logits, labels)
