"""What all measures of text stand on: tokens, checks, log-probabilities of sequences, and the gap between groups.

    tokenise("The man's T-shirt, 50%!")                         # ["the", "man", "'s", "t-shirt", "50"]
    log_prob, per_token = sequence_log_prob(logits, targets, valid)
    gap, low, high = parity_gap(scores, groups)

`caption_metrics` and `answer_metrics` score texts against references. Everything is Python and numpy in float64.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Set

import numpy as np
from scipy import special

# B examples, T tokens of a text, V vocabulary.

# Scripts that put no space between words, by the first words of their characters' Unicode names. Korean has spaces.
UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

# Over the kinds of `_kind`, not over text: a character of an unspaced script with its marks, or a word with - and '
# inside it and with . and , between digits.
_TOKEN = re.compile(r"cm*|[adm](?:[adm]|[-'](?=[adm])|(?<=d)[.,](?=d))*")
_CLITIC = re.compile(r"(.+)(n't|'(?:s|re|ve|ll|d|m))")


def tokenise(caption: str) -> list[str]:
    """Lower-cased tokens without punctuation, near to what pycocoevalcap counts (Penn Treebank, then punctuation off).

    Text is normalised first (Unicode NFKC: full-width forms, ligatures). Words keep inner hyphens (t-shirt) and numbers
    their stops and commas (3.5); clitics are tokens (do n't, man 's). Symbols ($, %, &, emoji) are dropped, which the
    original keeps, and abbreviations lose their stops (u s). In scripts without spaces (Chinese, Japanese, Thai, Lao,
    Khmer, Burmese) a word cannot be told without a dictionary: there, every character with its marks is a token.
    """
    if not isinstance(caption, str):
        raise TypeError(f"A caption must be a string, got {type(caption).__name__}; of a list, tokenise each.")
    text = unicodedata.normalize("NFKC", caption).lower().replace("\u2019", "'")
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")  # joiners, soft hyphens: invisible
    # `re` knows no Unicode categories, and its \w would cut words at the vowel signs of Hindi or Tamil.
    kinds = "".join(map(_kind, text))
    tokens = []
    for word in (text[found.start() : found.end()] for found in _TOKEN.finditer(kinds)):
        clitic = _CLITIC.fullmatch(word)
        tokens += clitic.groups() if clitic else [word]
    return tokens


@functools.cache
def _kind(char: str) -> str:
    """m a mark, c a character of an unspaced script, d a digit, a another letter, one of -'., itself, else a space."""
    category = unicodedata.category(char)
    if category[0] == "M":
        return "m"
    if category == "Nd":
        return "d"
    if category[0] in "LN":
        return "c" if unicodedata.name(char, "").startswith(UNSPACED) else "a"
    return char if char in "-'.," else " "


# ---------------------------------------------------------------------------------------------- checks


def check_texts(predictions, references, *, several: bool) -> tuple[list[str], list]:
    """(predictions, references) as lists of one length, at least 1: B strings, and B strings or B lists of strings.

    Args:
        several: whether an item has a list of references (captions, VQA) or one string (ChartQA, AI2D).

    Raises:
        TypeError: a string in place of a list, a dict or set in place of a list, something else in place of a string.
        ValueError: empty lists, or lengths that differ.
    """
    predictions = _texts("predictions", predictions)
    references = text_lists(references) if several else _texts("references", references)
    if len(predictions) != len(references):
        got = f"{len(predictions)} predictions and {len(references)} references"
        raise ValueError(f"Expected one item of references for every prediction, got {got}.")
    return predictions, references


def text_lists(values) -> list[list[str]]:
    """References as a list of lists of strings, or refused as in `check_texts`."""
    return [_texts(f"references[{i}]", texts) for i, texts in enumerate(_listed("references", values))]


def _texts(name: str, values) -> list[str]:
    values = _listed(name, values)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{name}[{i}] must be a string, got {type(value).__name__}.")
    return values


def _listed(name: str, values) -> list:
    if isinstance(values, str | bytes):
        raise TypeError(f"{name} must be a list, got the string {values[:40]!r}; write [{values[:40]!r}] for one text.")
    if isinstance(values, Mapping | Set) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, in one order for both arguments, got {type(values).__name__}.")
    values = list(values)
    if not values:
        raise ValueError(f"{name} is empty, expected at least one text.")
    return values


