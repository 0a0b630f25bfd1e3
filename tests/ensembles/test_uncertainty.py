import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance
from sklearn import metrics as sk

from kitlib import metrics
from kitlib.ensembles import uncertainty

# Three members, three examples, three classes. Answers: 0 0 1, 0 1 2, and 2 2 2.
PROBS = np.array([
    [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.0, 0.0, 1.0]],
    [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.1, 0.1, 0.8]],
    [[0.3, 0.6, 0.1], [0.2, 0.2, 0.6], [0.2, 0.2, 0.6]],
])  # fmt: skip
LABELS = np.array([0, 1, 2])
# One example, two members p and q.
PAIR = np.array([[[1 / 2, 1 / 2]], [[1 / 4, 3 / 4]]])


def random_case(seed, members=3, n=200, classes=5, scale=2.0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, classes))
    logits = scale * (shared + rng.normal(size=(members, n, classes)))
    labels = np.where(rng.uniform(size=n) < 0.5, shared.argmax(-1), rng.integers(classes, size=n))
    return logits, labels


def random_scores(seed):
    """Scores with many ties in the first seeds, none in the others, and sets of unequal size."""
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(size=rng.integers(5, 400)), 0.8 + 1.5 * rng.normal(size=rng.integers(5, 400))
    return (inside.round(1), outside.round(1)) if seed < 5 else (inside, outside)


def test_members_are_averaged_and_examples_are_not():
    # Example 0: (0.8 + 0.7 + 0.3) / 3 = 0.6, (0.1 + 0.2 + 0.6) / 3 = 0.3, 0.1; example 1: 0.3, 1/3, 1.1/3;
    # example 2: 0.1, 0.1, 0.8.
    want = [[0.6, 0.3, 0.1], [0.3, 1 / 3, 1.1 / 3], [0.1, 0.1, 0.8]]
    np.testing.assert_allclose(uncertainty.combine(PROBS), want)
    np.testing.assert_array_equal(uncertainty.combine(PROBS[:1]), PROBS[0])
    # An example keeps its prediction whatever the others are: members laid out along the batch would mix them.
    np.testing.assert_allclose(uncertainty.combine(PROBS[:, [2, 0]]), np.array(want)[[2, 0]])


def test_losses_by_hand():
    # One member is sure of class 0, the other of class 1, by 1000 nats. Own losses 0 and 1000; mean probability 1/2.
    logits, labels = np.array([[[1000.0, 0.0]], [[0.0, 1000.0]]]), np.array([0])
    assert uncertainty.members_nll(logits, labels) == pytest.approx(500)
    assert uncertainty.ensemble_nll(logits, labels) == pytest.approx(np.log(2))
    # Both sure of the wrong class: its probability underflows, its logarithm does not.
    assert uncertainty.ensemble_nll(logits[[0, 0]], np.array([1])) == pytest.approx(1000)
    assert metrics.nll(uncertainty.combine(metrics.softmax(logits[[0, 0]])), np.array([1])) == np.inf


@pytest.mark.parametrize("seed", range(5))
def test_losses_are_those_of_the_members_and_of_the_mean(seed):
    logits, labels = random_case(seed)
    probs = metrics.softmax(logits)
    assert uncertainty.members_nll(logits, labels) == pytest.approx(np.mean([metrics.nll(p, labels) for p in probs]))
    assert uncertainty.ensemble_nll(logits, labels) == pytest.approx(metrics.nll(uncertainty.combine(probs), labels))


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1000.0])
def test_jensen(members, scale):
    # -log is strictly convex: the loss of the mean is below the mean loss, unless members are equal or there is one.
    for seed in range(20):
        logits, labels = random_case(seed, members, n=3, scale=scale)
        of_mean, mean = uncertainty.ensemble_nll(logits, labels), uncertainty.members_nll(logits, labels)
        assert np.isfinite(mean)
        assert of_mean <= mean * (1 + 1e-12)
        assert of_mean == pytest.approx(mean) if members == 1 else of_mean < mean
        same = np.repeat(logits[:1], 3, axis=0)
        assert uncertainty.ensemble_nll(same, labels) == pytest.approx(uncertainty.members_nll(same, labels))


