"""Long-tail detection in the form of LVIS (1908.03195): are rare kinds found as well as frequent ones?

    kit claims palix rare

A fixed set of training pictures with two objects each. Of the 48 kinds, 16 are rare (in 2 to 9 pictures), 16 common (10
to 99) and 16 frequent (400 to 6,400); which is which is drawn again for every seed. (With 100 to 400 pictures of the
frequent ones, and absent kinds asked for from the start, these had an AP of 0.08: where frequent kinds are not found,
nothing can be said about rare ones.)

Every prompt has one name. At first it is always that of a kind that is there, and the target is its box. Then half of
the time it is one that is not there, drawn by frequency, so that a rare kind is asked for in vain as often as it is
found; and noise fills up the target. As in LVIS, a test picture is annotated for some kinds only: the two that are
there, and two that are not.

PaLI-X finds rare classes as well as others (AP 31.4 of rare ones, 31 of all), and its authors give the credit to the
mixture, in which all classes have captions. So one arm sees captions of all kinds, equally often, besides the boxes.
The third arm has as many pictures, with all kinds equally often: what the rare kinds would get without the long tail.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kitlib.data import keyed_rng
from kitlib.metrics.detection import Detections, Result, Truth, lvis
from kitlib.multimodal import generation, objectives
from kitlib.multimodal.example_builders import BINS, LARGE
from kitlib.multimodal.kit_data import KitData, kit_data, pick
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.tasks import Task, read_detections
from kitlib.studies import palix_runs, study
from kitlib.studies.palix_runs import PaLIXArm, Phase
from kitlib.studies.palix_tasks import study_tasks
from kitlib.synthetic import scenes

TIERS = ((2, 9), (10, 99), (400, 6400))  # pictures per rare, common and frequent kind: fewest and most
TOTAL = 2  # boxes written if noise fills up, noise included
TESTED = 16  # test pictures with each kind
PICTURE, TEST = 1, 2  # parts of the keys of generators
PRESENT_STEPS, STEPS = 4000, 1000  # with kinds that are there alone, and then with absent ones, too


def counts_of(num_kinds: int, seed: int) -> np.ndarray:
    """int[K]: in how many training pictures each kind is; a third of the kinds in each tier, spaced geometrically.

    The sum is even, as every picture has two objects.
    """
    sizes = np.concatenate([np.rint(np.geomspace(*tier, num_kinds // 3)) for tier in TIERS]).astype(int)
    sizes[-1] += sizes.sum() % 2
    return keyed_rng(seed, 0).permutation(sizes)


def pairs(counts: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """int[N, 2]: two different kinds per picture, so that kind k is in counts[k] of them."""
    found = rng.permutation(np.repeat(np.arange(len(counts)), counts)).reshape(-1, 2)
    while (equal := np.flatnonzero(found[:, 0] == found[:, 1])).size:
        for i, j in zip(equal, rng.integers(len(found), size=len(equal)), strict=True):
            found[[i, j], 1] = found[[j, i], 1]
    return found


@functools.cache
def training_pairs(seed: int, *, even: bool = False) -> np.ndarray:
    """The kinds of all training pictures of a seed. even: as many pictures, all kinds (nearly) equally often."""
    counts = counts_of(len(scenes.EASY["train"]), seed)
    if even:
        share, rest = divmod(counts.sum(), len(counts))
        counts = np.full(len(counts), share) + (np.arange(len(counts)) < rest)
    return pairs(counts, keyed_rng(seed, 3))


def picture(data: KitData, kinds: np.ndarray, *key: int) -> scenes.Scene:
    """The picture of these kinds that belongs to the key: always the same."""
    rng = keyed_rng(*key)
    return scenes.compose(pick(data.scene_cutouts, rng), kinds, LARGE, rng)


def asked(data: KitData, scene: scenes.Scene, kind: int, rng, total: int | None = TOTAL) -> Example:
    """detect dog -> its box, filled up with noise to `total` boxes; None: without noise."""
    names = [data.scene_names[i] for i in scene.indices]
    return objectives.detection(scene.image, scene.boxes, names, [data.scene_names[kind]], rng, total, BINS)


def training_picture(data: KitData, rng, seed: int, even: bool) -> scenes.Scene:
    """One of the fixed pictures of a seed."""
    kinds = training_pairs(seed, even=even)
    number = rng.integers(len(kinds))
    return picture(data, kinds[number], seed, PICTURE, number)


def present(data: KitData, rng, *, seed: int, even: bool = False) -> Example:
    """An example from the fixed pictures: a kind that is there is asked for, and there is no noise."""
    scene = training_picture(data, rng, seed, even)
    return asked(data, scene, int(pick(scene.indices, rng)), rng, None)


def present_or_absent(data: KitData, rng, *, seed: int, even: bool = False) -> Example:
    """The same, but half of the time the kind is one that is not there, drawn by frequency; with noise."""
    scene = training_picture(data, rng, seed, even)
    there = set(scene.indices.tolist())
    kind = pick(scene.indices, rng)
    if rng.integers(2):
        while kind in there:
            kind = pick(training_pairs(seed, even=even).ravel(), rng)
    return asked(data, scene, int(kind), rng)


# ---------------------------------------------------------------------------------------------- the test


def new_pictures(data: KitData, seed: int) -> tuple[list[scenes.Scene], np.ndarray]:
    """(new pictures with all kinds equally often, absent int[N, 2]: two kinds per picture that are not there)."""
    num_kinds, rng = len(data.scene_names), keyed_rng(seed, TEST)
    kinds = pairs(np.full(num_kinds, TESTED), rng)
    pictures = [picture(data, pair, seed, TEST, 1 + i) for i, pair in enumerate(kinds)]
    absent = [rng.permutation(np.setdiff1d(np.arange(num_kinds), pair))[:2] for pair in kinds]
    return pictures, np.array(absent)


def detect(model, params, seed: int) -> Result:
    """LVIS's average precision on the test set, with the training frequencies of the seed.

    Every picture is asked for each of its four annotated kinds. A box is as certain as its text is probable.
    """
    data = kit_data("train")
    number = {name: i for i, name in enumerate(data.scene_names)}
    pictures, absent = new_pictures(data, seed)
    prompted = [[*scene.indices.tolist(), *missing.tolist()] for scene, missing in zip(pictures, absent, strict=True)]
    examples = [
        asked(data, scene, kind, keyed_rng(seed, TEST, 0))
        for scene, kinds in zip(pictures, prompted, strict=True)
        for kind in kinds
    ]
    texts, certain = generation.texts_and_log_probs(model, params, examples)
    detections, truths, at = [], [], 0
    for scene, kinds, missing in zip(pictures, prompted, absent, strict=True):
        parts = []
        for kind in kinds:
            found = read_detections(texts[at], {data.scene_names[kind]: number[data.scene_names[kind]]}, BINS)
            parts.append(Detections(found.boxes[:1], np.full(len(found.boxes[:1]), certain[at]), found.classes[:1]))
            at += 1
        fields = zip(*((part.boxes, part.scores, part.classes) for part in parts), strict=True)
        detections.append(Detections(*(np.concatenate(field) for field in fields)))
        truths.append(Truth(scene.boxes, scene.indices, frozenset(missing.tolist())))
    return lvis(detections, truths, counts_of(len(number), seed))


# ---------------------------------------------------------------------------------------------- the study


def run(arm: PaLIXArm, seed: int, folder: Path) -> list[dict]:
    """One row: "AP: all", of rare, common and frequent kinds, and "AP: frequent minus rare"."""
    data = kit_data("train")
    own = {
        form + name: functools.partial(draw, data, seed=seed, even=even)
        for form, draw in (("present", present), ("present or absent", present_or_absent))
        for name, even in (("", False), (", even", True))
    }
    shown = study_tasks() | {name: Task(name, draw) for name, draw in own.items()}
    found = detect(*palix_runs.trained(arm, seed, folder, shown), seed)
    row = {"all": found.ap, "rare": found.rare, "common": found.common, "frequent": found.frequent}
    row["frequent minus rare"] = found.frequent - found.rare
    return [{f"AP: {name}": float(value) for name, value in row.items()}]


def studies() -> dict[str, study.Study]:
    """rare."""
    forms = (("present", PRESENT_STEPS), ("present or absent", STEPS))

    def arm(even: str, more: tuple[tuple[str, float], ...] = ()) -> PaLIXArm:
        """Both phases. `more` tasks come on top: all arms have equally many prompts for boxes."""
        times = 1 + sum(weight for _, weight in more)
        return PaLIXArm(
            tuple(
                Phase(((form + even, 1.0), *more), round(times * steps), prompt_length=16, target_length=24)
                for form, steps in forms
            ),
            tests=(),
        )

    arms = {
        "boxes": arm(""),
        "boxes and captions": arm("", (("captioning", 0.5),)),
        "boxes, no tail": arm(", even"),
    }
    setting = (
        f"{palix_runs.config()}, {TIERS} pictures per rare, common and frequent kind, {TESTED} test pictures per kind; "
        f"AdamW, peak {palix_runs.PEAK}; towers as in the other studies"
    )

    def prepare(seed: int, folder: Path) -> None:
        """Trains the tower of a seed."""
        palix_runs.pretrained_tower(palix_runs.StageZero(), seed, folder)

    question = "Are rare kinds found as well as frequent ones?"
    return {"rare": study.Study(question, setting, arms, prepare, run, study.SEEDS)}
