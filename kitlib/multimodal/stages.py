"""Training PaLI-X in stages: `kit train palix_s`, resumable at any moment. `kit bench palix` measures its time.

    stage 0 "ocr"    the tower alone learns to name objects and to read (`ocr_pretraining`)
    stage 1 "base"   the first things that a picture can say: names in all languages, one word, one or two boxes
    stage 2 "bind"   which image is which: positions in every frame of a film, exemplars with made-up words
    stage 3 "all"    all thirteen objectives and the evaluated tasks
    stage 4 "weak"   the same with more of what was still badly learned: names that no picture teaches, exemplars,
                     counting by way of positions
    stage 5 "shots"  answers that name every image of a prompt, each name with its word right behind it
    stage 6 "words"  the same with the 48 kinds and 52 made-up words of the tests, whose meaning is drawn again for
                     every prompt; and texts in which such a word is to be looked up
    stage 7 "look"   the same with more prompts of five images: to tell the third from the fifth takes longest
    at last          parameters between those after "weak" and after "look" (`interpolation`)

From stage 1 on the tower is frozen, and its output is computed once per picture (`features`): a thing is named, found
and asked about in several languages at once, so that more is learned in an hour. PaLI-X trains in another way: first
all objectives with a frozen tower, then reading, markup and boxes at a higher resolution with a trainable one. Ours has
a reason of size. A small model learns names only when most examples are names, and to tell one image of a prompt from
another only after thousands of prompts that ask for little else; a mixture of all tasks would spread both too thin.

Matrices of the blocks are trained by Muon, all else by Adam (`optim.scale_by_muon`); the text half takes a much lower
rate of Muon's than the tower.

Every stage writes a checkpoint and starts from the parameters of the stage before. A stage that is stopped continues
from its last save and ends with the same parameters, bit by bit. The kit contains the result: `model, params =
released()`.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from kitlib import configs
from kitlib.configs import PaLIXConfig
from kitlib.data import files, tokenizer
from kitlib.layers.vit_layers import resize_positions
from kitlib.models import checkpoint, palix
from kitlib.multimodal import example_builders, frozen_tower, mixtures, ocr_pretraining, probes
from kitlib.multimodal.kit_data import SHOTS
from kitlib.multimodal.kit_scores import TASKS
from kitlib.multimodal.mixtures import Group, Mixture
from kitlib.multimodal.tasks import Task, kit_tasks, scorecard
from kitlib.training import loop, optim

# DOC multimodal.interpolation
# | """Weight interpolation between two stages: the skill of the later one, and less of its forgetting.
# |
# |     table = scores_between(model, before, after, tasks)  # what the later stage taught, and what it cost
# |     params = interpolate(before, after, share_chosen(table))
# |
# | The last stages of the released model teach few-shot prompts, and names and boxes get worse meanwhile. On the straight
# | line from the parameters before to those after, names come back sooner than the new skill is lost (WiSE-FT, 2109.01903,
# | section 3, for a fine-tuned CLIP). PaLI-X's paper has nothing like it.
# | """
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


