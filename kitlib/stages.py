"""Training PaLI-X in stages: `kit train`, resumable at any moment; `kit bench palix` says how long it takes here.

    stage 0 "ocr"    the tower alone learns to name and to read (`ocr_tuning`)
    stage 1 "base"   the tower is frozen; all thirteen objectives, pictures of 64 pixels
    stage 2 "text"   everything learns; pictures of 96 pixels, mostly reading, markup and detection
    stage 3 "bind"   the tower is frozen; made-up words behind exemplars, short questions, few captions
    stage 4 "tune"   the tower is frozen; the mixture and the tasks it is asked for, counting and films among them

The first three are PaLI-X's (arXiv 2305.18565), the last is its multi-task fine-tuning. Between them is a lesson of
ours: to bind a word to a picture, or to compare what is asked with what is seen, is learned late and all at once, after
some 15,000 examples of it. In a mixture of everything there are too few of them (9,000 did nothing); before "base",
25,600 were not enough; with no captions beside them these were forgotten (their loss was 3.6 when "tune" began, 1.4
with four rows of them and a lower rate). Each was measured once.

Where no text says what PaLI-X did, here is what we do: Adafactor, a schedule for each stage; the tower thawed in stage
2, as PaLI's was; a share of all other objectives kept in stage 2, which would forget them else.

Every stage leaves a checkpoint behind and starts from that of the one before. A stage that is cut off goes on from its
last save, and ends with the same parameters, bit by bit. The result travels with the kit: `model, params = released()`.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from kitlib import collate, configs, mixture, ocr_tuning, optim, palix, palix_scores, runner, tokenizer, train, weights
from kitlib.collate import Group
from kitlib.configs import PaLIXConfig
from kitlib.layers import resize_positions
from kitlib.mixture import Mixture

# Weights of the makers of `mixture.kit_makers`, by group.
SHORT = {"captioning": 12, "split_captioning": 2, "naming": 4, "easy_vqa": 4, "question_generation": 1}
SHORT |= {"object_aware_vqa": 2, "masked_tokens": 1}
READ = {"split_ocr": 2, "receipts": 1}
FOUND, PAGE = {"detection": 1}, {"screenshot_to_markup": 1}
FEW = {"made_up_words": 4, "episodic_vqa": 1, "episodic_captioning": 1}
FILM = {"video_captioning": 1}
TEXT = {"span_corruption": 1}
SHAPES = {  # of a group: pictures, tokens of the prompt, of the target
    "short": (1, 24, 18),
    "read": (1, 56, 32),
    "found": (1, 40, 56),
    "page": (1, 8, 104),
    "quiz": (1, 24, 4),
    "few": (mixture.SHOTS + 1, palix.ROOM, 20),
    "four": (mixture.SHOTS + 1, 16, 4),
    "pair": (3, 16, 4),
    "film": (mixture.FRAMES, 28, 32),
    "text": (0, 128, 64),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One of the stages with pictures and text.

    Attributes:
        weights: of the makers, for each group of `SHAPES`.
        rows: of each group in a batch, and so the group's weight in the loss.
        steps: how many.
        peak: of the learning rate: a linear warm-up over 200 steps, then half a cosine down to 0.
        image_size: in pixels.
        frozen: whether the tower is.
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
# First words for what is seen: half are captions or names. Then reading, pages and boxes; then everything.
# What few-shot prompts are about has to be recognised first, so most of them come late; and most have two exemplars:
# three pictures cost less than five.
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
OCR = {"steps": 18_000, "batch_size": 16, "peak": 2e-3}  # stage 0: small batches learn more in the same time
SHOWN = ("words", "words", "words", "thing", "scene")  # in stage 0: to read takes longest to learn
SAVE_EVERY = 250  # steps
RELEASED = runner.ROOT / "data" / "checkpoints" / "palix_s.npz"


def groups(stage: Stage, seed: int, split: str = "train") -> dict[str, Group]:
    """What the batches of a stage are made of; another seed, other examples."""
    makers, out = mixture.kit_makers(split), {}
    for name, shares in stage.weights.items():
        out[name] = Group(Mixture(makers, shares, seed), stage.rows[name], *SHAPES[name], stage.image_size)
    return out


def at_resolution(params: dict, config: PaLIXConfig, pixels: int) -> tuple[dict, PaLIXConfig]:
    """The same model for pictures of another size: the tower's table of positions is resized."""
    tower = config.tower.replace(image_size=(pixels, pixels))
    table = resize_positions(params["tower"]["pos_embedding"], config.tower.grid, tower.grid)
    return params | {"tower": params["tower"] | {"pos_embedding": table}}, config.replace(tower=tower)