def test_diversity_by_hand():
    # Example 0, answers 0 0 1: 2 of 3 pairs differ; example 1, 0 1 2: all 3; example 2: none. (2/3 + 1 + 0) / 3.
    assert uncertainty.disagreement(PROBS) == pytest.approx(5 / 9)
    assert uncertainty.disagreement(PAIR) == 1.0  # of (1/2, 1/2), the answer is the lowest class; of (1/4, 3/4), 1
    assert uncertainty.disagreement(PAIR[[1, 1]]) == 0.0
    # p = (1/2, 1/2), q = (1/4, 3/4). KL(p || q) = 1/2 log 2 + 1/2 log 2/3, KL(q || p) = 1/4 log 1/2 + 3/4 log 3/2.
    # Their sum is sum (p - q) log(p/q) = 1/4 log 2 - 1/4 log 2/3 = 1/4 log 3; half of it is log(3) / 8.
    assert uncertainty.kl(PAIR) == pytest.approx(np.log(3) / 8)
    # Three members p, p, q: pairs pp, pq, pq, so two thirds of it.
    assert uncertainty.kl(PAIR[[0, 0, 1]]) == pytest.approx(np.log(3) / 8 * 2 / 3)
    # 0 log 0 = 0: class 2 has probability 0 for both members, and changes nothing.
    assert uncertainty.kl(np.pad(PAIR, ((0, 0), (0, 0), (0, 1)))) == pytest.approx(np.log(3) / 8)
    assert uncertainty.kl(np.array([[[1.0, 0.0]], [[0.5, 0.5]]])) == np.inf
    # The same certainty from logits stays finite: p = 1 - e and e with e = exp(-200), so (p - q) log(p/q) sums to
    # (1 - 2e) * 400 between a member and its mirror image, and KL is half of that.
    mirror = metrics.softmax([[[200.0, 0.0]], [[0.0, 200.0]]])
    assert uncertainty.kl(mirror) == pytest.approx(200)
    assert uncertainty.kl(np.float64(mirror.astype(np.float32))) == np.inf
    # p . q = 1/8 + 3/8 = 1/2, |p| = sqrt(1/2), |q| = sqrt(1/16 + 9/16) = sqrt(5/8): 1/2 / sqrt(5/16) = 2 / sqrt 5.
    assert uncertainty.cosine_similarity(PAIR) == pytest.approx(2 / np.sqrt(5))
    assert uncertainty.cosine_similarity(np.eye(2)[:, None]) == 0.0  # members sure of different classes: a right angle


@pytest.mark.parametrize("seed", range(3))
def test_diversity_and_calibration_against_scipy_and_scikit_learn(seed):
    logits, labels = random_case(seed)
    mean = metrics.softmax(logits).mean(axis=0)
    want = sk.roc_auc_score(mean.argmax(-1) != labels, 1 - mean.max(-1))
    assert uncertainty.calibration_auc(metrics.softmax(logits), labels) == pytest.approx(want)
    assert uncertainty.calibration_auc(mean[None], labels) == pytest.approx(want)  # one model is an ensemble of one
    probs = metrics.softmax(random_case(seed, members=2)[0])
    want = distance.jensenshannon(probs[0], probs[1], axis=-1) ** 2  # scipy has its square root
    np.testing.assert_allclose(uncertainty.mutual_information(probs), want, atol=1e-12)
    probs = metrics.softmax(random_case(seed, members=4)[0])
    pairs = list(itertools.combinations(probs, 2))
    both = [(stats.entropy(p, q, axis=-1) + stats.entropy(q, p, axis=-1)).mean() / 2 for p, q in pairs]
    assert uncertainty.kl(probs) == pytest.approx(np.mean(both))
    cosine = [np.diag(sk.pairwise.cosine_similarity(p, q)).mean() for p, q in pairs]
    assert uncertainty.cosine_similarity(probs) == pytest.approx(np.mean(cosine))
    differ = [1 - sk.accuracy_score(p.argmax(-1), q.argmax(-1)) for p, q in pairs]
    assert uncertainty.disagreement(probs) == pytest.approx(np.mean(differ))


