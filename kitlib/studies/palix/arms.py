"""The studies of PaLI-X (2305.18565) at kit scale: stages, objectives, few-shot prompts, videos, words in the prompt.

The arms of a study see the same number of examples of what they are compared in. `runs` defines and trains an arm;
`easy_tasks` has the tasks that it is trained and tested on.
"""

import functools
from collections.abc import Callable
from pathlib import Path

from kitlib.multimodal.kit_data import SHOTS
from kitlib.studies.palix import runs
from kitlib.studies.palix.easy_tasks import BARE, FRAME_COUNTS, REPEATED, mixed, study_tasks, tasks_of_tests
from kitlib.studies.palix.runs import PaLIXArm, StageZero
from kitlib.studies.study import Study

SEEDS = 5


def same(*names: str) -> tuple[tuple[str, str], ...]:
    """Tests that give their names to the columns of the table."""
    return tuple((name, name) for name in names)


THREE_OBJECTIVES = ("captioning", "object_aware_vqa", "detection")  # no answer of these has a count
SINGLE = ("captioning", "split_ocr", "easy_vqa", "object_aware_vqa", "detection", "masked_tokens")
MULTITASK = ("easy_vqa", "counting", "naming", "object_aware_vqa")


def questions() -> dict[str, tuple[str, dict[str, PaLIXArm]]]:
    """By name: the question and the arms that answer it."""
    shown = ("shown_language", "made_up_words")
    episodes = (
        mixed("naming", "captioning", steps=800),
        mixed(*shown, steps=1600, num_images=SHOTS + 1),
    )
    few = mixed("few_counting", steps=300)
    first = mixed(*THREE_OBJECTIVES, steps=1000)
    reading = {"small_word": 3.0, "captioning": 1.0}
    return {
        "masks": (
            "Who sees whom in a few-shot prompt?",
            {
                kind: PaLIXArm(episodes, same(*shown, "made_up_words, unseen"), visible=kind)
                for kind in ("prefix", "block-causal", "causal")
            },
        ),
        "positions": (
            "Does the model find things without learned rows and columns?",
            {
                name: PaLIXArm(
                    (mixed("finding", steps=4000),),
                    same("finding"),
                    positions=positions,
                    probed=True,
                )
                for name, positions in (("with", True), ("without", False))
            },
        ),
        "thawed": (
            "Does it help to find things, or to name them, if the tower learns, too?",
            {
                name: PaLIXArm(
                    (mixed("detection", "captioning", steps=1000, frozen=frozen),),
                    same("detection", "captioning"),
                )
                for name, frozen in (("frozen", True), ("thawed", False))
            },
        ),
        "resolution": (
            "Does a second stage at a higher resolution help to read, and only to read?",
            {
                name: PaLIXArm(
                    tuple(mixed(*reading, weights=reading, steps=n, image_size=size) for n, size in phases),
                    same("small_word", "captioning"),
                    tower=StageZero("words"),
                )
                for name, phases in {
                    "64 px": ((1500, 64),),
                    "64, then 96 px": ((1000, 64), (500, 96)),
                    "96 px": ((1500, 96),),
                }.items()
            },
        ),
        "ocr_tuning": (
            "Does stage 0 with words help to read?",
            {
                name: PaLIXArm((mixed("word", steps=1000),), same("word"), StageZero(name))
                for name in ("words and things", "words", "things", "none")
            },
        ),
        "ocr_input": (
            "Does the text of a picture help as a part of the prompt?",
            {
                "with text": PaLIXArm((mixed("words_with_text", steps=1000),), (("words", "words_with_text"),)),
                "pixels alone": PaLIXArm((mixed("words_alone", steps=1000),), (("words", "words_alone"),)),
            },
        ),
        "counting": (
            "Does a mixture without counting help to count?",
            {
                "200 examples": PaLIXArm((few,), same("counting")),
                "mixture first": PaLIXArm((first, few), same("counting")),
                "mixture alone": PaLIXArm((first,), same("counting", "counted boxes")),
            },
        ),
        "mixture": (
            "What is the best to learn first, one objective or all?",
            {
                name: PaLIXArm((*before, few), same("counting"))
                for name, before in {
                    "nothing": (),
                    **{name: (mixed(name, steps=1000),) for name in SINGLE},
                    "mixture": (mixed(*SINGLE, steps=1000),),
                }.items()
            },
        ),
        "frames": (
            "Do more frames help to see what passes?",
            {
                f"{n} frames": PaLIXArm(
                    (mixed(f"film_{n}", steps=1000, num_images=n, rows=8),),
                    (("passing", f"film_{n}"),),
                )
                for n in FRAME_COUNTS
            },
        ),
        "multitask": (
            "Does one model for four tasks do as well as four models?",
            {"together": PaLIXArm((mixed(*MULTITASK, steps=2400),), same(*MULTITASK))}
            | {name: PaLIXArm((mixed(name, steps=600),), same(name)) for name in MULTITASK},
        ),
        "prefix": (
            "Is the prefix of a prompt needed?",
            {
                "with": PaLIXArm((mixed(*BARE, steps=1200),), same(*BARE)),
                "without": PaLIXArm(
                    (mixed(*(f"bare_{name}" for name in BARE), steps=1200),),
                    tuple((name, f"bare_{name}") for name in BARE),
                ),
            },
        ),
        "connector": (
            "One layer between tower and text, or two?",
            {
                name: PaLIXArm(
                    (mixed("captioning", "easy_vqa", "object_aware_vqa", steps=1200),),
                    same("captioning", "easy_vqa", "object_aware_vqa"),
                    connector=name,
                )
                for name in ("linear", "mlp")
            },
        ),
        "prompt_loss": (
            "Is it better to have loss on the answer alone, or on the prompt, too?",
            {
                "answer": PaLIXArm((mixed(*REPEATED, steps=1000),), same(*REPEATED)),
                "prompt too": PaLIXArm(
                    (mixed(*(f"told_{name}" for name in REPEATED), steps=1000),),
                    tuple((name, f"asked_{name}") for name in REPEATED),
                ),
            },
        ),
    }


def setting() -> str:
    """What all arms have in common."""
    return (
        f"{runs.config()}, tower from {runs.TOWER_STEPS} steps of stage 0 with batches of {runs.TOWER_BATCH}, frozen "
        f"unless an arm thaws it; AdamW, peak {runs.PEAK}, cosine; {runs.TEST_EXAMPLES} examples a test"
    )


def towers(seed: int, folder: Path) -> None:
    """Trains the tower that most arms of a seed use."""
    runs.pretrained_tower(StageZero(), seed, folder)


def run(arm: PaLIXArm, seed: int, folder: Path) -> list[dict]:
    """`runs.run_arm` with all tasks."""
    return runs.run_arm(arm, seed, folder, study_tasks(), tasks_of_tests())


def study_of(name: str) -> Study:
    """One of `questions`."""
    question, arms = questions()[name]
    return Study(question, setting(), arms, run, towers, SEEDS)


STUDIES: dict[str, Callable[[], Study]] = {name: functools.partial(study_of, name) for name in questions()}
