"""Size of the tower against size of the text model, at equal compute (after PaLI, 2209.06794, figure 2).

    kit claims palix sizes_towers_tuning       # a learning rate for each of the three towers
    kit claims palix sizes_tuning       # and for each of the nine models
    kit claims palix sizes

Three widths of the tower times three of the text model. All nine may spend the same number of FLOPs (`flops`): the
tower in stage 0, forward and backward; then the frozen tower, forward, and the text model. So a wider model sees fewer
examples. PaLI compares its models at equal examples; at equal compute, width has to earn what it costs.
"""

import dataclasses
from pathlib import Path

import numpy as np

from kitlib.configs import PaLIXConfig
from kitlib.models import checkpoint
from kitlib.models.flops import t5_forward_flops, vit_forward_flops
from kitlib.multimodal import ocr_pretraining
from kitlib.multimodal.tasks import SEED
from kitlib.studies import study
from kitlib.studies.palix import runs
from kitlib.studies.palix.easy_tasks import mixed, study_tasks, tasks_of_tests
from kitlib.studies.palix.runs import WIDTH, PaLIXArm, Phase, StageZero
from kitlib.studies.study import TRIAL_SEED, Study, best_peak

WIDTHS = (32, 64, 128)
TOWER_STEPS, STEPS = 4000, 2400  # of the model whose halves are both 64 wide; the others have as much compute
TOWER_PEAKS = (1e-3, 2e-3, 4e-3, 8e-3)  # tried for every tower (Muon)
PEAKS = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)  # and for every model (AdamW)
TASKS = ("captioning", "easy_vqa", "object_aware_vqa", "counting", "finding")


def tower_flops(config: PaLIXConfig) -> int:
    """FLOPs of the forward pass of stage 0, per image: the tower and its logits for every patch."""
    labels = len(ocr_pretraining.label_names("train"))
    return sum(vit_forward_flops(ocr_pretraining.tower_with_head(config.tower, labels)).values())


def example_flops(config: PaLIXConfig, phase: Phase) -> int:
    """FLOPs of one training example of the phase: the frozen tower forward, the rest forward and backward."""
    k, n = config.tower.num_tokens, phase.num_images
    tower = sum(vit_forward_flops(config.tower).values())
    projection = 2 * k * config.tower.width * config.text.width
    text = sum(t5_forward_flops(config.text, n * k + phase.prompt_length, phase.target_length).values())
    return n * tower + 3 * (n * projection + text)


def arm(tower: int, text: int, *, tower_peak: float | None = None, peak: float | None = None) -> PaLIXArm:
    """A model of these widths, trained for as many steps as the compute of the middle one allows.

    tower_peak, peak: learning rates; None: the best of the trials.
    """
    towers = {width: tower_flops(runs.config(width)) for width in (tower, WIDTH)}
    phase = mixed(*TASKS, steps=STEPS)
    costs = [example_flops(runs.config(*widths), phase) for widths in ((tower, text), (WIDTH, WIDTH))]
    stage = StageZero(
        width=tower,
        steps=round(TOWER_STEPS * towers[WIDTH] / towers[tower]),
        peak=tower_peak or best_peak("palix", "sizes_towers_tuning", f"tower {tower}"),
    )
    return PaLIXArm(
        (dataclasses.replace(phase, steps=round(STEPS * costs[1] / costs[0])),),
        tuple((name, name) for name in TASKS),
        stage,
        text_width=text,
        peak=peak or best_peak("palix", "sizes_tuning", f"tower {tower}, text {text}"),
    )


def run(one: PaLIXArm, seed: int, folder: Path) -> list[dict]:
    """One row: the scores and losses of `runs.run_arm`, and "accuracy: mean", of the five tasks."""
    (row,) = runs.run_arm(one, seed, folder, study_tasks(), tasks_of_tests())
    return [row | {"accuracy: mean": float(np.mean([row[f"accuracy: {name}"] for name in TASKS]))}]


def run_trial(one: PaLIXArm, seed: int, folder: Path) -> list[dict]:
    """One row: the mean loss of the five tasks on examples that nothing is judged on."""
    model, params = runs.trained(one, seed, folder, study_tasks())
    tests = tasks_of_tests()
    losses = [
        runs.loss_of(model, params, tests[name].examples(runs.TEST_EXAMPLES, SEED + TRIAL_SEED)) for name in TASKS
    ]
    return [{"loss": float(np.mean(losses))}]


def run_tower(one: PaLIXArm, seed: int, folder: Path) -> list[dict]:
    """One row: the loss of stage 0, mean of its last tenth; its images are always new. The tower is kept for the
    trials of the models."""
    params, history = runs.train_tower(one.tower, seed)
    checkpoint.save(runs.tower_file(one.tower, seed, folder), params)
    return [{"loss": float(history["loss"][-one.tower.steps // 10 :].mean())}]


def setting() -> str:
    """What all arms have in common."""
    return (
        f"widths {WIDTHS} of tower and text model, {TOWER_STEPS} steps of stage 0 and {STEPS} of the phase for both of "
        f"{WIDTH}, the others for the same FLOPs; {runs.config()}; {runs.TEST_EXAMPLES} examples a test"
    )


def prepare(seed: int, folder: Path) -> None:
    """Trains the three towers of a seed."""
    for width in WIDTHS:
        runs.pretrained_tower(arm(width, WIDTH, peak=runs.PEAK).tower, seed, folder)


def towers_tuning() -> Study:
    """sizes_towers_tuning."""
    arms = {
        f"tower {width}: peak {peak:g}": arm(width, WIDTH, tower_peak=peak, peak=runs.PEAK)
        for width in WIDTHS
        for peak in TOWER_PEAKS
    }
    return study.trials("Which learning rate for which tower?", f"stage 0 alone; {setting()}", arms, run_tower)


def tuning() -> Study:
    """sizes_tuning."""
    arms = {
        f"tower {tower}, text {text}: peak {peak:g}": arm(tower, text, peak=peak)
        for tower in WIDTHS
        for text in WIDTHS
        for peak in PEAKS
    }
    return study.trials("Which learning rate for which model?", setting(), arms, run_trial, prepare)


def sizes() -> Study:
    """sizes."""
    arms = {f"tower {tower}, text {text}": arm(tower, text) for tower in WIDTHS for text in WIDTHS}
    return Study("A larger tower or a larger text model, at equal compute?", setting(), arms, run, prepare)


STUDIES = {"sizes_towers_tuning": towers_tuning, "sizes_tuning": tuning, "sizes": sizes}
