"""`kit bench palix`: the time of `kit train palix_s`, stage by stage: seconds per step, examples included, times steps.

The examples of a stage with a frozen tower come in shards, whose images the tower has seen (`mixtures`): the time of
one is divided among its steps. For the timing see `timing`.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kitlib.bench import timing
from kitlib.models import palix
from kitlib.multimodal import mixtures, ocr_pretraining, stages


def main() -> None:
    """Per stage: seconds per step, number of steps, and minutes for all steps; compilation excluded."""
    with tempfile.TemporaryDirectory() as folder:
        calls, examples = trainings(Path(folder))
        seconds = {name: statistics.median(s) for name, s in timing.interleaved(calls).items()}
    steps = {"ocr": stages.OCR["steps"]} | {name: stage.steps for name, stage in stages.STAGES.items()}
    print(f"\n{'stage':24}{'s per step':>12}{'steps':>8}{'minutes':>10}")
    seconds = {name: value + examples.get(name, 0.0) for name, value in seconds.items()}
    minutes = {name: seconds[name] * steps[name] / 60 for name in calls}
    for name in calls:
        print(f"{name:24}{seconds[name]:12.2f}{steps[name]:8}{minutes[name]:10.1f}")
    print(f"{'all stages':24}{'':12}{sum(steps.values()):8}{sum(minutes.values()):10.1f}")


def trainings(folder: Path) -> tuple[dict[str, Callable], dict[str, float]]:
    """(calls, examples): per stage, a call that takes the next batch and makes one training step; and for stages whose
    examples come in shards, the seconds of making a shard, per step. folder: for the shards."""
    config = stages.released_config()
    params = palix.init_params(palix.PaLIX(config))
    builder = ocr_pretraining.labelled_builder("train", stages.SHOWN)
    calls = {"ocr": _stepper(*ocr_pretraining.start_pretraining(config.tower, builder, **stages.OCR))}
    examples = {}
    for name, stage in stages.STAGES.items():
        state, step, batches = stages.start_stage(stage, params, config, folder / name)
        batches.tower.features(np.zeros((1, *config.tower.image_size, config.tower.channels), np.uint8))  # compiles
        start = time.perf_counter()
        next(batches)  # makes the shard
        examples[name] = (time.perf_counter() - start) / mixtures.STEPS
        calls[name] = _stepper(state, step, batches)
    return calls, examples


def _stepper(state, step, batches) -> Callable:
    def call():
        nonlocal state
        state, metrics = step(state, next(batches))
        return metrics["loss"]

    return call
