"""Tokens, captions and answers by hand and against slow oracles, and refusals."""

import functools
import itertools
import math
import unicodedata
from math import prod

import numpy as np
import pytest

from kitlib.metrics import text_metrics
from kitlib.metrics.text_metrics import (
    anls,
    cider_d,
    document_frequency,
    exact_match,
    normalise_answer,
    similarity,
    vqa_accuracy,
    wu_palmer,
    wups,
)

close, equal = np.testing.assert_allclose, np.testing.assert_array_equal

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


def slow_vqa(prediction, answers):
    others = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
    return np.mean([min(1, sum(a == prediction for a in rest) / 3) for rest in others])


def test_vqa_leaves_each_annotator_out():
    # One of ten agrees: the nine others see one match, 1/3 each, the one sees none: 9/10 * 1/3. Three: seven see three
    # and give 1, three see two and give 2/3: (7 + 2) / 10.
    got = vqa_accuracy(["cat"] * 7, [ten(k) for k in (0, 1, 2, 3, 4, 7, 10)])
    close(got, [0, 0.3, 0.6, 0.9, 1, 1, 1], atol=1e-15)


@pytest.mark.parametrize("n", [4, 5, 10, 13])
def test_vqa_against_the_loop_over_annotators(n):
    rng = np.random.default_rng(n)
    references = [list(rng.choice(list("xyz"), size=n)) for _ in range(50)]
    predictions = list(rng.choice(list("xyzu"), size=50))
    got = vqa_accuracy(predictions, references)
    close(got, [slow_vqa(p, r) for p, r in zip(predictions, references, strict=True)], atol=1e-12)
    close(vqa_accuracy(predictions, [r[::-1] for r in references]), got, atol=1e-12)


def test_vqa_does_not_normalise_where_all_answers_are_equal():
    equal(vqa_accuracy(["yes", "Yes", "Yes\n"], [ten(10, "Yes")] * 3), [0, 1, 1])
    # One annotator who differs, and both sides are normalised.
    equal(vqa_accuracy(["yes", "Yes.", "YES"], [ten(9, "Yes")] * 3), [1, 1, 1])
    # Equal but for line breaks and outer spaces is equal: "Yes" and "Yes\n" do not start the normalisation.
    equal(vqa_accuracy(["yes"], [ten(5, "Yes", " Yes\n")]), [0])
    # Answers that normalisation makes equal count together: 2 of "2", 2 of "two" are 4.
    assert vqa_accuracy(["Two"], [["2", "2", "two", "two", *["dog"] * 6]]) == 1


NORMALISED = {
    # Punctuation becomes a space, unless a space is next to one like it; in "a,b, c", "a" is then not an article.
    "t-shirt": "t shirt", "black/white": "black white", "yes, sir": "yes sir", "a,b, c": "ab c", "is it?": "is it",
    "yes!": "yes", "black - white": "black white", "rock-n-roll - jazz": "rocknroll jazz",
    "rock-n-roll -jazz": "rocknroll jazz",
    # The space that replaces ; does not count as next to -.
    "red;-blue-green": "red blue green", "red-;blue-green": "red blue green",
    # A thousands comma anywhere removes every mark without a space.
    "1,000": "1000", "1,000 t-shirts": "1000 tshirts", "1, 000": "1 000",
    # Full stops stay before a digit only.
    "3.5": "3.5", ".5": ".5", "5.": "5", "u.s.": "us", "St. Louis": "st louis",
    # Number words to ten, articles, contractions ("its" and "well" are words, as they are), line breaks.
    "None": "0", "zero": "0", "Ten": "10", "eleven": "eleven", "twenty one": "twenty 1", "an": "", "": "",
    "The man and a dog": "man and dog", "dont": "don't", "don't": "don't", "Whats that": "what's that",
    "its well": "its well", "two\ndogs\t": "2 dogs",
}  # fmt: skip


@pytest.mark.parametrize("text", NORMALISED)
def test_vqa_normalisation(text):
    assert normalise_answer(text) == NORMALISED[text]


def test_normalisation_is_idempotent_and_every_contraction_is_reached():
    for bare, full in text_metrics.CONTRACTIONS.items():
        assert "'" not in bare and full.replace("'", "") == bare
        assert normalise_answer(bare.upper()) == normalise_answer(full) == full
    rng = np.random.default_rng(0)
    for _ in range(300):
        once = normalise_answer("".join(rng.choice(list("ab12 .-/!'t\n"), size=12)))
        assert normalise_answer(once) == once


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


