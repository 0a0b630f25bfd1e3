"""Ensembles of every kind, trained from scratch on pictures of clothes, and with fewer pictures.

The ensembles of 2110.03360, which are fine-tuned from a V-MoE, are in `naming`: trained from scratch on 10,000 pictures
a V-MoE is no better than its ViT, so an ensemble of experts has nothing to build on (the methods that need no experts
have).

A *training run* trains one model from one seed. Only its outputs are kept: logits for test images, for 15 corruptions
at 5 severities and for out-of-distribution images, and features for the images of a few-shot task. All measures of an
ensemble are computed from these outputs, so a deep ensemble reuses the training runs of single models: its members have
the seeds s, s + 8, s + 16, ... and no two ensembles of a study share a member.
"""

import dataclasses
from pathlib import Path

import numpy as np

from kitlib import configs, data, ensembles
from kitlib.configs import BatchEnsembleConfig, E3Config, MoEConfig, ViTConfig
from kitlib.data import files, image_batches
from kitlib.studies.ensembles import measures
from kitlib.studies.ensembles.measures import NUM_CORRUPTED, NUM_OOD, measure, member_outputs, model_of
from kitlib.studies.study import Study, kept
from kitlib.training import classification, loop
from kitlib.training.optim import adamw_cosine_step

SEEDS = 8
STEPS = 500
BATCH = 128
PEAK = 2e-3


@dataclasses.dataclass(frozen=True)
class EnsembleArm:
    """An ensemble or a single model: its configuration, and the number of training runs or passes that it combines."""

    config: ViTConfig
    trainings: int = 1  # training runs; more than one: a deep ensemble
    passes: int = 0  # MC dropout: passes at test time
    inputs: int = 0  # MIMO: M
    steps: int = STEPS
    pictures: int = 10_000  # images of the training set


# ---------------------------------------------------------------------------------------------- one training run


def _train(arm: EnsembleArm, seed: int) -> dict:
    """The parameters after one training run."""
    source = data.load("fashion_mnist", "train")
    if arm.pictures < len(source):
        images, labels = source.arrays()
        images, labels = images[: arm.pictures], labels[: arm.pictures]
        source = data.from_arrays(images, labels, name=source.name, class_names=source.class_names)
    model, warmup = model_of(arm), min(100, arm.steps // 4)
    # MIMO has its own loss. Both losses are module-level functions, so that several seeds of one model compile once.
    make_loss, options = classification.classification_loss, {}
    if arm.inputs:
        make_loss, options = ensembles.mimo_loss, {"same": 0.5}
    tx, step = adamw_cosine_step(make_loss, model, arm.steps, PEAK, warmup=warmup, weight_decay=0.1, **options)
    state = loop.init_state(classification.init_params(model, (1, 28, 28, 1), seed), tx, seed)
    batches = image_batches.batches(source, BATCH, seed=seed, augment="flip")
    return loop.fit(step, state, batches, arm.steps)[0].params


def outputs_file(arm: EnsembleArm, seed: int, folder: Path) -> Path:
    """The file of one training run, named after its recipe: a deep ensemble uses the files of single models."""
    single = dataclasses.replace(arm, trainings=1)
    name = files.recipe_hash(f"{SETTING}; {single}")
    return folder / f"training-{name}-{seed}.npz"


def stored_outputs(arm: EnsembleArm, seed: int, folder: Path) -> dict[str, np.ndarray]:
    """The outputs of one training run, from `folder` if they are there."""
    path = outputs_file(arm, seed, folder)
    return kept(path, lambda: member_outputs(model_of(arm), _train(arm, seed), arm.passes, seed))


# ---------------------------------------------------------------------------------------------- one ensemble


def run_arm(arm: EnsembleArm, seed: int, folder: Path) -> list[dict]:
    """One row: all measures of one ensemble, and its costs."""
    runs = [stored_outputs(arm, seed + SEEDS * i, folder) for i in range(arm.trainings)]
    joined = {name: np.concatenate([outputs[name] for outputs in runs]) for name in runs[0]}
    return [measure(joined) | costs(arm)]


def costs(arm: EnsembleArm) -> dict[str, float]:
    """`measures.costs` of one ensemble."""
    return measures.costs(arm, BATCH)


# ---------------------------------------------------------------------------------------------- the studies


def model(width: int = 48, depth: int = 6, **fields) -> ViTConfig:
    """A ViT that one core trains in half a minute: F = 4 D, 16 patches and the class token."""
    heads = {"num_heads": width // 16, "width": width, "mlp_dim": 4 * width, "depth": depth}
    return configs.vit("tiny/7", **heads, image_size=(28, 28), channels=1, num_classes=10, **fields)


def sparse(config: ViTConfig, members: int = 0, **fields) -> ViTConfig:
    """The V-MoE of a ViT, with experts in the last two odd blocks; with `members`, the E3."""
    moe = MoEConfig(**{"num_experts": 16, "capacity_factor": 1.5, "group_size": 2176, "split_init": True} | fields)
    blocks = tuple(range(1, config.depth, 2))[-2:]
    return config.replace(moe=moe, moe_blocks=blocks, e3=E3Config(members) if members else None)


SETTING = (
    f"Fashion-MNIST, {model()}, experts {sparse(model()).moe} in the last two odd blocks; AdamW, peak {PEAK}, cosine, "
    f"batches of {BATCH}; {NUM_CORRUPTED} pictures a corruption, {NUM_OOD} a foreign set"
)


def methods() -> Study:
    """methods."""
    vit = model()
    vmoe, e3 = sparse(vit), sparse(vit, 2)
    dropout = vit.replace(dropout=0.1)
    rank_one = vit.replace(batch_ensemble=BatchEnsembleConfig(e3.moe_blocks, 2))
    arms = {
        "ViT": EnsembleArm(vit),
        "V-MoE": EnsembleArm(vmoe),
        "V-MoE K=2": EnsembleArm(sparse(vit, num_selected=2)),
        "dropout": EnsembleArm(dropout),
        "MC dropout M=2": EnsembleArm(dropout, passes=2),
        "MC dropout M=8": EnsembleArm(dropout, passes=8),
        "MIMO M=2": EnsembleArm(vit, inputs=2),
        "BatchEnsemble M=2": EnsembleArm(rank_one),
        "E3 M=2": EnsembleArm(e3),
        "2 x ViT": EnsembleArm(vit, 2),
        "2 x V-MoE": EnsembleArm(vmoe, 2),
        "2 x E3": EnsembleArm(e3, 2),
    }
    return Study("What does each kind of ensemble give, at equal steps?", SETTING, arms, run_arm, seeds=SEEDS)


def amounts() -> Study:
    """data."""
    arms = {
        f"{kind} n={n}": EnsembleArm(config, pictures=n)
        for n in (1000, 3000, 10_000)
        for kind, config in (("ViT", model()), ("V-MoE", sparse(model())), ("E3 M=2", sparse(model(), 2)))
    }
    return Study("Does more data help experts and members more?", SETTING, arms, run_arm, seeds=SEEDS)


STUDIES = {"methods": methods, "data": amounts}
