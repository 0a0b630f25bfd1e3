"""Training PaLI-X in stages: `kit stages`, resumable at any moment; `kit bench palix` measures how long it takes.

    stage 0 "ocr"    the tower alone learns to name objects and to read (`ocr_pretraining`)
    stage 1 "base"   the tower is frozen; all thirteen objectives, images of 64 pixels
    stage 2 "text"   everything is trained; images of 96 pixels, mostly reading, markup and detection
    stage 3 "bind"   the tower is frozen; made-up words with exemplars, short questions, few captions
    stage 4 "tune"   the tower is frozen; the mixture and the evaluated tasks, with counting and videos

The first three are PaLI-X's (arXiv 2305.18565), the last is its multi-task fine-tuning. The stage between them is our
own: models learn late and suddenly to bind a word to an image, or to compare a question with an image, after some
15,000 examples. A mixture of all tasks has too few of these examples (9,000 had no effect); before "base", 25,600 were
not enough. Without captions in the stage, captioning was forgotten: its loss was 3.6 at the start of "tune", and 1.4
with four rows of captions and a lower rate. Each of these was measured once.

Where no text describes what PaLI-X did, we chose: Adafactor with one schedule per stage; a trainable tower in stage 2,
as in PaLI; a share of all other objectives in stage 2, which would otherwise be forgotten.

Every stage writes a checkpoint and starts from the checkpoint of the stage before. A stage that is stopped continues
from its last save and ends with the same parameters, bit by bit. The kit contains the result: `model, params =
released()`.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from kitlib import configs
from kitlib.configs import PaLIXConfig
from kitlib.data import files, tokenizer
from kitlib.layers.vit_layers import resize_positions
from kitlib.models import palix, weights
from kitlib.multimodal import example_builders, mixture_batches, ocr_pretraining
from kitlib.multimodal.kit_data import SHOTS
from kitlib.multimodal.kit_tasks import TASKS, kit_tasks
from kitlib.multimodal.mixture import Mixture
from kitlib.multimodal.mixture_batches import Group
from kitlib.multimodal.tasks import scorecard
from kitlib.training import loop, optim

# Weights of the tasks of `kit_tasks`, by group.
SHORT = {"captioning": 12, "split_captioning": 2, "naming": 4, "easy_vqa": 4, "question_generation": 1}
SHORT |= {"object_aware_vqa": 2, "masked_tokens": 1}
READ = {"split_ocr": 2, "receipts": 1}
FOUND, PAGE = {"detection": 1}, {"screenshot_to_markup": 1}
FEW = {"made_up_words": 4, "episodic_vqa": 1, "episodic_captioning": 1}
FILM = {"video_captioning": 1}
TEXT = {"span_corruption": 1}
SHAPES = {  # per group: images, tokens of the prompt, of the target
    "short": (1, 24, 18),
    "read": (1, 56, 32),
    "found": (1, 40, 56),
    "page": (1, 8, 104),
    "quiz": (1, 24, 4),
    "few": (SHOTS + 1, palix.FEW_SHOT_TEXT_LENGTH, 20),
    "four": (SHOTS + 1, 16, 4),
    "pair": (3, 16, 4),
    "film": (example_builders.FRAMES, 28, 32),
    "text": (0, 128, 64),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One of the stages with images and text.

    Attributes:
        weights: the weights of the tasks, per group of `SHAPES`.
        rows: the rows of each group in a batch, which are also the group's weight in the loss.
        steps: the number of training steps.
        peak: the highest learning rate, after a linear warm-up of at most 200 steps; then half a cosine down to 0.
        image_size: in pixels.
        frozen: whether the tower is frozen.
    """

    weights: Mapping[str, Mapping[str, float]]
    rows: Mapping[str, int]
    steps: int
    peak: float
    image_size: int = 64
    frozen: bool = False


OBJECTIVES = {"short": SHORT, "read": READ, "found": FOUND, "page": PAGE, "few": FEW, "film": FILM, "text": TEXT}
BINDING = {"pair": {"two_exemplars": 1}, "four": {"made_up_words": 1}}
BINDING |= {"quiz": {"easy_vqa": 3, "counting": 1}, "short": SHORT}
ASKED = OBJECTIVES | BINDING | {"film": FILM | {"video_questions": 2}}
ASKED |= {"few": {"episodic_vqa": 1, "episodic_captioning": 1}}
# First the names of objects: half of the examples are captions or names. Then reading, pages and boxes, then all tasks.
# A model has to recognise objects before it can learn from few-shot prompts about them, so most of these come late, and
# most have two exemplars, as three images cost less than five.
MANY = {"short": 44, "read": 8, "found": 5, "page": 1, "few": 1, "film": 1, "text": 1}
TEXTUAL = {"short": 8, "read": 24, "found": 6, "page": 2, "few": 1, "film": 1, "text": 1}
PAIRS = {"pair": 12, "four": 4, "quiz": 12, "short": 4}
EVEN = {"short": 36, "quiz": 12, "read": 8, "found": 8, "page": 1, "few": 1, "four": 8, "pair": 4, "film": 4, "text": 1}
STAGES = {
    "base": Stage(OBJECTIVES, MANY, 2000, 0.03, frozen=True),
    "text": Stage(OBJECTIVES, TEXTUAL, 60, 0.005, image_size=96),
    "bind": Stage(BINDING, PAIRS, 1500, 0.01, frozen=True),
    "tune": Stage(ASKED, EVEN, 1000, 0.015, frozen=True),
}
OCR = {"steps": 18_000, "batch_size": 16, "peak": 2e-3}  # stage 0; the tower learns more per hour from small batches
SHOWN = ("words", "words", "words", "thing", "scene")  # images of stage 0: reading takes longest to learn
SAVE_EVERY = 250  # steps


