import math

import numpy as np
import pytest

from kitlib.metrics.text_metrics import cider_d, document_frequency

close = np.testing.assert_allclose


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
