import functools
import itertools

import numpy as np
import pytest

from kitlib.metrics import answers as answer_metrics
from kitlib.metrics.answers import (
    anls,
    exact_match,
    normalise_answer,
    similarity,
    vqa_accuracy,
    wu_palmer,
    wups,
)

# root - animal - dog - puppy
#               - cat
#      - plant  - tree
TAXONOMY = {
    "animal": ("root", "animal"),
    "dog": ("root", "animal", "dog"),
    "puppy": ("root", "animal", "dog", "puppy"),
    "cat": ("root", "animal", "cat"),
    "tree": ("root", "plant", "tree"),
    "hound": ("root", "animal", "dog"),  # another word for the same synset
    "run": ("move", "run"),  # a verb, under a root of its own
}


def ten(k, answer="cat", others="dog"):
    return [answer] * k + [others] * (10 - k)


# VQA


def slow_vqa(prediction, answers):
    return np.mean(
        [min(1, sum(a == prediction for a in answers[:i] + answers[i + 1 :]) / 3) for i in range(len(answers))]
    )


@pytest.mark.parametrize(("k", "want"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_vqa_leaves_each_annotator_out(k, want):
    # One of ten agrees: the nine others see one match, 1/3 each, the one sees none: 9/10 * 1/3. Three: seven see three
    # and give 1, three see two and give 2/3: (7 + 2) / 10.
    np.testing.assert_allclose(vqa_accuracy(["cat"], [ten(k)]), [want], atol=1e-15)


@pytest.mark.parametrize("n", [4, 5, 10, 13])
def test_vqa_against_the_loop_over_annotators(n):
    rng = np.random.default_rng(n)
    references = [list(rng.choice(list("xyz"), size=n)) for _ in range(50)]
    predictions = list(rng.choice(list("xyzu"), size=50))
    got = vqa_accuracy(predictions, references)
    np.testing.assert_allclose(got, [slow_vqa(p, r) for p, r in zip(predictions, references, strict=True)], atol=1e-12)
    np.testing.assert_allclose(vqa_accuracy(predictions, [r[::-1] for r in references]), got, atol=1e-12)


def test_vqa_does_not_normalise_where_all_answers_are_equal():
    np.testing.assert_array_equal(vqa_accuracy(["yes", "Yes", "Yes\n"], [ten(10, "Yes")] * 3), [0, 1, 1])
    # One annotator who differs, and both sides are normalised.
    np.testing.assert_array_equal(vqa_accuracy(["yes", "Yes.", "YES"], [ten(9, "Yes")] * 3), [1, 1, 1])
    # Equal but for line breaks and outer spaces is equal: "Yes" and "Yes\n" do not start the normalisation.
    np.testing.assert_array_equal(vqa_accuracy(["yes"], [ten(5, "Yes", " Yes\n")]), [0])
    # Answers that normalisation makes equal count together: 2 of "2", 2 of "two" are 4.
    assert vqa_accuracy(["Two"], [["2", "2", "two", "two", *["dog"] * 6]]) == 1


@pytest.mark.parametrize(
    ("text", "want"),
    [
        # Punctuation becomes a space, unless a space is next to one like it.
        ("t-shirt", "t shirt"),
        ("black/white", "black white"),
        ("yes, sir", "yes sir"),
        ("a,b, c", "ab c"),  # "a" is then not a word of its own, so not an article
        ("is it?", "is it"),
        ("yes!", "yes"),
        ("black - white", "black white"),
        ("rock-n-roll - jazz", "rocknroll jazz"),
        ("rock-n-roll -jazz", "rocknroll jazz"),
        ("red;-blue-green", "red blue green"),  # the space that replaces ; does not count as next to -
        ("red-;blue-green", "red blue green"),
        # A thousands comma anywhere removes every mark without a space.
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),
        ("1, 000", "1 000"),
        # Full stops stay before a digit only.
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("u.s.", "us"),
        ("St. Louis", "st louis"),
        # Number words to ten, articles, contractions, line breaks.
        ("None", "0"),
        ("zero", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("twenty one", "twenty 1"),
        ("The man and a dog", "man and dog"),
        ("an", ""),
        ("dont", "don't"),
        ("don't", "don't"),
        ("Whats that", "what's that"),
        ("its well", "its well"),  # words, as they are
        ("two\ndogs\t", "2 dogs"),
        ("", ""),
    ],
)
def test_vqa_normalisation(text, want):
    assert normalise_answer(text) == want


def test_normalisation_is_idempotent_and_every_contraction_is_reached():
    for bare, full in answer_metrics.CONTRACTIONS.items():
        assert "'" not in bare and full.replace("'", "") == bare
        assert normalise_answer(bare.upper()) == full
        assert normalise_answer(full) == full
    rng = np.random.default_rng(0)
    for _ in range(300):
        once = normalise_answer("".join(rng.choice(list("ab12 .-/!'t\n"), size=12)))
        assert normalise_answer(once) == once


def test_vqa_needs_at_least_four_answers():
    np.testing.assert_allclose(vqa_accuracy(["cat"], [["cat"] * 4]), 1)
    message = r"Expected 4 answers a question or more \(VQA has 10\), got 3 in references\[1\]"
    with pytest.raises(ValueError, match=message):
        vqa_accuracy(["cat", "dog"], [["cat"] * 10, ["cat"] * 3])


# ANLS


@functools.cache
def slow_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    replaced = slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1, replaced)


def test_similarity_by_hand():
    # kitten -> sitten -> sittin -> sitting: 3 of 7; four letters of "" are four insertions.
    for a, b, want in [("kitten", "sitting", 4 / 7), ("", "abcd", 0), ("abcd", "", 0), ("", "", 1), ("ab", "ba", 0)]:
        assert similarity(a, b) == pytest.approx(want)


@pytest.mark.parametrize("seed", range(5))
def test_similarity_against_the_recursion_of_the_edit_distance(seed):
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("abc"), size=rng.integers(0, 9))) for _ in range(7)]
    for a, b in itertools.product(texts, repeat=2):
        assert similarity(a, b) == pytest.approx(1 - slow_distance(a, b) / max(len(a), len(b), 1))
        assert (similarity(a, b) == 1) == (a == b)


