"""One arm of a study of PaLI-X at kit scale: a small model, trained in phases, and what it then answers.

The model is the XS rung on pictures of 64 pixels. Its tower comes from 3,000 steps of stage 0 (`ocr_tuning`) unless an
arm asks for another; the text model starts from nothing. A *phase* is a mixture of makers, padded to one shape; phases
follow each other, so an arm may learn one thing and then another, at another resolution, or with the tower thawed.

Used by claims_palix.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax

from kitlib import collate, configs, ocr_tuning, optim, palix, palix_scores, stages, tokenizer, train, weights
from kitlib.mixture import Mixture
from kitlib.t5 import T5
from kitlib.vit import ViT

TOWER_STEPS, TOWER_BATCH = 3000, 16
TEST_EXAMPLES = 300
PEAK = 2e-3  # of AdamW


@dataclasses.dataclass(frozen=True)
class Phase:
    """Training on one mixture: {maker: weight}, for so many steps of `rows` examples."""

    makers: tuple[tuple[str, float], ...]
    steps: int
    rows: int = 16
    images: int = 1
    inputs: int = 32
    targets: int = 32
    image_size: int = 64
    frozen: bool = True  # the tower


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is trained, and what it is asked afterwards: ((column of the table, name of the test), ...)."""

    phases: tuple[Phase, ...]
    tests: tuple[tuple[str, str], ...]
    tower: str = "words and things"  # what stage 0 showed; "words", "things", or "none"
    visible: str = "prefix"
    connector: str = "linear"  # or "mlp"


class MlpConnector(palix.PaLIX):
    """PaLI-X with two layers and a GELU between tower and text model, in place of the one linear map."""

    def setup(self):
        c = self.config
        self.tower, self.text = ViT(c.tower), T5(c.text)
        self.projection = nn.Sequential([nn.Dense(4 * c.text.width), nn.gelu, nn.Dense(c.text.width)])


def config() -> configs.PaLIXConfig:
    """The XS rung for pictures of 64 pixels, with the ids of the multilingual tokenizer."""
    return configs.palix("XS", tower={"image_size": (64, 64)}, text={"vocab_size": tokenizer.multilingual().vocab_size})


# ---------------------------------------------------------------------------------------------- stage 0


def tower_file(what: str, seed: int, folder: Path) -> Path:
    """Named after all that decides it."""
    recipe = f"{config().tower}, {what}, {TOWER_STEPS} steps of {TOWER_BATCH}"
    return folder / f"tower-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}-{seed}.npz"


def tower(what: str, seed: int, folder: Path) -> dict:
    """The parameters of a tower after stage 0 with these kinds of pictures, from `folder` if it is there."""
    eyes, path = config().tower, tower_file(what, seed, folder)
    if what == "none":
        return train.init_params(ViT(eyes), (1, 64, 64, 3), seed)
    if not path.is_file():
        kinds = {"words": ("words",), "things": ("thing", "scene"), "words and things": ocr_tuning.KINDS}[what]
        make = ocr_tuning.labelled("train", kinds)
        params = ocr_tuning.tune(eyes, make, steps=TOWER_STEPS, batch_size=TOWER_BATCH, peak=PEAK, seed=seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.save(path, params)
    return weights.load(path, jax.eval_shape(lambda: train.init_params(ViT(eyes), (1, 64, 64, 3))))


# ---------------------------------------------------------------------------------------------- one arm


def run(arm: Arm, seed: int, folder: Path, makers: Mapping[str, Callable], tests: Mapping[str, palix_scores.Task]):
    """[one row]: of every test "accuracy: <column>", its score, and "loss: <column>", that of the answers' tokens."""
    made = config()
    params = palix.init_params(_model(made, arm, True), seed) | {"tower": tower(arm.tower, seed, folder)}
    for number, phase in enumerate(arm.phases):
        params, made = stages.at_resolution(params, made, phase.image_size)
        model = _model(made, arm, phase.frozen)
        tx, step = _step(model, phase.steps)
        mixed = Mixture({name: makers[name] for name, _ in phase.makers}, dict(phase.makers), 10 * seed + number)
        group = collate.Group(mixed, phase.rows, phase.images, phase.inputs, phase.targets, phase.image_size)
        flat = (batch["all"] for batch in collate.batches({"all": group}, tokenizer.multilingual()))
        state, _ = train.fit(step, train.init_state(params, tx, seed), flat, phase.steps)
        params = state.params
    row = {}
    for column, name in arm.tests:
        examples = tests[name].make(TEST_EXAMPLES, palix_scores.SEED)
        said = palix_scores.answers(model, params, examples)
        row[f"accuracy: {column}"] = float(np.mean(tests[name].metric(said, examples)))
        row[f"loss: {column}"] = loss_of(model, params, examples)
    return [row]


def _model(made, arm: Arm, frozen: bool) -> palix.PaLIX:
    kind = MlpConnector if arm.connector == "mlp" else palix.PaLIX
    return kind(made, frozen_tower=frozen, visible=arm.visible)


@functools.cache
def _step(model, steps: int):
    freeze = ("tower/",) if model.frozen_tower else ()
    schedule = optim.cosine(PEAK, steps, warmup=min(100, steps // 4))
    tx = optim.assemble(optax.scale_by_adam(), schedule, clip_norm=1.0, freeze=freeze)
    return tx, train.make_step(palix.answer_loss(model), tx)


def loss_of(model, params, examples) -> float:
    """Mean loss of the answers, each example by the weights of `collate.arrays`, in one batch of their own shape."""
    words, shape = tokenizer.multilingual(), palix_scores.shape_of(model, examples)
    losses = []
    for start in range(0, len(examples), 50):
        batch = collate.arrays(examples[start : start + 50], words, **shape)
        losses.append(float(_loss(model)(params, batch)))
    return float(np.mean(losses))


@functools.cache
def _loss(model):
    return jax.jit(lambda params, batch: palix.answer_loss(model)(params, batch, jax.random.key(0))[0])
