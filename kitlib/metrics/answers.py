"""Scores of answers to questions about images, by the rules of each benchmark.

    scores = vqa_accuracy(predictions, references)     # float64[B], one score per question, from 0 to 1
    mean, low, high = metrics.bootstrap(scores)        # papers print 100 * mean

Predictions are B strings. References are B lists of strings where people may differ (VQA, ANLS, WUPS), otherwise B
strings. Text is not lower-cased or stripped unless a function says so: published implementations differ in just that.
"""

import math
import re
from collections.abc import Collection, Mapping

import numpy as np
from rapidfuzz.distance import Levenshtein

from kitlib.configs.arguments import number
from kitlib.metrics.tokens import check_texts, tokenise

# B examples.

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


# ---------------------------------------------------------------------------------------------- VQA


def vqa_accuracy(predictions, references) -> np.ndarray:
    """float64[B], VQA accuracy: the mean over annotators of min(1, number of others who gave the prediction / 3).

    With 10 annotators, k of whom gave the predicted answer, it is 0, 0.3, 0.6, 0.9 for k = 0, 1, 2, 3 and 1 for larger
    k. Answers and prediction are normalised by `normalise_answer`, unless all answers are equal. In that case only line
    breaks, tabs and outer spaces are removed, so that the prediction "yes" scores 0 against ten answers "Yes".

    Args:
        predictions: B strings.
        references: B lists of at least 4 answers (VQA has 10); with fewer, no prediction could score 1.
    """
    predictions, references = _annotated(predictions, references, 4)
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


def _annotated(predictions, references, at_least):
    predictions, references = check_texts(predictions, references, several=True)
    for i, answers in enumerate(references):
        if len(answers) < at_least:
            got = f"{len(answers)} in references[{i}]"
            raise ValueError(
                f"Expected {at_least} answers a question or more (VQA has 10), got {got}; see exact_match."
            )
    return predictions, references


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
    """1 - edit distance / length of the longer text, from 0 to 1; two empty texts have similarity 1.

    The edit (Levenshtein) distance is the smallest number of characters to insert, delete or replace.
    """
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
        # A stem rarely has only two letters: "bus" is not a plural.
        if len(stem) > 2 and stem != word and stem + new in taxonomy:
            return stem + new
    return word
