import math
from collections import Counter

import numpy as np
import pytest

from kitlib.metrics import captions as caption_metrics
from kitlib.metrics.captions import cider_d, document_frequency


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


# CIDEr-D


def test_cider_by_hand():
    # Two images, so log I = log 2. In references, "a" is in both images and weighs 0, all else in one and weighs log 2.
    # Image 1: prediction "a dog", reference "a dog runs".
    #   n = 1: prediction (dog 1), reference (dog 1, runs 1) in units of log 2: 1 / sqrt(2).
    #   n = 2: prediction (a dog), reference (a dog, dog runs): 1 / sqrt(2). n = 3, 4: the prediction has none, 0.
    #   Bigrams 1 and 2: exp(-1/72). Mean over n: sqrt(2) / 4, times 10.
    # Image 2: prediction "a cat sits down" is the reference, all four n carry weight: 10.
    got = cider_d(["a dog", "a cat sits down"], [["a dog runs"], ["a cat sits down"]])
    np.testing.assert_allclose(got, [10 * math.sqrt(2) / 4 * math.exp(-1 / 72), 10])


def test_cider_of_one_image_is_zero():
    # log I = log 1 = 0: no n-gram has weight, not even in a perfect caption.
    np.testing.assert_array_equal(cider_d(["a dog runs in grass"], [["a dog runs in grass"]]), [0])


def test_cider_of_a_perfect_single_reference_is_ten():
    texts = ["a dog runs fast", "two cats sit on mats", "red cars stop here now"]
    np.testing.assert_allclose(cider_d(texts, [[text] for text in texts]), 10)
    # With two references that share nothing, half of it.
    np.testing.assert_allclose(cider_d(texts, [[text, "x y z u"] for text in texts])[0], 5)
    # A caption of three words has no 4-gram: three of four cosines are 1.
    np.testing.assert_allclose(cider_d(["a dog runs"], [["a dog runs"]], df=({}, 2)), 7.5)


def test_cider_counts_length_in_bigrams():
    # "x" has 0 bigrams, "x y z" has 2: exp(-4/72), cosine 1 / sqrt(3) for n = 1 and 0 for the others. The numbers of
    # words, 1 and 3, differ by 2 as well: the two counts disagree only for texts without tokens, whose cosines are 0.
    np.testing.assert_allclose(cider_d(["x"], [["x y z"]], df=({}, 2)), 2.5 / math.sqrt(3) * math.exp(-4 / 72))
    np.testing.assert_allclose(cider_d(["x"], [["x"]], df=({}, 2)), 2.5)
    # sigma is 6: 1 + 12 words, 12 apart, so two standard deviations, exp(-2). df leaves "x" alone with weight.
    long = "x" + 12 * " y"
    df = ({("y",): 2, **{("y",) * n: 2 for n in (2, 3, 4)}}, 2)
    np.testing.assert_allclose(cider_d(["x"], [[long]], df=df), 2.5 * math.exp(-2))


def test_cider_clips_repetition():
    # "x x x" against "x y": all words weigh w. Clipped, n = 1: min(3, 1) * 1 / (3 * sqrt 2), where the plain cosine has
    # 3 / (3 sqrt 2). Bigrams (x x) and (x y) share nothing. Lengths 2 and 1: exp(-1/72).
    got = cider_d(["x x x"], [["x y"]], df=({}, 5))
    np.testing.assert_allclose(got, 10 / 4 * 1 / (3 * math.sqrt(2)) * math.exp(-1 / 72))


def test_cider_counts_images_and_not_references():
    # "dog" is in two references of the first image and twice in one of them: in one image all the same.
    counts, images = document_frequency([["dog dog", "a dog"], ["a cat"], ["a cow"]])
    assert images == 3
    assert (counts[("dog",)], counts[("a",)], counts[("dog", "dog")], counts.get(("cat", "dog"), 0)) == (1, 3, 1, 0)


