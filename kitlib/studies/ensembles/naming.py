"""Fine-tuned ensembles of a pre-trained V-MoE, measured in every way (2110.03360, section 4), and in three sizes.

    kit claims upcycling pictures_curves     # pre-training; its gate is that of notebook 07
    kit claims ensembles naming_tuning       # six learning rates for every kind
    kit claims ensembles naming
    kit claims upcycling pictures8_curves pictures32_curves        # pre-training in two more widths, after its trials
    kit claims ensembles naming_sizes_tuning naming_sizes

A V-MoE is pre-trained, then fine-tuned as itself, as an E3, and as every other kind of ensemble. Pre-training is the
naming of objects in 27 languages (`synthetic.named_pictures`), for the cost of two dense parents; the models are those
at the end of the arms "dense", "scratch" and, for one study of upcycling, "upcycled" of pictures_curves, and an E3 that
is trained as "scratch" is. Fine-tuning teaches 5,475 facts in eight more languages. As in pre-training, taught facts
are asked, in pictures that are always new; beside them stand pairs of object and language that were never taught.

E3's gain against the size of the model (2110.03360, abstract) is asked of the V-MoE in three widths, with the same
blocks below the first experts. (What an E3 computes twice adds 20, 26 and 32 % to the FLOPs: the narrower the model,
the larger the embedding's share.)
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from kitlib import data, ensembles
from kitlib.configs import BatchEnsembleConfig, E3Config, ViTConfig
from kitlib.configs.arguments import one_of
from kitlib.data import files, keyed_rng, shifts
from kitlib.data.image_batches import resize_and_crop, to_float
from kitlib.ensembles import uncertainty
from kitlib.metrics import fewshot
from kitlib.studies import study
from kitlib.studies.ensembles import measures
from kitlib.studies.ensembles.measures import (
    NUM_DRAWS,
    NUM_QUERIES,
    SHOTS,
    clean,
    few_shots,
    model_of,
    out_of_distribution,
    outputs_of,
    shifted,
)  # fmt: skip
from kitlib.studies.study import Study, best_peak, kept
from kitlib.studies.upcycling import ablations, runs, setups
from kitlib.studies.upcycling.tuning import trial_arm
from kitlib.synthetic import named_pictures
from kitlib.synthetic.named_pictures import SIDE, Questions
from kitlib.training import classification, loop
from kitlib.training.optim import adamw_cosine_step
from kitlib.upcycling import surgery

STEPS, BATCH = 500, 256
PEAKS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
SEEDS = 10
WIDTH, WIDTHS = 16, (8, 16, 32)  # of `naming`, and of `sizes`


@dataclasses.dataclass(frozen=True)
class NamingArm:
    """An ensemble or a single model: from what it is fine-tuned, as what, and how many runs or passes it combines."""

    start: str  # "ViT", "V-MoE", "E3" (all from scratch) or "upcycled"
    config: ViTConfig
    peak: float  # of the learning rate of fine-tuning
    trainings: int = 1  # fine-tunings that are combined; more than one: a deep ensemble
    shared: bool = False  # its members start from one pre-trained model ("downstream"), else each from its own
    passes: int = 0  # MC dropout: passes at test time
    inputs: int = 0  # MIMO: M
    of_mean: bool = False  # trained on the loss of the mean prediction instead of the mean of the members' losses
    steps: int = STEPS


# ---------------------------------------------------------------------------------------------- test images

ASKED, VALID = 1500, 500
NUM_CORRUPTED = 100  # questions per corruption and severity
NUM_OOD = 1000  # pictures per out-of-distribution set
OOD_SETS = ("novel", "clothes", "turned", "noise")


@functools.cache
def late(split: str) -> Questions:
    """Questions in the eight languages that are learned last: "train" (5,475); of these "test" (1,500), on which models
    are compared, and "valid" (500), by which recipes are chosen; "held_out" (307), never taught.

    Raises ValueError for another split.
    """
    one_of("split of the late languages", split, ("train", "test", "valid", "held_out"))
    if split == "held_out":
        return named_pictures.questions(split, late=True)
    taught = named_pictures.questions("taught", late=True)
    return {"train": taught, "test": taught[:ASKED], "valid": taught[ASKED : ASKED + VALID]}[split]


@functools.cache
def pictures() -> dict[str, np.ndarray]:
    """float32[n, 36, 24, 3] by name: "test", "held_out", "corrupted" (15 kinds in five severities) and the
    sets of `OOD_SETS`.

    Of these, "novel" has objects that no model has seen, "clothes" Fashion-MNIST's, "turned" known objects upside down
    and "noise" uniform pixels, each above one of the eight languages. Only the object is corrupted, not the language.
    """
    asked, rng = named_pictures.pictures(late("test"), keyed_rng(0, 2)), keyed_rng(0, 3)
    first = asked[:NUM_CORRUPTED]
    changed = [shifts.corrupt(first[:, :SIDE], name, s) for name in shifts.CORRUPTIONS for s in range(1, 6)]
    sets = {"test": asked, "corrupted": np.concatenate([_above(objects, first) for objects in changed])}
    novel = named_pictures.questions("novel", late=True)[:NUM_OOD]
    some = asked[:NUM_OOD]
    sets["held_out"] = named_pictures.pictures(late("held_out"), keyed_rng(0, 6))
    sets["novel"] = named_pictures.pictures(novel, rng)
    sets["clothes"] = _above(_clothes("test", np.arange(NUM_OOD))[0], some)
    sets["turned"] = _above(some[:, SIDE - 1 :: -1], some)
    sets["noise"] = _above(rng.integers(0, 256, (len(some), SIDE, SIDE, 3), np.uint8), some)
    return {name: to_float(images) for name, images in sets.items()}


def _above(objects: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Other objects above the languages of uint8[n, 36, 24, 3]."""
    return np.concatenate([objects, images[:, SIDE:]], axis=1)


