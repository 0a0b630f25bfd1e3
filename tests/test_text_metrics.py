import math
import unicodedata

import numpy as np
import pytest
from scipy import special

from kitlib import metrics, text_metrics

# Tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man, a plan: a canal!", ["a", "man", "a", "plan", "a", "canal"]),
        ("The man's T-shirt", ["the", "man", "'s", "t-shirt"]),
        ("It doesn't; they’ve left.", ["it", "does", "n't", "they", "'ve", "left"]),
        ("the dogs' (two) \"bowls\" - 'old' ones", ["the", "dogs", "two", "bowls", "old", "ones"]),
        ("3.5 of 1,000. Yes.No", ["3.5", "of", "1,000", "yes", "no"]),
        ("ﬁne ｆｕｌｌ　width", ["fine", "full", "width"]),  # a ligature, full-width letters and space
        ("so\u00adft  and/or_this 😀 50%", ["soft", "and", "or", "this", "50"]),  # a soft hyphen is invisible
        ("five o'clock", ["five", "o'clock"]),
        ("", []),
        (" ...'-' ", []),
    ],
)
def test_tokens_of_english(caption, tokens):
    assert text_metrics.tokenise(caption) == tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("一只黑猫。", ["一", "只", "黑", "猫"]),
        ("黒い猫とtwoカップ", ["黒", "い", "猫", "と", "two", "カ", "ッ", "プ"]),
        ("ｶﾞ", ["ガ"]),  # half-width with its mark is one character in NFKC
        ("ที่ดี", ["ที่", "ดี"]),  # a consonant carries its vowel and tone mark
        ("한국어 문장", ["한국어", "문장"]),  # Korean has spaces
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs, which \w cuts words at, stay inside
        ("größer Çay", ["größer", "çay"]),
    ],
)
def test_tokens_of_other_scripts(caption, tokens):
    assert text_metrics.tokenise(caption) == tokens


def test_composed_and_decomposed_letters_are_the_same_tokens():
    text = "Ein Café über Ñandú, が"
    forms = {tuple(text_metrics.tokenise(unicodedata.normalize(form, text))) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert forms == {("ein", "café", "über", "ñandú", "が")}


@pytest.mark.parametrize("seed", range(5))
def test_tokens_are_a_fixed_point(seed):
    # Tokens joined by spaces give the same tokens, whatever the characters: nothing is lost or split on the second
    # pass. A clitic is the exception, as 's alone begins with an apostrophe; the alphabet has none.
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list("abZ09 .,-!?%猫ンที่ßéि\n"), size=300))
    tokens = text_metrics.tokenise(text)
    assert tokens
    assert text_metrics.tokenise(" ".join(tokens)) == tokens
    assert all(token and not token.isspace() for token in tokens)


def test_tokenise_refuses_a_list():
    with pytest.raises(TypeError, match="must be a string, got list; of a list, tokenise each"):
        text_metrics.tokenise(["a cat"])


# Texts


def test_texts_come_back_as_lists():
    assert text_metrics.check_texts(("a", "b"), np.array(["c", "d"]), several=False) == (["a", "b"], ["c", "d"])
    assert text_metrics.check_texts(iter(["a"]), [("b", "c")], several=True) == (["a"], [["b", "c"]])
    assert text_metrics.check_texts([""], [[""]], several=True) == ([""], [[""]])  # a model may say nothing


@pytest.mark.parametrize(
    ("predictions", "references", "several", "error", "message"),
    [
        ("cat", ["cat"], False, TypeError, r"predictions must be a list, got the string 'cat'; write \['cat'\]"),
        (["cat"], "cat", False, TypeError, "references must be a list, got the string 'cat'"),
        (["cat"], "cat", True, TypeError, "references must be a list, got the string 'cat'"),
        # The classic: as a list of letters, it would be seven references of one letter.
        (
            ["cat"],
            ["a cat."],
            True,
            TypeError,
            r"references\[0\] must be a list, got the string 'a cat.'; write \['a c",
        ),
        (b"cat", ["cat"], False, TypeError, "must be a list, got the string b'cat'"),
        ({1: "cat"}, ["cat"], False, TypeError, "predictions must be a list, in one order .* got dict"),
        (["cat"], [{"cat"}], True, TypeError, r"references\[0\] must be a list, in one order .* got set"),
        (7, ["cat"], False, TypeError, "predictions must be a list, in one order .* got int"),
        ([7], ["cat"], False, TypeError, r"predictions\[0\] must be a string, got int"),
        (["cat"], [["cat"]], False, TypeError, r"references\[0\] must be a string, got list"),
        (["a", "b"], [["c"], ["c", None]], True, TypeError, r"references\[1\]\[1\] must be a string, got NoneType"),
        ([], [], False, ValueError, "predictions is empty, expected at least one text"),
        (["cat"], [[]], True, ValueError, r"references\[0\] is empty"),
        (["cat", "dog"], ["cat"], False, ValueError, "every prediction, got 2 predictions and 1 references"),
    ],
)
def test_texts_refused(predictions, references, several, error, message):
    with pytest.raises(error, match=message):
        text_metrics.check_texts(predictions, references, several=several)


