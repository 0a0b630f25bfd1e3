"""Verdicts: by hand where a distribution is known, and by simulation where a promise is made."""

import numpy as np
import pytest
from scipy import stats

from kitlib.studies.statistics import LEVEL, compare, detectable_effect, holm, judge, seeds_needed

rng = np.random.default_rng(0)


def word(gains, **options) -> str:
    return judge([compare(np.asarray(gains, float), np.zeros(len(gains)), **options)])[0].word


def test_a_comparison_by_hand():
    # Gains 1, 2, 3: mean 2, spread 1, t = 2 / (1 / sqrt(3)) = 3.4641. With 2 degrees of freedom
    # P(T > t) = (1 - t / sqrt(t^2 + 2)) / 2 = (1 - 3.4641 / 3.7417) / 2 = 0.037089.
    gain = compare([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], margin=5.0)
    assert (gain.mean, gain.spread, gain.n) == (2.0, 1.0, 3)
    assert gain.p_difference == pytest.approx(2 * 0.037089, abs=1e-5)
    # The margin is 3 away: t = 3 sqrt(3) = 5.19615, P = (1 - 5.19615 / sqrt(29)) / 2 = 0.017549.
    assert gain.p_margin == pytest.approx(0.017549, abs=1e-5)
    # For a loss, lower is better.
    assert compare([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], higher=False).mean == 2.0


def test_p_values_are_scipys():
    a, b = rng.normal(size=(2, 9))
    gain = compare(a, b, margin=0.7)
    assert gain.p_difference == pytest.approx(stats.ttest_rel(a, b).pvalue)
    sides = ((-0.7, "greater"), (0.7, "less"))
    one_sided = [stats.ttest_1samp(a - b, at, alternative=side).pvalue for at, side in sides]
    assert gain.p_margin == pytest.approx(max(one_sided))


def test_the_five_words():
    assert word([1.0, 1.1, 0.9]) == "seen"
    assert word([-1.0, -1.1, -0.9]) == "reversed"
    assert word([0.01, -0.01, 0.0], margin=0.5) == "no difference above 0.5"
    assert word([1.0, -1.0, 0.5], margin=0.5).startswith("undecided (needs about ")
    assert word([1.0, 1.1, 0.9], floor=2.0) == "floor"  # both arms, 1 and 0, are below chance
    assert word([1.0, 1.1, 0.9], floor=0.5) == "seen"  # one of them is above
    control, noise = np.array([0.5, 0.6, 0.7]), np.array([0.01, -0.01, 0.0])  # a floor per seed, and of a loss
    assert judge([compare(control + noise, control - noise, floor=control)])[0].word == "floor"
    loss = compare([2.31, 2.30, 2.29], [2.35, 2.33, 2.36], higher=False, floor=np.log(10.0))
    assert judge([loss])[0].word == "floor"
    assert word([0.0, 0.0, 0.0]) == "undecided (needs over 1,000 seeds)"  # nothing is known of the spread
    assert word([2.0, 2.0, 2.0]) == "seen"
    assert word([1.0, 1.1, 0.9], margin=50.0) == "seen"  # and no difference above 50: the difference is told


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ([1, 2], [1, 2], {}, "at least 3 pairs"),
        ([1, 2, 3], [1, 2, 3, 4], {}, r"got shapes \(3,\) and \(4,\)"),
        ([1, 2, np.nan], [1, 2, 3], {}, "NaN or infinity"),
        ([1, 2, 3], [1, 2, 3], {"margin": 0.0}, "margin: got 0.0, expected a positive"),
    ],
)
def test_bad_input(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        compare(a, b, **options)


@pytest.mark.parametrize(("n", "effect"), [(5, 1.682), (8, 1.156), (10, 0.996), (34, 0.496)])
def test_the_detectable_effect_is_found_in_80_per_cent(n, effect):
    # Cohen's tables for the two-sided t-test of one sample: an effect of 1 needs 10 values, of 0.5 needs 34.
    assert detectable_effect(1.0, n) == pytest.approx(effect, abs=1e-3)
    assert detectable_effect(3.0, n) == pytest.approx(3 * effect, abs=3e-3)
    samples = effect + np.random.default_rng(n).normal(size=(20_000, n))
    found = stats.ttest_1samp(samples, 0.0, axis=1).pvalue < LEVEL
    assert found.mean() == pytest.approx(0.8, abs=0.015)


def test_seeds_needed_is_the_inverse():
    assert (seeds_needed(1.0, 1.0), seeds_needed(1.0, 0.5), seeds_needed(2.0, 1.0)) == (10, 34, 34)
    assert seeds_needed(1.0, 1e9) == 3 and seeds_needed(1.0, 1e-9) == 1_000
    for effect in (0.3, 0.8, 2.0):
        n = seeds_needed(1.0, effect, level=0.01)
        assert detectable_effect(1.0, n, level=0.01) <= effect < detectable_effect(1.0, n - 1, level=0.01)


def test_holm_by_hand():
    # 0.01 * 4 = 0.04; 0.03 * 3 = 0.09; 0.04 * 2 = 0.08, raised to 0.09; 0.2 * 1, the last, is 0.2.
    np.testing.assert_allclose(np.ravel(holm([[0.03], [0.01], [0.2], [0.04]])), [0.09, 0.04, 0.2, 0.09])
    assert holm([[0.7], [0.6]]) == [[1.0], [1.0]]  # 0.6 * 2, at most 1
    # Two questions of two hypotheses each. 0.002 * 2 = 0.004; then both questions still have one that may be true:
    # 0.01 * 2 = 0.02, 0.04 * 2 = 0.08; now the second question has none left: 0.5 * 1.
    np.testing.assert_allclose(holm([[0.01, 0.5], [0.04, 0.002]]), [[0.02, 0.5], [0.08, 0.004]])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "margin"), [(5, None), (5, 2.0), (8, 1.5), (10, 1.0)])
@pytest.mark.parametrize("large", [0, 4, 8])
def test_a_family_is_wrong_somewhere_in_at_most_5_per_cent(n, margin, large):
    """Eight questions: `large` with a true difference of exactly the margin, the others with none. A verdict is wrong
    if it says seen or reversed of none, reversed of a gain, or no difference of one as large as the margin."""
    generator, wrong, families = np.random.default_rng([n, large]), 0, 1_000
    true = np.where(np.arange(8) < large, margin or 1.0, 0.0)
    for gains in true[None, :, None] + generator.normal(size=(families, 8, n)):
        words = [v.word for v in judge([compare(x, np.zeros(n), margin=margin) for x in gains])]
        wrong += any(
            w in ("seen", "reversed") if t == 0 else w == "reversed" or w.startswith("no difference")
            for w, t in zip(words, true, strict=True)
        )
    assert wrong / families <= 0.05 + 0.02  # three standard errors of 1,000 families


def test_a_family_finds_large_differences():
    gains = [compare(2.0 + x, np.zeros(8), margin=0.5) for x in np.random.default_rng(1).normal(size=(10, 8))]
    assert sum(v.seen for v in judge(gains)) >= 8
    alone = [judge([gain])[0].p for gain in gains]
    assert all(v.p >= p for v, p in zip(judge(gains), alone, strict=True))  # a family never makes a verdict easier
