"""Scores of texts: captions (CIDEr-D) and answers to questions about images (VQA accuracy, ANLS, exact match, WUPS).

    tokenise("The man's T-shirt, 50%!")                # ["the", "man", "'s", "t-shirt", "50"]
    scores = cider_d(predictions, references)          # float64[B], 0 to 10; papers print 100 * scores.mean()
    scores = vqa_accuracy(predictions, references)     # float64[B], one score per question, from 0 to 1
    mean, low, high = metrics.bootstrap(scores)        # papers print 100 * mean

Predictions are B strings. References are B lists of strings where people may differ (captions, VQA, ANLS, WUPS),
otherwise B strings. Text is not lower-cased or stripped unless a function says so: published implementations differ in
just that. CIDEr-D is a score per image, but its weights come from the whole set of references, so scores on different
sets are not comparable.
"""

import functools
import math
import numbers
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Set

import numpy as np
from rapidfuzz.distance import Levenshtein

from kitlib.configs.arguments import number

# B images or examples; an n-gram is a tuple of n tokens, 1 <= n <= 4.

# ---------------------------------------------------------------------------------------------- tokens

# Scripts that put no space between words, by the first words of their characters' Unicode names. Korean has spaces.
UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

# Matched against the kinds from `_kind`, not against the text: a character of an unspaced script with its marks, or a
# word, which may have - and ' inside it, and . and , between digits.
_TOKEN = re.compile(r"cm*|[adm](?:[adm]|[-'](?=[adm])|(?<=d)[.,](?=d))*")
_CLITIC = re.compile(r"(.+)(n't|'(?:s|re|ve|ll|d|m))")


def tokenise(caption: str) -> list[str]:
    """Lower-cased tokens without punctuation, close to pycocoevalcap's (Penn Treebank, then punctuation removed).

    Text is normalised first (Unicode NFKC). Words keep inner hyphens (t-shirt) and numbers their points and commas
    (3.5); clitics are tokens (do n't, man 's). Unlike in the original, symbols ($, %, &, emoji) are dropped and
    abbreviations lose their full stops (u s). In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese)
    every character with its marks is a token.
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
    """(predictions, references) as lists of equal length B >= 1: B strings, and B strings or, if `several`, B lists.

    Raises TypeError for a string, dict or set in place of a list, or anything else in place of a string; ValueError for
    empty lists, or lists of different lengths.
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


# ---------------------------------------------------------------------------------------------- captions

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

    def weight(gram):
        return math.log(images) - math.log(max(1, counts.get(gram, 0)))

    def vector(of):
        return [{gram: tf * weight(gram) for gram, tf in level.items()} for level in of]

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


# ---------------------------------------------------------------------------------------------- VQA

NUMBERS = "zero one two three four five six seven eight nine ten"
VQA_DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(NUMBERS.split())}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # of VQA; apostrophe and full stop are handled separately
# Contractions that are words without an apostrophe too are left out: its, were, well, hell, shell, ill, id, shed, wed.
CONTRACTED = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't shan't "
    "shouldn't wasn't weren't won't wouldn't i'm i've you're you've you'll you'd he's he'd she's it'll it'd we've "
    "they're they've they'll they'd that's that'll that'd there's there'd here's what's what're what'll what've "
    "where's where'd who's who'll who'd who've how's how'd when's let's could've should've would've might've must've "
    "y'all ma'am o'clock"
)
CONTRACTIONS = {word.replace("'", ""): word for word in CONTRACTED.split()}
# A short list of the kit's own, not NExT-QA's.
STOPPED = (
    "a an the and or of to in on at by for with from into as is are was were be been being do does did has have had it "
    "its he him his she her they them their this that these those"
)
STOP_WORDS = frozenset(STOPPED.split())
# Endings of nouns and verbs with their replacements, tried in this order.
ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))


def vqa_accuracy(predictions, references) -> np.ndarray:
    """float64[B], VQA accuracy: the mean over annotators of min(1, number of others who gave the prediction / 3).

    With 10 annotators, k of whom gave the predicted answer, it is 0, 0.3, 0.6, 0.9 for k = 0, 1, 2, 3 and 1 for larger
    k. Answers and prediction are normalised by `normalise_answer`, unless all answers are equal. In that case only line
    breaks, tabs and outer spaces are removed, so that the prediction "yes" scores 0 against ten answers "Yes".

    Args:
        predictions: B strings.
        references: B lists of at least 4 answers (VQA has 10); with fewer, no prediction could score 1.
    """
    predictions, references = check_texts(predictions, references, several=True)
    if (fewest := min(map(len, references))) < 4:
        got = f"{fewest} in references[{[*map(len, references)].index(fewest)}]"
        raise ValueError(f"Expected 4 answers a question or more (VQA has 10), got {got}; see exact_match.")
    scores = []
    for prediction, answers in zip(predictions, references, strict=True):
        prediction, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
        if len(set(answers)) > 1:
            prediction, answers = normalise_answer(prediction), [normalise_answer(answer) for answer in answers]
        n, k = len(answers), answers.count(prediction)
        # For each of the k annotators who agree, k - 1 others gave the prediction; for each of the rest, k others.
        scores.append((k * min(1, (k - 1) / 3) + (n - k) * min(1, k / 3)) / n)
    return np.array(scores)


