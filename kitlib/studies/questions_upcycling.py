"""What is asked of the tables of `kit claims upcycling`: questions of arXiv 2212.05055, and controls that it lacks.

In most tables the margin, a difference of the loss that would not matter, is a tenth of what dense training gains from
half of the parent's steps again: 0.104 in pictures, 0.087 in recall, 0.03 in text (the arm `dense` of every table, mean
over seeds). It was set after the tables were made, by this rule, which looks at no other arm. Of shares, of names known
or labels right, it is one in a hundred; for the real parent the margins are ROUGH ones, set before its table was made.
All are judged only if the gate of their task is open.
"""

from kitlib.studies.questions import Question

PICTURES, RECALL, TEXT = 0.01, 0.009, 0.004


def _asked(prefix: str, margin: float, table: str, where: str, *rows) -> list[Question]:
    """rows: (claim, published, arm, baseline), and for curves (column, position)."""
    return [
        Question(
            claim, f"{prefix}_{table}", arm, baseline, margin, published=published, gate=prefix, where=where,
            **dict(zip(("column", "position"), at, strict=False)),
        )
        for claim, published, arm, baseline, *at in rows
    ]  # fmt: skip


def _memory(metric: str, margin: float, *rows, prefix: str = "") -> list[Question]:
    """What experts add at the FLOPs of the dense model (2410.19034). rows: (claim, published, arm, baseline)."""
    return [
        Question(
            f"{prefix}{claim}", "recall_memory", arm, baseline, margin, metric, published=published, gate="recall",
            where="08.12",
        )
        for claim, published, arm, baseline in rows
    ]  # fmt: skip


REMEMBERED = (
    ("16 experts remember more than the dense model, equal FLOPs", "yes", "E=16", "F"),
    ("64 experts remember more than 16, equal FLOPs", "yes", "E=64", "E=16"),
    ("4 experts remember as much as an MLP of twice the width, which has fewer parameters", "equal", "E=4", "2 F"),
    ("64 experts remember more than an MLP of 4 times the width", "yes", "E=64", "4 F"),
)


def _parents(prefix: str, margin: float, where: str) -> list[Question]:
    """Does the gain depend on the parent's training, or on its learning rate, which stays high?"""
    shares = ("25 %", "50 %", "75 %", "100 %")
    rows = [(f"upcycled after {x} beats dense", "yes", f"upcycled from {x}", f"dense from {x}") for x in shares]
    cooled = [
        ("rate falls to 0: upcycled beats dense", "-", "upcycled", "dense"),
        ("rate falls to 0: upcycled beats depth tiling", "-", "upcycled", "deeper"),
    ]
    return _asked(prefix, margin, "pretraining", where, *rows) + _asked(prefix, margin, "cooldown", where, *cooled)


def _gated(task: str, where: str, margin: float):
    """Asks about the curves of a task that has a gate: (claim, published, arm, baseline, column, position, ...)."""

    def ask(claim: str, published: str, arm: str, baseline: str, column: str, at: float, **other) -> Question:
        return Question(
            claim, f"{task}_curves", arm, baseline, **{"margin": margin} | other, column=column, position=at,
            published=published, gate=task, where=where,
        )  # fmt: skip

    return ask


_recall, _text = _gated("recall", "08.8", RECALL), _gated("text", "08.9", TEXT)
_pictures = _gated("pictures", "07.7", PICTURES)


def _headline(ask) -> list[Question]:
    """What the abstract and figures 2, 4 and 5 claim, in the paper's unit: extra cost, as a share of the parent's."""
    return [
        *(
            ask(f"upcycled beats {words}, extra cost {cost}", "yes", "upcycled", arm, "extra_cost", cost)
            for arm, words in (("dense", "dense"), ("scratch", "scratch"), ("deeper", "depth tiling"))
            for cost in (0.5, 1.0)
        ),
        ask("scratch beats upcycled, total cost 2.0", "yes", "scratch", "upcycled", "total_cost", 2.0),
    ]


ROUGH = {"accuracy": 0.005, "loss": 0.01, "ece": 0.005}