# Log-probabilities


def random_logits(seed, b=4, t=6, v=5):
    rng = np.random.default_rng(seed)
    valid = rng.uniform(size=(b, t)) < 0.6
    valid[:, 0] = True
    return 5 * rng.normal(size=(b, t, v)), rng.integers(v, size=(b, t)), valid


def test_log_prob_by_hand():
    # Two positions over two tokens: logits (log 1, log 3) give 1/4 and 3/4, (0, 0) give 1/2 each. Target 1, then 0:
    # 3/4 * 1/2. With the second position padding, 3/4 alone; its target is then no token at all.
    logits = np.log([[[1, 3], [1, 1]], [[1, 3], [1, 1]]])
    targets, valid = np.array([[1, 0], [1, -100]]), np.array([[True, True], [True, False]])
    total, mean = text_metrics.sequence_log_prob(logits, targets, valid)
    np.testing.assert_allclose(total, [math.log(3 / 8), math.log(3 / 4)])
    np.testing.assert_allclose(mean, [math.log(3 / 8) / 2, math.log(3 / 4)])


@pytest.mark.parametrize("seed", range(5))
def test_log_prob_is_the_sum_of_the_log_softmax(seed):
    logits, targets, valid = random_logits(seed)
    total, mean = text_metrics.sequence_log_prob(logits, targets, valid)
    log_p = special.log_softmax(logits, axis=-1)
    for b in range(len(logits)):
        own = [log_p[b, t, targets[b, t]] for t in range(logits.shape[1]) if valid[b, t]]
        assert total[b] == pytest.approx(sum(own))
        assert mean[b] == pytest.approx(sum(own) / len(own))
    # Probabilities do not see a constant on all logits of a position, nor anything at padding.
    moved = np.where(valid[..., None], logits + 100 * np.arange(6)[:, None], -logits)
    np.testing.assert_allclose(text_metrics.sequence_log_prob(moved, np.where(valid, targets, 99), valid)[0], total)


def test_log_probs_of_all_texts_sum_to_one():
    # Over 3 tokens and 4 positions with fixed logits, the 3^4 texts are all there is.
    logits = np.random.default_rng(0).normal(size=(1, 4, 3))
    texts = np.stack(np.meshgrid(*[np.arange(3)] * 4), axis=-1).reshape(-1, 4)
    total, _ = text_metrics.sequence_log_prob(np.repeat(logits, 81, axis=0), texts, np.ones((81, 4), bool))
    assert np.exp(total).sum() == pytest.approx(1)


def test_log_probs_do_not_underflow_and_forbidden_tokens_are_impossible():
    logits = np.array([[[2000.0, 0.0, -np.inf]]])
    for target, want in ((0, 0.0), (1, -2000.0), (2, -np.inf)):
        total, mean = text_metrics.sequence_log_prob(logits, np.array([[target]]), np.array([[True]]))
        assert total == mean == want


LOGITS, TARGETS, VALID = random_logits(0)
NAN, INF = (np.where(np.arange(5) == 2, bad, LOGITS) for bad in (np.nan, np.inf))
NONE = np.where(np.arange(4)[:, None] == 2, False, VALID)


@pytest.mark.parametrize(
    ("logits", "targets", "valid", "error", "message"),
    [
        (LOGITS[0], TARGETS, VALID, ValueError, r"got \(6, 5\), \(4, 6\) and \(4, 6\)"),
        (LOGITS, TARGETS[:, 1:], VALID, ValueError, r"got \(4, 6, 5\), \(4, 5\) and \(4, 6\)"),
        (LOGITS, TARGETS, VALID[0], ValueError, r"got \(4, 6, 5\), \(4, 6\) and \(6,\)"),
        (LOGITS[:0], TARGETS[:0], VALID[:0], ValueError, "none empty"),
        (LOGITS, TARGETS.astype(float), VALID, TypeError, "integer targets and a bool mask, got float64 and bool"),
        (LOGITS, TARGETS, VALID.astype(int), TypeError, "got int64 and int64"),
        (NAN, TARGETS, VALID, ValueError, "must not be NaN, inf or all -inf, got 24 of 24 positions"),
        (INF, TARGETS, VALID, ValueError, "got 24 of 24 positions"),
        (np.full_like(LOGITS, -np.inf), TARGETS, VALID, ValueError, "got 24 of 24 positions"),
        (LOGITS, TARGETS, NONE, ValueError, "needs a valid token, got none in row 2"),
        (LOGITS, TARGETS + 5, VALID, ValueError, r"must be in \[0, 5\), got"),
        (LOGITS, np.full_like(TARGETS, -1), VALID, ValueError, r"must be in \[0, 5\), got -1 to"),
    ],
)
def test_log_prob_refuses(logits, targets, valid, error, message):
    with pytest.raises(error, match=message):
        text_metrics.sequence_log_prob(logits, targets, valid)


