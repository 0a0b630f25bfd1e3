"""`kit bench palix`: how long `kit train` takes, stage by stage: a step, its examples made beside it, times the steps.

Run by `kit bench palix`; see kitlib/bench.py for how things are timed.
"""

import statistics
from collections.abc import Callable

from kitlib import bench, ocr_tuning, palix, stages


def main() -> None:
    """Seconds of a step of every stage, its number of steps, and minutes for all of them; compilation excluded."""
    calls = trainings()
    seconds = {name: statistics.median(s) for name, s in bench.interleaved(calls).items()}
    steps = {"ocr": stages.OCR["steps"]} | {name: stage.steps for name, stage in stages.STAGES.items()}
    print(f"\n{'stage of kit train':24}{'s a step':>10}{'steps':>8}{'minutes':>10}")
    minutes = {name: seconds[name] * steps[name] / 60 for name in calls}
    for name in calls:
        print(f"{name:24}{seconds[name]:10.2f}{steps[name]:8}{minutes[name]:10.1f}")
    print(f"{'all':24}{'':10}{sum(steps.values()):8}{sum(minutes.values()):10.1f}")


def trainings() -> dict[str, Callable]:
    """For every stage a call that takes the next batch and makes a step, as training does."""
    config = stages.released_config()
    params = palix.init_params(palix.PaLIX(config))
    make = ocr_tuning.labelled("train", stages.SHOWN)
    calls = {"ocr": _stepper(*ocr_tuning.training(config.tower, make, **stages.OCR))}
    for name, stage in stages.STAGES.items():
        resized, at = stages.at_resolution(params, config, stage.image_size)
        calls[name] = _stepper(*stages.training(stage, resized, at))
    return calls


def _stepper(state, step, batches) -> Callable:
    def call():
        nonlocal state
        state, metrics = step(state, next(batches))
        return metrics["loss"]

    return call
