"""How good answers are: visual question answering by the rules of each benchmark.

    scores = vqa_accuracy(predictions, references)     # float64[B], one score a question, 0 to 1
    mean, low, high = metrics.bootstrap(scores)        # papers print 100 * mean

Predictions are B strings. References are B lists of strings where people may differ (VQA, ANLS, F1, WUPS), else B
strings. Nothing is lower-cased or stripped unless a function says so: published codes differ in just that.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from kitlib.text_metrics import check_texts, tokenise

# B examples.

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(NUMBERS.split())}
VQA_DIGITS = {word: digit for word, digit in DIGITS.items() if int(digit) <= 10}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # of VQA; the apostrophe and the full stop are cases of their own
# Left out are those that are words without their apostrophe: its, were, well, hell, shell, ill, id, shed, wed.
CONTRACTED = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't shan't "
    "shouldn't wasn't weren't won't wouldn't i'm i've you're you've you'll you'd he's he'd she's it'll it'd we've "
    "they're they've they'll they'd that's that'll that'd there's there'd here's what's what're what'll what've "
    "where's where'd who's who'll who'd who've how's how'd when's let's could've should've would've might've must've "
    "y'all ma'am o'clock"
)
CONTRACTIONS = {word.replace("'", ""): word for word in CONTRACTED.split()}
# A short list of our own, not NExT-QA's.
STOPPED = (
    "a an the and or of to in on at by for with from into as is are was were be been being do does did has have had it "
    "its he him his she her they them their this that these those"
)
STOP_WORDS = frozenset(STOPPED.split())
# Endings of nouns and verbs and what takes their place, tried in this order.
ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))


# ---------------------------------------------------------------------------------------------- VQA


def vqa_accuracy(predictions, references) -> np.ndarray:
    """float64[B], VQA accuracy: mean over annotators of min(1, how many of the others gave the prediction / 3).

    With 10 annotators of whom k agree with it, that is 0, 0.3, 0.6, 0.9 and 1 for k = 0, 1, 2, 3 and more.
    Answers and prediction go through `normalise_answer`, except where all answers are equal: then only line breaks,
    tabs and outer spaces go, and a prediction "yes" misses ten times "Yes".

    Args:
        predictions: B strings.
        references: B lists of at least 4 answers, VQA has 10; with fewer, nothing could reach 1.
    """
    predictions, references = _annotated(predictions, references, 4)
    scores = []
    for prediction, answers in zip(predictions, references, strict=True):
        prediction, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
        if len(set(answers)) > 1:
            prediction, answers = normalise_answer(prediction), [normalise_answer(answer) for answer in answers]
        n, k = len(answers), answers.count(prediction)
        # The k who agree see k - 1 like them among the others, the rest see k.
        scores.append((k * min(1, (k - 1) / 3) + (n - k) * min(1, k / 3)) / n)
    return np.array(scores)


def soft_accuracy(predictions, references) -> np.ndarray:
    """float64[B], min(1, answers equal to the prediction / 3), the variant of OK-VQA and A-OKVQA in big_vision.

    No annotator is left out and texts are compared as they are; map `normalise_answer` over them first if you like.
    References are B lists of at least 3 answers.
    """
    predictions, references = _annotated(predictions, references, 3)
    return np.array([min(1.0, r.count(p) / 3) for p, r in zip(predictions, references, strict=True)])


def normalise_answer(text: str) -> str:
    """The text as VQA's evaluation compares it: lower-cased, no punctuation or articles, digits, full contractions.

    A punctuation mark is replaced by a space, or goes without one if a space is next to it anywhere in the text or if
    the text has a number like 1,000. A full stop stays before a digit only. None and zero to ten become digits; "dont"
    becomes "don't".
    """
    text = _one_line(text)
    has_thousands = re.search(r"\d,\d", text)
    original = text  # all marks are judged by it, or their order would matter
    for mark in PUNCTUATION:
        bare = has_thousands or f"{mark} " in original or f" {mark}" in original
        text = text.replace(mark, "" if bare else " ")
    words = re.sub(r"\.(?!\d)", "", text).lower().split()
    words = [VQA_DIGITS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _annotated(predictions, references, at_least):
    predictions, references = check_texts(predictions, references, several=True)
    for i, answers in enumerate(references):
        if len(answers) < at_least:
            got = f"{len(answers)} in references[{i}]"
            raise ValueError(
                f"Expected {at_least} answers a question or more (VQA has 10), got {got}; see exact_match."
            )
    return predictions, references


# ---------------------------------------------------------------------------------------------- text in pictures


def anls(predictions, references) -> np.ndarray:
    """float64[B], normalised Levenshtein similarity: ANLS of DocVQA, InfoVQA, ST-VQA (1907.00490).

    Per question the best over its answers of 1 - d, d = edit distance / length of the longer text, or 0 unless d < 0.5.
    An empty answer wants an empty prediction. Lower-case both first, where your benchmark does.
    """
    predictions, references = check_texts(predictions, references, several=True)
    best = np.array([max(similarity(p, a) for a in r) for p, r in zip(predictions, references, strict=True)])
    return np.where(best > 0.5, best, 0.0)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the fewest characters to insert, delete or replace to make b of a."""
    above = list(range(len(b) + 1))  # distances of a[:i - 1] to every b[:j]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]


