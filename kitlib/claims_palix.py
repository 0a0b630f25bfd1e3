"""The studies of PaLI-X (2305.18565) at kit scale: stages, objectives, few-shot prompts, films, words in the prompt.

Numbers in comments are those of the list of claims in the notebooks. Every arm of a study sees as many examples as the
others, unless the question is about that. What an arm is, and how it is trained: `claims_multimodal`; what it is
shown: `claims_makers`.
"""

from pathlib import Path

from kitlib import claims_multimodal as multimodal
from kitlib import mixture
from kitlib.claims import Study
from kitlib.claims_makers import BARE, FRAMES, REPEATED, exams, makers
from kitlib.claims_multimodal import Arm, Phase

SEEDS = 5


# ---------------------------------------------------------------------------------------------- the questions


def mixed(*names: str, steps: int, **shape) -> Phase:
    """A phase in which every example is of one of these makers, drawn with equal chance."""
    return Phase(tuple((name, 1.0) for name in names), steps, **shape)


def same(*names: str) -> tuple[tuple[str, str], ...]:
    """Tests whose columns are called as they are."""
    return tuple((name, name) for name in names)


LONG = {"inputs": 40, "targets": 56}  # boxes
BEFORE = ("captioning", "object_aware_vqa", "detection")  # none has a count in its answers
SINGLE = ("captioning", "split_ocr", "easy_vqa", "object_aware_vqa", "detection", "masked_tokens")
LEARNED = ("easy_vqa", "counting", "naming", "object_aware_vqa")


def questions() -> dict[str, tuple[str, dict[str, Arm]]]:
    """By name: the question and the arms that answer it."""
    shown = ("shown_language", "made_up_words")
    episodes = (
        mixed("naming", "captioning", steps=800),
        mixed(*shown, steps=1600, images=mixture.SHOTS + 1, inputs=20, targets=20),
    )
    few = mixed("few_counting", steps=300)
    first = mixed(*BEFORE, steps=1000, **LONG)
    at_both = (("small_word", 3.0), ("captioning", 1.0))
    return {
        "masks": (  # 7
            "Who sees whom in a few-shot prompt?",
            {
                kind: Arm(episodes, same(*shown, "of any picture", "made_up_words, unseen"), visible=kind)
                for kind in ("prefix", "block-causal", "causal")
            },
        ),
        "thawed": (  # 11
            "Does it help to find things, or to name them, if the tower learns, too?",
            {
                name: Arm(
                    (mixed("detection", "captioning", steps=1000, **LONG, frozen=frozen),),
                    same("detection", "captioning"),
                )
                for name, frozen in (("frozen", True), ("thawed", False))
            },
        ),
        "resolution": (  # 12
            "Does a second stage at a higher resolution help to read, and only to read?",
            {
                name: Arm(
                    tuple(Phase(at_both, n, image_size=size) for n, size in phases),
                    same("small_word", "captioning"),
                    tower="words",
                )
                for name, phases in {
                    "64 px": ((1500, 64),),
                    "64, then 96 px": ((1000, 64), (500, 96)),
                    "96 px": ((1500, 96),),
                }.items()
            },
        ),
        "ocr_tuning": (  # 13
            "Does stage 0 with words help to read?",
            {
                name: Arm((mixed("word", steps=1000),), same("word"), tower=name)
                for name in ("words and things", "words", "things", "none")
            },
        ),
        "ocr_input": (  # 14
            "Does the text of a picture help as a part of the prompt?",
            {
                "with text": Arm((mixed("words_with_text", steps=1000),), (("words", "words_with_text"),)),
                "pixels alone": Arm((mixed("words_alone", steps=1000),), (("words", "words_alone"),)),
            },
        ),
        "counting": (  # 15
            "Does a mixture without counting help to count?",
            {
                "200 examples": Arm((few,), same("counting")),
                "mixture first": Arm((first, few), same("counting")),
                "mixture alone": Arm((first,), same("counting", "counted boxes")),
            },
        ),
        "mixture": (  # 16
            "What is the best to learn first, one objective or all?",
            {
                name: Arm((*before, few), same("counting"))
                for name, before in {
                    "nothing": (),
                    **{name: (mixed(name, steps=1000, **LONG),) for name in SINGLE},
                    "mixture": (mixed(*SINGLE, steps=1000, **LONG),),
                }.items()
            },
        ),
        "frames": (  # 19
            "Do more frames help to see what passes?",
            {
                f"{n} frames": Arm(
                    (mixed(f"film_{n}", steps=1000, images=n, rows=8, targets=8),), (("passing", f"film_{n}"),)
                )
                for n in FRAMES
            },
        ),
        "multitask": (  # 21
            "Does one model for four tasks do as well as four models?",
            {"together": Arm((mixed(*LEARNED, steps=2400),), same(*LEARNED))}
            | {name: Arm((mixed(name, steps=600),), same(name)) for name in LEARNED},
        ),
        "prefix": (  # 24
            "Is the prefix of a prompt needed?",
            {
                "with": Arm((mixed(*BARE, steps=1200),), same(*BARE)),
                "without": Arm(
                    (mixed(*(f"bare_{name}" for name in BARE), steps=1200),),
                    tuple((name, f"bare_{name}") for name in BARE),
                ),
            },
        ),
        "connector": (  # 25
            "One layer between tower and text, or two?",
            {
                name: Arm(
                    (mixed("captioning", "easy_vqa", "object_aware_vqa", steps=1200),),
                    same("captioning", "easy_vqa", "object_aware_vqa"),
                    connector=name,
                )
                for name in ("linear", "mlp")
            },
        ),
        "prompt_loss": (  # 26
            "Is it better to have loss on the answer alone, or on the prompt, too?",
            {
                "answer": Arm((mixed(*REPEATED, steps=1000),), same(*REPEATED)),
                "prompt too": Arm(
                    (mixed(*(f"told_{name}" for name in REPEATED), steps=1000, targets=56),),
                    tuple((name, f"asked_{name}") for name in REPEATED),
                ),
            },
        ),
    }


def studies() -> dict[str, Study]:
    """All of them."""
    setting = (
        f"{multimodal.config()}, tower from {multimodal.TOWER_STEPS} steps of stage 0 with batches of "
        f"{multimodal.TOWER_BATCH}, frozen unless an arm thaws it; AdamW, peak {multimodal.PEAK}, cosine; "
        f"{multimodal.TEST_EXAMPLES} examples a test"
    )

    def towers(seed: int, folder: Path) -> None:
        """Most arms of a seed have this one."""
        multimodal.tower("words and things", seed, folder)

    def run(arm: Arm, seed: int, folder: Path) -> list[dict]:
        return multimodal.run(arm, seed, folder, makers(), exams())

    return {name: Study(question, setting, arms, towers, run, SEEDS) for name, (question, arms) in questions().items()}
