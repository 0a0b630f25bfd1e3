"""CIDEr-D (1411.5726): how close captions come to those that people wrote.

    scores = cider_d(predictions, references)     # float64[B], 0 to 10; papers print 100 * scores.mean()

Predictions are B strings and references B lists of at least one string each, in the same order; both are split into
tokens by `tokens.tokenise`. CIDEr-D is a score per image, but its weights come from the whole set of references, so
scores on different sets are not comparable.
"""

import math
import numbers
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from kitlib.metrics.tokens import check_texts, text_lists, tokenise

# B images; an n-gram is a tuple of n tokens, 1 <= n <= 4.
ORDERS = (1, 2, 3, 4)


def document_frequency(references, *, split: Callable[[str], list[str]] = tokenise) -> tuple[dict[tuple, int], int]:
    """(counts, images): for each n-gram, the number of images with it in at least one reference; and B.

    Compute it once on the full set if scores on a part must be comparable with scores on the whole.
    """
    return _document_frequency([[_ngrams(split(text)) for text in texts] for texts in text_lists(references)])


def cider_d(predictions, references, *, df=None, split: Callable[[str], list[str]] = tokenise) -> np.ndarray:
    """float64[B], CIDEr-D of each image, from 0 to 10; the score of the corpus is their mean.

    The vector of a text has an entry tf * (log images - log max(1, df)) for each of its n-grams. A prediction and a
    reference are compared by the cosine of their vectors, in whose dot product the prediction's entries are clipped to
    the reference's, times exp(-(difference of lengths)^2 / 72); this is averaged over n and over references. A
    prediction equal to its only reference gets 10 if, for every n, it has an n-gram with a weight above 0. An n-gram
    that occurs in all images has weight 0, so a set of one image scores 0.

    Args:
        predictions: B strings.
        references: B lists of strings, at least one each; texts without tokens match nothing, but count in the mean.
        df: (counts, images) from `document_frequency` of another set; None: computed from these references.
        split: text -> tokens; `str.split` for captions that are already tokenised.
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
            # The code behind published scores compares numbers of bigrams, not of words. The differences are equal if
            # both texts have tokens; if one has none, its cosines are 0. The score is the same either way.
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
    return counts, int(images)