def training(stage: Stage, params: dict, config: PaLIXConfig, seed: int = 0) -> tuple:
    """(state, step, batches) of one stage at its start, from `params` of its resolution on."""
    model = palix.PaLIX(config, frozen_tower=stage.frozen)
    tx = optim.assemble(
        optim.scale_by_adafactor(),
        optim.cosine(stage.peak, stage.steps, warmup=min(200, stage.steps // 4)),
        freeze=("tower/",) if stage.frozen else (),
    )
    made = groups(stage, seed)
    shares = {name: stage.rows[name] for name in made}
    step = train.make_step(palix.loss_of_groups(palix.answer_loss(model), shares), tx)
    return train.init_state(params, tx, seed), step, collate.batches(made, tokenizer.multilingual())


def fit(stage: Stage, params: dict, config: PaLIXConfig, folder: Path | None, *, name: str = "", seed: int = 0):
    """(parameters, history) of one stage, from `params` of its resolution on; resumable where there is a folder.

    Raises ValueError if the folder has saves of another stage, configuration or seed.
    """
    if folder:
        check_recipe(folder, f"{stage}, {config}, seed {seed}")
    state, step, batches = training(stage, params, config, seed)
    saves = {"checkpoint_dir": folder, "save_every": SAVE_EVERY} if folder else {}
    state, history = train.fit(step, state, batches, stage.steps, progress=name, **saves)
    return jax.device_get(state.params), history


def check_recipe(folder: Path, recipe: str) -> None:
    """Writes down, beside a folder of saves, what they are made with. Raises ValueError if it was something else, which
    would go on as if it had been this."""
    note = folder.with_suffix(".txt")
    if note.is_file() and note.read_text(encoding="utf-8").strip() != recipe:
        raise ValueError(f"{folder} has saves of another recipe, see {note}. To train anew, delete both.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    runner.write_atomically(note, recipe)


def run(folder: Path, config: PaLIXConfig, *, seed: int = 0) -> tuple[dict, PaLIXConfig]:
    """All stages, one after the other: the final parameters and their configuration, for pictures of 64 pixels.

    folder: for the saves of each stage; what is finished there is not done again.
    """
    params = palix.init_params(palix.PaLIX(config), seed)
    check_recipe(folder / "ocr", f"{OCR}, {SHOWN}, {config.tower}, seed {seed}")
    saves = {"checkpoint_dir": folder / "ocr", "save_every": 4 * SAVE_EVERY, "progress": "ocr"}  # small steps
    make = ocr_tuning.labelled("train", SHOWN)
    tower = ocr_tuning.tune(config.tower, make, seed=seed, **OCR, **saves)
    params = params | {"tower": tower}
    for number, (name, stage) in enumerate(STAGES.items(), 1):
        params, config = at_resolution(params, config, stage.image_size)
        # Another seed for each stage: it sees other examples.
        params, _ = fit(stage, params, config, folder / name, name=name, seed=seed + 1000 * number)
    return params, config


# ---------------------------------------------------------------------------------------------- the released model


def released_config() -> PaLIXConfig:
    """The S rung of the ladder, with the tokenizer's 4,096 ids."""
    return configs.palix("S", text={"vocab_size": tokenizer.multilingual().vocab_size})


def released() -> tuple[palix.PaLIX, dict]:
    """The trained S rung and its parameters. Raises checkpoint.CheckpointError for a file that is damaged."""
    model = palix.PaLIX(released_config())
    return model, weights.load(RELEASED, jax.eval_shape(lambda: palix.init_params(model)))


def main(folder: Path, seed: int = 0) -> None:
    """All stages, then the weights and their scores, written beside each other."""
    params, _ = run(folder, released_config(), seed=seed)
    RELEASED.parent.mkdir(exist_ok=True)
    weights.save(RELEASED, params)
    table = palix_scores.scorecard(*released(), palix_scores.TASKS, count=300)
    steps = {"ocr": OCR["steps"]} | {name: stage.steps for name, stage in STAGES.items()}
    head = [
        f"# kit train: seed {seed}, steps {steps}; kit bench palix measures how long they take",
        f"# jax {jax.__version__}, {os.cpu_count()} CPU cores",
        "# 95 % bootstrap intervals over examples; blind: grey pictures; shuffled: the next example's pictures",
    ]
    text = "\n".join(head) + "\n" + table.to_csv(index=False, float_format="%.4f")
    runner.write_atomically(RELEASED.with_suffix(".csv"), text)
    print(table.to_string(index=False, float_format="{:.3f}".format))
