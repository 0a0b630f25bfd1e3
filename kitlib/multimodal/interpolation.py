"""Weight interpolation between two stages: the skill of the later one, and less of its forgetting.

    table = scores_between(model, before, after, tasks)  # what the later stage taught, and what it cost
    params = interpolate(before, after, share_chosen(table))

The last stages of the released model teach few-shot prompts, and names and boxes get worse meanwhile. On the straight
line from the parameters before to those after, names come back sooner than the new skill is lost (WiSE-FT, 2109.01903,
section 3, for a fine-tuned CLIP). PaLI-X's paper has nothing like it.
"""

from collections.abc import Sequence

import jax
import pandas as pd

from kitlib.multimodal.tasks import Task

SHARES = (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # of the later stage; closer where the new skill comes
LEARNED = "4-shot, new words, by way of English"  # the skill of the last stages
ENOUGH = 0.8  # the score in it that is enough
FORGOTTEN = ("captions, en", "captions, de", "captions, ru", "captions, zh", "counting", "detection, with absent kinds")
SEED = 4321  # of the examples to choose by; the tests of the released model are others (`tasks.SEED`)


def interpolate(before: dict, after: dict, share: float) -> dict:
    """(1 - share) * before + share * after, leaf by leaf: two trees of one shape."""
    return jax.tree.map(lambda old, new: (1 - share) * old + share * new, before, after)


def scores_between(model, before: dict, after: dict, tasks: Sequence[Task], *, count: int = 150) -> pd.DataFrame:
    """A row per share of `SHARES`: "share", and the score of every task, on examples of their own."""
    asked = {task.name: (task, task.examples(count, SEED)) for task in tasks}
    rows = []
    for share in SHARES:
        params = interpolate(before, after, share)
        scores = {name: task.score(model, params, examples) for name, (task, examples) in asked.items()}
        rows.append({"share": share} | scores)
    return pd.DataFrame(rows)


def share_chosen(table: pd.DataFrame) -> float:
    """The smallest share whose score in `LEARNED` is at least `ENOUGH`; 1, if none has it."""
    enough = table.loc[table[LEARNED] >= ENOUGH, "share"]
    return float(enough.min()) if len(enough) else 1.0