def groups(stage: Stage, seed: int, split: str = "train") -> dict[str, Group]:
    """The groups of a stage's batches; other seeds give other examples."""
    tasks = kit_tasks(split)
    return {
        name: Group(Mixture(tasks, weights, seed), stage.rows[name], *SHAPES[name], stage.image_size)
        for name, weights in stage.weights.items()
    }


def at_resolution(params: dict, config: PaLIXConfig, pixels: int) -> tuple[dict, PaLIXConfig]:
    """The same model for images of another size: the position embeddings of patches are resized."""
    tower = config.tower.replace(image_size=(pixels, pixels))
    table = resize_positions(params["tower"]["pos_embedding"], config.tower.grid, tower.grid)
    resized = params | {"tower": params["tower"] | {"pos_embedding": table}}
    if config.visual_positions:
        lines = dict(params["positions"])
        for name, old, new in zip(("row_embedding", "column_embedding"), config.tower.grid, tower.grid, strict=True):
            lines[name] = resize_positions(lines[name][None], (old, 1), (new, 1))[0]
        resized |= {"positions": lines}
    return resized, config.replace(tower=tower)


def start_stage(stage: Stage, params: dict, config: PaLIXConfig, seed: int = 0) -> tuple:
    """(state, step, batches) at the start of one stage. params: of the stage's resolution."""
    model = palix.PaLIX(config, frozen_tower=stage.frozen)
    tx = optim.assemble(
        optim.scale_by_adafactor(),
        optim.cosine(stage.peak, stage.steps, warmup=min(200, stage.steps // 4)),
        freeze=("tower/",) if stage.frozen else (),
    )
    stage_groups = groups(stage, seed)
    weights_of_groups = {name: stage.rows[name] for name in stage_groups}
    step = loop.make_step(palix.loss_of_groups(palix.answer_loss(model), weights_of_groups), tx)
    return loop.init_state(params, tx, seed), step, mixture_batches.batches(stage_groups, tokenizer.multilingual())


def train_stage(stage: Stage, params: dict, config: PaLIXConfig, folder: Path | None, *, name: str = "", seed: int = 0):
    """(parameters, history) after one stage. params: of the stage's resolution; folder: for saves, to be resumable.

    Raises ValueError if the folder has saves of another stage, configuration or seed.
    """
    state, step, batches = start_stage(stage, params, config, seed)
    saves = {"checkpoint_dir": folder, "save_every": SAVE_EVERY} if folder else {}
    recipe = f"{stage}, {config}, seed {seed}"
    state, history = loop.fit(step, state, batches, stage.steps, progress=name, recipe=recipe, **saves)
    return jax.device_get(state.params), history


def train_all(folder: Path, config: PaLIXConfig, *, seed: int = 0) -> tuple[dict, PaLIXConfig]:
    """All stages, one after the other: the final parameters and their configuration, for images of 64 pixels.

    folder: for the saves of each stage; stages that are finished there are not repeated.
    """
    params = palix.init_params(palix.PaLIX(config), seed)
    recipe = f"{OCR}, {SHOWN}, {config.tower}, seed {seed}"
    saves = {"checkpoint_dir": folder / "ocr", "save_every": 4 * SAVE_EVERY}  # small steps
    builder = ocr_pretraining.labelled_builder("train", SHOWN)
    tower = ocr_pretraining.pretrain(config.tower, builder, seed=seed, recipe=recipe, progress="ocr", **OCR, **saves)
    params = params | {"tower": tower}
    for number, (name, stage) in enumerate(STAGES.items(), 1):
        params, config = at_resolution(params, config, stage.image_size)
        # Every stage has its own seed, so that it draws other examples.
        params, _ = train_stage(stage, params, config, folder / name, name=name, seed=seed + 1000 * number)
    return params, config


# ---------------------------------------------------------------------------------------------- the released model


def released_file() -> Path:
    """The weights of the released model; its scores are in the `.csv` beside it. One's own, if there is one."""
    own = files.writable("data/checkpoints/palix_s.safetensors")
    return own if own.is_file() else files.data_folder() / "checkpoints" / "palix_s.safetensors"


def released_config() -> PaLIXConfig:
    """The S rung of the ladder, with the tokenizer's 4,096 ids."""
    return configs.palix("S", text={"vocab_size": tokenizer.multilingual().vocab_size})


def released() -> tuple[palix.PaLIX, dict]:
    """The trained S rung and its parameters. Raises checkpoint.CheckpointError for a damaged file."""
    model = palix.PaLIX(released_config())
    return model, weights.load(released_file(), jax.eval_shape(lambda: palix.init_params(model)))


def main(folder: Path, seed: int = 0) -> None:
    """Trains all stages, then writes the weights and, next to them, the table of their scores."""
    params, _ = train_all(folder, released_config(), seed=seed)
    path = files.writable("data/checkpoints/palix_s.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save(path, params)
    table = scorecard(*released(), TASKS, count=300)
    steps = {"ocr": OCR["steps"]} | {name: stage.steps for name, stage in STAGES.items()}
    head = [
        f"# kit stages: seed {seed}, steps {steps}; kit bench palix measures how long they take",
        f"# jax {jax.__version__}, {os.cpu_count()} CPU cores",
        "# 95 % intervals over examples: Wilson's for shares, bootstrap for other scores",
        "# blind: grey pictures; shuffled: the next example's pictures",
    ]
    text = "\n".join(head) + "\n" + table.to_csv(index=False, float_format="%.4f")
    files.write_text(path.with_suffix(".csv"), text)
    for made in (path, path.with_suffix(".csv")):
        files.note_checksum(made)
    print(table.to_string(index=False, float_format="{:.3f}".format))
