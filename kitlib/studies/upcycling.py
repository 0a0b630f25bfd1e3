"""The studies of Sparse Upcycling (2212.05055) at kit scale: which arms answer which question.

For every seed a dense parent is trained. Each arm then continues from it (or starts from scratch), see
`upcycling_runs`. Every kind of arm has its own recipe (`upcycling_tuning`).

Read in notebooks/07_sparse_upcycling.ipynb, 08_t5_and_upcycling.ipynb and 18_real_weights.ipynb.
"""

import functools
from collections.abc import Callable

from kitlib.studies import real_parent, real_probes, recall_memory, study, text_downstream, upcycling_tuning
from kitlib.studies.upcycling_ablations import ablations, gated, headline
from kitlib.studies.upcycling_runs import prepare_parent, run_arm
from kitlib.studies.upcycling_setups import Setup
from kitlib.studies.upcycling_tasks import pictures, recall, text

HEADLINE_SEEDS = 10


def studies() -> dict[str, study.Study]:
    """All studies: real_probes, real_tuning, real_curves, recall_parents, recall_tuning, recall_curves, ..."""
    by_name = real_probes.studies() | real_parent.studies() | text_downstream.studies() | recall_memory.studies()
    question = "Upcycled against dense continuation, MoE from scratch and depth tiling."
    for name, task in (("recall", recall), ("text", text), ("pictures", pictures)):
        by_name |= _studies(name, task, question, headline(task()))
    for name, task in (("text", text), ("pictures", pictures)):
        for topic, (asked, arms) in ablations(task()).items():
            by_name[f"{name}_{topic}"] = _study(task, asked, arms, study.SEEDS)
    for width in (8, 32):  # of which narrower and wider E3s are made (`naming_sizes`)
        task = functools.partial(pictures, width=width)
        question = f"A ViT of width {width}, and a V-MoE from scratch."
        by_name |= _studies(f"pictures{width}", task, question, gated(task()))
    return by_name


def _studies(name: str, task: Callable[..., Setup], question: str, curves: dict) -> dict[str, study.Study]:
    """The trials of a task, and the arms that are judged by ten seeds."""
    found = {f"{name}_curves": _study(task, question, curves, HEADLINE_SEEDS)}
    return upcycling_tuning.studies(name, task) | found


def _study(task: Callable[..., Setup], question: str, arms: dict, seeds: int) -> study.Study:
    prepare, run = functools.partial(prepare_parent, task), functools.partial(run_arm, task)
    return study.Study(question, task().setting, arms, prepare, run, seeds)