def similarity(a: str, b: str) -> float:
    """The share of letters that agree: 1 - edit distance / length of the longer text; of two empty texts 1."""
    return 1 - edit_distance(a, b) / max(len(a), len(b), 1)


def relaxed_accuracy(predictions, references, *, lower: bool = False) -> np.ndarray:
    """float64[B] of 0 and 1, ChartQA: numbers within 5 % of the reference, other texts equal (2203.10244).

    "50%" is 0.5, so "50" misses it by a factor of 100. A reference of 0 wants the same text. Numbers are what Python's
    float reads; "1,000", nan and inf are compared as texts. In float arithmetic, as published: 1.05 misses 1, whose
    distance rounds to above 0.05. ChartQA's number is the mean of its human and its augmented half.

    Args:
        predictions: B strings.
        references: B strings.
        lower: compare lower-cased texts, as Pix2Struct does and big_vision does not.
    """
    predictions, references = check_texts(predictions, references, several=False)
    if lower:
        predictions, references = [p.lower() for p in predictions], [r.lower() for r in references]
    return np.array([_relaxed(p, r) for p, r in zip(predictions, references, strict=True)], np.float64)


def exact_match(predictions, references) -> np.ndarray:
    """float64[B] of 0 and 1: the lower-cased texts are equal (OCR-VQA, AI2D). References are B strings."""
    predictions, references = check_texts(predictions, references, several=False)
    return np.array([p.lower() == r.lower() for p, r in zip(predictions, references, strict=True)], np.float64)


def count_match(predictions, references) -> np.ndarray:
    """float64[B] of 0 and 1, TallyQA: equal texts, once none and zero to twenty are digits.

    References are B strings, counts as text. TallyQA's simple and complex questions are reported apart.
    """
    predictions, references = check_texts(predictions, references, several=False)
    pairs = zip(predictions, references, strict=True)
    return np.array([DIGITS.get(p.lower(), p) == DIGITS.get(r.lower(), r) for p, r in pairs], np.float64)


def token_f1(predictions, references) -> np.ndarray:
    """float64[B], 2PR / (P + R) of the tokens that prediction and reference share, best over references.

    Tokens are those of `text_metrics.tokenise` without English articles, counted as often as they occur. A text
    without tokens matches only another such text, with 1.
    """
    predictions, references = check_texts(predictions, references, several=True)
    return np.array([max(_f1(p, text) for text in r) for p, r in zip(predictions, references, strict=True)])


def _relaxed(prediction: str, reference: str) -> bool:
    p, r = _number(prediction), _number(reference)
    if p is None or not r:  # no number, or the reference is 0
        return prediction == reference
    return abs(p - r) / abs(r) <= 0.05


def _number(text: str) -> float | None:
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _f1(prediction: str, reference: str) -> float:
    mine, theirs = (Counter(t for t in tokenise(x) if t not in ARTICLES) for x in (prediction, reference))
    total = mine.total() + theirs.total()
    # P = shared / mine and R = shared / theirs, so 2PR / (P + R) = 2 shared / (mine + theirs).
    return 2 * (mine & theirs).total() / total if total else 1.0


# ---------------------------------------------------------------------------------------------- WUPS


def wups(
    predictions,
    references,
    taxonomy: Mapping[str, tuple],
    *,
    alpha: float = 0.0,
    stop_words: Collection[str] = STOP_WORDS,
) -> np.ndarray:
    """float64[B], Wu-Palmer similarity of sets of words, as NExT-QA's open questions use it.

    w(A, B) multiplies, over the words of A, the similarity to the nearest word of B; a word that is like none of B is
    skipped, and 0 results if all are. The score is the smaller one of w(A, B) and w(B, A), the best over references.
    So a prediction is not punished for words that the taxonomy lacks. Yes/no and counting questions take `exact_match`.

    Args:
        predictions: B strings.
        references: B lists of strings.
        taxonomy: word -> hypernyms from the root to the word's first synset, both included. Irregular forms ("men")
            are words with the path of their lemma; regular endings are taken off where that leaves a word.
        alpha: similarities below it count a tenth; 0 (reported by NExT-QA) or 0.9, as a rule.
        stop_words: left out, before or after endings are taken off. Numbers compare with papers only with their list.
    """
    predictions, references = check_texts(predictions, references, several=True)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}.")
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
    """2 depth(last common hypernym) / (depth(a) + depth(b)), depths counted in nodes, the root's is 1 (ACL 1994).

    Equal words have 1 even outside the taxonomy, else a word outside it has 0, as have words under different roots.
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
    nearest = [max((_thresholded(wu_palmer(a, b, taxonomy), alpha) for b in others), default=0.0) for a in words]
    known = [similarity for similarity in nearest if similarity > 0]
    return math.prod(known) if known else 0.0


def _thresholded(similarity: float, alpha: float) -> float:
    return similarity if similarity >= alpha else 0.1 * similarity


def _lemma(word: str, taxonomy) -> str:
    if word in taxonomy:
        return word
    for ending, new in ENDINGS:
        stem = word.removesuffix(ending)
        # Two letters are rarely a word's stem: "bus" is no plural.
        if len(stem) > 2 and stem != word and stem + new in taxonomy:
            return stem + new
    return word