def test_anls_threshold_is_strict():
    # One of two letters wrong: d = 1/2 is not below 1/2, so 0. Two of five: 1 - 2/5.
    np.testing.assert_allclose(anls(["ab", "abcde", "abcd"], [["ax"], ["abcxy"], ["abcd"]]), [0, 3 / 5, 1])
    # The longer text divides: "ab" in "abc" misses one of three, "abc" has one too many of three.
    np.testing.assert_allclose(anls(["ab", "abc"], [["abc"], ["ab"]]), [2 / 3, 2 / 3])


def test_anls_takes_the_best_answer():
    np.testing.assert_allclose(anls(["abcd"], [["zzzz", "abcx", "abxx"]]), [3 / 4])


def test_anls_matches_an_empty_answer_only_with_an_empty_prediction():
    np.testing.assert_array_equal(anls(["", "a", "", "a"], [[""], [""], ["a"], ["", "a"]]), [1, 0, 0, 1])


def test_anls_leaves_case_to_the_caller():
    np.testing.assert_allclose(anls(["Cat", "CAT"], [["cat"], ["cat"]]), [2 / 3, 0])


def test_anls_is_symmetric_and_zero_or_above_one_half():
    rng = np.random.default_rng(0)
    a, b = (["".join(rng.choice(list("ab"), size=rng.integers(1, 8))) for _ in range(200)] for _ in range(2))
    scores = anls(a, [[text] for text in b])
    np.testing.assert_allclose(scores, anls(b, [[text] for text in a]))
    assert np.all((scores == 0) | ((scores > 0.5) & (scores <= 1)))
    assert 0 < np.mean(scores == 0) < 1


# Exact match


def test_exact_match_is_lower_cased_and_nothing_else():
    got = exact_match(["Stephen King", "b", "b ", "straße"], ["stephen KING", "B", "b", "strasse"])
    np.testing.assert_array_equal(got, [1, 1, 0, 0])


# WUPS


