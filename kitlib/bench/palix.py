"""`kit bench palix`: the time of `kit stages`, stage by stage: seconds per step, examples included, times steps.

For the timing see `timing`.
"""

import statistics
from collections.abc import Callable

from kitlib.bench import timing
from kitlib.models import palix
from kitlib.multimodal import ocr_pretraining, stages


def main() -> None:
    """Per stage: seconds per step, number of steps, and minutes for all steps; compilation excluded."""
    calls = trainings()
    seconds = {name: statistics.median(s) for name, s in timing.interleaved(calls).items()}
    steps = {"ocr": stages.OCR["steps"]} | {name: stage.steps for name, stage in stages.STAGES.items()}
    print(f"\n{'stage of kit stages':24}{'s per step':>12}{'steps':>8}{'minutes':>10}")
    minutes = {name: seconds[name] * steps[name] / 60 for name in calls}
    for name in calls:
        print(f"{name:24}{seconds[name]:12.2f}{steps[name]:8}{minutes[name]:10.1f}")
    print(f"{'all':24}{'':12}{sum(steps.values()):8}{sum(minutes.values()):10.1f}")


def trainings() -> dict[str, Callable]:
    """Per stage, a call that takes the next batch and makes one training step."""
    config = stages.released_config()
    params = palix.init_params(palix.PaLIX(config))
    builder = ocr_pretraining.labelled_builder("train", stages.SHOWN)
    calls = {"ocr": _stepper(*ocr_pretraining.start_pretraining(config.tower, builder, **stages.OCR))}
    for name, stage in stages.STAGES.items():
        calls[name] = _stepper(*stages.start_stage(stage, *stages.at_resolution(params, config, stage.image_size)))
    return calls


def _stepper(state, step, batches) -> Callable:
    def call():
        nonlocal state
        state, metrics = step(state, next(batches))
        return metrics["loss"]

    return call