def test_anls_and_exact_match_by_hand():
    # One of two letters wrong: d = 1/2 is not below 1/2, so 0. Two of five: 1 - 2/5.
    close(anls(["ab", "abcde", "abcd"], [["ax"], ["abcxy"], ["abcd"]]), [0, 3 / 5, 1])
    # The longer text divides: "ab" in "abc" misses one of three, "abc" has one too many of three.
    close(anls(["ab", "abc"], [["abc"], ["ab"]]), [2 / 3, 2 / 3])
    close(anls(["abcd"], [["zzzz", "abcx", "abxx"]]), [3 / 4])  # the best answer
    equal(anls(["", "a", "", "a"], [[""], [""], ["a"], ["", "a"]]), [1, 0, 0, 1])  # empty is like empty only
    close(anls(["Cat", "CAT"], [["cat"], ["cat"]]), [2 / 3, 0])  # case is left to the caller
    # Exact match: lower-cased, and nothing else.
    equal(exact_match(["Stephen King", "b", "b ", "straße"], ["stephen KING", "B", "b", "strasse"]), [1, 1, 0, 0])


def test_anls_is_symmetric_and_zero_or_above_one_half():
    rng = np.random.default_rng(0)
    a, b = (["".join(rng.choice(list("ab"), size=rng.integers(1, 8))) for _ in range(200)] for _ in range(2))
    scores = anls(a, [[text] for text in b])
    close(scores, anls(b, [[text] for text in a]))
    assert np.all((scores == 0) | ((scores > 0.5) & (scores <= 1)))
    assert 0 < np.mean(scores == 0) < 1


def test_wu_palmer_by_hand():
    # Depths: dog and cat 3, puppy 4, animal 2. dog and cat meet at animal: 2 * 2 / (3 + 3). puppy is below dog:
    # 2 * 3 / (4 + 3). dog and tree meet at the root: 2 * 1 / 6. Under different roots, nothing.
    for pair, want in {
        "dog cat": 4 / 6, "puppy dog": 6 / 7, "puppy cat": 4 / 7, "animal dog": 4 / 5, "dog tree": 2 / 6,
        "dog hound": 1, "dog run": 0, "dog unicorn": 0, "unicorn unicorn": 1,
    }.items():  # fmt: skip
        a, b = pair.split()
        assert wu_palmer(a, b, TAXONOMY) == wu_palmer(b, a, TAXONOMY) == pytest.approx(want)


def test_wups_by_hand():
    # One word each: its similarity. Two words "dog tree" against "cat": w(A, B) = 2/3 * 1/3, w(B, A) = 2/3 by the
    # nearer one; the smaller counts.
    close(wups(["dog", "dog tree"], [["cat"], ["cat"]], TAXONOMY), [2 / 3, 2 / 9])
    close(wups(["cat"], [["dog tree"]], TAXONOMY), [2 / 9])  # both directions, so symmetric
    close(wups(["dog"], [["tree", "puppy"]], TAXONOMY), [6 / 7])  # the best reference
    # "unicorn" has similarity 0 to all of B and drops out of the product, where a 0 would end it.
    close(wups(["dog unicorn", "dog"], [["dog"], ["dog unicorn"]], TAXONOMY), [1, 1])
    # All are skipped, or there is nothing to skip: 0.
    equal(wups(["unicorn", "", "the"], [["dog"], ["dog"], ["the"]], TAXONOMY), [0, 0, 0])
    # One direction is enough: A's only word is skipped if it has no similarity to any word of B.
    equal(wups(["run"], [["dog cat"]], TAXONOMY), [0])
    # Equal words have similarity 1 outside the taxonomy, too.
    close(wups(["unicorn"], [["a unicorn"]], TAXONOMY), [1])


def test_wups_divides_similarities_below_the_threshold_by_ten():
    # dog and cat: 2/3. At alpha 2/3 it is not below; above it, a tenth, which is not 0 and so not skipped.
    for alpha, want in ((0.0, 2 / 3), (4 / 6, 2 / 3), (0.9, 2 / 30), (1.0, 2 / 30)):
        close(wups(["dog"], [["cat"]], TAXONOMY, alpha=alpha), [want])
    close(wups(["dog tree"], [["cat"]], TAXONOMY, alpha=0.5), [2 / 3 * 1 / 30])
    close(wups(["dog"], [["dog"]], TAXONOMY, alpha=1.0), [1])


