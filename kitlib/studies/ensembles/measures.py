"""The measures of ensembles: outputs of trained models, and the metrics that are computed from them.

*Outputs* are what an ensemble of M members returns for n images: logits float32[M, n, V], or for the few-shot task
features [M, n, D]. The outputs of several training runs, joined along M, are those of a deep ensemble, so one function
measures both: accuracy, likelihood, calibration, diversity, corruption shift, out-of-distribution images, few shots.
"""

import functools

import numpy as np

from kitlib import data, ensembles, metrics
from kitlib.data import image_batches, shifts
from kitlib.ensembles import uncertainty as un
from kitlib.metrics import fewshot
from kitlib.models import flops
from kitlib.models.vit import ViT
from kitlib.training import classification

NUM_CORRUPTED = 100  # images per corruption and severity
NUM_OOD = 500  # images per out-of-distribution set
OOD_SETS = ("vertical_flip", "quarter_turn", "inverted", "patches", "uniform_noise", "smooth_noise", "animals")
SHOTS = (1, 5, 10)
NUM_QUERIES = 1000  # images on which a few-shot probe is scored
NUM_DRAWS = 5  # of few-shot examples; the mean of their accuracies is reported


@functools.cache
def test_images() -> dict[str, np.ndarray]:
    """float32[n, 28, 28, 1] by name: the images on which a model is evaluated, but for those of the few-shot task."""
    test = data.load("fashion_mnist", "test").arrays()[0]
    first = test[:NUM_CORRUPTED]
    shifted = [shifts.corrupt(first, name, s) for name in shifts.CORRUPTIONS for s in range(1, 6)]
    sets = {"test": test, "corrupted": np.concatenate(shifted)}
    sets |= {name: shifts.images(name, NUM_OOD) for name in OOD_SETS}
    return {name: image_batches.to_float(pictures) for name, pictures in sets.items()}


@functools.cache
def probe_task() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The few-shot task, animals: images and labels to learn from, images and labels for the score."""
    (images, labels), (test, test_labels) = (data.load("animal_mnist", split).arrays() for split in ("train", "test"))
    rows = np.unique(np.concatenate([fewshot.shots(labels, max(SHOTS), seed) for seed in range(NUM_DRAWS)]))
    return (
        image_batches.to_float(images[rows]),
        labels[rows],
        image_batches.to_float(test[:NUM_QUERIES]),
        test_labels[:NUM_QUERIES],
    )


def member_outputs(model: ViT | ensembles.Mimo, params: dict, passes: int = 0, seed: int = 0) -> dict[str, np.ndarray]:
    """`outputs_of` for the images of these studies."""
    few, _, asked, _ = probe_task()
    return outputs_of(model, params, test_images(), few, asked, passes, seed)


def outputs_of(model: ViT | ensembles.Mimo, params, images: dict, few, asked, passes: int = 0, seed: int = 0) -> dict:
    """Logits float32[M, n, V] by name of the input; "few" and "asked": features [M, n, D] of the few-shot task.

    images: float32[n, H, W, C] by name; few, asked: the same, to learn from and for the score. passes: M of MC dropout,
    with masks drawn by `seed`; 0: no dropout.
    """
    outputs = {}
    for name, pictures in images.items():
        if passes:
            outputs[name] = ensembles.mc_dropout(model, params, pictures, passes, seed=seed)
        else:
            outputs[name] = ensembles.predict_members(model, [params], pictures)
    if isinstance(model, ensembles.Mimo):  # all of its members share one set of features
        c, m = model.config, model.num_members
        headless, params = ViT(c.replace(channels=m * c.channels, num_classes=0)), params["ViT"]
        few, asked = np.repeat(few, m, axis=-1), np.repeat(asked, m, axis=-1)
    else:
        headless = ViT(model.config.replace(num_classes=0))
    return outputs | {"few": _features(headless, params, few), "asked": _features(headless, params, asked)}


def _features(model, params, images) -> np.ndarray:
    features = classification.predict(model, params, images)
    return features.reshape(-1, *features.shape[-2:])


def measure(outputs: dict[str, np.ndarray]) -> dict[str, float]:
    """All metrics of an ensemble, from the outputs of its members; as fractions and in nats, never in percent."""
    labels = data.load("fashion_mnist", "test").arrays()[1]
    _, few_labels, _, asked_labels = probe_task()
    row = clean(outputs["test"], labels) | shifted(outputs["corrupted"], labels[:NUM_CORRUPTED])
    row |= out_of_distribution(outputs["test"], {name: outputs[name] for name in OOD_SETS})
    return row | few_shots(outputs["few"], few_labels, outputs["asked"], asked_labels)


def clean(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Of logits float32[M, n, V] for pictures like those that were trained on."""
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
    return row


