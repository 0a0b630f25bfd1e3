import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from kitlib.metrics import fewshot


def scores(features, labels, test, l2=1.0, **options):
    """Of a probe fitted to (features, labels), for the test features."""
    return fewshot.probe_scores(fewshot.fit_probe(features, labels, l2=l2, **options), test)


def random_case(seed, n=40, width=12, classes=3):
    """Features that depend on the label, of unequal scale and far from zero."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = rng.normal(size=(classes, width))[labels] + rng.normal(size=(n, width))
    return 7 + features * np.geomspace(0.1, 30, width), labels


def test_shots_picks_n_of_every_class():
    labels = np.random.default_rng(0).integers(4, size=200)
    at = fewshot.shots(labels, 5, seed=0)
    np.testing.assert_array_equal(labels[at], np.repeat(np.arange(4), 5))
    assert len(set(at)) == 20
    np.testing.assert_array_equal(at, fewshot.shots(labels, 5, seed=0))
    assert set(at) != set(fewshot.shots(labels, 5, seed=1))
    # More shots add to fewer, so that a curve over n has no noise from new draws.
    one, five, ten = (set(fewshot.shots(labels, n, seed=3)) for n in (1, 5, 10))
    assert one < five < ten
    assert sorted(fewshot.shots(np.array([0, 1, 0, 1]), 2, seed=0)) == [0, 1, 2, 3]  # all


def test_shots_are_drawn_evenly():
    # Three examples of one class, one to be picked: each with probability 1/3, so 1000 +- 26 times of 3000 (one
    # standard deviation, sqrt(3000 * 2/9)).
    picked = np.bincount([fewshot.shots(np.zeros(3, int), 1, seed)[0] for seed in range(3000)])
    assert np.all(np.abs(picked - 1000) < 4 * 26)


def test_ridge_by_hand():
    # One feature, x = 3 for class 0 and 5 for class 1: mean 4, std 1, so z = -1 and 1. The target of class 1 is -1 and
    # +1, hence w = sum z y / (sum z^2 + l2) = 2 / (2 + 2) = 1/2; class 0 has -1/2, and both biases are 0.
    probe = fewshot.fit_probe([[3.0], [5.0]], np.array([0, 1]), l2=2.0)
    np.testing.assert_allclose(probe.mean, [[[4.0]]])
    np.testing.assert_allclose(probe.std, [[[1.0]]], atol=1.1e-5)
    np.testing.assert_allclose(probe.weights, [[[-0.5, 0.5], [0, 0]]], atol=1e-5)
    # At x = 8, z = 4 and the scores are -2 and 2.
    np.testing.assert_allclose(fewshot.probe_scores(probe, [[8.0], [4.0]]), [[-2, 2], [0, 0]], atol=1e-4)


@pytest.mark.parametrize("bias", [1.0, 100.0])
def test_bias_by_hand(bias):
    # Features that never vary leave the constant c: its weight is sum c y / (N c^2 + l2), and the score c times that.
    # Of N = 4 targets, class 0 has three +1 and one -1, sum 2. With c = 100 next to nothing is lost to l2.
    probe = fewshot.fit_probe(np.full((4, 3), 0.7), np.array([0, 0, 0, 1]), l2=4.0, bias=bias)
    want = bias**2 * 2 / (4 * bias**2 + 4)  # 1/4 for c = 1, 1/2 * (1 - 1e-4) for c = 100
    np.testing.assert_allclose(fewshot.probe_scores(probe, np.full((1, 3), 0.7)), [[want, -want]], rtol=1e-9)


@pytest.mark.parametrize("l2", [2.0**-10, 1.0, 2.0**19])
@pytest.mark.parametrize("shape", [(5, 60), (60, 5), (20, 20), (20, 19), (19, 20)])
def test_primal_is_dual_is_eigendecomposition(shape, l2):
    rng = np.random.default_rng(0)
    x, y = np.append(rng.normal(size=shape), np.full((shape[0], 1), 100.0), axis=1), rng.normal(size=(shape[0], 3))
    primal, dual = fewshot.primal(x, y, l2), fewshot.dual(x, y, l2)
    np.testing.assert_allclose(primal, dual, rtol=1e-5, atol=1e-6)
    # x = u s v^T gives (x^T x + l2)^-1 x^T y = v s / (s^2 + l2) u^T y.
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(primal, vt.T * (s / (s**2 + l2)) @ u.T @ y, rtol=1e-5, atol=1e-6)
    # And the gradient of |x w - y|^2 + l2 |w|^2 is zero there.
    np.testing.assert_allclose((x.T @ (x @ primal - y) + l2 * primal) / (1 + l2), 0, atol=1e-6)


@pytest.mark.parametrize(("n", "width"), [(40, 12), (12, 40)])
def test_fit_solves_the_smaller_system(monkeypatch, n, width):
    features, labels = random_case(0, n, width)
    want = scores(features, labels, features)
    monkeypatch.setattr(fewshot, "dual" if n > width else "primal", None)  # would fail if called
    np.testing.assert_array_equal(scores(features, labels, features), want)


@pytest.mark.parametrize(("n", "width"), [(40, 12), (12, 40)])
def test_against_scikit_learn(n, width):
    # Its Ridge leaves the intercept free of l2, which a large constant feature approaches; StandardScaler has no 1e-5.
    features, labels = random_case(1, n, width)
    test, _ = random_case(2, 30, width)
    scaler = StandardScaler().fit(features)
    theirs = Ridge(alpha=3.0).fit(scaler.transform(features), 2 * np.eye(3)[labels] - 1)
    mine = scores(features, labels, test, l2=3.0, bias=1e4)
    np.testing.assert_allclose(mine, theirs.predict(scaler.transform(test)), atol=1e-3)
    # The standard bias of 100 shrinks the intercept, at most 1 here, by l2 / (N * 100^2).
    np.testing.assert_allclose(scores(features, labels, test, l2=3.0), mine, atol=2 * 3.0 / (n * 1e4))


def test_scale_origin_and_the_other_test_features_do_not_matter():
    (features, labels), (test, _) = random_case(0), random_case(1)
    want = scores(features, labels, test)
    # 1e-5 on a std of 0.1 is what remains.
    np.testing.assert_allclose(scores(1000 * features - 5, labels, 1000 * test - 5), want, atol=1e-3)
    one_by_one = [scores(features, labels, test[i : i + 1]) for i in range(len(test))]
    np.testing.assert_allclose(np.concatenate(one_by_one), want, atol=1e-12)


def test_members_are_fitted_separately_and_their_scores_averaged():
    cases = [random_case(seed) for seed in range(3)]
    features, labels = np.stack([features for features, _ in cases]), cases[0][1]
    test = np.stack([random_case(seed)[0] for seed in range(3, 6)])
    own = [scores(f, labels, t) for f, t in zip(features, test, strict=True)]
    np.testing.assert_allclose(scores(features, labels, test), np.mean(own, axis=0), atol=1e-9)
    assert np.abs(own[0] - own[1]).max() > 0.1
    # One member is no ensemble, and equal members are one.
    np.testing.assert_array_equal(scores(features[:1], labels, test[:1]), own[0])
    np.testing.assert_allclose(scores(features[[0, 0]], labels, test[[0, 0]]), own[0], atol=1e-12)


def test_classes_without_examples_are_never_the_answer():
    features, labels = random_case(0)
    probe = fewshot.fit_probe(features, labels, l2=1.0, classes=5)
    assert probe.weights.shape == (1, 13, 5)
    # All their targets are -1: the slope is 0 and the bias gives -1.
    np.testing.assert_allclose(fewshot.probe_scores(probe, features)[:, 3:], -1, atol=1e-4)


FEATURES, LABELS = random_case(0, n=6, width=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fewshot.shots(np.array([0, 0, 1]), 2, seed=0), "Class 1 has 1 examples, 2 .* from 0 to 1"),
        # Examples before members.
        (lambda: fewshot.fit_probe(np.zeros((6, 3, 2)), LABELS, l2=1.0), r"shape \[6\]; expected \[3\]"),
        (lambda: fewshot.fit_probe(FEATURES, LABELS, l2=1.0, classes=2), "go from 0 to 2"),
        (lambda: fewshot.fit_probe(FEATURES, LABELS, l2=0.0), "l2 is 0.0"),
        # Other members.
        (lambda: scores([FEATURES] * 2, LABELS, FEATURES), r"Expected features \[2, B, 2\]"),
    ],
)
def test_the_probe_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