def test_wups_removes_endings_and_stop_words():
    close(wups(["Dogs!", "puppies"], [["the dog"], ["a puppy"]], TAXONOMY), [1, 1])
    # "trees" ends in s; "runing" is no English, but leaves run; "bus" keeps its s though "bu" were a word.
    close(wups(["runing trees"], [["run tree"]], TAXONOMY), [1])
    assert wups(["bus"], [["bu"]], TAXONOMY | {"bu": ("root", "bu")}) == 0
    # An irregular form is a word with the same path.
    more = TAXONOMY | {"man": ("root", "animal", "man"), "men": ("root", "animal", "man")}
    close(wups(["men"], [["man"]], more), [1])
    # A stop word of the caller's, by its form or by its lemma.
    for stop, want in (({"tree"}, 1), ({"trees"}, 1), (text_metrics.STOP_WORDS, 1 / 3)):
        close(wups(["dog trees"], [["dog"]], TAXONOMY, stop_words=stop), [want])


def slow_wups(prediction, reference, alpha):
    def similarity(x, y):
        s = float(x == y)
        if x != y and x in TAXONOMY and y in TAXONOMY:
            a, b = TAXONOMY[x], TAXONOMY[y]
            s = 2 * sum(a[:n] == b[:n] for n in range(1, min(len(a), len(b)) + 1)) / (len(a) + len(b))
        return s if s >= alpha else s / 10

    def one_way(a, b):
        nearest = [max(similarity(x, y) for y in b) for x in a]
        return prod(s for s in nearest if s > 0) if max(nearest) > 0 else 0.0

    a, b = prediction.split(), reference.split()
    return min(one_way(a, b), one_way(b, a))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_wups_against_the_loops(alpha):
    rng = np.random.default_rng(0)
    words = [*TAXONOMY, "unicorn", "dragon"]
    a, b = ([" ".join(rng.choice(words, size=rng.integers(1, 5))) for _ in range(200)] for _ in range(2))
    got = wups(a, [[text] for text in b], TAXONOMY, alpha=alpha)
    close(got, [slow_wups(x, y, alpha) for x, y in zip(a, b, strict=True)], atol=1e-12)
    close(got, wups(b, [[text] for text in a], TAXONOMY, alpha=alpha), atol=1e-12)
    assert np.all((got >= 0) & (got <= 1))
    assert np.all(got <= wups(a, [[text] for text in b], TAXONOMY) + 1e-12)  # a threshold can only lower scores


METRICS = {"vqa": vqa_accuracy, "anls": anls, "wups": functools.partial(wups, taxonomy=TAXONOMY), "exact": exact_match}


@pytest.mark.parametrize("name", METRICS)
def test_answers_are_scores_per_question(name):
    texts, several = ["dog", "two cats", "7"], name != "exact"
    references = [[text] * 10 for text in texts] if several else texts
    scores = METRICS[name](texts, references)
    assert scores.dtype == np.float64
    close(scores, [1, 1, 1])
    equal(METRICS[name](["zebra"] * 3, references), [0, 0, 0])
    with pytest.raises(TypeError, match=r"references\[0\]"):  # a string where a list is meant, or the other way round
        METRICS[name](["dog"], ["dog"] if several else [["dog"]])


@pytest.mark.parametrize(
    ("metric", "given", "error", "word"),
    [
        (vqa_accuracy, {"references": [["dog"] * 3]}, ValueError, r"got 3 in references\[0\]"),
        (wups, {"taxonomy": {"dog": "root animal dog"}}, TypeError, "root animal dog"),
        (wups, {"taxonomy": TAXONOMY, "alpha": 90}, ValueError, "alpha is 90"),
        (wups, {"taxonomy": TAXONOMY, "stop_words": "the a"}, TypeError, "split it"),
    ],
)
def test_answers_refuse(metric, given, error, word):
    with pytest.raises(error, match=word):
        metric(**{"predictions": ["dog"], "references": [["dog"]]} | given)


def random_set(seed, images=8):
    """Predictions and 1 to 4 references per image, 0 to 12 words out of six: many shared n-grams, some repeated."""
    rng = np.random.default_rng(seed)

    def text(shortest):
        return " ".join(rng.choice(list("abcdef"), size=rng.integers(shortest, 13)))

    return [text(0) for _ in range(images)], [[text(1) for _ in range(rng.integers(1, 5))] for _ in range(images)]


