"""What is asked of the tables of `kit claims ensembles`: questions of arXiv 2110.03360 and of the methods it builds on.

Margins, differences that would not matter, are about a fifth of what a second training run brings (mean over seeds).
In `methods` and `data` it brings a ViT or V-MoE 0.034 of loss, 0.152 of loss on corrupted images, 0.065 of the
calibration error on them, 0.054 of AUROC, 0.071 of the accuracy with ten shots and 0.0093 of accuracy. In `naming`,
where it is a pre-training and a fine-tuning of a V-MoE, these are 0.110, 0.648, 0.158, 0.142, 0.065 and 0.066, and of
the loss on what was never taught 0.362. They were set after the tables were made, by this rule, which looks at no other
arm. (On clean images a second run brings no calibration, so its margin is that of accuracy; the margin of disagreement,
half a per cent of the answers, follows no rule.)

In `naming_sizes` the margins are those of `naming`, for all widths; they were set before its table was made.

In `naming` nothing is asked of an ensemble of experts unless the gate of its pre-training is open and the V-MoE is seen
to be better than the ViT after fine-tuning, too; in `methods` and `data`, trained from scratch, unless the V-MoE is.
"""

from kitlib.studies.questions import Question

CLOTHES = {
    "loss": 0.006,
    "accuracy": 0.002,
    "ece": 0.002,
    "shift_loss": 0.03,
    "shift_ece": 0.013,
    "ood_msp": 0.01,
    "shots_1": 0.014,
    "shots_5": 0.014,
    "shots_10": 0.014,
}
NAMING = {
    "loss": 0.022,
    "member_loss": 0.022,
    "accuracy": 0.013,
    "held_out_loss": 0.07,
    "ece": 0.013,
    "shift_loss": 0.13,
    "shift_ece": 0.03,
    "ood_msp": 0.028,
    "ood_novel": 0.028,
    "shots_1": 0.006,
    "shots_5": 0.012,
    "shots_10": 0.013,
    "disagreement": 0.005,
}