def shifted(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Of logits float32[M, k * n, V] for k corrupted versions of n pictures, one after the other; labels int[n]."""
    repeated, mean = np.tile(labels, logits.shape[1] // len(labels)), un.combine(metrics.softmax(logits))
    return {
        "shift_accuracy": metrics.accuracy(mean, repeated),
        "shift_loss": un.ensemble_nll(logits, repeated),
        "shift_ece": metrics.ece(mean, repeated),
    }


def out_of_distribution(logits: np.ndarray, sets: dict[str, np.ndarray]) -> dict[str, float]:
    """How well out-of-distribution sets can be told from known pictures: logits float32[M, n, V] of these, and by
    name."""
    row = {}
    scores = {"msp": lambda x: un.msp(metrics.softmax(x)), "energy": un.energy}
    scores["entropy"] = lambda x: un.entropy(metrics.softmax(x))
    if len(logits) > 1:
        scores["mutual_information"] = lambda x: un.mutual_information(metrics.softmax(x))
    for score_name, score in scores.items():
        known = score(logits)
        detections = [un.detection(known, score(unknown)) for unknown in sets.values()]
        row[f"ood_{score_name}"] = float(np.mean([d.auroc for d in detections]))
        if score_name == "msp":
            row["ood_fpr95"] = float(np.mean([d.fpr95 for d in detections]))
            row |= {f"ood_{name}": d.auroc for name, d in zip(sets, detections, strict=True)}
    return row


def few_shots(few: np.ndarray, few_labels: np.ndarray, asked: np.ndarray, asked_labels: np.ndarray) -> dict[str, float]:
    """Accuracies of ridge probes on features float32[M, n, D], fitted to `SHOTS` examples of every class."""
    row = {}
    for n in SHOTS:
        accuracies = []
        for draw in range(NUM_DRAWS):
            rows = fewshot.shots(few_labels, n, seed=draw)
            probe = fewshot.fit_probe(few[:, rows], few_labels[rows], l2=1.0)
            predicted = fewshot.probe_scores(probe, asked).argmax(axis=-1)
            accuracies.append(np.mean(predicted == asked_labels))
        row[f"shots_{n}"] = float(np.mean(accuracies))
    return row


def model_of(arm) -> ViT | ensembles.Mimo:
    """The model that an arm of `from_scratch` or `naming` trains."""
    return ensembles.Mimo(arm.config, arm.inputs) if arm.inputs else ViT(arm.config)


def costs(arm, batch_size: int) -> dict[str, float]:
    """Millions of parameters and of FLOPs per image at test time, and training FLOPs in 10^12, of an arm of
    `from_scratch` or `naming`."""
    config = arm.config
    if arm.inputs:
        config = config.replace(channels=arm.inputs * config.channels, num_classes=arm.inputs * config.num_classes)
    forward = sum(flops.vit_forward_flops(config).values())
    return {
        "mparams": arm.trainings * sum(flops.vit_parameters(config).values()) / 1e6,
        "mflops": arm.trainings * max(1, arm.passes) * forward / 1e6,
        "train_tflops": arm.trainings * 3 * forward * batch_size * arm.steps / 1e12,
    }