@pytest.mark.parametrize("measure", [uncertainty.disagreement, uncertainty.kl, uncertainty.cosine_similarity])
def test_diversity_does_not_depend_on_the_order_and_vanishes_for_equal_members(measure):
    probs = metrics.softmax(random_case(0, members=4)[0])
    want = measure(probs)
    for other in (probs[[3, 1, 0, 2]], probs[[1, 0, 2, 3]], probs[:, ::-1], probs[..., [4, 2, 0, 1, 3]]):
        assert measure(other) == pytest.approx(want, rel=1e-12)  # members, examples, classes
    none = 1.0 if measure is uncertainty.cosine_similarity else 0.0
    assert measure(probs[[2, 2, 2]]) == pytest.approx(none, abs=1e-12)
    assert (want < none) if none else (want > none)


def test_scores_by_hand():
    # Means (0.6, 0.3, 0.1), (0.3, 0.333, 0.367), (0.1, 0.1, 0.8).
    np.testing.assert_allclose(uncertainty.msp(PROBS), [0.4, 1 - 1.1 / 3, 0.2])
    # Entropy of (1/2, 1/2) is log 2; two sure members who contradict each other have that mean and entropy 0 each, so
    # all of it is disagreement. Two members who are both unsure have the same mean and no disagreement.
    sure, unsure = np.eye(2)[:, None], np.full((2, 1, 2), 0.5)
    for members, information in ((sure, np.log(2)), (unsure, 0.0)):
        np.testing.assert_allclose(uncertainty.entropy(members), np.log(2))
        np.testing.assert_allclose(uncertainty.mutual_information(members), information)
    # logsumexp of V zeros is log V, of log 1 and log 3 it is log 4. Members are averaged after it: their mean logits
    # would be log(3) / 2 twice, of energy -log(2 sqrt 3).
    np.testing.assert_allclose(uncertainty.energy(np.zeros((1, 2, 4))), [-np.log(4)] * 2)
    np.testing.assert_allclose(uncertainty.energy(np.log([[[1, 3]], [[3, 1]]])), [-np.log(4)])
    # Energy is no function of the probabilities. Twenty nats on every logit: the same prediction,
    # twenty less energy, so it looks more like training data.
    logits = random_case(0)[0]
    np.testing.assert_allclose(metrics.softmax(logits + 20), metrics.softmax(logits))
    np.testing.assert_allclose(uncertainty.energy(logits + 20), uncertainty.energy(logits) - 20)


def test_a_certain_example_scores_lowest():
    # All scores have the same direction: higher where logits are flat. Two members, examples from sure to unsure.
    logits = np.array([[[9.0, 0, 0], [3, 0, 0], [0.3, 0, 0]], [[9.0, 0, 0], [0, 0, 0], [-3, 0, 0]]])
    probs = metrics.softmax(logits)
    for score in (uncertainty.msp(probs), uncertainty.entropy(probs), uncertainty.energy(logits)):
        assert np.all(np.diff(score) > 0)
    assert uncertainty.mutual_information(probs).argmin() == 0


@pytest.mark.parametrize("members", [2, 3, 7])
def test_scores_are_within_their_bounds(members):
    probs = metrics.softmax(random_case(0, members, scale=20)[0])
    information, entropy = uncertainty.mutual_information(probs), uncertainty.entropy(probs)
    assert information.min() >= 0 and np.all(information <= entropy + 1e-12)
    assert information.max() <= np.log(min(members, 5)) + 1e-12 and entropy.max() <= np.log(5)
    same = uncertainty.mutual_information(np.repeat(probs[:1], members, axis=0))
    assert 0 <= same.min() <= same.max() < 1e-12


