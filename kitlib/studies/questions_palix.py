"""What is asked of the tables of `kit claims palix`: questions of arXiv 2305.18565, and of 2407.07726 (PaliGemma).

The margin, a difference of the accuracy that would not matter, is 0.03, the standard error of a share of 300 test
examples. `floor` is what an answer without sight of the picture gets: the largest share of one answer.
"""

from kitlib.studies.questions import Question

MARGIN = 0.03
ONE_OF_67 = 1 / 67  # words to read, equally often
COPIED = 0.5  # made-up words: always one of the two words of the prompt


def _asked(table: str, where: str, *rows, metric="accuracy", margin=MARGIN) -> list[Question]:
    """rows: (claim, published, arm, baseline, test), and for some the floor."""
    return [
        Question(
            claim, table, arm, baseline, margin, f"{metric}: {test}",
            published=published, floor=floor[0] if floor else None, where=where,
        )
        for claim, published, arm, baseline, test, *floor in rows
    ]  # fmt: skip


MULTITASK = ("easy_vqa", "counting", "naming", "object_aware_vqa")
PREFIXES = {"captioning": "yes", "naming": "yes", "question_generation": "level", "object_aware_vqa": "level"}
MIDDLE = "tower 64, text 64"
MASKS = (("prefix", "block-causal"), ("block-causal", "causal"), ("prefix", "causal"))

QUESTIONS = (
    *_asked(
        "connector", "13.8",
        ("two layers beat one: captions", "level", "mlp", "linear", "captioning"),
        ("two layers beat one: easy-VQA", "level", "mlp", "linear", "easy_vqa"),
        ("two layers beat one: questions about objects", "level", "mlp", "linear", "object_aware_vqa"),
    ),
    *_asked("positions", "13.9", ("boxes: rows and columns beat none", "-", "with", "without", "finding")),
    *_asked(
        "positions", "13.9",
        ("a patch's place, from the encoder: rows and columns beat none", "-", "with", "without", "encoder"),
        metric="patches",
    ),
    *_asked(
        "sizes", "13.10",
        ("equal compute: a wider tower beats the middle", "-", "tower 128, text 64", MIDDLE, "mean"),
        ("equal compute: a wider text model beats the middle", "-", "tower 64, text 128", MIDDLE, "mean"),
        ("equal compute: both wider beat the middle", "-", "tower 128, text 128", MIDDLE, "mean"),
        ("equal compute: a wider tower beats a wider text", "-", "tower 128, text 64", "tower 64, text 128", "mean"),
    ),
    *_asked(
        "mixture", "14.11",
        ("counting: mixture first beats nothing", "-", "mixture", "nothing", "counting"),
        ("counting: the mixture beats captions", "-", "mixture", "captioning", "counting"),
        ("counting: the mixture beats easy-VQA", "-", "mixture", "easy_vqa", "counting"),
        ("counting: the mixture beats words", "-", "mixture", "split_ocr", "counting"),
    ),
    *_asked(
        "counting", "14.11",
        ("counting: three objectives first beat nothing", "-", "mixture first", "200 examples", "counting"),
        ("counting: never taught beats 200 examples", "-", "mixture alone", "200 examples", "counting"),
    ),
    *_asked(
        "ocr_tuning", "14.11",
        ("a word: stage 0 with words beats none", "-", "words", "none", "word", ONE_OF_67),
        ("a word: words and things beat things", "yes", "words and things", "things", "word", ONE_OF_67),
    ),
    *_asked(
        "resolution", "14.11",
        ("small words: 64, then 96 px beats 64", "yes", "64, then 96 px", "64 px", "small_word", ONE_OF_67),
        ("small words: 96 px beats 64, then 96", "-", "96 px", "64, then 96 px", "small_word", ONE_OF_67),
        ("captions: 64, then 96 px beats 64", "level", "64, then 96 px", "64 px", "captioning"),
    ),
    *_asked("ocr_input", "14.11", ("two words: with text beats pixels", "yes", "with text", "pixels alone", "words")),
    *_asked("thawed", "14.11", ("captions: thawed beats frozen", "level", "thawed", "frozen", "captioning")),
    *_asked(
        "thawed", "14.11",
        ("loss of detection: thawed beats frozen", "yes", "thawed", "frozen", "detection"),
        metric="loss", margin=0.05,
    ),
    *_asked(
        "multitask", "14.11",
        *((f"{test}: one for four beats its own", "level", "together", test, test) for test in MULTITASK),
    ),
    *_asked(
        "prefix", "14.11",
        *((f"{test}: prefix beats none", paper, "with", "without", test) for test, paper in PREFIXES.items()),
    ),
    *_asked(
        "prompt_loss", "14.11",
        ("naming: loss on the answer alone", "yes", "answer", "prompt too", "naming"),
        ("easy_vqa: loss on the answer alone", "yes", "answer", "prompt too", "easy_vqa"),
    ),
    *_asked(
        "rare", "14.12",
        ("AP of rare kinds: captions beside boxes beat boxes", "yes", "boxes and captions", "boxes", "rare"),
        ("AP of frequent kinds: captions beside boxes beat boxes", "-", "boxes and captions", "boxes", "frequent"),
        ("AP of rare kinds: no long tail beats boxes", "-", "boxes, no tail", "boxes", "rare"),
        metric="AP",
    ),
    *_asked("masks", "15.5", *((f"names: {a} beats {b}", "yes", a, b, "shown_language") for a, b in MASKS)),
    *_asked(
        "masks", "15.5",
        *((f"made-up words: {a} beats {b}", "yes", a, b, "made_up_words", COPIED) for a, b in MASKS),
    ),
    *_asked(
        "frames", "15.6",
        *(
            (f"{2 * n} frames beat {n}", "yes", f"{2 * n} frames", f"{n} frames", "passing")
            for n in (2, 4, 8)
        ),
    ),
)  # fmt: skip