def _real(claim: str, published: str, arm: str, baseline: str, metric: str = "accuracy") -> Question:
    name = {"accuracy": "accuracy", "loss": "likelihood", "ece": "calibration"}[metric]
    return Question(
        f"{claim} ({name})", "real_curves", arm, baseline, ROUGH[metric], metric, published=published, gate="real",
        where="18.5",
    )  # fmt: skip


def _fine_tuned(task: str, claim: str, published: str, arm: str, baseline: str, **other) -> Question:
    return Question(
        f"{task}: {claim}", "text_downstream", f"{task} {arm}", f"{task} {baseline}", 0.01, "accuracy",
        published=published, gate="text", where="08.10", **other,
    )  # fmt: skip


def _downstream(task: str) -> list[Question]:
    """Figure 3: the gain of pre-training carries over, if pre-training itself does."""
    needs = {"needs": (f"{task}: pre-training helps",)}
    return [
        _fine_tuned(task, "pre-training helps", "-", "parent", "none"),
        _fine_tuned(task, "upcycled beats dense", "yes", "upcycled", "dense", **needs),
        _fine_tuned(task, "upcycled beats its parent", "yes", "upcycled", "parent", **needs),
        _fine_tuned(task, "scratch beats upcycled, total cost 2.0", "-", "scratch", "upcycled", **needs),
    ]


