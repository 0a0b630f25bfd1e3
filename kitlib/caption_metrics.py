"""How close captions come to what people wrote: CIDEr-D and BLEU-4.

    scores = cider_d(predictions, references)     # float64[B], 0 to 10; papers print 100 * scores.mean()
    bleu4(predictions, references)                # float, 0 to 1, of the whole set; papers print it times 100

Predictions are B strings, references B lists of at least one string each, in the same order; both are cut into tokens
by `text_metrics.tokenise`. CIDEr-D is a score per image whose weights come from the whole set, so scores of two sets do
not compare; BLEU-4 is no mean over images at all. CIDEr is 1411.5726, BLEU is ACL 2002.
"""

import functools
import math
import numbers
import operator
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from kitlib.text_metrics import check_texts, text_lists, tokenise

# B images; an n-gram is a tuple of n tokens, 1 <= n <= 4.
ORDERS = (1, 2, 3, 4)


# ---------------------------------------------------------------------------------------------- CIDEr-D


def document_frequency(references, *, split: Callable[[str], list[str]] = tokenise) -> tuple[dict[tuple, int], int]:
    """(counts, images): for every n-gram, the number of images with it in any of their references; and B.

    Compute it once on the full set where scores of a part must compare with those of the whole.
    """
    return _document_frequency([[_ngrams(split(text)) for text in texts] for texts in text_lists(references)])


def cider_d(predictions, references, *, df=None, split: Callable[[str], list[str]] = tokenise) -> np.ndarray:
    """float64[B], CIDEr-D of every image from 0 to 10; the corpus score is their mean.

    The vector of a text has the entries tf * (log images - log max(1, df)) for its n-grams. A prediction gets the
    cosine with each reference, entries above the reference's clipped to it, times exp(-(difference of lengths)^2 / 72);
    this is averaged over n and over references. A prediction equal to its only reference gets 10 if there are n-grams
    of every n and each n has some weight. An n-gram in all images weighs nothing, so a set of one image scores 0.

    Args:
        predictions: B strings.
        references: B lists of strings, at least one each; texts without any token count, and match nothing.
        df: (counts, images) of `document_frequency` for another set; None takes that of these references.
        split: text -> tokens; `str.split` for captions that are tokenised already.
    """
    predictions, references = check_texts(predictions, references, several=True)
    ngrams = [[_ngrams(split(text)) for text in texts] for texts in references]
    counts, images = _document_frequency(ngrams) if df is None else _checked_df(df)

    def vector(of):
        return [
            {gram: tf * (math.log(images) - math.log(max(1, counts.get(gram, 0)))) for gram, tf in level.items()}
            for level in of
        ]

    scores = []
    for prediction, texts in zip(predictions, ngrams, strict=True):
        mine = _ngrams(split(prediction))
        mine_weighted = vector(mine)
        similarities = []
        for theirs in texts:
            cosines = [_clipped_cosine(a, b) for a, b in zip(mine_weighted, vector(theirs), strict=True)]
            # Published scores come from code that compares the numbers of bigrams. Between texts with a token they
            # differ as the numbers of words do, and without one the cosines are 0: the score is the same.
            apart = mine[1].total() - theirs[1].total()
            similarities.append(sum(cosines) / len(ORDERS) * math.exp(-(apart**2) / (2 * 6**2)))
        scores.append(10 * sum(similarities) / len(texts))
    return np.array(scores)


def _ngrams(tokens) -> list[Counter]:
    return [Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for n in ORDERS]


def _document_frequency(ngrams) -> tuple[Counter, int]:
    counts = Counter()
    for texts in ngrams:
        counts.update({gram for levels in texts for level in levels for gram in level})
    return counts, len(ngrams)


def _clipped_cosine(mine: dict, theirs: dict) -> float:
    norms = math.sqrt(sum(v * v for v in mine.values())) * math.sqrt(sum(v * v for v in theirs.values()))
    if norms == 0:
        return 0.0
    return sum(min(v, theirs[gram]) * theirs[gram] for gram, v in mine.items() if gram in theirs) / norms


def _checked_df(df) -> tuple[Mapping, int]:
    counts, images = df if isinstance(df, tuple) and len(df) == 2 else (None, None)
    if not isinstance(counts, Mapping) or not isinstance(images, numbers.Integral):
        raise TypeError(f"df must be the pair (counts, images) of document_frequency, got {type(df).__name__}.")
    most = max(counts.values(), default=0)
    if images < max(1, most):
        got = f"{images} images and a count of {most}"
        raise ValueError(f"No n-gram can be in more images than there are, got {got}; take both from one set.")
    return counts, images


# ---------------------------------------------------------------------------------------------- BLEU-4


def bleu4(predictions, references, *, split: Callable[[str], list[str]] = tokenise) -> float:
    """Corpus BLEU with n-grams up to 4, from 0 to 1.

    The geometric mean of four precisions, each of the n-grams of all predictions together, times exp(1 - r / c) where
    the predictions' c tokens are fewer than r. An n-gram counts at most as often as in the reference that has it most
    often; r sums, over images, the length of the reference closest to the prediction's, the shorter one of two equally
    close. 0 where the set shares no n-gram of some n, also if all predictions are too short for one: nothing is
    smoothed, so it needs a set and not a sentence.

    Args:
        predictions: B strings.
        references: B lists of strings, at least one each.
        split: text -> tokens; `str.split` for captions that are tokenised already.
    """
    hits, written = np.zeros(len(ORDERS)), np.zeros(len(ORDERS))
    length = wanted = 0
    for prediction, texts in zip(*check_texts(predictions, references, several=True), strict=True):
        tokens, others = split(prediction), [split(text) for text in texts]
        mine, theirs = _ngrams(tokens), [_ngrams(other) for other in others]
        length += len(tokens)
        wanted += min((abs(len(other) - len(tokens)), len(other)) for other in others)[1]
        for i in range(len(ORDERS)):
            most = functools.reduce(operator.or_, (levels[i] for levels in theirs))
            hits[i] += (mine[i] & most).total()
            written[i] += mine[i].total()
    if not hits.all():
        return 0.0
    return float(min(1.0, math.exp(1 - wanted / length)) * np.exp(np.mean(np.log(hits / written))))