def grams(text, n):
    tokens = text.split()
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def slow_cider(predictions, references):
    """The formula of 1411.5726, one n-gram at a time."""
    scores = []
    for prediction, texts in zip(predictions, references, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            for text in texts:

                def entry(of, gram, n=n):
                    df = sum(any(gram in grams(t, n) for t in other) for other in references)
                    return grams(of, n).count(gram) * (math.log(len(references)) - math.log(max(1, df)))

                mine = {gram: entry(prediction, gram) for gram in grams(prediction, n)}
                theirs = {gram: entry(text, gram) for gram in grams(text, n)}
                dot = sum(min(mine[gram], theirs[gram]) * theirs[gram] for gram in mine if gram in theirs)
                squares = sum(v**2 for v in mine.values()) * sum(v**2 for v in theirs.values())
                apart = len(grams(prediction, 2)) - len(grams(text, 2))
                total += dot / math.sqrt(squares) * math.exp(-(apart**2) / 72) / len(texts) if squares else 0.0
        scores.append(10 * total / 4)
    return scores


def test_cider_by_hand():
    # Two images, so log I = log 2. In references, "a" is in both images and weighs 0, all else in one and weighs log 2.
    # Image 1: prediction "a dog", reference "a dog runs".
    #   n = 1: prediction (dog 1), reference (dog 1, runs 1) in units of log 2: 1 / sqrt(2).
    #   n = 2: prediction (a dog), reference (a dog, dog runs): 1 / sqrt(2). n = 3, 4: the prediction has none, 0.
    #   Bigrams 1 and 2: exp(-1/72). Mean over n: sqrt(2) / 4, times 10.
    # Image 2: prediction "a cat sits down" is the reference, all four n carry weight: 10.
    got = cider_d(["a dog", "a cat sits down"], [["a dog runs"], ["a cat sits down"]])
    close(got, [10 * math.sqrt(2) / 4 * math.exp(-1 / 72), 10])
    # One image: log I = log 1 = 0, no n-gram has weight, not even in a perfect caption.
    assert cider_d(["a dog runs in grass"], [["a dog runs in grass"]]) == 0
    # A perfect single reference: ten.
    texts = ["a dog runs fast", "two cats sit on mats", "red cars stop here now"]
    close(cider_d(texts, [[text] for text in texts]), 10)
    # With two references that share nothing, half of it.
    close(cider_d(texts, [[text, "x y z u"] for text in texts])[0], 5)
    # A caption of three words has no 4-gram: three of four cosines are 1.
    close(cider_d(["a dog runs"], [["a dog runs"]], df=({}, 2)), 7.5)


def test_cider_counts_length_in_bigrams():
    # "x" has 0 bigrams, "x y z" has 2: exp(-4/72), cosine 1 / sqrt(3) for n = 1 and 0 for the others. The numbers of
    # words, 1 and 3, differ by 2 as well: the two counts disagree only for texts without tokens, whose cosines are 0.
    close(cider_d(["x"], [["x y z"]], df=({}, 2)), 2.5 / math.sqrt(3) * math.exp(-4 / 72))
    close(cider_d(["x"], [["x"]], df=({}, 2)), 2.5)
    # sigma is 6: 1 + 12 words, 12 apart, so two standard deviations, exp(-2). df leaves "x" alone with weight.
    df = ({("y",) * n: 2 for n in (1, 2, 3, 4)}, 2)
    close(cider_d(["x"], [["x" + 12 * " y"]], df=df), 2.5 * math.exp(-2))


def test_cider_clips_repetition():
    # "x x x" against "x y": all words weigh w. Clipped, n = 1: min(3, 1) * 1 / (3 * sqrt 2), where the plain cosine has
    # 3 / (3 sqrt 2). Bigrams (x x) and (x y) share nothing. Lengths 2 and 1: exp(-1/72).
    got = cider_d(["x x x"], [["x y"]], df=({}, 5))
    close(got, 10 / 4 * 1 / (3 * math.sqrt(2)) * math.exp(-1 / 72))


def test_cider_counts_images_and_not_references():
    # "dog" is in two references of the first image and twice in one of them: in one image all the same.
    counts, images = document_frequency([["dog dog", "a dog"], ["a cat"], ["a cow"]])
    assert images == 3
    assert (counts[("dog",)], counts[("a",)], counts[("dog", "dog")], counts.get(("cat", "dog"), 0)) == (1, 3, 1, 0)


def test_cider_of_a_subset_differs_unless_df_is_given():
    predictions, references = random_set(0)
    whole = cider_d(predictions, references)
    close(cider_d(predictions[:3], references[:3], df=document_frequency(references)), whole[:3], rtol=1e-12)
    assert np.abs(cider_d(predictions[:3], references[:3]) - whole[:3]).max() > 0.1


@pytest.mark.parametrize("seed", range(8))
def test_cider_against_the_formula(seed):
    predictions, references = random_set(seed)
    close(cider_d(predictions, references), slow_cider(predictions, references), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_cider_is_within_its_bounds_and_does_not_depend_on_the_order(seed):
    predictions, references = random_set(seed, images=20)
    scores = cider_d(predictions, references)
    assert scores.shape == (20,) and 0 <= scores.min() <= scores.max() <= 10 + 1e-9
    order = np.random.default_rng(seed).permutation(20)
    shuffled = cider_d([predictions[i] for i in order], [references[i][::-1] for i in order])
    close(shuffled, scores[order], atol=1e-12)
    # Every reference twice: the mean over references and the images that hold an n-gram are what they were.
    close(cider_d(predictions, [texts * 2 for texts in references]), scores, atol=1e-12)


def test_cider_ignores_case_and_punctuation_unless_another_split_is_given():
    references = [["a dog runs in the park"], ["two cats sleep on a mat"]]
    plain = cider_d(["a dog runs in the snow", "cats sleep"], references)
    close(cider_d(["A dog runs, in the snow!", "Cats sleep."], references), plain)
    assert cider_d(["A dog runs, in the snow!", "Cats sleep."], references, split=str.split)[0] < plain[0]
    assert cider_d(["dogs", "cats"], [["dog"], ["cats"]])[0] == 0  # no stemming
    # Texts without tokens score 0.
    close(cider_d(["", "!"], [["a dog"], ["...", "a cat"]]), [0, 0])
    close(cider_d(["", "a"], [["..."], ["b"]]), [0, 0])


def test_captions_refuse():
    counts, _ = document_frequency([["a dog", "a dog runs"], ["a cat"]])
    for references, df, error, word in [
        (["a dog"], None, TypeError, r"references\[0\] must be a list"),
        ([["a dog"]], counts, TypeError, "pair"),
        ([["a dog"]], (counts, max(counts.values()) - 1), ValueError, "more images than there are"),
        ([["a dog"]], ({}, 0), ValueError, "0 images"),
    ]:
        with pytest.raises(error, match=word):
            cider_d(["a dog"], references, df=df)
    with pytest.raises(TypeError, match=r"references\[0\] must be a list"):
        document_frequency(["a dog"])


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
        ("一只黑猫。", ["一", "只", "黑", "猫"]),
        ("黒い猫とtwoカップ", ["黒", "い", "猫", "と", "two", "カ", "ッ", "プ"]),
        ("ｶﾞ", ["ガ"]),  # half-width with its mark is one character in NFKC
        ("ที่ดี", ["ที่", "ดี"]),  # a consonant carries its vowel and tone mark
        ("한국어 문장", ["한국어", "문장"]),  # Korean has spaces
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs, which \w cuts words at, stay inside
        ("größer Çay", ["größer", "çay"]),
    ],
)
def test_tokens_by_hand(caption, tokens):
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


