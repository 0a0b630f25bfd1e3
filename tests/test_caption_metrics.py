import math
from collections import Counter

import numpy as np
import pytest

from kitlib import caption_metrics
from kitlib.caption_metrics import bleu4, cider_d, document_frequency


def random_set(seed, images=8, words="abcdef"):
    """Predictions and 1 to 4 references an image of 0 to 12 words out of six: many shared n-grams, some repeated."""
    rng = np.random.default_rng(seed)

    def text(shortest):
        return " ".join(rng.choice(list(words), size=rng.integers(shortest, 13)))

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
    # "x" has 0 bigrams, "x y z" has 2: exp(-4/72), cosine 1 / sqrt(3) for n = 1 and 0 for the others. Words, 1 and 3,
    # differ by 2 as well: the trap of the well-known code shows for texts without tokens alone, whose cosines are 0.
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
def test_cider_keeps_its_bounds_and_has_no_order(seed):
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


def test_cider_does_not_see_case_or_punctuation_unless_told_to():
    references = [["a dog runs in the park"], ["two cats sleep on a mat"]]
    plain = cider_d(["a dog runs in the snow", "cats sleep"], references)
    np.testing.assert_allclose(cider_d(["A dog runs, in the snow!", "Cats sleep."], references), plain)
    assert cider_d(["A dog runs, in the snow!", "Cats sleep."], references, split=str.split)[0] < plain[0]
    # No stemming: "dog" is not "dogs".
    assert cider_d(["dogs", "cats"], [["dog"], ["cats"]])[0] == 0


def test_texts_without_tokens_score_zero_and_break_nothing():
    np.testing.assert_array_equal(cider_d(["", "!"], [["a dog"], ["...", "a cat"]]), [0, 0])
    np.testing.assert_array_equal(cider_d(["", "a"], [["..."], ["b"]]), [0, 0])


# BLEU-4


def test_bleu_by_hand():
    # Prediction of 6 words, reference of 7: "the cat sat on the mat" against "the cat sat on the red mat".
    # Unigrams 6 of 6; bigrams 4 of 5 (not "the mat"); trigrams 3 of 4; 4-grams 2 of 3. Brevity exp(1 - 7/6).
    want = (6 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4) * math.exp(1 - 7 / 6)
    assert bleu4(["the cat sat on the mat"], [["the cat sat on the red mat"]]) == pytest.approx(want)


def test_bleu_clips_counts():
    # "the" seven times, at most two in one reference; four of them across references would be wrong. No bigram is
    # shared, so the score is 0, and a second image that is right shows the counts: unigrams (2 + 4) of (7 + 4), bigrams
    # 3 of 9, trigrams 2 of 7, 4-grams 1 of 5; lengths 7 + 4 against 6 + 4, no penalty.
    predictions = ["the the the the the the the", "one two three four"]
    references = [["the x the y z u", "the v the w q r"], ["one two three four"]]
    assert bleu4(predictions[:1], references[:1]) == 0.0
    assert bleu4(predictions, references) == pytest.approx((6 / 11 * 3 / 9 * 2 / 7 * 1 / 5) ** (1 / 4))


def test_bleu_takes_the_closest_reference_length_and_the_shorter_of_two():
    # Five words; references of 4 and 6 are equally close, and 4 counts: no penalty. With 6 and 9 it is 6.
    five, four, six, nine = "a b c d e", "a b c d", "a b c d e f", "a b c d e f g h i"
    assert bleu4([five], [[six, four]]) == pytest.approx(1.0)
    assert bleu4([five], [[nine, six]]) == pytest.approx(math.exp(1 - 6 / 5))


def test_bleu_is_of_the_corpus_and_not_a_mean():
    # Image 1: 5 words, all right. Image 2: 2 words of a reference of 5, no trigrams. Together: unigrams 7 of 7, bigrams
    # 5 of 5, trigrams 3 of 3, 4-grams 2 of 2, and lengths 7 against 10. Alone, image 2 has no trigram and scores 0.
    predictions, references = ["a b c d e", "a b"], [["a b c d e"], ["a b c d e"]]
    assert bleu4(predictions, references) == pytest.approx(math.exp(1 - 10 / 7))
    assert bleu4(predictions[1:], references[1:]) == 0.0
    # A long prediction is not punished by its length but by its precision: 5/7, 4/6, 3/5, 2/4.
    assert bleu4(["a b c d e x y"], [["a b c d e"]]) == pytest.approx((5 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** (1 / 4))


def slow_bleu(predictions, references):
    log_mean, c, r = 0.0, 0, 0
    for n in (1, 2, 3, 4):
        hits = total = 0
        for prediction, texts in zip(predictions, references, strict=True):
            for gram in set(grams(prediction, n)):
                hits += min(grams(prediction, n).count(gram), max(grams(text, n).count(gram) for text in texts))
            total += len(grams(prediction, n))
        if not hits:
            return 0.0
        log_mean += math.log(hits / total) / 4
    for prediction, texts in zip(predictions, references, strict=True):
        length = len(prediction.split())
        c += length
        r += sorted((abs(len(text.split()) - length), len(text.split())) for text in texts)[0][1]
    return math.exp(log_mean) * (math.exp(1 - r / c) if c < r else 1.0)


@pytest.mark.parametrize("seed", range(8))
def test_bleu_against_the_formula(seed):
    predictions, references = random_set(seed, images=30, words="abc")
    want = slow_bleu(predictions, references)
    assert bleu4(predictions, references) == pytest.approx(want, abs=1e-12)
    assert 0 < want < 1
    order = np.random.default_rng(seed).permutation(30)
    assert bleu4([predictions[i] for i in order], [references[i][::-1] for i in order]) == pytest.approx(want)
    assert bleu4([texts[-1] for texts in references], references) == pytest.approx(1.0)


def test_bleu_of_nothing_is_zero():
    assert bleu4([""], [["a dog runs fast"]]) == 0.0
    assert bleu4(["a dog"], [["..."]]) == 0.0


# Both


@pytest.mark.parametrize("metric", [cider_d, bleu4])
def test_captions_refuse_bad_texts(metric):
    for predictions, references, error, message in [
        ("a dog", [["a dog"]], TypeError, "predictions must be a list, got the string 'a dog'"),
        (["a dog"], ["a dog"], TypeError, r"references\[0\] must be a list, got the string 'a dog'"),
        (["a dog"], [[]], ValueError, r"references\[0\] is empty"),
        ([], [], ValueError, "predictions is empty"),
        (["a", "b"], [["a"]], ValueError, "got 2 predictions and 1 references"),
    ]:
        with pytest.raises(error, match=message):
            metric(predictions, references)


def test_df_that_cannot_be_is_refused():
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


def test_ngrams_count_what_is_there():
    # A text of L tokens has L - n + 1 n-grams, or none.
    for text in ("", "a", "a a a", "a b a b a b"):
        for n, level in zip((1, 2, 3, 4), caption_metrics._ngrams(text.split()), strict=True):
            assert level == Counter(grams(text, n))
            assert level.total() == max(0, len(text.split()) - n + 1)
