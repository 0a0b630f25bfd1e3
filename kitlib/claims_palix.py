"""The studies of PaLI-X (2305.18565) at kit scale: stages, objectives, few-shot prompts, films, words in the prompt.

Numbers in comments are those of the list of claims in the notebooks. Every arm of a study sees as many examples as the
others, unless the question is about that. What an arm is, and how it is trained: `claims_multimodal`.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from kitlib import boxes, clips, data, mixture, pictures, rendered, scenes, tasks
from kitlib import claims_multimodal as multimodal
from kitlib.answer_metrics import exact_match
from kitlib.claims import Study
from kitlib.claims_multimodal import Arm, Phase
from kitlib.palix_scores import Task, ap50, drawn, exact, letters, reading
from kitlib.tasks import without_prefix

SEEDS = 5
SMALL = 96  # pixels of a picture whose letters are too small once it is shrunk to 64
SPOKEN = ("en", "de", "ja")  # what things are called in the studies
FRAMES = (2, 4, 8, 16)  # of the 16 moments of a film
PASSING = 3  # moments in a row in which a thing is there


# ---------------------------------------------------------------------------------------------- what is shown


# Asked with and without their prefix, which alone tells the language of the first two.
BARE = ("captioning", "naming", "question_generation", "object_aware_vqa")
REPEATED = ("easy_vqa", "naming")  # prompts without a sentinel


@functools.cache
def makers(split: str = "train") -> dict:
    """`mixture.kit_makers`, with fewer names, and those of the studies."""
    cutouts, names = scenes.objects(split)
    emoji = pictures.emoji(split)
    rows = [emoji.names["en"].index(name) for name in names]
    vocabularies = [(code, words) for code, words in rendered.words(split).items() if code != "digits"]
    short = [[word for word in words if len(word) <= 5] for _, words in vocabularies]  # they fit into a receipt

    def pick(items, rng):
        return items[rng.integers(len(items))]

    def named(rng):
        """A picture of a thing of `scenes.objects`, its name, the language. Of 417 things in sixteen languages a small
        model named none after 6,400 captions."""
        i, language = rng.integers(len(names)), pick(SPOKEN, rng)
        return mixture.placed(cutouts[i], rng)[0], emoji.names[language][rows[i]], language

    def naming(rng):
        image, name, language = named(rng)
        return tasks.vqa(image, tasks.WHAT, name, language)

    kit = mixture.kit_makers(split) | {"captioning": lambda rng: tasks.captioning(*named(rng)), "naming": naming}

    def small_word(rng):
        """A word in small letters, in a picture of 96 pixels."""
        code, words = pick(vocabularies, rng)
        word = str(pick(words, rng))
        return tasks.split_ocr(rendered.line(word, rng, SMALL, rendered.SMALLEST)[0], [word], code, 0)

    def receipt(rng, with_text: bool):
        image, texts, pairs = mixture.fitting(lambda: rendered.receipt(pick(short, rng), rng, scenes.SIZE))
        ocr = tasks.first_words(texts, mixture.OCR_WORDS)[0] if with_text else ""
        return tasks.vqa(image, *pick(pairs, rng), "en", ocr=ocr)

    def passing(rng, frames: int):
        """Evenly spaced frames of a film in which a thing passes, perhaps between two of them."""
        i, first, ground = rng.integers(len(names)), rng.integers(max(FRAMES) - PASSING + 1), scenes.background(rng)
        velocity = [list(clips.WAYS.values())[rng.integers(4)]]
        film = np.repeat(ground[None], max(FRAMES), axis=0)
        passed = clips.film(cutouts, [i], velocity, PASSING, rng, sides=(20, 28), ground=ground)
        film[first : first + PASSING] = passed.frames
        step = max(FRAMES) // frames
        return tasks.vqa(film[step // 2 :: step], "what passes?", names[i], "en")

    def bare(maker):
        return lambda rng: without_prefix(kit[maker](rng))

    def repeated(maker, loss: bool):
        """The decoder writes the prompt, with or without loss, and then the answer."""

        def make(rng):
            example = kit[maker](rng)
            return replace(example, target=((example.prompt, loss), (f" {example.answer}", True)))

        return make

    return kit | {
        "small_word": small_word,
        "receipt_with_text": lambda rng: receipt(rng, True),
        "receipt_alone": lambda rng: receipt(rng, False),
        "few_counting": lambda rng: kit["counting"](data.keyed_rng(7, rng.integers(200))),
        **{f"film_{n}": functools.partial(passing, frames=n) for n in FRAMES},
        **{f"bare_{name}": bare(name) for name in BARE},
        **{f"told_{name}": repeated(name, True) for name in REPEATED},
        **{f"asked_{name}": repeated(name, False) for name in REPEATED},
    }


# ---------------------------------------------------------------------------------------------- what is asked


def counted_boxes(predictions, examples) -> np.ndarray:
    """float[B] of 0 and 1: are as many boxes written as there are things, whatever their places?"""
    counts = [[sum(name != boxes.NOISE for name in boxes.from_text(text)[1]) for text in texts]
              for texts in (predictions, [example.answer for example in examples])]  # fmt: skip
    return np.equal(*counts).astype(float)


def behind_the_prompt(predictions, examples) -> np.ndarray:
    """float[B] of 0 and 1: is what follows the prompt the answer?"""
    pairs = zip(predictions, examples, strict=True)
    said = [text.removeprefix(example.target[0][0]).strip() for text, example in pairs]
    return exact_match(said, [example.target[1][0].strip() for example in examples])


def boxes_of_one_kind(count: int, seed: int) -> list:
    """Scenes as for counting, with the prompt of detection for the kind that would be counted."""
    cutouts, names = scenes.objects("train")
    out = []
    for i in range(count):
        rng = data.keyed_rng(seed, i)
        indices, subject = scenes.contents(len(names), rng, mixture.BOXES)
        scene = scenes.compose(cutouts, indices, (10, 20), rng)
        found = [names[kind] for kind in scene.indices]
        out.append(tasks.detection(scene.image, scene.boxes, found, [names[subject]], rng, mixture.BOXES))
    return out


def exams() -> dict[str, Task]:
    """By name; the unit is in the name of the metric's column."""
    plain = ("captioning", "naming", "counting", "object_aware_vqa", "question_generation", "made_up_words")
    found = {name: (drawn(makers, name), exact) for name in (*plain, *(f"film_{n}" for n in FRAMES))}
    found |= {f"bare_{name}": (drawn(makers, f"bare_{name}"), exact) for name in BARE}
    found |= {"asked_naming": (drawn(makers, "asked_naming"), behind_the_prompt)}
    found |= {"asked_easy_vqa": (drawn(makers, "asked_easy_vqa", "test"), behind_the_prompt)}
    found |= {"detection": (drawn(makers, "detection"), ap50)}
    held_out = ("easy_vqa", "receipt_with_text", "receipt_alone")
    found |= {name: (drawn(makers, name, "test"), exact) for name in held_out}
    found |= {"small_word": (drawn(makers, "small_word", "test"), letters), "reading": (reading(), letters)}
    found |= {"made_up_words, unseen": (drawn(makers, "made_up_words", "test"), exact)}
    found |= {"counted boxes": (boxes_of_one_kind, counted_boxes)}
    return {name: Task(name, make, metric) for name, (make, metric) in found.items()}


