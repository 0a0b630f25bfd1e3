"""E3's gain against the size of the model (2110.03360, abstract).

The V-MoE of `naming` in three widths, with the same blocks below the first experts. (What an E3 computes twice adds 20,
26 and 32 % to the FLOPs: the narrower the model, the larger the embedding's share.)

    kit claims upcycling pictures8_parents pictures32_parents      # a recipe for each width, then pre-training
    kit claims upcycling pictures8_tuning pictures32_tuning
    kit claims upcycling pictures8_curves pictures32_curves        # the gates of both
    kit claims ensembles naming_sizes_tuning naming_sizes          # fine-tuning

Task, fine-tuning and measures are those of `naming`; so are the models of width 16.
"""

import dataclasses

from kitlib.configs import E3Config
from kitlib.studies import naming, study, upcycling_ablations, upcycling_tasks, upcycling_tuning
from kitlib.studies.naming import NamingArm

KINDS = ("ViT", "V-MoE", "E3 M=2")
# By width, the learning rates of fine-tuning, chosen by the trials of naming_sizes_tuning and naming_tuning.
CHOSEN = {
    8: {"ViT": 0.032, "V-MoE": 0.016, "E3 M=2": 0.032},
    16: {kind: naming.CHOSEN[kind] for kind in KINDS},
    32: {"ViT": 0.016, "V-MoE": 0.008, "E3 M=2": 0.016},
}


def kinds(width: int) -> dict[str, NamingArm]:
    """A ViT, a V-MoE and the E3 that is made of it, all of one width."""
    task = upcycling_tasks.pictures("test", width)
    vmoe = upcycling_ablations.sparse(task, "scratch")
    models = {"ViT": ("ViT", task.dense), "V-MoE": ("V-MoE", vmoe), "E3 M=2": ("V-MoE", vmoe.replace(e3=E3Config(2)))}
    return {kind: NamingArm(*models[kind], CHOSEN[width][kind]) for kind in KINDS}


def studies() -> dict[str, study.Study]:
    """naming_sizes_tuning and naming_sizes."""
    arms = {f"{kind}, width {width}": arm for width in CHOSEN for kind, arm in kinds(width).items()}
    trials = {
        f"{name}: peak {peak:g}": dataclasses.replace(arm, peak=peak)
        for name, arm in arms.items()
        if arm.config.width != 16  # in naming_tuning
        for peak in naming.PEAKS
    }
    setting = f"widths {', '.join(map(str, CHOSEN))}: {naming.setting()}"
    return {
        "naming_sizes_tuning": study.Study(
            "Which learning rate for which width?", setting, trials, study.nothing, naming.run_trial, 1,
            upcycling_tuning.SEED,
        ),
        "naming_sizes": study.Study(
            "A ViT, a V-MoE and an E3 in three widths.", setting, arms, study.nothing, naming.run_arm, naming.SEEDS
        ),
    }  # fmt: skip
