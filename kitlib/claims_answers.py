"""What the studies of ensembles ask a trained model, and what its answers are worth.

An *answer* is what an ensemble says of some pictures: logits float32[M, n, V], or for the few-shot task its features
[M, n, D]. Answers of several trainings, joined along M, are those of a deep ensemble, so it is measured by the same
function as one model: accuracy, likelihood, calibration, diversity, corruption shift, foreign pictures, few shots.
"""

import functools

import numpy as np

from kitlib import corruptions, data, ensembles, fewshot, metrics, ood, pipeline, train
from kitlib import uncertainty as un
from kitlib.vit import ViT

CORRUPTED = 100  # pictures of each corruption and severity
FOREIGN = 500  # of each set out of the distribution
OOD_SETS = ("vertical_flip", "quarter_turn", "inverted", "patches", "uniform_noise", "smooth_noise", "animals")
SHOTS = (1, 5, 10)
ASKED = 1000  # pictures that a few-shot probe is scored on
DRAWS = 5  # of few-shot examples; their mean accuracy counts


@functools.cache
def inputs() -> dict[str, np.ndarray]:
    """float32[n, 28, 28, 1] by name: all that a model is asked about, and the pictures of the few-shot task."""
    test = data.load("fashion_mnist", "test").arrays()[0]
    few = test[:CORRUPTED]
    shifted = [corruptions.corrupt(few, name, s) for name in corruptions.CORRUPTIONS for s in range(1, 6)]
    sets = {"test": test, "corrupted": np.concatenate(shifted)}
    sets |= {name: ood.pictures(name, FOREIGN) for name in OOD_SETS}
    return {name: pipeline.to_float(pictures) for name, pictures in sets.items()}


@functools.cache
def probe_task() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Animals: pictures and labels to learn from, pictures and labels to be scored on."""
    (images, labels), (test, answers) = (data.load("animal_mnist", split).arrays() for split in ("train", "test"))
    at = np.unique(np.concatenate([fewshot.shots(labels, max(SHOTS), seed) for seed in range(DRAWS)]))
    return pipeline.to_float(images[at]), labels[at], pipeline.to_float(test[:ASKED]), answers[:ASKED]


def answers(model: ViT | ensembles.Mimo, params: dict, passes: int = 0, seed: int = 0) -> dict[str, np.ndarray]:
    """Logits float32[M, n, V] by name of the input; "few" and "asked": features [M, n, D] of the few-shot task.

    passes: M of MC dropout, drawn by `seed`; 0: no dropout.
    """
    found = {}
    for name, pictures in inputs().items():
        if passes:
            found[name] = ensembles.mc_dropout(model, params, pictures, passes, seed=seed)
        else:
            found[name] = ensembles.predict(model, [params], pictures)
    images, _, test, _ = probe_task()
    if isinstance(model, ensembles.Mimo):  # all of its members share one representation
        c, m = model.config, model.num_members
        headless, params = ViT(c.replace(channels=m * c.channels, num_classes=0)), params["ViT"]
        images, test = np.repeat(images, m, axis=-1), np.repeat(test, m, axis=-1)
    else:
        headless = ViT(model.config.replace(num_classes=0))
    return found | {"few": _features(headless, params, images), "asked": _features(headless, params, test)}


def _features(model, params, images) -> np.ndarray:
    features = train.predict(model, params, images)
    return features.reshape(-1, *features.shape[-2:])


def measure(answers: dict[str, np.ndarray]) -> dict[str, float]:
    """Everything that the answers of an ensemble say; shares and nats, never percent."""
    labels = data.load("fashion_mnist", "test").arrays()[1]
    logits = answers["test"]
    members = metrics.softmax(logits)
    mean = un.combine(members)
    row = {
        "accuracy": metrics.accuracy(mean, labels),
        "loss": un.ensemble_nll(logits, labels),
        "member_loss": un.members_nll(logits, labels),
        "ece": metrics.ece(mean, labels),
        "brier": metrics.brier(mean, labels),
        "calibration_auc": un.calibration_auc(members, labels),
        "members": len(logits),
    }
    if len(logits) > 1:
        row |= {"disagreement": un.disagreement(members), "kl": un.kl(members)}
        row["cosine"] = un.cosine_similarity(members)

    repeated = np.tile(labels[:CORRUPTED], answers["corrupted"].shape[1] // CORRUPTED)
    shifted = un.combine(metrics.softmax(answers["corrupted"]))
    row["shift_accuracy"] = metrics.accuracy(shifted, repeated)
    row["shift_loss"] = un.ensemble_nll(answers["corrupted"], repeated)
    row["shift_ece"] = metrics.ece(shifted, repeated)

    scores = {"msp": lambda x: un.msp(metrics.softmax(x)), "energy": un.energy}
    scores["entropy"] = lambda x: un.entropy(metrics.softmax(x))
    if len(logits) > 1:
        scores["mutual_information"] = lambda x: un.mutual_information(metrics.softmax(x))
    for score, of in scores.items():
        known = of(logits)
        found = [un.detection(known, of(answers[name])) for name in OOD_SETS]
        row[f"ood_{score}"] = float(np.mean([d.auroc for d in found]))
        if score == "msp":
            row["ood_fpr95"] = float(np.mean([d.fpr95 for d in found]))
            row |= {f"ood_{name}": d.auroc for name, d in zip(OOD_SETS, found, strict=True)}

    _, few_labels, _, asked_labels = probe_task()
    for n in SHOTS:
        right = []
        for draw in range(DRAWS):
            at = fewshot.shots(few_labels, n, seed=draw)
            probe = fewshot.fit(answers["few"][:, at], few_labels[at], l2=1.0)
            right.append(np.mean(fewshot.scores(probe, answers["asked"]).argmax(axis=-1) == asked_labels))
        row[f"shots_{n}"] = float(np.mean(right))
    return row
