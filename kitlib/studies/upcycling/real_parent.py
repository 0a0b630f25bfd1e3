"""Upcycling a real pretrained parent: DINOv2 ViT-S/14 on CIFAR-10, dense, upcycled, and as an E3.

    kit weights fetch dinov2-s14
    kit claims upcycling real_tuning real_curves

Two CPU cores cannot train 22 million parameters, but they need not: the lower ten blocks are frozen, their output is
computed once per picture and kept (`cached_features`), and only the last two blocks and the head are trained. Pictures
are 56 x 56 pixels, 16 patches and the class token. The unit of cost is the dense fine-tuning, 400 steps of the upper
part.

Two controls start with new upper blocks: what a dense and a sparse model make of the same frozen features without the
parent's last blocks. They are part of the task's gate (`gates.REAL`): the sparse one has to beat the dense one.
"""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np

from kitlib import data, metrics
from kitlib.configs import E3Config, ViTConfig
from kitlib.data import download, files
from kitlib.ensembles import uncertainty
from kitlib.layers.initialize import init_params
from kitlib.models import dinov2, flops, vit
from kitlib.models.vit import UpperViT
from kitlib.studies import study
from kitlib.studies.study import Study, best_trial, kept
from kitlib.training import classification, loop
from kitlib.training.optim import adamw_cosine_step
from kitlib.upcycling import surgery

NAME, FIRST, SIDE = "dinov2-s14", 10, 56  # the first block that is trained, and the pictures' side in pixels
SPLITS = {"train": ("train", 0, 15_000), "valid": ("train", 15_000, 18_000), "test": ("test", 0, 5_000)}
STEPS, BATCH, EVALUATIONS, EXPERTS = 400, 64, 5, 8
SEEDS = 10


@dataclasses.dataclass(frozen=True)
class RealArm:
    """Upper blocks, how they start, and the peak of the learning rate."""

    kind: str  # "dense", "upcycled" (expert choice), "top-1", "E3"; "new dense", "new mixture": with new upper blocks
    peak: float
    capacity: float = 1.0  # C of expert choice
    renormalize: bool = True
    cost: float = 1.0  # how long it is trained, in dense fine-tunings

    @property
    def config(self) -> ViTConfig:
        """Of the whole model, all twelve blocks."""
        dense = dinov2.config((SIDE, SIDE), num_classes=10)
        if self.kind in ("dense", "new dense"):
            return dense
        fields = {"num_experts": EXPERTS, "capacity_factor": self.capacity, "renormalize": self.renormalize}
        if self.kind in ("top-1", "E3"):  # members' tokens choose, so they need token choice; noise and losses as V-MoE
            fields |= {"router": "top_k", "num_selected": 1, "capacity_factor": 1.5, "batch_priority": True}
            fields["renormalize"] = False
        sparse = surgery.vision_recipe(dense, **fields).replace(moe_blocks=tuple(range(FIRST, dense.depth)))
        return sparse.replace(e3=E3Config(2)) if self.kind == "E3" else sparse


def setting() -> str:
    """What all arms have in common."""
    return (
        f"{NAME}, {SIDE} pixels, blocks {FIRST} and {FIRST + 1} of 12 and the head trained on what the rest put out; "
        f"CIFAR-10, {SPLITS['train'][2]:,} pictures, batches of {BATCH}, Adam with 50 steps of warm-up and a cosine"
    )


# ---------------------------------------------------------------------------------------------- features


def pictures(split: str) -> tuple[np.ndarray, np.ndarray]:
    """(float32[n, 32, 32, 3], normalised; labels int32[n]) of a split of this task."""
    source_split, start, stop = SPLITS[split]
    source = data.load("cifar10", source_split, full=True)
    order = np.random.default_rng(0).permutation(len(source))[start:stop]  # the set is sorted in some copies
    images, labels = source.take(order)
    return dinov2.normalize(images), np.asarray(labels, np.int32)


def enlarged(pixels: jax.Array) -> jax.Array:
    """float32[B, 32, 32, 3] -> float32[B, 56, 56, 3]."""
    return jax.image.resize(pixels, (len(pixels), SIDE, SIDE, 3), "bilinear")


def _features() -> dict[str, np.ndarray]:
    """{"train": float16[n, 17, 384], "train_labels": int32[n], "valid": ..., "test": ...}, of all pictures."""
    config, params = dinov2.load(download.weights_file(NAME), (SIDE, SIDE), num_classes=10)
    lower, _ = vit.split(params, FIRST)
    arrays = {}
    for split in SPLITS:
        images, labels = pictures(split)

        def tokens(pixels, _):
            return vit.tokens_before(config, lower, enlarged(pixels), FIRST)

        found = classification.in_batches(tokens, images, 100)
        arrays |= {split: found.astype(np.float16), f"{split}_labels": labels}
    return arrays


@functools.cache  # one process makes many runs
def cached_features(folder: Path) -> dict[str, np.ndarray]:
    """All features, from `folder` if they are there: a minute, 400 MB."""
    recipe = files.recipe_hash(f"{download.WEIGHTS[NAME].sha256} {FIRST} {SIDE} {SPLITS}")
    return kept(folder / f"features-{recipe}.npz", _features)