def _clothes(table: str, metric: str, where: str, *rows) -> list[Question]:
    """rows: (claim, published, arm, baseline), and the claim that has to be seen first, if any."""
    return [
        Question(
            claim, table, arm, baseline, CLOTHES[metric], metric, published=published, where=where, needs=tuple(needs)
        )
        for claim, published, arm, baseline, *needs in rows
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
BETTER = "V-MoE beats ViT"  # without it an ensemble of experts has nothing to build on
OF_VITS = (
    ("two ViTs beat one", "yes", "2 x ViT", "ViT"),
    ("BatchEnsemble beats ViT", "yes", "BatchEnsemble M=2", "ViT"),
    ("MIMO beats ViT", "yes", "MIMO M=2", "ViT"),
    ("8 passes of MC dropout beat a ViT", "-", "MC dropout M=8", "ViT"),
)


def _methods() -> list[Question]:
    asked = _clothes(
        "methods", "loss", "09.7",
        *OF_VITS,
        ("dropout (off at test time) beats none", "-", "dropout", "ViT"),
        ("8 passes of MC dropout beat dropout off", "yes", "MC dropout M=8", "dropout"),
        (BETTER, "-", "V-MoE", "ViT"),
        ("two V-MoEs beat one", "yes", "2 x V-MoE", "V-MoE", BETTER),
        ("two V-MoEs beat two ViTs", "yes", "2 x V-MoE", "2 x ViT", BETTER),
        ("E3 beats V-MoE", "yes", "E3 M=2", "V-MoE", BETTER),
        ("two E3s beat two V-MoEs", "yes", "2 x E3", "2 x V-MoE", BETTER),
    )  # fmt: skip
    asked += _clothes("methods", "accuracy", "09.7", ("accuracy: two ViTs beat one", *OF_VITS[0][1:]))
    for metric, name in MEASURES.items():
        named = [(f"{name}: {claim}", published, a, b) for claim, published, a, b in OF_VITS]
        asked += _clothes("methods", metric, "11.4", *named)
    return asked


def _data() -> list[Question]:
    def saved(n: int) -> tuple[str, str]:
        return f"V-MoE n={n}", f"ViT n={n}"

    rows = [(f"{n:,} pictures: V-MoE beats ViT", "-", *saved(n)) for n in (1_000, 3_000, 10_000)]
    for n in (1_000, 3_000, 10_000):
        needs = f"{n:,} pictures: V-MoE beats ViT"
        rows.append((f"{n:,} pictures: E3 beats V-MoE", "-", f"E3 M=2 n={n}", f"V-MoE n={n}", needs))
    more = ("V-MoE saves more with 10,000 pictures than with 1,000", "yes", saved(10_000), saved(1_000))
    return _clothes("data", "loss", "11.5", *rows, more)


def _naming(metric: str, where: str, *rows, prefix: str = "") -> list[Question]:
    """rows: (claim, published, arm, baseline); asked if a V-MoE is seen to be better than a ViT."""
    return [
        Question(
            f"{prefix}{claim}", "naming", arm, baseline, NAMING[metric], metric, published=published, gate="pictures",
            where=where, needs=() if arm in ("V-MoE", "2 x ViT", "upcycled") else (BETTER,),
        )
        for claim, published, arm, baseline in rows
    ]  # fmt: skip


THREE = (
    (BETTER, "yes", "V-MoE", "ViT"),
    ("two V-MoEs beat one", "yes", "2 x V-MoE", "V-MoE"),
    ("E3 beats V-MoE", "yes", "E3 M=2", "V-MoE"),
)
OF_VMOES = (
    ("BatchEnsemble beats V-MoE", "-", "BatchEnsemble M=2", "V-MoE"),
    ("MIMO beats V-MoE", "-", "MIMO M=2", "V-MoE"),
    ("8 passes of MC dropout beat a V-MoE", "-", "MC dropout M=8", "V-MoE"),
)


def _fine_tuned() -> list[Question]:
    asked = _naming(
        "loss", "10.6",
        *THREE,
        ("two ViTs beat one", "yes", "2 x ViT", "ViT"),
        ("two V-MoEs beat two ViTs", "yes", "2 x V-MoE", "2 x ViT"),
        ("two E3s beat two V-MoEs", "yes", "2 x E3", "2 x V-MoE"),
        ("two pre-trainings beat one with two fine-tunings", "-", "2 x V-MoE", "2 x V-MoE downstream"),
        ("E3 beats V-MoE, equal training FLOPs", "-", "E3 M=2", "V-MoE, E3's FLOPs"),
        ("E3 beats two V-MoEs", "equal", "E3 M=2", "2 x V-MoE"),
        ("four members beat two in an E3", "-", "E3 M=4", "E3 M=2"),
        ("an E3 that is pre-trained as one beats V-MoE", "-", "E3 pre-trained M=2", "V-MoE"),
        ("pre-training as an E3 beats reshaping", "-", "E3 pre-trained M=2", "E3 M=2"),
    )  # fmt: skip
    asked += _naming("accuracy", "10.6", *THREE, prefix="accuracy: ")
    controls = [(claim, "-", arm, baseline) for claim, _, arm, baseline in THREE]
    reshaped = ("pre-training as an E3 beats reshaping", "-", "E3 pre-trained M=2", "E3 M=2")
    asked += _naming("held_out_loss", "10.6", *controls, reshaped, prefix="never taught: ")
    whole = ("an E3 that is pre-trained as one beats V-MoE", "-", "E3 pre-trained M=2", "V-MoE")
    for metric in ("accuracy", "shift_loss", "shots_10"):
        asked += _naming(metric, "10.6", whole, prefix=f"{MEASURES.get(metric, metric)}: ")
    asked += _naming(
        "loss", "10.7",
        *((f"E3 beats {name}", "-", "E3 M=2", name)
          for name in ("tiling only", "partition only", "ranked", "overlap 4", "loss of the mean")),
    )  # fmt: skip
    pair = ("loss of the mean", "E3 M=2")
    asked += _naming("disagreement", "10.7", ("members of the loss of the mean disagree more", "-", *pair))
    asked += _naming("member_loss", "10.7", ("a member of the loss of the mean is worse", "-", *reversed(pair)))
    for metric, name in (MEASURES | {"ood_novel": "things never seen: AUROC"}).items():
        asked += _naming(metric, "11.4", controls[0], *THREE[1:], prefix=f"{name}: ")
    passes = ("8 passes of MC dropout beat dropout off", "yes", "MC dropout M=8", "dropout")
    asked += _naming("loss", "11.4", *OF_VMOES, passes)
    for metric in ("ece", "shift_loss", "ood_msp", "shots_10"):
        asked += _naming(metric, "11.4", *OF_VMOES, prefix=f"{MEASURES[metric]}: ")
    for metric in ("loss", "ece", "shift_loss"):
        asked += _naming(
            metric, "11.6",
            ("members beat experts: two V-MoEs, one with K = 2", "yes", "2 x V-MoE", "V-MoE K=2"),
            ("members beat experts: E3, V-MoE with K = 2", "yes", "E3 M=2", "V-MoE K=2"),
            ("both: two V-MoEs with K = 2 beat one", "yes", "2 x V-MoE K=2", "V-MoE K=2"),
            ("both: two V-MoEs with K = 2 beat two with K = 1", "yes", "2 x V-MoE K=2", "2 x V-MoE"),
            prefix="" if metric == "loss" else f"{MEASURES[metric]}: ",
        )  # fmt: skip
    asked += _naming(
        "loss", "11.6",
        ("both: E3 with K = 2 beats V-MoE with K = 2", "yes", "E3 K=2 M=2", "V-MoE K=2"),
        ("both: E3 with K = 2 beats E3", "yes", "E3 K=2 M=2", "E3 M=2"),
    )  # fmt: skip
    upcycled = ("upcycled beats dense, fine-tuned", "yes", "upcycled", "ViT")
    words = {"loss": "", "accuracy": "accuracy: ", "held_out_loss": "never taught: ", "shots_10": "10 shots: "}
    for metric, name in words.items():
        asked += _naming(metric, "07.8", upcycled, prefix=name)
    return asked


GATES = {8: "pictures8", 16: "pictures", 32: "pictures32"}  # by width
OF_SIZES = {"loss": "", "accuracy": "accuracy: ", "held_out_loss": "never taught: "} | {
    metric: f"{MEASURES[metric]}: " for metric in ("shift_loss", "ece", "shots_10")
}


def _sizes() -> list[Question]:
    """Does E3 gain more over its V-MoE in a wider model? And what does a V-MoE gain over a ViT?"""

    def ask(metric: str, claim: str, published: str, arm, baseline, width: int, *needs: str) -> Question:
        return Question(
            f"{OF_SIZES[metric]}{claim}", "naming_sizes", arm, baseline, NAMING[metric], metric, published=published,
            gate=GATES[width], needs=needs, where="10.8",
        )  # fmt: skip

    def pair(kind: str, other: str, width: int) -> tuple[str, str]:
        return f"{kind}, width {width}", f"{other}, width {width}"

    better = {width: f"width {width}: {BETTER}" for width in GATES}
    asked = [ask("loss", claim, "-", *pair("V-MoE", "ViT", width), width) for width, claim in better.items()]
    for metric in OF_SIZES:
        published = "-" if metric == "held_out_loss" else "yes"
        asked += [
            ask(metric, f"width {width}: E3 beats V-MoE", "-", *pair("E3 M=2", "V-MoE", width), width, claim)
            for width, claim in better.items()
        ]
        pairs = pair("E3 M=2", "V-MoE", 16), pair("E3 M=2", "V-MoE", 8)  # the widths whose gates are open
        claim = "E3 gains more over its V-MoE with width 16 than with 8"
        asked.append(ask(metric, claim, published, *pairs, 16, better[8], better[16]))
    return asked


QUESTIONS = (*_methods(), *_data(), *_fine_tuned(), *_sizes())