# Gap between groups


def test_gap_by_hand():
    # Means 3/4, 1/2 and 1/3: 3/4 - 1/3 = 5/12, whatever the order of the examples.
    values = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0])
    groups = np.array(["a"] * 4 + ["b"] * 2 + ["c"] * 3)
    assert text_metrics.parity_gap(values, groups)[0] == pytest.approx(5 / 12)
    order = np.random.default_rng(0).permutation(9)
    assert text_metrics.parity_gap(values[order], groups[order])[0] == pytest.approx(5 / 12)
    assert text_metrics.parity_gap(-2.0 * values + 7, list(groups))[0] == pytest.approx(5 / 6)


def test_gap_of_groups_without_spread_has_no_interval():
    gap = text_metrics.parity_gap([0.2, 0.2, 0.9, 0.9], [0, 0, 1, 1], resamples=50)
    np.testing.assert_allclose(gap, 0.7, atol=1e-12)
    assert text_metrics.parity_gap([1.0] * 4, [True, True, False, False]) == (0, 0, 0)


def test_gap_to_a_constant_group_is_the_bootstrap_of_the_other():
    # All values of group a are above those of b, which are 0: the gap of every resample is the mean of a's.
    own = np.random.default_rng(0).uniform(size=30)
    groups = np.repeat(["a", "b"], [30, 12])
    options = {"resamples": 500, "confidence": 0.9, "seed": 3}
    got = text_metrics.parity_gap(np.append(own, np.zeros(12)), groups, **options)
    np.testing.assert_allclose(got, metrics.bootstrap(own, **options), rtol=1e-12)


def test_interval_of_the_gap_covers_it():
    # Two groups of 100 with means 0.8 and 0.5, whose gap stands 4.7 standard errors from zero (sqrt(.16/100 + .25/100)
    # = 0.064): the largest less the smallest is then the plain difference, and 95 % of intervals should hold 0.3. Of
    # 300, that is 285 +- 4; four standard deviations allow 270.
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 100)
    held = 0
    for seed in range(300):
        values = rng.uniform(size=200) < np.repeat([0.8, 0.5], 100)
        _, low, high = text_metrics.parity_gap(values, groups, resamples=300, seed=seed)
        held += low <= 0.3 <= high
    assert held >= 270


def test_noise_alone_makes_a_gap_whose_interval_leaves_zero_out():
    # Eight groups that do not differ: the docstring's warning. The largest of eight means lies above the smallest.
    values = np.random.default_rng(0).normal(size=400)
    gap, low, _ = text_metrics.parity_gap(values, np.arange(400) % 8, resamples=500)
    assert gap > 0
    assert low > 0


def test_gap_depends_on_the_seed_alone():
    values, groups = np.random.default_rng(0).normal(size=40), np.arange(40) % 3
    first = text_metrics.parity_gap(values, groups, resamples=200, seed=1)
    assert text_metrics.parity_gap(values, groups, resamples=200, seed=1) == first
    assert text_metrics.parity_gap(values, groups, resamples=200, seed=2)[1:] != first[1:]
    narrow = text_metrics.parity_gap(values, groups, resamples=200, seed=1, confidence=0.5)
    assert first[1] < narrow[1] < narrow[2] < first[2]


@pytest.mark.parametrize(
    ("values", "groups", "options", "error", "message"),
    [
        ([1, 0, 1, 0], "aabb", {}, ValueError, r"got shapes \(4,\) and \(\)"),
        ([1, 0, 1], ["a", "a", "b", "b"], {}, ValueError, r"got shapes \(3,\) and \(4,\)"),
        ([[1, 0], [1, 0]], [["a", "a"], ["b", "b"]], {}, ValueError, r"got shapes \(2, 2\)"),
        ([1, 0, np.nan, 0], ["a", "a", "b", "b"], {}, ValueError, "finite, got 1 NaN or infinite values of 4"),
        ([1, 0, 1, 0], ["a", "a", None, "b"], {}, TypeError, "names or integers, got object; is one missing"),
        ([1, 0, 1, 0], [0.0, 0.0, np.nan, 1.0], {}, TypeError, "names or integers, got float64"),
        ([1, 0, 1, 0], ["a"] * 4, {}, ValueError, "2 groups or more with 2 examples or more each, got a: 4"),
        ([1, 0, 1], ["a", "a", "b"], {}, ValueError, "got a: 2, b: 1"),
        ([], np.array([], int), {}, ValueError, "got none"),
        ([1, 0, 1, 0], ["a", "a", "b", "b"], {"confidence": 95}, ValueError, r"in \(0, 1\), got 10000 and 95"),
        ([1, 0, 1, 0], ["a", "a", "b", "b"], {"resamples": 0}, ValueError, "resamples >= 1, .* got 0 and 0.95"),
    ],
)
def test_gap_refuses(values, groups, options, error, message):
    with pytest.raises(error, match=message):
        text_metrics.parity_gap(values, groups, **options)
