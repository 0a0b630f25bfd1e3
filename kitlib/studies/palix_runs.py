"""One arm of a study of PaLI-X at kit scale: a small model, trained in phases and then tested.

The model is the XS rung on images of 64 pixels, unless the arm is wider or narrower. Its tower comes from stage 0
(`ocr_pretraining`); the text model is trained from scratch. A *phase* is training on one mixture of tasks, padded to
one shape. Phases follow each other, so an arm may learn one task and then another, at another resolution, or with a
trainable tower.

Used by `studies.palix`, `studies.palix_sizes` and `studies.palix_rare`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from kitlib import configs
from kitlib.data import files, tokenizer
from kitlib.models import checkpoint, palix
from kitlib.models.vit import ViT
from kitlib.multimodal import batching, generation, mixtures, ocr_pretraining, probes, stages
from kitlib.multimodal.mixtures import Mixture
from kitlib.multimodal.tasks import SEED, Task
from kitlib.training import classification, loop
from kitlib.training.optim import adamw_cosine_step

TOWER_STEPS, TOWER_BATCH = 3000, 16
TEST_EXAMPLES = 300
PEAK = 2e-3  # of AdamW, and of Adam in stage 0
WIDTH = 64  # of the XS rung's two halves
HEAD = 32  # width of an attention head


@dataclasses.dataclass(frozen=True)
class Phase:
    """Training on one mixture of tasks: `steps` steps with batches of `rows` examples."""

    tasks: tuple[tuple[str, float], ...]  # (task, weight), ...
    steps: int
    rows: int = 16
    num_images: int = 1
    prompt_length: int = 32
    target_length: int = 32
    image_size: int = 64
    frozen: bool = True  # the tower


@dataclasses.dataclass(frozen=True)
class StageZero:
    """How the tower of an arm was trained."""

    kinds: str = "words and things"  # its images; or "words", "things", "none": it was not trained
    width: int = WIDTH
    steps: int = TOWER_STEPS
    peak: float = PEAK


@dataclasses.dataclass(frozen=True)
class PaLIXArm:
    """The training of a model, and its tests afterwards."""

    phases: tuple[Phase, ...]
    tests: tuple[tuple[str, str], ...]  # (column of the table, name of the test), ...
    tower: StageZero = StageZero()
    visible: str = "prefix"  # attention masks, see `palix.PaLIX`
    connector: str = "linear"  # or "mlp"
    positions: bool = True  # learned rows and columns after the projection
    probed: bool = False  # whether to measure how well a patch's place can be read (`probes.position_accuracy`)
    text_width: int = WIDTH
    peak: float = PEAK  # of the phases


class MlpConnector(palix.PaLIX):
    """PaLI-X with two layers and a GELU between tower and text model, instead of one linear layer."""

    def connector(self):
        width = self.config.text.width
        return nn.Sequential([nn.Dense(4 * width), nn.gelu, nn.Dense(width)])


def config(tower_width: int = WIDTH, text_width: int = WIDTH) -> configs.PaLIXConfig:
    """The XS rung for images of 64 pixels, with the vocabulary size of the multilingual tokenizer, and in other widths
    with as many blocks of the same shape."""
    tower = {"width": tower_width, "mlp_dim": 4 * tower_width, "num_heads": tower_width // HEAD}
    text = {"width": text_width, "mlp_dim": 2 * text_width, "num_heads": text_width // HEAD}
    return configs.palix(
        "XS",
        tower=tower | {"image_size": (64, 64)},
        text=text | {"vocab_size": tokenizer.multilingual().vocab_size},
    )


# ---------------------------------------------------------------------------------------------- stage 0


def tower_file(stage: StageZero, seed: int, folder: Path) -> Path:
    """The file of a tower, named after its recipe."""
    recipe = f"{config(stage.width).tower}, {stage}, batches of {TOWER_BATCH}, Muon"
    return folder / f"tower-{files.recipe_hash(recipe)}-{seed}.npz"


def pretrained_tower(stage: StageZero, seed: int, folder: Path) -> dict:
    """The parameters of a tower after stage 0, from `folder` if they are there; "none": the initial parameters."""
    tower, path = config(stage.width).tower, tower_file(stage, seed, folder)
    if stage.kinds == "none":
        return classification.init_params(ViT(tower), (1, 64, 64, 3), seed)
    if not path.is_file():
        params, _ = train_tower(stage, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, params)
    return checkpoint.load(path, jax.eval_shape(lambda: classification.init_params(ViT(tower), (1, 64, 64, 3))))


def train_tower(stage: StageZero, seed: int) -> tuple[dict, dict[str, np.ndarray]]:
    """(parameters, history) of stage 0."""
    shown = {"words": ("words",), "things": ("thing", "scene"), "words and things": ocr_pretraining.KINDS}[stage.kinds]
    builder = ocr_pretraining.labelled_builder("train", shown)
    options = {"steps": stage.steps, "batch_size": TOWER_BATCH, "peak": stage.peak}
    return ocr_pretraining.pretrain(config(stage.width).tower, builder, seed=seed, **options)


# ---------------------------------------------------------------------------------------------- one arm


def run_arm(arm: PaLIXArm, seed: int, folder: Path, shown: Mapping[str, Task], tests: Mapping[str, Task]):
    """[one row]: per test, its score as "accuracy: <column>" and the loss on the answers' tokens as "loss: <column>".

    A probed arm also has "patches: tower" and "patches: encoder" (`probes.position_accuracy`, of the first test).

    shown: the tasks to train on, by name; tests: those to be tested on.
    """
    model, params = trained(arm, seed, folder, shown)
    row = {}
    for column, name in arm.tests:
        examples = tests[name].examples(TEST_EXAMPLES, SEED)
        texts = generation.generated_texts(model, params, examples)
        row[f"accuracy: {column}"] = float(np.mean(tests[name].metric(texts, examples)))
        row[f"loss: {column}"] = loss_of(model, params, examples)
        if arm.probed and column == arm.tests[0][0]:
            told = probes.position_accuracy(model, params, examples, fitted=2 * len(examples) // 3)
            row |= {f"patches: {name}": share for name, share in told.items()}
    return [row]


def trained(arm: PaLIXArm, seed: int, folder: Path, shown: Mapping[str, Task]) -> tuple[palix.PaLIX, dict]:
    """(model, parameters) after all phases. shown: the tasks to train on, by name."""
    current = config(arm.tower.width, arm.text_width).replace(visual_positions=arm.positions)
    params = palix.init_params(_model(current, arm, True), seed) | {"tower": pretrained_tower(arm.tower, seed, folder)}
    for number, phase in enumerate(arm.phases):
        params, current = stages.at_resolution(params, current, phase.image_size)
        model = _model(current, arm, phase.frozen)
        tx, step = adamw_cosine_step(
            palix.answer_loss,
            model,
            phase.steps,
            arm.peak,
            warmup=min(100, phase.steps // 4),
            freeze=("tower/",) if phase.frozen else (),
        )
        mixture = Mixture(shown, dict(phase.tasks), 10 * seed + number)
        group = mixtures.Group(
            mixture, phase.rows, phase.num_images, phase.prompt_length, phase.target_length, phase.image_size
        )
        batches = (batch["all"] for batch in mixtures.batches({"all": group}, tokenizer.multilingual()))
        state, _ = loop.fit(step, loop.init_state(params, tx, seed), batches, phase.steps)
        params = state.params
    return model, params


def _model(palix_config: configs.PaLIXConfig, arm: PaLIXArm, frozen: bool) -> palix.PaLIX:
    kind = MlpConnector if arm.connector == "mlp" else palix.PaLIX
    return kind(palix_config, frozen_tower=frozen, visible=arm.visible)


def loss_of(model, params, examples) -> float:
    """Mean loss of the answers, with the weights of `batching.to_arrays`: the mean over batches of 50 examples."""
    words, shape = tokenizer.multilingual(), generation.batch_shape(model, examples)
    losses = []
    for start in range(0, len(examples), 50):
        batch = batching.to_arrays(examples[start : start + 50], words, **shape)
        losses.append(float(_loss(model)(params, batch)))
    return float(np.mean(losses))


@functools.cache
def _loss(model):
    return jax.jit(lambda params, batch: palix.answer_loss(model, train=False)(params, batch, jax.random.key(0))[0])