# ---------------------------------------------------------------------------------------------- the questions


def mixed(*names: str, steps: int, **shape) -> Phase:
    """A phase in which these makers take turns."""
    return Phase(tuple((name, 1.0) for name in names), steps, **shape)


def same(*names: str) -> tuple[tuple[str, str], ...]:
    """Tests whose columns are called as they are."""
    return tuple((name, name) for name in names)


LONG = {"inputs": 40, "targets": 56}  # boxes
BEFORE = ("captioning", "object_aware_vqa", "detection")  # none has a count in its answers
SINGLE = ("captioning", "split_ocr", "easy_vqa", "object_aware_vqa", "detection", "masked_tokens")
LEARNED = ("easy_vqa", "counting", "naming", "split_ocr")


def questions() -> dict[str, tuple[str, dict[str, Arm]]]:
    """By name: the question and the arms that answer it."""
    # Binding is learned late: first what things look like and are called, then two exemplars, then four.
    episodes = (
        mixed("naming", "captioning", steps=800),
        mixed("two_exemplars", steps=2000, images=3, inputs=16, targets=4),
        mixed("made_up_words", steps=300, images=mixture.SHOTS + 1, inputs=16, targets=4),
    )
    few = mixed("few_counting", steps=300)
    first = mixed(*BEFORE, steps=1000, **LONG)
    thawed = {"frozen": False}
    at_both = ("small_word", "captioning", "counting")
    return {
        "masks": (  # 7
            "Who sees whom in a few-shot prompt?",
            {
                kind: Arm(episodes, same("made_up_words", "made_up_words, unseen"), visible=kind)
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
                    tuple(mixed(*at_both, steps=n, image_size=size, **thawed) for n, size in phases), same(*at_both)
                )
                for name, phases in {
                    "64 px": ((1000, 64),),
                    "64, then 96 px": ((650, 64), (350, 96)),
                    "96 px": ((1000, 96),),
                }.items()
            },
        ),
        "ocr_tuning": (  # 13
            "Does stage 0 with words help to read?",
            {
                name: Arm((mixed("split_ocr", steps=1000),), same("reading"), tower=name)
                for name in ("words and things", "words", "things", "none")
            },
        ),
        "ocr_input": (  # 14
            "Does the text of a picture help as a part of the prompt?",
            {
                "with text": Arm(
                    (mixed("receipt_with_text", steps=1000, inputs=56),), (("receipts", "receipt_with_text"),)
                ),
                "pixels alone": Arm((mixed("receipt_alone", steps=1000),), (("receipts", "receipt_alone"),)),
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
            {"together": Arm((mixed(*LEARNED, steps=2400),), same(*LEARNED[:3], "reading"))}
            | {
                name: Arm((mixed(name, steps=600),), same("reading" if name == "split_ocr" else name))
                for name in LEARNED
            },
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
