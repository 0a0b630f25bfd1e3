"""The studies of Sparse MoEs meet Efficient Ensembles (2110.03360) at kit scale: ensembles of every kind, and E3.

A *training* is one run of one model from one seed. It is kept as what it answers: its logits on test pictures, on 15
corruptions at 5 severities and on pictures of something else, and its features of the pictures of a few-shot task.
Whatever an ensemble is measured by comes from there, so a deep ensemble costs no training that a single model has had:
its members are those of seeds s, s + 8, s + 16, ... and no two ensembles of a study share one.
"""

import dataclasses
import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import optax

from kitlib import claims, configs, data, ensembles, flops, optim, pipeline, train
from kitlib.claims_answers import CORRUPTED, FOREIGN, answers, measure
from kitlib.configs import BatchEnsembleConfig, E3Config, MoEConfig, ViTConfig
from kitlib.vit import ViT

SEEDS = 8
STEPS = 500
BATCH = 128
PEAK = 2e-3


@dataclasses.dataclass(frozen=True)
class Arm:
    """An ensemble, or a single model: which model, and from how many trainings or passes."""

    config: ViTConfig
    trainings: int = 1  # a deep ensemble, if more than one
    passes: int = 0  # MC dropout: passes at test time
    inputs: int = 0  # MIMO: M
    steps: int = STEPS
    pictures: int = 10_000  # of the training set
    of_mean: bool = False  # trained by the loss of the mean prediction, instead of the mean of the members' losses


# ---------------------------------------------------------------------------------------------- one training


def _train(arm: Arm, seed: int) -> dict:
    """The parameters after one training."""
    source = data.load("fashion_mnist", "train")
    if arm.pictures < len(source):
        images, labels = source.arrays()
        images, labels = images[: arm.pictures], labels[: arm.pictures]
        source = data.from_arrays(images, labels, name=source.name, class_names=source.class_names)
    model, tx, step = _step(arm.config, arm.steps, arm.inputs, arm.of_mean)
    state = train.init_state(train.init_params(model, (1, 28, 28, 1), seed), tx, seed)
    batches = pipeline.batches(source, BATCH, seed=seed, augment="flip")
    return train.fit(step, state, batches, arm.steps)[0].params


def _model(config: ViTConfig, inputs: int):
    return ensembles.Mimo(config, inputs) if inputs else ViT(config)