def test_texts_come_back_as_lists():
    assert text_metrics.check_texts(("a", "b"), np.array(["c", "d"]), several=False) == (["a", "b"], ["c", "d"])
    assert text_metrics.check_texts(iter(["a"]), [("b", "c")], several=True) == (["a"], [["b", "c"]])
    assert text_metrics.check_texts([""], [[""]], several=True) == ([""], [[""]])  # a model may say nothing


@pytest.mark.parametrize(
    ("predictions", "references", "several", "error", "message"),
    [
        ("cat", ["cat"], False, TypeError, r"predictions must be a list, got the string 'cat'; write \['cat'\]"),
        # The classic: as a list of letters, it would be seven references of one letter.
        (["cat"], ["a cat."], True, TypeError, r"references\[0\] must be a list, got the string 'a cat.'"),
        ({1: "cat"}, ["cat"], False, TypeError, "predictions must be a list, .* got dict"),
        (["cat"], [{"cat"}], True, TypeError, r"references\[0\] must be a list, .* got set"),
        (7, ["cat"], False, TypeError, "got int"),
        (["a", "b"], [["c"], ["c", None]], True, TypeError, r"references\[1\]\[1\] must be a string, got NoneType"),
        (["cat"], [[]], True, ValueError, r"references\[0\] is empty"),
        (["cat", "dog"], ["cat"], False, ValueError, "got 2 predictions and 1 references"),
    ],
)
def test_texts_refused(predictions, references, several, error, message):
    with pytest.raises(error, match=message):
        text_metrics.check_texts(predictions, references, several=several)


def test_tokenise_refuses_a_list():
    with pytest.raises(TypeError, match="tokenise each"):
        text_metrics.tokenise(["a cat"])