def test_cider_of_a_subset_differs_unless_df_is_given():
    predictions, references = random_set(0)
    whole = cider_d(predictions, references)
    df = document_frequency(references)
    np.testing.assert_allclose(cider_d(predictions[:3], references[:3], df=df), whole[:3], rtol=1e-12)
    assert np.abs(cider_d(predictions[:3], references[:3]) - whole[:3]).max() > 0.1


@pytest.mark.parametrize("seed", range(8))
def test_cider_against_the_formula(seed):
    predictions, references = random_set(seed)
    np.testing.assert_allclose(cider_d(predictions, references), slow_cider(predictions, references), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_cider_is_within_its_bounds_and_does_not_depend_on_the_order(seed):
    predictions, references = random_set(seed, images=20)
    scores = cider_d(predictions, references)
    assert scores.shape == (20,)
    assert scores.min() >= 0
    assert scores.max() <= 10 + 1e-9
    order = np.random.default_rng(seed).permutation(20)
    shuffled = cider_d([predictions[i] for i in order], [references[i][::-1] for i in order])
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-12)
    # Every reference twice: the mean over references and the images that hold an n-gram are what they were.
    np.testing.assert_allclose(cider_d(predictions, [texts * 2 for texts in references]), scores, atol=1e-12)


def test_cider_ignores_case_and_punctuation_unless_another_split_is_given():
    references = [["a dog runs in the park"], ["two cats sleep on a mat"]]
    plain = cider_d(["a dog runs in the snow", "cats sleep"], references)
    np.testing.assert_allclose(cider_d(["A dog runs, in the snow!", "Cats sleep."], references), plain)
    assert cider_d(["A dog runs, in the snow!", "Cats sleep."], references, split=str.split)[0] < plain[0]
    # No stemming: "dog" is not "dogs".
    assert cider_d(["dogs", "cats"], [["dog"], ["cats"]])[0] == 0


def test_texts_without_tokens_score_zero():
    np.testing.assert_array_equal(cider_d(["", "!"], [["a dog"], ["...", "a cat"]]), [0, 0])
    np.testing.assert_array_equal(cider_d(["", "a"], [["..."], ["b"]]), [0, 0])


# What is refused


def test_captions_refuse_bad_texts():
    for predictions, references, error, message in [
        ("a dog", [["a dog"]], TypeError, "predictions must be a list, got the string 'a dog'"),
        (["a dog"], ["a dog"], TypeError, r"references\[0\] must be a list, got the string 'a dog'"),
        (["a dog"], [[]], ValueError, r"references\[0\] is empty"),
        ([], [], ValueError, "predictions is empty"),
        (["a", "b"], [["a"]], ValueError, "got 2 predictions and 1 references"),
    ]:
        with pytest.raises(error, match=message):
            cider_d(predictions, references)


def test_an_impossible_df_is_refused():
    predictions, references = random_set(1)
    counts, images = document_frequency(references)
    assert images == 8
    for df, error, message in [
        (counts, TypeError, r"pair \(counts, images\) of document_frequency, got Counter"),
        ((images, counts), TypeError, "pair .* got tuple"),
        ((counts, max(counts.values()) - 1), ValueError, "No n-gram can be in more images than there are, got"),
        (({}, 0), ValueError, "got 0 images and a count of 0"),
    ]:
        with pytest.raises(error, match=message):
            cider_d(predictions, references, df=df)
    with pytest.raises(TypeError, match=r"references\[0\] must be a list, got the string 'a dog'"):
        document_frequency(["a dog"])


def test_ngrams_are_counted_as_often_as_they_occur():
    # A text of L tokens has L - n + 1 n-grams, or none.
    for text in ("", "a", "a a a", "a b a b a b"):
        for n, level in zip((1, 2, 3, 4), caption_metrics._ngrams(text.split()), strict=True):
            assert level == Counter(grams(text, n))
            assert level.total() == max(0, len(text.split()) - n + 1)