def test_detection_by_hand():
    # In 1 2 3 4, out 3 5. AUROC: the 5 beats all 4, the 3 beats 1 and 2 and ties with 3: (4 + 2.5) / 8.
    # From the top: 5 finds one of two, precision 1; 4 is an alarm; 3 finds the other, together with one more alarm, so
    # precision is 2/4. Average precision: 1/2 * 1 + 1/2 * 1/2. Both are found only at 3, with 2 alarms of 4.
    assert uncertainty.detection([1, 2, 3, 4], [3, 5]) == uncertainty.Detection(auroc=6.5 / 8, auprc=0.75, fpr95=0.5)
    assert uncertainty.detection([0.0, 0.1], [0.2, 0.3]) == uncertainty.Detection(1.0, 1.0, 0.0)
    # The wrong way round: the first hit comes at rank 3, the second at 4, so precision is 1/3 and 2/4.
    assert uncertainty.detection([0.2, 0.3], [0.0, 0.1]) == uncertainty.Detection(0.0, (1 / 3 + 1 / 2) / 2, 1.0)
    # A constant score: one group of ties, and precision is the share of out-of-distribution examples.
    assert uncertainty.detection([0, 0, 0], [0]) == uncertainty.Detection(0.5, 0.25, 1.0)
    # The threshold itself. Scores 1..20 on either side: at every threshold t, 21 - t of each remain. 19 of 20 are 95 %
    # exactly, and count. Dropping the points of a curve that lie on a line, as plotting does, would only see 20 of 20.
    ladder = np.arange(1, 21)
    assert uncertainty.detection(ladder, ladder).fpr95 == 0.95
    scores, positive = np.tile(ladder, 2), np.repeat([False, True], 20)
    assert uncertainty.fpr_at(scores, positive, tpr=0.5) == 0.5
    assert uncertainty.fpr_at(scores, positive, tpr=0.51) == 0.55
    assert uncertainty.fpr_at(scores, positive, tpr=1.0) == 1.0


@pytest.mark.parametrize("seed", range(10))
def test_detection_against_scikit_learn(seed):
    inside, outside = random_scores(seed)
    scores, is_out = np.concatenate([inside, outside]), np.repeat([0, 1], [len(inside), len(outside)])
    got = uncertainty.detection(inside, outside)
    assert got.auroc == pytest.approx(sk.roc_auc_score(is_out, scores), abs=1e-12)
    assert got.auprc == pytest.approx(sk.average_precision_score(is_out, scores), abs=1e-12)
    fpr, tpr, _ = sk.roc_curve(is_out, scores, drop_intermediate=False)
    assert got.fpr95 == pytest.approx(fpr[np.flatnonzero(tpr >= 0.95)[0]], abs=1e-12)


def test_calibration_auc_by_hand():
    # The mean answers 0 2 2 with uncertainty 0.4, 0.633 and 0.2; with labels 0 1 2 example 1 is wrong and the least
    # certain; with labels 1 2 2 example 0 is, in the middle; with labels 0 2 0 it is example 2, the most certain.
    assert uncertainty.calibration_auc(PROBS, LABELS) == 1.0
    assert uncertainty.calibration_auc(PROBS, np.array([1, 2, 2])) == 0.5
    assert uncertainty.calibration_auc(PROBS, np.array([0, 2, 0])) == 0.0


ERRORS = np.array([[0.2, 0.4], [0.1, 0.5]])  # means 0.3 and 0.3
BASELINE = np.array([[0.5, 0.7], [0.4, 0.4]])  # means 0.6 and 0.4