# DOC multimodal.stages
SHAPES = {  # per group: images, tokens of the prompt, of the target
    "name": (1, 18, 18),
    "short": (1, 26, 18),
    "read": (1, 25, 19),
    "receipt": (1, 60, 8),
    "page": (1, 8, 104),
    "found": (1, 12, 24),
    "boxes": (1, 24, 48),
    "quiz": (1, 24, 4),
    "counted": (1, 28, 30),
    "pair": (3, 16, 32),
    "four": (SHOTS + 1, 16, 48),
    "few": (SHOTS + 1, palix.FEW_SHOT_TEXT_LENGTH, 48),
    "film": (example_builders.FRAMES, 32, 24),
    "clip": (example_builders.FRAMES, 16, 32),
    "text": (0, 128, 64),
    "said": (0, 24, 18),
    "again": (0, 16, 112),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One of the stages with images and text.

    Attributes:
        weights: how often each task is drawn, per group of `SHAPES`. One draw of a task in `kit_tasks.PLURAL` gives up
            to four examples, each in a row of its own, so its share of the rows is larger.
        rows: the rows of each group in a batch, which are also the group's weight in the loss.
        steps: the number of training steps.
        peak: the highest learning rate, Adam's, after a linear warm-up of at most 200 steps; then half a cosine down to
            0. Muon's is `RATIO` times as high.
    """

    weights: Mapping[str, Mapping[str, float]]
    rows: Mapping[str, int]
    steps: int
    peak: float


NAMES = {"captioning": 3, "naming": 1, "naming_by_english": 2}
BASE = {"name": NAMES, "read": {"reading": 1}, "found": {"finding": 1}, "text": {"translation": 2, "recall": 1}}
BIND = BASE | {"film": {"video_questions": 1, "video_questions_by_positions": 3}, "pair": {"two_exemplars": 1}}
ALL = BIND | {
    "four": {"four_exemplars": 1},
    "film": {"video_questions": 1, "video_questions_by_positions": 1},
    "quiz": {"counting": 3, "easy_vqa": 2},
    "short": {"split_captioning": 2, "object_aware_vqa": 2, "question_generation": 1, "masked_tokens": 1},
    "read": {"reading": 3, "split_ocr": 1},
    "receipt": {"receipts": 1},
    "page": {"screenshot_to_markup": 1},
    "boxes": {"detection": 1},
    "few": {"episodic_vqa": 1, "episodic_captioning": 1},
    "clip": {"video_captioning": 1},
    "text": {"translation": 3, "recall": 2, "span_corruption": 1},
}
WEAK = ALL | {
    "said": {"translation_by_text": 2, "translation": 1},
    "counted": {"counting_by_positions": 1},
    "quiz": {"counting": 4, "easy_vqa": 1},
}
BY_NAME = WEAK | {
    "pair": {"two_exemplars_by_name": 1},
    "four": {"four_exemplars_by_name": 1},
    "again": {"repeated_pairs": 1},
}
MADE_UP = BY_NAME | {
    "pair": {"two_made_up_words_by_name": 1},
    "four": {"made_up_words_by_name": 1},
    "again": {"repeated_made_up_words": 1},
}
FIRST = {"name": 28, "read": 12, "found": 8, "text": 10}
ROUTED = {"name": 12, "read": 6, "found": 3, "text": 5, "film": 20, "pair": 16}
EVEN = {"name": 12, "short": 3, "read": 8, "receipt": 3, "page": 1, "found": 4, "boxes": 7, "quiz": 15}
EVEN |= {"pair": 8, "four": 4, "few": 1, "film": 8, "clip": 1, "text": 6}
UNEVEN = {"name": 18, "short": 2, "read": 6, "receipt": 4, "page": 1, "found": 3, "boxes": 4, "quiz": 8, "counted": 12}
UNEVEN |= {"pair": 12, "four": 6, "few": 1, "film": 6, "clip": 1, "text": 2, "said": 16}
NAMED = {"name": 16, "short": 1, "read": 5, "receipt": 2, "page": 1, "found": 2, "boxes": 3, "quiz": 5, "counted": 6}
NAMED |= {"pair": 14, "four": 16, "again": 20, "few": 1, "film": 4, "clip": 1, "text": 1, "said": 8}
WORDED = {"name": 12, "short": 1, "read": 4, "receipt": 1, "page": 1, "found": 2, "boxes": 3, "quiz": 6, "counted": 5}
WORDED |= {"pair": 6, "four": 20, "again": 44, "few": 1, "film": 4, "clip": 1, "text": 1, "said": 6}
LOOKED = {"name": 16, "short": 1, "read": 4, "receipt": 1, "page": 1, "found": 2, "boxes": 3, "quiz": 6, "counted": 5}
LOOKED |= {"pair": 4, "four": 28, "again": 8, "few": 1, "film": 4, "clip": 1, "text": 1, "said": 10}
STAGES = {
    "base": Stage(BASE, FIRST, 5000, 4e-3),
    "bind": Stage(BIND, ROUTED, 1000, 3e-3),
    "all": Stage(ALL, EVEN, 3000, 3e-3),
    "weak": Stage(WEAK, UNEVEN, 2000, 2.5e-3),
    "shots": Stage(BY_NAME, NAMED, 1000, 2e-3),
    "words": Stage(MADE_UP, WORDED, 420, 2e-3),
    "look": Stage(MADE_UP, LOOKED, 560, 2e-3),
}
RATIO = 1.25  # Muon's rate over Adam's, in the text half
OCR = {"steps": 12_000, "batch_size": 64, "peak": 2e-3}  # stage 0
SHOWN = ("words", "words", "words", "thing", "scene")  # images of stage 0: reading takes longest to learn
BEFORE, AFTER = "weak", "look"  # the released parameters lie between those after these two stages
SAVE_EVERY = 250  # steps


def groups(stage: Stage, seed: int) -> dict[str, Group]:
    """The groups of a stage's batches; other seeds give other examples. Each group has a seed of its own, so that
    "pair" and "four" do not show the same words with the same objects."""
    tasks, made = kit_tasks("train"), {}
    for number, (name, rows) in enumerate(stage.rows.items()):
        made[name] = Group(Mixture(tasks, stage.weights[name], seed + number), rows, *SHAPES[name])
    return made


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


def start_stage(stage: Stage, params: dict, config: PaLIXConfig, shards: Path, seed: int = 0) -> tuple:
    """(state, step, batches) at the start of one stage. shards: the folder of its features."""
    model = palix.PaLIX(config)
    tx = optim.assemble(
        optim.scale_by_muon(RATIO),
        optim.cosine(stage.peak, stage.steps, warmup=min(200, stage.steps // 4)),
        clip_norm=1.0,
        freeze=("tower/",),
    )
    step = loop.make_step(palix.loss_of_groups(palix.answer_loss(model), stage.rows), tx)
    tower = frozen_tower.Tower(config.tower, params["tower"])
    batches = mixtures.feature_batches(groups(stage, seed), tokenizer.multilingual(), tower, shards)
    return loop.init_state(params, tx, seed), step, batches


def train_stage(stage: Stage, params: dict, config: PaLIXConfig, folder: Path, *, name: str = "", seed: int = 0):
    """(parameters, history) after one stage. folder: for saves and features, so that it is resumable.

    Raises ValueError if the folder has saves of another stage, configuration, seed or first parameters, or features of
    another tower.
    """
    state, step, batches = start_stage(stage, params, config, folder / "features", seed)
    saves = {"checkpoint_dir": folder / "saves", "save_every": SAVE_EVERY}
    recipe = f"{stage}, {config}, Muon {RATIO}, seed {seed}, from parameters {frozen_tower.fingerprint(params)}"
    state, history = loop.fit(step, state, batches, stage.steps, progress=name, recipe=recipe, **saves)
    return jax.device_get(state.params), history


def train_all(folder: Path, config: PaLIXConfig, *, seed: int = 0) -> tuple[dict[str, dict], dict[str, dict]]:
    """All stages, one after the other: the parameters after each, and the history of each ("ocr", too).

    folder: for the saves of each stage; stages that are finished there are not repeated.
    """
    params = palix.init_params(palix.PaLIX(config), seed)
    recipe = f"{OCR}, {SHOWN}, {config.tower}, seed {seed}"
    saves = {"checkpoint_dir": folder / "ocr", "save_every": 2 * SAVE_EVERY}  # small steps
    builder, histories = ocr_pretraining.labelled_builder("train", SHOWN), {}
    tower, histories["ocr"] = ocr_pretraining.pretrain(
        config.tower, builder, seed=seed, recipe=recipe, progress="ocr", **OCR, **saves
    )
    params, made = params | {"tower": tower}, {}
    for number, (name, stage) in enumerate(STAGES.items(), 1):
        # Every stage has its own seed, so that it draws other examples.
        params, histories[name] = train_stage(
            stage, params, config, folder / name, name=name, seed=seed + 1000 * number
        )
        made[name] = params
    return made, histories


def loss_curves(histories: Mapping[str, Mapping[str, np.ndarray]], every: int = 50) -> pd.DataFrame:
    """One row per stage, loss and `every` steps: "stage", "step" (the last), "loss" (its name), "mean"."""
    rows = []
    for stage, history in histories.items():
        for name in sorted(name for name in history if name.split("/")[-1] == "loss"):
            values = np.asarray(history[name], np.float64)
            for start in range(0, len(values), every):
                part = values[start : start + every]
                rows.append({"stage": stage, "step": start + len(part), "loss": name, "mean": part.mean()})
    return pd.DataFrame(rows)


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
    return model, checkpoint.load(released_file(), jax.eval_shape(lambda: palix.init_params(model)))


def main(folder: Path, seed: int = 0) -> None:
    """Trains all stages, then writes the weights, their scores, the loss curves, and the scores between two stages."""
    made, histories = train_all(folder, released_config(), seed=seed)
    asked = [task for task in TASKS if task.name in (LEARNED, *FORGOTTEN)]
    between = scores_between(palix.PaLIX(released_config()), made[BEFORE], made[AFTER], asked)
    params = interpolate(made[BEFORE], made[AFTER], share_chosen(between))
    table = scorecard(palix.PaLIX(released_config()), params, TASKS, count=300)
    styles = probes.named_by_style(frozen_tower.Tower(released_config().tower, params["tower"]))
    # Each file is whole. If writing stops between two of them, `kit doctor` names the ones that do not belong together.
    path = files.writable("data/checkpoints/palix_s.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, params)
    tables = {"": table, "_losses": loss_curves(histories), "_between": between, "_styles": styles}
    write_scores(path, tables, seed)
    print(table.to_string(index=False, float_format="{:.3f}".format))


def write_scores(path: Path, tables: Mapping[str, pd.DataFrame], seed: int) -> None:
    """Writes tables beside the weights, each with the command that made it, and the checksums of all.

    Their names: "" the scores, "_losses" the loss curves, "_between" the scores between two stages, "_styles" what a
    linear probe names from the tower's output (`probes.named_by_style`).
    """
    steps = {"ocr": OCR["steps"]} | {name: stage.steps for name, stage in STAGES.items()}
    made = f"# kit train palix_s: seed {seed}, steps {steps}; kit bench palix measures how long they take\n"
    made += f"# jax {jax.__version__}, {os.cpu_count()} CPU cores\n"
    explained = {
        "": "# 95 % intervals over examples: Wilson's for shares, bootstrap for other scores\n"
        "# blind: grey pictures; shuffled: the next example's pictures\n",
        "_losses": "",
        "_between": f"# on the straight line from stage {BEFORE} (0) to {AFTER} (1); "
        "examples of their own, to choose by\n",
        "_styles": "# share of new pictures of 417 things that a linear probe of the tower's output names\n",
    }
    written = {path.with_name(f"{path.stem}{name}.csv"): name for name in tables}
    for file, name in written.items():
        files.write_text(file, made + explained[name] + tables[name].to_csv(index=False, float_format="%.4f"))
    for file in (path, *written):
        files.note_checksum(file)