@functools.cache
def _step(config: ViTConfig, steps: int, inputs: int, of_mean: bool):
    model = _model(config, inputs)
    schedule = optim.cosine(PEAK, steps, warmup=min(100, steps // 4))
    tx = optim.assemble(optax.scale_by_adam(), schedule, weight_decay=0.1, clip_norm=1.0)
    loss = ensembles.mimo_loss(model, same=0.5) if inputs else train.classification_loss(model, of_mean=of_mean)
    return model, tx, train.make_step(loss, tx)


def training_file(arm: Arm, seed: int, folder: Path) -> Path:
    """Named after all that decides the training: a member of a deep ensemble is a single model's."""
    one = dataclasses.replace(arm, trainings=1)
    name = hashlib.sha256(f"{SETTING}; {one}".encode()).hexdigest()[:16]
    return folder / f"training-{name}-{seed}.npz"


def training(arm: Arm, seed: int, folder: Path) -> dict[str, np.ndarray]:
    """The answers of one training, from `folder` if they are there."""
    path = training_file(arm, seed, folder)
    if not path.is_file():
        found = answers(_model(arm.config, arm.inputs), _train(arm, seed), arm.passes, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial.npz")
        np.savez(partial, **found)
        os.replace(partial, path)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


# ---------------------------------------------------------------------------------------------- one ensemble


def run(arm: Arm, seed: int, folder: Path) -> list[dict]:
    """One row: all that is measured of one ensemble."""
    each = [training(arm, seed + SEEDS * i, folder) for i in range(arm.trainings)]
    joined = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    return [measure(joined) | costs(arm)]


def costs(arm: Arm) -> dict[str, float]:
    """Millions of parameters, millions of FLOPs of one picture at test time, and of training in 10^12."""
    config = arm.config
    if arm.inputs:
        config = config.replace(channels=arm.inputs * config.channels, num_classes=arm.inputs * config.num_classes)
    forward = sum(flops.vit_forward_flops(config).values())
    return {
        "mparams": arm.trainings * sum(flops.vit_parameters(config).values()) / 1e6,
        "mflops": arm.trainings * max(1, arm.passes) * forward / 1e6,
        "train_tflops": arm.trainings * 3 * forward * BATCH * arm.steps / 1e12,
    }


# ---------------------------------------------------------------------------------------------- the questions


def model(width: int = 48, depth: int = 6, **fields) -> ViTConfig:
    """Small enough for a core to train in half a minute: F = 4 D, 16 patches and the class token."""
    heads = {"num_heads": width // 16, "width": width, "mlp_dim": 4 * width, "depth": depth}
    return configs.vit("tiny/7", **heads, image_size=(28, 28), channels=1, num_classes=10, **fields)


def sparse(config: ViTConfig, members: int = 0, e3: E3Config | None = None, **fields) -> ViTConfig:
    """The V-MoE of a ViT with experts in the last two of the odd blocks; with members, the E3."""
    moe = MoEConfig(**{"num_experts": 16, "capacity_factor": 1.5, "group_size": 2176, "split_init": True} | fields)
    blocks = tuple(range(1, config.depth, 2))[-2:]
    return config.replace(moe=moe, moe_blocks=blocks, e3=E3Config(members) if members else e3)


SETTING = (
    f"Fashion-MNIST, {model()}, experts {sparse(model()).moe} in the last two odd blocks; AdamW, peak {PEAK}, cosine, "
    f"batches of {BATCH}; {CORRUPTED} pictures a corruption, {FOREIGN} a foreign set"
)


def studies() -> dict[str, claims.Study]:
    """All of them: methods, map, ablations, flops, sizes, data."""

    def nothing(seed: int, folder: Path) -> None:
        """The arms of a seed share trainings, which the first that needs one makes."""

    return {
        name: claims.Study(question, SETTING, arms, nothing, run, SEEDS)
        for name, (question, arms) in questions().items()
    }


def questions() -> dict[str, tuple[str, dict[str, Arm]]]:
    """By name: the question and the arms that answer it."""
    vit = model()
    vmoe, e3 = sparse(vit), sparse(vit, 2)
    dropout = vit.replace(dropout=0.1)
    rank_one = vit.replace(batch_ensemble=BatchEnsembleConfig(e3.moe_blocks, 2))
    two = {name: Arm(config, 2) for name, config in (("2 x ViT", vit), ("2 x V-MoE", vmoe), ("2 x E3", e3))}
    # As many steps as two V-MoEs of STEPS steps cost.
    budget = costs(two["2 x V-MoE"])["train_tflops"]

    def equal_cost(arm: Arm) -> Arm:
        return dataclasses.replace(arm, steps=round(arm.steps * budget / costs(arm)["train_tflops"]))

    sizes = {"S": model(32, 4), "M": vit, "L": model(64, 8)}
    few = {"tiling only": E3Config(2, routers="shared"), "partition only": E3Config(2, tiling="none")}
    few |= {"overlap 4": E3Config(2, overlap=4), "overlap 8": E3Config(2, overlap=8)}
    few |= {"ranked": E3Config(2, routers="ranked")}
    return {
        "methods": (
            "What does each kind of ensemble give, at equal steps?",
            {
                "ViT": Arm(vit),
                "V-MoE": Arm(vmoe),
                "V-MoE K=2": Arm(sparse(vit, num_selected=2)),
                "dropout": Arm(dropout),
                "MC dropout M=2": Arm(dropout, passes=2),
                "MC dropout M=8": Arm(dropout, passes=8),
                "MIMO M=2": Arm(vit, inputs=2),
                "BatchEnsemble M=2": Arm(rank_one),
                "E3 M=2": Arm(e3),
                **two,
            },
        ),
        "map": (
            "K experts a token, M members: static against adaptive combination.",
            {
                f"{kind} K={k} M={m}": Arm(sparse(vit, num_selected=k), m)
                if kind == "deep" or m == 1
                else Arm(sparse(vit, m, num_selected=k))
                for kind in ("deep", "E3")
                for k in (1, 2, 4)
                for m in (1, 2, 4)
                if kind == "deep" or m > 1
            },
        ),
        "ablations": (
            "What of E3 is needed?",
            {"V-MoE": Arm(vmoe), "E3 M=2": Arm(e3)}
            | {name: Arm(sparse(vit, e3=what)) for name, what in few.items()}
            | {"loss of the mean": Arm(e3, of_mean=True), "same start": Arm(sparse(vit, 2, split_init=False))},
        ),
        "flops": (
            "The same training FLOPs for everyone: those of two V-MoEs.",
            {
                "ViT": equal_cost(Arm(vit)),
                "V-MoE": equal_cost(Arm(vmoe)),
                "V-MoE K=2": equal_cost(Arm(sparse(vit, num_selected=2))),
                "E3 M=2": equal_cost(Arm(e3)),
                "2 x ViT": equal_cost(two["2 x ViT"]),
                "2 x V-MoE": two["2 x V-MoE"],
                "2 x E3": equal_cost(two["2 x E3"]),
            },
        ),
        "sizes": (
            "Does a larger model gain more?",
            {
                f"{kind} {name}": Arm(sparse(config, m))
                for name, config in sizes.items()
                for kind, m in (("V-MoE", 0), ("E3 M=2", 2))
            },
        ),
        "data": (
            "Does more data help experts and members more?",
            {
                f"{kind} n={n}": Arm(config, pictures=n)
                for n in (1000, 3000, 10_000)
                for kind, config in (("ViT", vit), ("V-MoE", vmoe), ("E3 M=2", e3))
            },
        ),
    }