def prepare(seed: int, folder: Path) -> None:
    """Makes the file of the features."""
    cached_features(folder)


# ---------------------------------------------------------------------------------------------- one run


def start(arm: RealArm, seed: int) -> dict:
    """The parameters of the upper part at step 0."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    upper = vit.upper_config(arm.config, FIRST)
    if arm.kind.startswith("new"):
        return init_params(
            UpperViT(upper), np.zeros((1, arm.config.num_tokens, arm.config.width), np.float32), seed=seed
        )
    _, params = dinov2.load(download.weights_file(NAME), (SIDE, SIDE), num_classes=10)
    if arm.config.moe:
        plan = surgery.plan(params, arm.config.replace(e3=None))
        params = surgery.apply(plan, params, key)
        if arm.config.e3:
            params = surgery.split_routers(params, arm.config.e3.num_members)
    return vit.split(params, FIRST)[1]


def relative_cost(config: ViTConfig) -> float:
    """FLOPs of the trained part, per picture, over those of the dense one."""

    def upper(c: ViTConfig) -> int:
        parts = flops.vit_forward_flops(vit.upper_config(c, FIRST))
        return sum(value for name, value in parts.items() if name != "embedding")

    return upper(config) / upper(dinov2.config((SIDE, SIDE), num_classes=10))


def run_arm(arm: RealArm, seed: int, folder: Path, *, split: str = "test") -> list[dict]:
    """Trains one arm: rows of steps, cost in dense fine-tunings, accuracy, loss, calibration error."""
    arrays, cost = cached_features(folder), relative_cost(arm.config)
    steps = math.ceil(arm.cost * STEPS / cost)
    model = UpperViT(vit.upper_config(arm.config, FIRST))
    tx, step = adamw_cosine_step(
        classification.classification_loss, model, steps, arm.peak, warmup=min(50, steps // 4), weight_decay=0.01
    )
    state, rows = loop.init_state(start(arm, seed), tx, seed), []
    rng, every = np.random.default_rng([seed, 2]), max(1, round(STEPS / EVALUATIONS / cost))
    for t in range(steps + 1):
        if t % every == 0 or t == steps:
            row = {"extra_steps": t, "extra_cost": t * cost / STEPS}
            rows.append(row | _measured(model, state.params, arrays, split))
        if t < steps:
            chosen = rng.integers(len(arrays["train"]), size=BATCH)
            batch = {"image": arrays["train"][chosen].astype(np.float32), "label": arrays["train_labels"][chosen]}
            state, _ = step(state, batch)
    return rows


def _measured(model, params, arrays: dict[str, np.ndarray], split: str) -> dict[str, float]:
    labels = arrays[f"{split}_labels"]
    logits = classification.predict(model, params, arrays[split].astype(np.float32), batch_size=250)
    probs = uncertainty.combine(metrics.softmax(logits)) if logits.ndim == 3 else metrics.softmax(logits)
    return {
        "accuracy": metrics.accuracy(probs, labels),
        "loss": metrics.nll(probs, labels),
        "ece": metrics.ece(probs, labels),
    }


# ---------------------------------------------------------------------------------------------- the studies

PEAKS = (1e-4, 3e-4, 1e-3)
KINDS = ("dense", "upcycled", "top-1", "E3", "new dense", "new mixture")
# Tried in addition: a larger C for upcycling, since C = 1 leaves tokens without any expert at the start, and what lies
# beyond a best one at an end of its range.
MORE = {
    "upcycled": {f"peak {p:.2g}, renormalised, C = 2": RealArm("upcycled", p, 2.0, True) for p in PEAKS[:2]},
    "new mixture": {f"peak {p:.2g}, raw": RealArm("new mixture", p, 1.0, False) for p in (0.0017, 0.003)},
}


def trials() -> dict[str, dict[str, RealArm]]:
    """By kind: six recipes or more. Kinds with one choice less than others try twice as many learning rates."""
    fine = sorted({*PEAKS, *(math.sqrt(3) * peak for peak in PEAKS)})
    found = {}
    for kind in KINDS:
        if kind in ("upcycled", "new mixture"):
            arms = {
                f"peak {p:.2g}, {'renormalised' if r else 'raw'}": RealArm(kind, p, 1.0, r)
                for p in PEAKS
                for r in (True, False)
            }
        else:
            arms = {f"peak {p:.2g}": RealArm(kind, p) for p in fine}
        found[kind] = arms | MORE.get(kind, {})
    return found


def tuning() -> Study:
    """real_tuning."""
    arms = {f"{kind}: {name}": arm for kind, tried in trials().items() for name, arm in tried.items()}
    run = functools.partial(run_arm, split="valid")
    return study.trials("Which recipe for which kind?", setting(), arms, run, prepare)


def curves() -> Study:
    """real_curves."""
    arms = {kind: tried[best_trial("upcycling", "real_tuning", kind)] for kind, tried in trials().items()}
    arms |= {"dense, twice as long": dataclasses.replace(arms["dense"], cost=2.0)}
    question = "A real parent: dense fine-tuning, upcycled, as an E3, and without its last blocks."
    return Study(question, setting(), arms, run_arm, prepare, SEEDS)


STUDIES = {"real_tuning": tuning, "real_curves": curves}