def _clothes(split: str, rows) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[n, 24, 24, 3], labels) of Fashion-MNIST, dark on white as the kit's objects are."""
    images, labels = data.load("fashion_mnist", split).take(rows)
    return np.repeat(255 - resize_and_crop(images, SIDE, SIDE), 3, axis=-1), labels


@functools.cache
def probe() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The few-shot task, clothes above one language: pictures and labels to learn from, and for the score."""
    labels = data.load("fashion_mnist", "train").arrays()[1]
    rows = np.unique(np.concatenate([fewshot.shots(labels, max(SHOTS), seed) for seed in range(NUM_DRAWS)]))
    strip = named_pictures.pictures(late("test")[:1], keyed_rng(0, 4))
    few, few_labels = _clothes("train", rows)
    asked, asked_labels = _clothes("test", np.arange(NUM_QUERIES))
    few, asked = (to_float(_above(images, np.repeat(strip, len(images), axis=0))) for images in (few, asked))
    return few, few_labels, asked, asked_labels


# ---------------------------------------------------------------------------------------------- one fine-tuning


def pretrained(arm: NamingArm, split: str, seed: int, folder: Path) -> dict:
    """The parameters before fine-tuning. split: of the task of pre-training; recipes are chosen on "valid", where
    models are trained for as long as its trials."""
    make = functools.partial(setups.pictures, split, arm.config.width)
    task, kind = make(), {"ViT": "dense", "V-MoE": "scratch"}.get(arm.start, arm.start)
    before = trial_arm(task, kind, task.recipe(kind))
    if split == "test":
        cost = 1.0 if kind in ("dense", "upcycled") else 2.0  # with the parent's, two in all
        before = ablations.tuned_arm(task, kind, before.config, cost)
    return runs.trained(make, before, seed, folder.parent / "upcycling")


def converted(arm: NamingArm, params: dict, seed: int) -> dict:
    """The parameters of a pre-trained model as those of the arm's model."""
    if arm.inputs:
        return surgery.mimo_from_single(params, arm.inputs)
    if arm.start == "E3":
        return params
    if arm.config.e3 and arm.config.e3.routers == "own":
        return surgery.split_routers(params, arm.config.e3.num_members, arm.config.e3.overlap)
    if arm.config.batch_ensemble:
        return surgery.batch_ensemble_from_dense(params, arm.config, jax.random.key(seed))
    return params