# ---------------------------------------------------------------------------------------------- probability, fairness


def sequence_log_prob(logits, targets, valid) -> tuple[np.ndarray, np.ndarray]:
    """(sum, mean) over the valid tokens of log p(target), float64[B] each, in nats; exp(-mean) is the perplexity.

    Every token lowers the sum, so it favours short texts, which the mean does not: say which one you rank or calibrate
    by.

    Args:
        logits: float[B, T, V]; logits[:, t] predict targets[:, t], so nothing is shifted here. -inf forbids a token.
        targets: int[B, T], anything at padding.
        valid: bool[B, T], False at padding, True at least once in a row.
    """
    logits, targets, valid = np.asarray(logits, np.float64), np.asarray(targets), np.asarray(valid)
    if logits.ndim != 3 or not logits.size or targets.shape != logits.shape[:2] or valid.shape != targets.shape:
        got = f"{logits.shape}, {targets.shape} and {valid.shape}"
        raise ValueError(f"Expected logits [B, T, V], targets [B, T] and valid [B, T], none empty, got {got}.")
    if not np.issubdtype(targets.dtype, np.integer) or valid.dtype != bool:
        raise TypeError(f"Expected integer targets and a bool mask, got {targets.dtype} and {valid.dtype}.")
    largest = logits.max(axis=-1)  # NaN if any is
    if bad := np.sum(~np.isfinite(largest)):
        raise ValueError(f"Logits must not be NaN, inf or all -inf, got {bad} of {largest.size} positions with such.")
    if not valid.any(axis=1).all():
        raise ValueError(f"Every text needs a valid token, got none in row {valid.any(axis=1).argmin()}.")
    used = np.where(valid, targets, 0)
    if used.min() < 0 or used.max() >= logits.shape[-1]:
        raise ValueError(f"Valid targets must be in [0, {logits.shape[-1]}), got {used.min()} to {used.max()}.")
    chosen = np.take_along_axis(logits, used[..., None], axis=-1)[..., 0] - special.logsumexp(logits, axis=-1)
    total = np.where(valid, chosen, 0.0).sum(axis=1)
    return total, total / valid.sum(axis=1)


def parity_gap(values, groups, *, resamples=10_000, confidence=0.95, seed=0) -> tuple[float, float, float]:
    """(gap, low, high): the largest less the smallest group mean, with a percentile interval.

    Resampled within each group, as `metrics.bootstrap` does for one. A gap is never negative, and noise alone makes it
    positive, the more so the more groups there are and the smaller they are: the interval says how large the gap is,
    not whether there is one. For that, compare with the gaps of shuffled groups.

    Args:
        values: float[N], one an example: right or wrong, a score, P(yes).
        groups: N names or integers; at least 2 groups with at least 2 examples each.
    """
    values, groups = np.asarray(values, np.float64), np.asarray(groups)
    if values.ndim != 1 or groups.shape != values.shape:
        raise ValueError(f"Expected values [N] and groups [N], got shapes {values.shape} and {groups.shape}.")
    if bad := np.sum(~np.isfinite(values)):
        raise ValueError(f"Values must be finite, got {bad} NaN or infinite values of {values.size}.")
    if groups.dtype.kind not in "biuU" and not all(isinstance(group, str) for group in groups):
        raise TypeError(f"Groups must be names or integers, got {groups.dtype}; is one missing?")
    names, index, count = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2 or count.min() < 2:
        got = ", ".join(f"{name}: {n}" for name, n in zip(names, count, strict=True))
        raise ValueError(f"A gap needs 2 groups or more with 2 examples or more each, got {got or 'none'}.")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"Expected resamples >= 1, confidence in (0, 1), got {resamples} and {confidence}.")
    rng = np.random.default_rng(seed)
    means, drawn = [], []
    for group in range(len(names)):
        own = values[index == group]
        means.append(own.mean())
        drawn.append(own[rng.integers(len(own), size=(resamples, len(own)))].mean(axis=1))
    low, high = np.quantile(np.ptp(drawn, axis=0), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.ptp(means)), float(low), float(high)