def test_wu_palmer_by_hand():
    # Depths: dog and cat 3, puppy 4, animal 2. dog and cat meet at animal: 2 * 2 / (3 + 3). puppy is below dog:
    # 2 * 3 / (4 + 3). dog and tree meet at the root: 2 * 1 / 6. Under different roots, nothing.
    for a, b, want in [
        ("dog", "cat", 4 / 6),
        ("puppy", "dog", 6 / 7),
        ("puppy", "cat", 4 / 7),
        ("animal", "dog", 4 / 5),
        ("dog", "tree", 2 / 6),
        ("dog", "hound", 1),
        ("dog", "run", 0),
        ("dog", "unicorn", 0),
        ("unicorn", "unicorn", 1),
    ]:
        assert wu_palmer(a, b, TAXONOMY) == wu_palmer(b, a, TAXONOMY) == pytest.approx(want)


def test_wups_by_hand():
    # One word each: its similarity. Two words "dog tree" against "cat": w(A, B) = 2/3 * 1/3, w(B, A) = 2/3 by the
    # nearer one; the smaller counts.
    np.testing.assert_allclose(wups(["dog", "dog tree"], [["cat"], ["cat"]], TAXONOMY), [2 / 3, 2 / 9])
    np.testing.assert_allclose(wups(["cat"], [["dog tree"]], TAXONOMY), [2 / 9])  # both directions, so symmetric
    np.testing.assert_allclose(wups(["dog"], [["tree", "puppy"]], TAXONOMY), [6 / 7])  # the best reference


def test_wups_skips_words_without_any_similarity():
    # "unicorn" has similarity 0 to all of B and drops out of the product, where a 0 would end it.
    np.testing.assert_allclose(wups(["dog unicorn"], [["dog"]], TAXONOMY), [1])
    np.testing.assert_allclose(wups(["dog"], [["dog unicorn"]], TAXONOMY), [1])
    # All are skipped, or there is nothing to skip: 0.
    np.testing.assert_array_equal(wups(["unicorn", "", "the"], [["dog"], ["dog"], ["the"]], TAXONOMY), [0, 0, 0])
    # One direction is enough: A's only word is skipped if it has no similarity to any word of B.
    np.testing.assert_array_equal(wups(["run"], [["dog cat"]], TAXONOMY), [0])
    # Equal words have similarity 1 outside the taxonomy, too.
    np.testing.assert_allclose(wups(["unicorn"], [["a unicorn"]], TAXONOMY), [1])


def test_wups_divides_similarities_below_the_threshold_by_ten():
    # dog and cat: 2/3. At alpha 2/3 it is not below; above it, a tenth, which is not 0 and so not skipped.
    for alpha, want in ((0.0, 2 / 3), (4 / 6, 2 / 3), (0.9, 2 / 30), (1.0, 2 / 30)):
        np.testing.assert_allclose(wups(["dog"], [["cat"]], TAXONOMY, alpha=alpha), [want])
    np.testing.assert_allclose(wups(["dog tree"], [["cat"]], TAXONOMY, alpha=0.5), [2 / 3 * 1 / 30])
    np.testing.assert_allclose(wups(["dog"], [["dog"]], TAXONOMY, alpha=1.0), [1])


def test_wups_removes_endings_and_stop_words():
    np.testing.assert_allclose(wups(["Dogs!", "puppies"], [["the dog"], ["a puppy"]], TAXONOMY), [1, 1])
    # "trees" ends in s; "runing" is no English, but leaves run; "bus" keeps its s though "bu" were a word.
    np.testing.assert_allclose(wups(["runing trees"], [["run tree"]], TAXONOMY), [1])
    assert wups(["bus"], [["bu"]], TAXONOMY | {"bu": ("root", "bu")}) == 0
    # An irregular form is a word with the same path.
    more = TAXONOMY | {"man": ("root", "animal", "man"), "men": ("root", "animal", "man")}
    np.testing.assert_allclose(wups(["men"], [["man"]], more), [1])
    # A stop word of the caller's, by its form or by its lemma.
    np.testing.assert_allclose(wups(["dog trees"], [["dog"]], TAXONOMY, stop_words={"tree"}), [1])
    np.testing.assert_allclose(wups(["dog trees"], [["dog"]], TAXONOMY, stop_words={"trees"}), [1])
    np.testing.assert_allclose(wups(["dog trees"], [["dog"]], TAXONOMY), [1 / 3])