def fine_tuned(arm: NamingArm, split: str, first: int, seed: int, folder: Path) -> dict:
    """The parameters after fine-tuning. first: the seed of pre-training; seed: of fine-tuning."""
    model, params = model_of(arm), converted(arm, pretrained(arm, split, first, folder), seed)
    make_loss, options = classification.classification_loss, {"of_mean": arm.of_mean}
    if arm.inputs:
        make_loss, options = ensembles.mimo_loss, {"same": 0.5}
    tx, step = adamw_cosine_step(make_loss, model, arm.steps, arm.peak, warmup=arm.steps // 10, **options)
    batches = named_pictures.batches(late("train"), BATCH, seed=seed)
    return loop.fit(step, loop.init_state(params, tx, seed), batches, arm.steps)[0].params


def stored_outputs(arm: NamingArm, first: int, seed: int, folder: Path) -> dict[str, np.ndarray]:
    """The outputs of one fine-tuned model, from `folder` if they are there; deep ensembles share those of singles."""
    single = dataclasses.replace(arm, trainings=1, shared=False)
    path = folder / f"naming-{files.recipe_hash(f'{setting()}; {single}')}-{first}-{seed}.npz"

    def make():
        params = fine_tuned(arm, "test", first, seed, folder)
        few, _, asked, _ = probe()
        return outputs_of(model_of(arm), params, pictures(), few, asked, arm.passes, seed)

    return kept(path, make)


# ---------------------------------------------------------------------------------------------- one ensemble


def run_arm(arm: NamingArm, seed: int, folder: Path) -> list[dict]:
    """One row: all measures of one ensemble, and its costs. No two ensembles of an arm share a fine-tuned model."""
    members = range(seed, seed + SEEDS * arm.trainings, SEEDS)
    runs = [stored_outputs(arm, seed if arm.shared else member, member, folder) for member in members]
    joined = {name: np.concatenate([outputs[name] for outputs in runs]) for name in runs[0]}
    labels, (_, few_labels, _, asked_labels) = late("test").labels, probe()
    row = clean(joined["test"], labels) | shifted(joined["corrupted"], labels[:NUM_CORRUPTED])
    untaught = clean(joined["held_out"], late("held_out").labels)
    row |= {f"held_out_{name}": untaught[name] for name in ("accuracy", "loss", "ece")}
    row |= out_of_distribution(joined["test"], {name: joined[name] for name in OOD_SETS})
    row |= few_shots(joined["few"], few_labels, joined["asked"], asked_labels)
    return [row | costs(arm)]


def run_trial(arm: NamingArm, seed: int, folder: Path) -> list[dict]:
    """One row: the loss on the questions by which recipes are chosen."""
    params, asked = fine_tuned(arm, "valid", seed, seed, folder), late("valid")
    images = to_float(named_pictures.pictures(asked, keyed_rng(0, 5)))
    logits = (
        ensembles.mc_dropout(model_of(arm), params, images, arm.passes, seed=seed)
        if arm.passes
        else ensembles.predict_members(model_of(arm), [params], images)
    )
    return [{"loss": uncertainty.ensemble_nll(logits, asked.labels)}]


def costs(arm: NamingArm) -> dict[str, float]:
    """`measures.costs` of one ensemble; the training is that of fine-tuning."""
    return measures.costs(arm, BATCH)


# ---------------------------------------------------------------------------------------------- the studies


def kinds() -> dict[str, NamingArm]:
    """What is fine-tuned: a ViT, the same upcycled, a V-MoE, and single models and ensembles made of the V-MoE."""
    task = setups.pictures()
    vmoe = ablations.sparse(task, "scratch")
    two = vmoe.replace(moe=vmoe.moe.replace(num_selected=2))
    dropout, rank_one = vmoe.replace(dropout=0.1), vmoe.replace(batch_ensemble=BatchEnsembleConfig((1,), 2))
    found = {"ViT": NamingArm("ViT", task.dense, 0.0)}
    found["upcycled"] = NamingArm("upcycled", ablations.sparse(task), 0.0)
    of_vmoe = {
        "V-MoE": vmoe,
        "V-MoE K=2": two,
        "dropout": dropout,
        "E3 M=2": vmoe.replace(e3=E3Config(2)),
        "E3 M=4": vmoe.replace(e3=E3Config(4)),
        "E3 K=2 M=2": two.replace(e3=E3Config(2)),
        "BatchEnsemble M=2": rank_one,
        "tiling only": vmoe.replace(e3=E3Config(2, routers="shared")),
        "partition only": vmoe.replace(e3=E3Config(2, tiling="none")),
        "ranked": vmoe.replace(e3=E3Config(2, routers="ranked")),
        "overlap 4": vmoe.replace(e3=E3Config(2, overlap=4)),
    }
    found |= {name: NamingArm("V-MoE", config, 0.0) for name, config in of_vmoe.items()}
    found |= {f"MC dropout M={m}": NamingArm("V-MoE", dropout, 0.0, passes=m) for m in (2, 8)}
    found["MIMO M=2"] = NamingArm("V-MoE", vmoe, 0.0, inputs=2)
    found["E3 pre-trained M=2"] = NamingArm("E3", of_vmoe["E3 M=2"], 0.0)
    found["loss of the mean"] = NamingArm("V-MoE", of_vmoe["E3 M=2"], 0.0, of_mean=True)
    return found


def sizes() -> dict[str, NamingArm]:
    """A ViT, a V-MoE and the E3 that is made of it, in three widths."""
    found = {}
    for width in WIDTHS:
        task = setups.pictures("test", width)
        vmoe = ablations.sparse(task, "scratch")
        for kind, start, config in (
            ("ViT", "ViT", task.dense),
            ("V-MoE", "V-MoE", vmoe),
            ("E3 M=2", "V-MoE", vmoe.replace(e3=E3Config(2))),
        ):
            found[f"{kind}, width {width}"] = NamingArm(start, config, 0.0)
    return found


def setting() -> str:
    """What all arms have in common."""
    return (
        f"{STEPS} steps of Adam with batches of {BATCH}, cosine, on {len(late('train'))} facts in eight languages, "
        f"after: {setups.pictures().setting}"
    )


def sizes_setting() -> str:
    """The same of the arms of `sizes`."""
    return f"widths {', '.join(map(str, WIDTHS))}: {setting()}"


def tried(arms: dict[str, NamingArm]) -> dict[str, NamingArm]:
    """Six learning rates for every kind."""
    return {f"{name}: peak {p:g}": dataclasses.replace(arm, peak=p) for name, arm in arms.items() for p in PEAKS}


def tuned(arms: dict[str, NamingArm]) -> dict[str, NamingArm]:
    """The arms with the best of these; models of width 16 are those of naming_tuning."""

    def peak(name: str) -> float:
        kind, _, width = name.partition(", width ")
        if width in ("", str(WIDTH)):
            return best_peak("ensembles", "naming_tuning", kind)
        return best_peak("ensembles", "naming_sizes_tuning", name)

    return {name: dataclasses.replace(arm, peak=peak(name)) for name, arm in arms.items()}


def tuning() -> Study:
    """naming_tuning."""
    return study.trials("Which learning rate for which kind?", setting(), tried(kinds()), run_trial)


def naming() -> Study:
    """naming."""
    arms = tuned(kinds())
    deep = {
        f"2 x {name}{' downstream' * shared}": dataclasses.replace(arms[kind], trainings=2, shared=shared)
        for name, kind, shared in (
            ("ViT", "ViT", False),
            ("V-MoE", "V-MoE", False),
            ("V-MoE", "V-MoE", True),
            ("V-MoE K=2", "V-MoE K=2", False),
            ("E3", "E3 M=2", False),
        )
    }
    ratio = costs(arms["E3 M=2"])["mflops"] / costs(arms["V-MoE"])["mflops"]
    longer = {"V-MoE, E3's FLOPs": dataclasses.replace(arms["V-MoE"], steps=round(STEPS * ratio))}
    question = "A V-MoE is pre-trained and fine-tuned as itself, as an E3, and as other ensembles."
    return Study(question, setting(), arms | deep | longer, run_arm, seeds=SEEDS)


def sizes_tuning() -> Study:
    """naming_sizes_tuning."""
    other = {name: arm for name, arm in sizes().items() if arm.config.width != WIDTH}
    return study.trials("Which learning rate for which width?", sizes_setting(), tried(other), run_trial)


def naming_sizes() -> Study:
    """naming_sizes."""
    question = "A ViT, a V-MoE and an E3 in three widths."
    return Study(question, sizes_setting(), tuned(sizes()), run_arm, seeds=SEEDS)


STUDIES = {"naming_tuning": tuning, "naming": naming, "naming_sizes_tuning": sizes_tuning, "naming_sizes": naming_sizes}