QUESTIONS = (
    _real("upcycled beats dense, equal cost", "yes", "upcycled", "dense"),
    _real("upcycled beats dense, equal cost", "yes", "upcycled", "dense", "loss"),
    _real("upcycled (top-1) beats dense, equal cost", "yes", "top-1", "dense"),
    _real("upcycled beats new sparse blocks, equal cost", "yes", "upcycled", "new mixture"),
    _real("E3 beats dense, equal cost", "yes", "E3", "dense"),
    _real("E3 beats dense, equal cost", "yes", "E3", "dense", "loss"),
    _real("E3 beats its V-MoE, equal cost", "yes", "E3", "top-1"),
    _real("E3 beats its V-MoE, equal cost", "yes", "E3", "top-1", "loss"),
    _real("E3 beats its V-MoE, equal cost", "yes", "E3", "top-1", "ece"),
    *_headline(_recall),
    _recall(
        "upcycled recalls more names than dense, extra cost 0.5", "-", "upcycled", "dense", "extra_cost", 0.5,
        metric="accuracy", margin=0.01,
    ),
    _recall(
        "names never taught: upcycled has a lower loss than dense, extra cost 0.5", "-", "upcycled", "dense",
        "extra_cost", 0.5, metric="held_out_loss",
    ),
    *_headline(_pictures),
    _pictures("upcycled beats dense, +50 % steps", "yes", "upcycled", "dense", "extra_steps", 3000),
    _pictures(
        "upcycled names more things than dense, extra cost 0.5", "-", "upcycled", "dense", "extra_cost", 0.5,
        metric="accuracy", margin=0.01,
    ),
    _pictures(
        "names never taught: upcycled has a lower loss than dense, extra cost 0.5", "-", "upcycled", "dense",
        "extra_cost", 0.5, metric="held_out_loss",
    ),
    *_headline(_text),
    _text("upcycled beats dense, +50 % steps", "yes", "upcycled", "dense", "extra_steps", 1500),
    *(
        _text(f"{kinds}: upcycled beats dense, extra cost 0.5", "-", "upcycled", "dense", "extra_cost", 0.5,
              metric=f"{kind}_loss")
        for kind, kinds in (("gloss", "glosses"), ("message", "messages"))
    ),
    *_downstream("category"),
    *_downstream("language"),
    # With E = 2 and C = 2 both experts take every token: no choice is made, so E = 4 is the smallest number.
    *_asked("pictures", PICTURES, "experts", "07.9", ("32 experts beat 4", "yes", "E=32", "E=4")),
    *_asked(
        "pictures", PICTURES, "capacity", "07.9",
        ("C = 1 beats dense, per cost", "yes", "C=1", "dense"),
        ("C = 5 beats C = 1, per step", "yes", "C=5", "C=1", "extra_steps", 814),  # where C = 5 ends
        ("C = 5 beats C = 2, per step", "yes", "C=5", "C=2", "extra_steps", 814),
        ("C = 2 beats C = 1, per cost", "yes", "C=2", "C=1"),
        ("C = 2 beats C = 5, per cost", "yes", "C=2", "C=5"),
    ),
    *_asked(
        "pictures", PICTURES, "blocks", "07.9",
        ("last 2 blocks beat all 4", "yes", "last 2", "all"),
        ("last 2 blocks beat the first 2", "yes", "last 2", "first 2"),
        ("last 2 blocks beat every second one", "-", "last 2", "every second"),
    ),
    *_asked(
        "pictures", PICTURES, "routers", "07.9",
        ("expert choice beats top-2", "equal", "expert choice", "top-2 priority"),
        ("batch priority helps top-2", "yes", "top-2 priority", "top-2"),
    ),
    *_asked(
        "pictures", PICTURES, "init", "07.9",
        ("copies beat half random experts", "yes", "copies", "half random"),
        ("copies beat random experts", "yes", "copies", "random"),
        ("copies beat half redrawn units", "at first", "copies", "half redrawn"),
    ),
    *_asked(
        "pictures", PICTURES, "optimizer", "07.9",
        ("resumed moments beat fresh ones", "yes", "upcycled resumed", "upcycled restarted"),
        ("fresh moments help dense training", "-", "dense restarted", "dense resumed"),
        ("upcycled beats dense, both with fresh moments", "-", "upcycled restarted", "dense restarted"),
        ("upcycled beats dense, both with resumed moments", "yes", "upcycled resumed", "dense resumed"),
    ),
    *_asked(
        "pictures", PICTURES, "renormalize", "07.9",
        ("renormalised beats raw, C = 2", "yes", "renormalized C=2", "raw C=2"),
        ("renormalised beats raw, C = 1", "yes", "renormalized C=1", "raw C=1"),
    ),
    *_parents("pictures", PICTURES, "07.9"),
    *_asked("text", TEXT, "experts", "08.11", ("32 experts beat 4", "yes", "E=32", "E=4")),
    *_asked(
        "text", TEXT, "capacity", "08.11",
        ("C = 1 beats dense, per cost", "-", "C=1", "dense"),
        ("C = 5 beats C = 1, per step", "-", "C=5", "C=1", "extra_steps", 358),  # where C = 5 ends
        ("C = 5 beats C = 2, per step", "-", "C=5", "C=2", "extra_steps", 358),
        ("C = 2 beats C = 1, per cost", "yes", "C=2", "C=1"),
        ("C = 2 beats C = 5, per cost", "yes", "C=2", "C=5"),
    ),
    *_asked(
        "text", TEXT, "blocks", "08.11",
        ("the last layers beat the first", "-", "last", "first"),
        ("the last layers beat all", "-", "last", "all"),
        ("both stacks beat the encoder alone", "-", "last", "encoder only"),
        ("both stacks beat the decoder alone", "-", "last", "decoder only"),
    ),
    *_asked(
        "text", TEXT, "routers", "08.11",
        ("expert choice beats top-2", "yes", "expert choice", "top-2 priority"),
        ("batch priority helps top-2", "-", "top-2 priority", "top-2"),
    ),
    *_asked(
        "text", TEXT, "init", "08.11",
        ("copies beat half random experts", "-", "copies", "half random"),
        ("copies beat random experts", "-", "copies", "random"),
        ("copies beat half redrawn units", "at first", "copies", "half redrawn"),
    ),
    *_asked(
        "text", TEXT, "optimizer", "08.11",
        ("resumed moments beat fresh ones", "no gain", "upcycled resumed", "upcycled restarted"),
        ("fresh moments help dense training", "-", "dense restarted", "dense resumed"),
        ("upcycled beats dense, both with fresh moments", "yes", "upcycled restarted", "dense restarted"),
        ("upcycled beats dense, both with resumed moments", "-", "upcycled resumed", "dense resumed"),
    ),
    *_asked(
        "text", TEXT, "renormalize", "08.11",
        ("renormalised beats raw, C = 2", "no", "renormalized C=2", "raw C=2"),
        ("renormalised beats raw, C = 1", "no", "renormalized C=1", "raw C=1"),
    ),
    *_parents("text", TEXT, "08.11"),
    *_memory("accuracy", 0.01, *REMEMBERED),
    *_memory("held_out_loss", RECALL, ("64 experts against 16", "-", "E=64", "E=16"), prefix="never taught: "),
)  # fmt: skip