def test_corruption_error_by_hand():
    assert uncertainty.corruption_error(ERRORS) == pytest.approx(0.3)
    # 0.3 / 0.6 = 1/2 and 0.3 / 0.4 = 3/4: mean 5/8. Not the ratio of all means (0.6), nor the mean of the four ratios.
    assert uncertainty.corruption_error(ERRORS, BASELINE) == pytest.approx(5 / 8)
    assert uncertainty.corruption_error(ERRORS, [[0.6], [0.4]]) == pytest.approx(5 / 8)
    # Clean errors 0.1 and 0.2: (0.3 - 0.1) / (0.6 - 0.2) = 1/2 and 0.2 / 0.2 = 1.
    assert uncertainty.relative_corruption_error(ERRORS, 0.1, BASELINE, 0.2) == pytest.approx(3 / 4)
    # A baseline is as good as itself.
    assert uncertainty.corruption_error(BASELINE, BASELINE) == 1.0
    assert uncertainty.relative_corruption_error(BASELINE, 0.1, BASELINE, 0.1) == 1.0
    # Better everywhere by the same amount, clean data included: a lower corruption error, and no gain in robustness.
    assert uncertainty.corruption_error(BASELINE - 0.1, BASELINE) < 1
    assert uncertainty.relative_corruption_error(BASELINE - 0.1, 0.1, BASELINE, 0.2) == pytest.approx(1)


PAIRED = [uncertainty.disagreement, uncertainty.kl, uncertainty.cosine_similarity, uncertainty.mutual_information]
OF_PROBS = [uncertainty.combine, uncertainty.msp, uncertainty.entropy, *PAIRED]
OF_POSITIVES = [uncertainty.auroc, uncertainty.average_precision, uncertainty.fpr_at]
MEAN = PROBS.mean(axis=0).argmax(axis=-1)


@pytest.mark.parametrize(
    ("functions", "given", "message"),
    [
        (OF_PROBS, [PROBS[0]], r"\[M, B, V\], all above 0, got \(3, 3\); of a single model, pass x\[None\]"),
        (OF_PROBS, [PROBS.transpose(0, 2, 1)], "over the last axis, got 0.3 to 1.4"),  # 0.1 + 0.2 + 0, 0.8 + 0.6 + 0
        (OF_PROBS, [np.log(PROBS + 0.1)], "not be negative, got -2.303; are these logits"),
        (PAIRED, [PROBS[:1]], "only if there are 2 or more"),
        ([uncertainty.energy], [PROBS[0]], "Logits must be"),
        ([uncertainty.calibration_auc], [PROBS, LABELS + 1], "go from 1 to 3"),
        ([uncertainty.calibration_auc], [PROBS, MEAN], "all 3 answers are right"),
        ([uncertainty.calibration_auc], [PROBS, (MEAN + 1) % 3], "all 3 answers are wrong"),
        ([uncertainty.detection], [[0.1], []], "scores_out"),
        (OF_POSITIVES, [[0.1, 0.2], np.array([False, False])], "got 0 positives among 2"),
        (OF_POSITIVES, [[0.1, 0.2], np.array([True, True])], "got 2 positives among 2"),
        (OF_POSITIVES, [[0.1, 0.2], np.array([0, 1])], r"int64\(2,\)"),  # as an index, it would pick examples 0 and 1
        (OF_POSITIVES[2:], [[0.1, 0.2], np.array([False, True]), 95], "tpr is 95"),
    ],
)
def test_arrays_are_refused(functions, given, message):
    for function in functions:
        with pytest.raises(ValueError, match=message):
            function(*given)


@pytest.mark.parametrize(
    ("errors", "clean", "baseline", "message"),
    [
        (ERRORS[0], 0.1, BASELINE, r"errors must be float\[C, S\], got shape \(2,\)"),
        (ERRORS * 100, 0.1, BASELINE, "shares .* got 10 to 50"),
        (ERRORS, [0.1, 0.2], BASELINE, "clean must be one number"),
        (ERRORS, 0.1, BASELINE[:1], "the same C corruptions, got 2 and 1"),
        (ERRORS, 0.1, [[0.3], [0.1]], "above 0, got 0 at corruption 1"),
    ],
)
def test_bad_errors_are_refused(errors, clean, baseline, message):
    with pytest.raises(ValueError, match=message):
        uncertainty.relative_corruption_error(errors, clean, baseline, 0.1)
