"""The basis of all metrics of text: tokens, and checks of predictions and references.

    tokenise("The man's T-shirt, 50%!")                         # ["the", "man", "'s", "t-shirt", "50"]

`captions` and `answers` score texts against references.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Set

# Scripts that put no space between words, by the first words of their characters' Unicode names. Korean has spaces.
UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

# Matched against the kinds from `_kind`, not against the text: a character of an unspaced script with its marks, or a
# word, which may have - and ' inside it, and . and , between digits.
_TOKEN = re.compile(r"cm*|[adm](?:[adm]|[-'](?=[adm])|(?<=d)[.,](?=d))*")
_CLITIC = re.compile(r"(.+)(n't|'(?:s|re|ve|ll|d|m))")


def tokenise(caption: str) -> list[str]:
    """Lower-cased tokens without punctuation, close to pycocoevalcap's (Penn Treebank, then punctuation removed).

    Text is normalised first (Unicode NFKC: full-width forms, ligatures). Words keep inner hyphens (t-shirt) and numbers
    their points and commas (3.5); clitics are tokens (do n't, man 's). Unlike in the original, symbols ($, %, &, emoji)
    are dropped and abbreviations lose their full stops (u s). In scripts without spaces (Chinese, Japanese, Thai, Lao,
    Khmer, Burmese), finding words takes a dictionary, so every character with its marks is a token.
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
    """m: mark, c: character of an unspaced script, d: digit, a: other letter, -'., themselves; a space for the rest."""
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
    """(predictions, references) as lists of equal length B >= 1: B strings, and B strings or B lists of strings.

    Args:
        several: whether each item has a list of references (captions, VQA) or one string (OCR-VQA, AI2D).

    Raises:
        TypeError: for a string, dict or set in place of a list, or anything else in place of a string.
        ValueError: for empty lists, or lists of different lengths.
    """
    predictions = _texts("predictions", predictions)
    references = text_lists(references) if several else _texts("references", references)
    if len(predictions) != len(references):
        got = f"{len(predictions)} predictions and {len(references)} references"
        raise ValueError(f"Expected one item of references for every prediction, got {got}.")
    return predictions, references


def text_lists(values) -> list[list[str]]:
    """References as a list of lists of strings; raises the same errors as `check_texts`."""
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
