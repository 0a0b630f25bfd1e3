"""What is asked of the tables of `kit claims ensembles`: questions of arXiv 2110.03360 and of the methods it builds on.

Margins, differences that would not matter, are about a fifth of what a second training run brings a ViT or a V-MoE in
the table `methods` (mean over seeds): 0.034 of loss, 0.152 of loss on corrupted images, 0.065 of the calibration error
on corrupted images, 0.054 of AUROC, 0.071 of the accuracy with ten shots, 0.0093 of accuracy. They were set after the
tables were made, by this rule. (On clean images a second run brings no calibration, so its margin is that of accuracy;
the margin of disagreement, half a per cent of the answers, follows no rule.)
"""

from kitlib.studies.questions import Question

MARGINS = {
    "loss": 0.006,
    "member_loss": 0.006,
    "accuracy": 0.002,
    "ece": 0.002,
    "shift_loss": 0.03,
    "shift_ece": 0.013,
    "ood_msp": 0.01,
    "shots_1": 0.014,
    "shots_5": 0.014,
    "shots_10": 0.014,
    "disagreement": 0.005,
}


def _asked(table: str, metric: str, where: str, *rows) -> list[Question]:
    """rows: (claim, published, arm, baseline)."""
    return [
        Question(claim, table, arm, baseline, MARGINS[metric], metric, published=published, where=where)
        for claim, published, arm, baseline in rows
    ]


MEASURES = {
    "ece": "ECE",
    "shift_loss": "corrupted: loss",
    "shift_ece": "corrupted: ECE",
    "ood_msp": "OOD: AUROC",
    "shots_1": "1 shot",
    "shots_5": "5 shots",
    "shots_10": "10 shots",
}
PAIRS = (
    ("two ViTs beat one", "yes", "2 x ViT", "ViT"),
    ("two V-MoEs beat one", "yes", "2 x V-MoE", "V-MoE"),
    ("E3 beats V-MoE", "yes", "E3 M=2", "V-MoE"),
    ("V-MoE beats ViT", "-", "V-MoE", "ViT"),
    ("BatchEnsemble beats ViT", "yes", "BatchEnsemble M=2", "ViT"),
    ("MIMO beats ViT", "yes", "MIMO M=2", "ViT"),
    ("8 passes of MC dropout beat a ViT", "-", "MC dropout M=8", "ViT"),
)


def _methods() -> list[Question]:
    more = (
        ("two V-MoEs beat two ViTs", "yes", "2 x V-MoE", "2 x ViT"),
        ("dropout (off at test time) beats none", "-", "dropout", "ViT"),
        ("8 passes of MC dropout beat dropout off", "yes", "MC dropout M=8", "dropout"),
        ("two E3s beat two V-MoEs", "yes", "2 x E3", "2 x V-MoE"),
    )
    accuracy = [(f"accuracy: {claim}", published, a, b) for claim, published, a, b in PAIRS[:2]]
    asked = _asked("methods", "loss", "09.7", *PAIRS, *more) + _asked("methods", "accuracy", "09.7", *accuracy)
    for metric, name in MEASURES.items():
        named = [(f"{name}: {claim}", published, a, b) for claim, published, a, b in PAIRS]
        asked += _asked("methods", metric, "11.4", *named)
    return asked


def _ablations() -> list[Question]:
    variants = ("tiling only", "partition only", "ranked", "overlap 4", "overlap 8", "loss of the mean", "same start")
    return [
        *_asked(
            "ablations", "loss", "10.6",
            ("E3 beats V-MoE", "yes", "E3 M=2", "V-MoE"),
            *((f"E3 beats {name}", "-", "E3 M=2", name) for name in variants),
        ),
        *_asked("ablations", "accuracy", "10.6", ("accuracy: E3 beats V-MoE", "yes", "E3 M=2", "V-MoE")),
        *_asked(
            "ablations", "disagreement", "10.6",
            ("loss of the mean: members disagree more", "-", "loss of the mean", "E3 M=2"),
        ),
        *_asked(
            "ablations", "member_loss", "10.6",
            ("loss of the mean: each member is worse", "-", "E3 M=2", "loss of the mean"),
        ),
    ]  # fmt: skip


def _sizes() -> list[Question]:
    def pairs(words: str) -> list[tuple]:
        return [(f"size {s}: E3 beats V-MoE{words}", "yes", f"E3 M=2 {s}", f"V-MoE {s}") for s in ("S", "M", "L")]

    gains = [(f"E3 M=2 {size}", f"V-MoE {size}") for size in ("L", "S")]
    return [
        *_asked("sizes", "loss", "10.7", *pairs(""), ("E3 saves more of L's loss than of S's", "yes", *gains)),
        *_asked("sizes", "shots_10", "10.7", *pairs(" with 10 shots")),
    ]


def _flops() -> list[Question]:
    names = {"accuracy": "accuracy", "ece": "ECE", "shift_loss": "corrupted: loss", "shots_10": "10 shots"}
    asked = _asked(
        "flops", "loss", "10.8",
        ("equal FLOPs: E3 beats V-MoE", "-", "E3 M=2", "V-MoE"),
        ("equal FLOPs: E3 beats V-MoE with K = 2", "-", "E3 M=2", "V-MoE K=2"),
        ("equal FLOPs: E3 beats two V-MoEs", "-", "E3 M=2", "2 x V-MoE"),
        ("equal FLOPs: two E3s beat two V-MoEs", "-", "2 x E3", "2 x V-MoE"),
        ("equal FLOPs: two V-MoEs beat one", "-", "2 x V-MoE", "V-MoE"),
    )  # fmt: skip
    for metric, name in names.items():
        asked += _asked(
            "flops", metric, "10.8",
            (f"equal FLOPs, {name}: E3 beats V-MoE", "-", "E3 M=2", "V-MoE"),
            (f"equal FLOPs, {name}: two V-MoEs beat one", "-", "2 x V-MoE", "V-MoE"),
        )  # fmt: skip
    return asked


def _data() -> list[Question]:
    def saved(n: int) -> tuple[str, str]:
        return f"V-MoE n={n}", f"ViT n={n}"

    rows = []
    for n in (1_000, 3_000, 10_000):
        rows.append((f"{n:,} pictures: V-MoE beats ViT", "-", *saved(n)))
        rows.append((f"{n:,} pictures: E3 beats V-MoE", "-", f"E3 M=2 n={n}", f"V-MoE n={n}"))
    more = ("V-MoE saves more with 10,000 pictures than with 1,000", "yes", saved(10_000), saved(1_000))
    return _asked("data", "loss", "11.5", *rows, more)


def _map() -> list[Question]:
    asked = []
    for name, members in (("V-MoEs", "deep K=1 M=4"), ("E3", "E3 K=1 M=4")):
        for metric in ("loss", "accuracy", "ece", "shift_loss"):
            row = (f"{name}, {metric}: K=1 M=4 beats K=4 M=1", "yes", members, "deep K=4 M=1")
            asked += _asked("map", metric, "11.6", row)
    return asked


QUESTIONS = (*_methods(), *_ablations(), *_sizes(), *_flops(), *_data(), *_map())