def slow_wups(prediction, reference, alpha):
    def one_way(a, b):
        out, skipped = 1.0, True
        for x in a:
            best = 0.0
            for y in b:
                s = 1.0 if x == y else 0.0
                if x != y and x in TAXONOMY and y in TAXONOMY:
                    common = [
                        n for n in range(1, 9) if TAXONOMY[x][:n] == TAXONOMY[y][:n] and len(TAXONOMY[x][:n]) == n
                    ]
                    s = 2 * len(common) / (len(TAXONOMY[x]) + len(TAXONOMY[y]))
                best = max(best, s if s >= alpha else s / 10)
            if best > 0:
                out, skipped = out * best, False
        return 0.0 if skipped else out

    a, b = prediction.split(), reference.split()
    return min(one_way(a, b), one_way(b, a))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_wups_against_the_loops(alpha):
    rng = np.random.default_rng(0)
    words = [*TAXONOMY, "unicorn", "dragon"]
    a, b = ([" ".join(rng.choice(words, size=rng.integers(1, 5))) for _ in range(200)] for _ in range(2))
    got = wups(a, [[text] for text in b], TAXONOMY, alpha=alpha)
    np.testing.assert_allclose(got, [slow_wups(x, y, alpha) for x, y in zip(a, b, strict=True)], atol=1e-12)
    np.testing.assert_allclose(got, wups(b, [[text] for text in a], TAXONOMY, alpha=alpha), atol=1e-12)
    assert np.all((got >= 0) & (got <= 1))
    assert np.all(got <= wups(a, [[text] for text in b], TAXONOMY) + 1e-12)  # a threshold can only lower scores


@pytest.mark.parametrize(
    ("taxonomy", "options", "error", "message"),
    [
        ({"dog": "root animal dog"}, {}, TypeError, "tuple from the root to the word, got 'root animal dog' for 'dog'"),
        ({"dog": ()}, {}, TypeError, r"got \(\) for 'dog'"),
        (TAXONOMY, {"alpha": 90}, ValueError, "alpha is 90"),
        (TAXONOMY, {"alpha": float("nan")}, ValueError, "alpha is nan"),
        (TAXONOMY, {"stop_words": "the a"}, TypeError, "set of strings, got the string 'the a'; split it"),
    ],
)
def test_wups_refuses(taxonomy, options, error, message):
    with pytest.raises(error, match=message):
        wups(["dog"], [["dog"]], taxonomy, **options)


# All of them

SEVERAL = {"vqa": vqa_accuracy, "anls": anls, "wups": functools.partial(wups, taxonomy=TAXONOMY)}
SINGLE = {"exact": exact_match}


@pytest.mark.parametrize("name", [*SEVERAL, *SINGLE])
def test_answers_are_scores_per_question(name):
    metric, several = (SEVERAL | SINGLE)[name], name in SEVERAL
    texts = ["dog", "two cats", "7"]
    references = [[text] * 10 for text in texts] if several else texts
    scores = metric(texts, references)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [1, 1, 1])
    np.testing.assert_array_equal(metric(["zebra"] * 3, references), [0, 0, 0])


@pytest.mark.parametrize("name", [*SEVERAL, *SINGLE])
def test_answers_refuse_bad_texts(name):
    metric, several = (SEVERAL | SINGLE)[name], name in SEVERAL
    good = ["dog"] * 10 if several else "dog"
    for predictions, references, error, message in [
        ("dog", [good], TypeError, "predictions must be a list, got the string 'dog'"),
        (["dog"], "dog", TypeError, "references must be a list, got the string 'dog'"),
        ([None], [good], TypeError, r"predictions\[0\] must be a string, got NoneType"),
        (["dog", "cat"], [good], ValueError, "got 2 predictions and 1 references"),
        ([], [], ValueError, "predictions is empty"),
        (["dog"], ["dog"] if several else [["dog"]], TypeError, r"references\[0\] must be a (list|string), got"),
    ]:
        with pytest.raises(error, match=message):
            metric(predictions, references)
