"""Statistics: what a few paired seeds say about two arms, and five verdicts that can be trusted.

    gain = compare(upcycled_losses, dense_losses, higher=False, margin=0.01)   # one comparison
    upcycled, deeper = judge([gain, another])                                  # all that are asked of one table

A comparison of two arms over the same seeds is a list of gains, one per seed: their mean has a t-interval, and two null
hypotheses: that there is *no difference*, and that there is a difference *of at least the margin*, below which it would
not matter (set without looking at it). A table answers many questions at once, so `judge` corrects for their number
(`holm`): the probability that any verdict of the family is wrong is at most 5 %. The verdicts:

    seen                                the arm is better
    reversed                            it is worse
    no difference above 0.01            shown: whatever difference there is, it is smaller than the margin
    undecided (needs about 12 seeds)    neither was shown; so many would do it, if the gain measured here were true
    floor                               neither arm is above chance (or the control): nothing can be compared

Beside an interval stands the *detectable effect*: a true gain of this size is found in 80 % of such experiments. Where
it is larger than the effect one hopes for, "undecided" was to be expected.

Sources: two one-sided tests for equivalence, Schuirmann 1987; step-down correction, Holm 1979, with pairs of hypotheses
that exclude each other, Shaffer 1986. Built in notebooks/02_train_and_measure.ipynb.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kitlib.metrics.intervals import t_interval

LEVEL = 0.05  # of false verdicts
POWER = 0.8
MOST_SEEDS = 1_000  # beyond, nobody will run them


@dataclass(frozen=True)
class Comparison:
    """One arm against another, over n pairs. A gain is positive where the first arm is better."""

    mean: float
    low: float  # 95 % t-interval of the mean gain
    high: float
    spread: float  # standard deviation of the gains
    n: int
    margin: float | None  # a difference below it would not matter
    p_difference: float  # of "no difference", two-sided
    p_margin: float | None  # of "a difference of at least the margin", from two one-sided tests
    at_floor: bool  # neither arm is above chance

    @property
    def detectable(self) -> float:
        """The true gain that would be found in 80 % of such experiments, were this the only question."""
        return detectable_effect(self.spread, self.n)


@dataclass(frozen=True)
class Verdict:
    """A comparison, judged among all of its family."""

    gain: Comparison
    p: float  # of the null hypothesis that the verdict rejects, corrected; of "no difference", if none is rejected
    word: str  # as listed above

    @property
    def seen(self) -> bool:
        return self.word == "seen"


def compare(
    a: Sequence[float],
    b: Sequence[float],
    *,
    higher: bool = True,
    margin: float | None = None,
    floor: float | Sequence[float] | None = None,
) -> Comparison:
    """The gain of arm `a` over arm `b`: one number per seed each, of the same seeds in the same order.

    higher: whether a higher number is the better one; for a loss, False.
    floor: chance, as one number, or a control's result per seed; None: there is none.

    Raises ValueError if the sequences are not of equal length >= 3 or hold NaN or infinity, or the margin is not
    positive.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 3:
        raise ValueError(
            f"got shapes {a.shape} and {b.shape}, expected two equally long sequences of at least 3 pairs."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("got NaN or infinity, expected finite numbers; look at the runs that produced them.")
    if margin is not None and not margin > 0:
        raise ValueError(f"margin: got {margin}, expected a positive difference that would not matter.")
    sign, n = (1.0 if higher else -1.0), len(a)
    gains = sign * (a - b)
    mean, low, high = t_interval(gains)
    spread = float(gains.std(ddof=1))
    return Comparison(
        mean=mean,
        low=low,
        high=high,
        spread=spread,
        n=n,
        margin=margin,
        p_difference=2 * _upper_tail(abs(mean), spread, n),
        p_margin=None if margin is None else _upper_tail(margin - abs(mean), spread, n),
        at_floor=floor is not None and all(t_interval(sign * (arm - floor))[1] <= 0 for arm in (a, b)),
    )


def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
    """The verdicts of a family: all comparisons that are made on one table of runs, in their order."""
    nulls = [[p for p in (gain.p_difference, gain.p_margin) if p is not None] for gain in comparisons]
    verdicts = []
    for gain, (different, *small) in zip(comparisons, holm(nulls), strict=True):
        p = different
        if gain.at_floor:
            word = "floor"
        elif different <= LEVEL:
            word = "seen" if gain.mean > 0 else "reversed"
        elif small and small[0] <= LEVEL:
            p, word = small[0], f"no difference above {gain.margin:g}"
        else:
            word = f"undecided (needs {_seeds_to_decide(gain, len(comparisons))})"
        verdicts.append(Verdict(gain, p, word))
    return verdicts


def holm(nulls: Sequence[Sequence[float]]) -> list[list[float]]:
    """Corrected p-values: those at most 5 % are rejected, and any false rejection has a probability of at most 5 %.

    nulls: for each question, the p-values of its null hypotheses, of which at most one can be true.

    The smallest p-value is multiplied by the number of questions; after each rejection the next one is multiplied by
    the number of those that still have a hypothesis standing, because only these can still be true. With one hypothesis
    per question this is Holm's procedure.
    """
    corrected = [[1.0] * len(question) for question in nulls]
    standing = [len(question) for question in nulls]
    largest = 0.0
    for p, q, i in sorted((p, q, i) for q, question in enumerate(nulls) for i, p in enumerate(question)):
        largest = max(largest, min(1.0, p * sum(count > 0 for count in standing)))
        corrected[q][i] = largest
        standing[q] -= 1
    return corrected


def detectable_effect(spread: float, n: int, *, level: float = LEVEL) -> float:
    """The true mean gain that a two-sided t-test of n gains with standard deviation `spread` finds in 80 % of cases."""
    return spread * _detectable_in_spreads(n, level)


def seeds_needed(spread: float, effect: float, *, level: float = LEVEL) -> int:
    """The smallest number of seeds, at least 3, with which `effect` is detectable; MOST_SEEDS if even these miss it."""
    few, many = 2, MOST_SEEDS  # too few, enough
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if detectable_effect(spread, middle, level=level) <= effect else (middle, many)
    return many


def _seeds_to_decide(gain: Comparison, questions: int) -> str:
    """What is larger decides sooner: the gain itself, or its distance to the margin."""
    effect = max(abs(gain.mean), (gain.margin or 0.0) - abs(gain.mean))
    needed = max(seeds_needed(gain.spread, effect, level=LEVEL / questions), gain.n + 1) if effect else MOST_SEEDS
    return f"about {needed} seeds" if needed < MOST_SEEDS else f"over {MOST_SEEDS:,} seeds"


def _upper_tail(distance: float, spread: float, n: int) -> float:
    """P(a mean of n gains is larger than its true value by `distance`)."""
    from scipy import special  # here: it would slow down every import of the kit

    if spread == 0:
        return 0.0 if distance > 0 else 0.5 if distance == 0 else 1.0
    return float(special.stdtr(n - 1, -distance / (spread / math.sqrt(n))))  # stdtr: the distribution function of t


@functools.cache
def _detectable_in_spreads(n: int, level: float) -> float:
    """The effect, in standard deviations of a gain: the noncentrality at which the test has power 0.8."""
    from scipy import optimize, special

    limit = special.stdtrit(n - 1, 1 - level / 2)

    def surplus(noncentrality: float) -> float:  # P(noncentral t > limit); the other tail is too small to count
        return 1 - special.nctdtr(n - 1, noncentrality, limit) - POWER

    return float(optimize.brentq(surplus, 0.0, 1.5 * limit + 2)) / math.sqrt(n)