def normalise_answer(text: str) -> str:
    """The text as VQA's evaluation compares it: lower-cased, no punctuation or articles, digits, full contractions.

    A punctuation mark is replaced by a space. It is removed without a space if the same mark is next to a space
    anywhere in the text, or if the text has a number such as 1,000. A full stop is kept only before a digit. "None" and
    "zero" to "ten" become digits; "dont" becomes "don't".
    """
    text = _one_line(text)
    has_thousands = re.search(r"\d,\d", text)
    original = text  # spaces are looked up here; otherwise the order of the marks would matter
    for mark in PUNCTUATION:
        bare = has_thousands or f"{mark} " in original or f" {mark}" in original
        text = text.replace(mark, "" if bare else " ")
    words = re.sub(r"\.(?!\d)", "", text).lower().split()
    words = [VQA_DIGITS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


# ---------------------------------------------------------------------------------------------- text in images


def anls(predictions, references) -> np.ndarray:
    """float64[B], normalised Levenshtein similarity; its mean is the ANLS of DocVQA, InfoVQA, ST-VQA (1907.00490).

    For each question it is the best 1 - d over the answers, with d = edit distance / length of the longer text, and 0
    unless d < 0.5. An empty answer is matched only by an empty prediction. Lower-case both if your benchmark does.
    """
    predictions, references = check_texts(predictions, references, several=True)
    best = np.array([max(similarity(p, a) for a in r) for p, r in zip(predictions, references, strict=True)])
    return np.where(best > 0.5, best, 0.0)


def similarity(a: str, b: str) -> float:
    """1 - edit (Levenshtein) distance / length of the longer text, from 0 to 1; two empty texts have similarity 1."""
    return Levenshtein.normalized_similarity(a, b)


def exact_match(predictions, references) -> np.ndarray:
    """float64[B], 1 where the lower-cased texts are equal, otherwise 0 (OCR-VQA, AI2D). References are B strings."""
    predictions, references = check_texts(predictions, references, several=False)
    return np.array([p.lower() == r.lower() for p, r in zip(predictions, references, strict=True)], np.float64)


# ---------------------------------------------------------------------------------------------- WUPS


def wups(
    predictions,
    references,
    taxonomy: Mapping[str, tuple],
    *,
    alpha: float = 0.0,
    stop_words: Collection[str] = STOP_WORDS,
) -> np.ndarray:
    """float64[B], Wu-Palmer similarity of sets of words, as NExT-QA uses it for open questions.

    w(A, B) is the product, over the words of A, of the similarity to the nearest word of B. Words of A with similarity
    0 to all words of B are skipped; if all are skipped, w(A, B) is 0. The score is the smaller of w(A, B) and w(B, A),
    and the best over the references. Words that the taxonomy lacks thus do not lower the score. For yes/no and counting
    questions, use `exact_match`.

    Args:
        predictions: B strings.
        references: B lists of strings.
        taxonomy: word -> hypernyms from the root to the word's first synset, both included. Irregular forms ("men")
            are entries with the path of their lemma; regular endings are removed if what remains is in the taxonomy.
        alpha: similarities below it are divided by 10; usually 0 (reported by NExT-QA) or 0.9.
        stop_words: ignored, with or without their endings. Scores compare with a paper's only if its list is used.
    """
    predictions, references = check_texts(predictions, references, several=True)
    number("alpha", alpha, 0.0, 1.0)
    if isinstance(stop_words, str):
        raise TypeError(f"stop_words must be a set of strings, got the string {stop_words[:40]!r}; split it.")
    for word, path in taxonomy.items():
        if not isinstance(path, tuple | list) or not path:
            raise TypeError(f"The taxonomy must give a tuple from the root to the word, got {path!r} for {word!r}.")

    def words(text):
        pairs = [(token, _lemma(token, taxonomy)) for token in tokenise(text)]
        return [lemma for token, lemma in pairs if token not in stop_words and lemma not in stop_words]

    def score(a, b):
        return min(_product(a, b, taxonomy, alpha), _product(b, a, taxonomy, alpha))

    pairs = zip(predictions, references, strict=True)
    return np.array([max(score(words(p), words(reference)) for reference in r) for p, r in pairs])


def wu_palmer(a: str, b: str, taxonomy: Mapping[str, tuple]) -> float:
    """2 depth(last common hypernym) / (depth(a) + depth(b)); depths count nodes, so the root has depth 1 (ACL 1994).

    Equal words have similarity 1, even outside the taxonomy. Otherwise the similarity is 0 if a word is outside the
    taxonomy or if the words are under different roots.
    """
    if a == b:
        return 1.0
    if a not in taxonomy or b not in taxonomy:
        return 0.0
    one, other = taxonomy[a], taxonomy[b]
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return 2 * shared / (len(one) + len(other))


def _product(words, others, taxonomy, alpha) -> float:
    def similarity(a, b):
        found = wu_palmer(a, b, taxonomy)
        return found if found >= alpha else 0.1 * found

    nearest = [max((similarity(a, b) for b in others), default=0.0) for a in words]
    known = [value for value in nearest if value > 0]
    return math.prod(known) if known else 0.0


def _lemma(word: str, taxonomy) -> str:
    if word in taxonomy:
        return word
    for ending, new in ENDINGS:
        stem = word.removesuffix(ending)
        # A stem rarely has only two letters: "bus" is not a plural.
        if len(stem) > 2 and stem != word and stem + new in taxonomy:
            return stem + new
    return word
