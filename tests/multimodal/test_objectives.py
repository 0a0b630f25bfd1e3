"""kitlib.multimodal.objectives: exact prompts, no text lost between prompt and target, loss weights, errors."""

import re
import unicodedata

import numpy as np
import pytest

from kitlib import data
from kitlib.data import captioned, denoise, keyed_rng
from kitlib.data.tokenizer import SENTINELS, Tokenizer
from kitlib.multimodal import boxes, objectives, visual_tokens
from kitlib.multimodal.objectives import (
    captioning,
    detection,
    episodic_captioning,
    episodic_vqa,
    made_up_words,
    masked_tokens,
    naming,
    object_aware_vqa,
    question_generation,
    recall,
    repeated_pairs,
    screenshot_to_markup,
    span_corruption,
    split_captioning,
    split_ocr,
    translation,
    video_captioning,
    vqa,
)
from kitlib.multimodal.prompts import PREFIXES, SENTINEL, units, without_prefix
from kitlib.synthetic import episodes, scenes

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
FOUR = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1], IMAGE[::-1, ::-1]])
BOXES = np.array([[0.0, 0.0, 0.5, 1.0], [0.25, 0.5, 1.0, 0.75], [0.5, 0.25, 0.75, 0.5]])
NAMES = ["dog", "red apple", "dog"]
CODEBOOK = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 100, 200)])
SQUARES = np.kron(np.array([[0, 100], [190, 90]], np.uint8)[..., None], np.ones((32, 32, 3), np.uint8))
MASK = np.array([[True, False], [True, True]])
SCENE = scenes.Scene(IMAGE, BOXES, np.array([0, 2, 0]))
FIRST = SENTINEL.format(0)


class First:
    """A generator that always chooses the first item, so that prompts can be written down in the tests."""

    def choice(self, items):
        return items[0]

    def permutation(self, count):
        return np.arange(count)


def interleave(prompt, answer):
    """The prompt with each sentinel replaced by the words that follow the same sentinel in the answer."""
    _, *parts = re.split(r"(<extra_id_\d+>) ", answer)
    for sentinel, words in zip(parts[::2], parts[1::2], strict=True):
        assert prompt.count(sentinel) == 1
        prompt = prompt.replace(sentinel, words.rstrip(" "))
    return prompt


# --- prompts ---

CAPTION, RED = "Generate the alt-text in en at 0: ", "red apple"
STILL = CAPTION + FIRST
EXAMPLES = [
    (split_captioning(IMAGE, "big red apple", "en", 2), f"Generate the alt-text in en at 2: big red {FIRST}", "apple"),
    (captioning(IMAGE, "roter Apfel", "de"), f"Generate the alt-text in de at 0: {FIRST}", "roter Apfel"),
    (split_ocr(IMAGE, ["EXIT", "no 7", "au"], "fr", 1), f"Generate the ocr_text in fr at 1: EXIT {FIRST}", "no 7 au"),
    (vqa(IMAGE, "is it red?", "yes", "en"), "Answer in en: is it red?", "yes"),
    (question_generation(IMAGE, "is it red?", "yes", "en"), "Generate a question in en: yes", "is it red?"),
    (object_aware_vqa(SCENE, ["dog", "cat", RED], First()), "Answer in en: which are there?", "dog ; red apple"),
    (episodic_captioning([*FOUR[:3]], ["dog", RED, "cat"], "en"), (CAPTION + "dog", CAPTION + RED, STILL), "cat"),
    (
        episodic_vqa(FOUR[:2], ["is it red?", "what is it?"], ["no", "a dog"], "en"),
        ("Answer in en: is it red? no", "Answer in en: what is it?"),
        "a dog",
    ),
    (screenshot_to_markup(IMAGE, "<h>hi</h>"), "Generate the markup", "<h>hi</h>"),
    (video_captioning(FOUR, "dog moves left", "en"), STILL, "dog moves left"),
    (
        detection(IMAGE, BOXES, NAMES, [RED, "cat", "dog"], First()),
        "detect red apple ; cat ; dog",
        "0 0 500 999 dog ; 250 500 999 749 red apple ; 500 250 749 500 dog",
    ),
    (masked_tokens(SQUARES, MASK, CODEBOOK), "Generate the image tokens", "0 2 1"),
]


@pytest.mark.parametrize(("example", "prompt", "answer"), EXAMPLES)
def test_prompts_and_targets_are_exact(example, prompt, answer):
    assert example.prompt == prompt and example.answer == answer
    assert example.images.dtype == np.uint8 and example.images.shape[1:] == (64, 64, 3)
    several = 4 if example.task == "video_captioning" else 1
    assert len(example.images) == (len(prompt) if isinstance(prompt, tuple) else several)
    assert all(weight is True for _, weight in example.target)
    words = Tokenizer.load()
    for text in [prompt] if isinstance(prompt, str) else prompt:
        assert words.decode(words.encode(text)) == text
    assert words.decode([i for piece, _ in example.target for i in words.encode(piece)]) == answer


def test_there_are_thirteen_objectives_each_with_its_function():
    assert [example.task for example, *_ in EXAMPLES] == [task for task in PREFIXES if task != "span_corruption"]
    assert len(PREFIXES) == 13 and all(callable(getattr(objectives, task)) for task in PREFIXES)


# --- texts ---


@pytest.mark.slow
@pytest.mark.parametrize("language", captioned.LANGUAGES)
def test_every_split_of_every_caption_is_lossless(language):
    def length(text):  # in units
        letters = [character for character in text if not unicodedata.category(character).startswith("M")]
        return len(letters if language in ("zh", "ja", "th") else text.split())

    several = 0
    for caption in captioned.emoji("test").names[language][:60]:
        count = len(units(caption, language))
        several += count > 1
        for position in range(count):
            example = split_captioning(IMAGE, caption, language, position)
            given = without_prefix(example).prompt
            assert given.endswith(FIRST) and given.replace(FIRST, example.answer) == caption
            assert (length(given.removesuffix(FIRST)), length(example.answer)) == (position, count - position)
        whole = captioning(IMAGE, caption, language)
        assert whole.answer == caption and whole.prompt == split_captioning(IMAGE, caption, language, 0).prompt
    assert several > 5


def test_every_split_of_ocr_is_lossless():
    texts = ["STOP", "in 7 m", "ÉTÉ", "夏"]
    for language in ("en", "ja"):
        for position in range(4):
            example = split_ocr(IMAGE, texts, language, position)
            assert without_prefix(example).prompt.replace(FIRST, example.answer) == " ".join(texts)
            assert example.answer == " ".join(texts[position:])


def test_interleaving_prompt_and_answer_restores_the_text():
    tokenizer = Tokenizer.load()
    for i, text in enumerate(data.glosses("test")[:300]):
        example = span_corruption(text, keyed_rng(0, i))
        assert interleave(example.prompt, example.answer) == text
        words = text.split(" ")
        noise, spans = denoise.noise_counts(len(words), 0.15, 3)
        marks = [SENTINEL.format(k) for k in range(spans)]
        assert all(re.findall("<extra_id_[0-9]+>", text) == marks for text in (example.prompt, example.answer))
        assert len(example.answer.split(" ")) == noise + spans
        assert len(example.prompt.split(" ")) == len(words) - noise + spans
        ids = tokenizer.encode(example.prompt)
        assert [i for i in ids if i in tokenizer.sentinel_ids] == tokenizer.sentinel_ids[:spans].tolist()
        assert example.images.shape == (0, 64, 64, 3) and example.task == "span_corruption"


def test_the_words_of_span_corruption_are_chosen_by_denoise():
    text = " ".join(map(str, range(100)))
    example = span_corruption(text, keyed_rng(5), density=0.5, mean_span=2)
    mask = denoise.random_spans_mask(100, 0.5, 2, keyed_rng(5))
    assert [w for w in example.prompt.split() if w.isdigit()] == [str(i) for i in np.flatnonzero(~mask)]
    assert [w for w in example.answer.split() if w.isdigit()] == [str(i) for i in np.flatnonzero(mask)]


def test_there_may_be_as_many_spans_as_sentinels():
    example = span_corruption(" ".join(["a"] * 2 * SENTINELS), keyed_rng(0), density=0.5, mean_span=1)
    assert example.answer.count("<extra_id_") == SENTINELS


# --- objects ---


def test_questions_about_objects_are_of_three_kinds_and_true():
    """What `scenes.ask` answers is tested there; here are two dogs and a red apple."""
    rng, seen = keyed_rng(0), {}
    for _ in range(60):
        example = object_aware_vqa(SCENE, ["dog", "cat", RED], rng)
        seen[without_prefix(example).prompt] = example.answer
    assert {question.split(":")[0] for question in seen} == {"which are there?", "is there", "which is there"}
    assert seen["which are there?"] == "dog ; red apple" and seen["is there: cat?"] == "no"
    assert {answer for question, answer in seen.items() if " or " in question} <= {"dog", RED}


def test_boxes_can_be_read_back_and_only_noise_carries_no_loss():
    rng = np.random.default_rng(0)
    orders = set()
    for _ in range(40):
        example = detection(IMAGE, BOXES, NAMES, ["dog", "cat"], rng, total=5)
        found, names, dropped = boxes.from_text(example.answer)
        assert dropped == 0 and names == ["dog", "dog", *["noise"] * 3]  # the apple is not in the prompt
        wanted = boxes.dequantize(boxes.quantize(BOXES[[0, 2]]))
        assert sorted(found[:2].tolist()) == sorted(wanted.tolist())
        orders.add(tuple(found[:2, 0]))
        without_loss = [piece for piece, weight in example.target if not weight]
        assert without_loss == [f" {' '.join(map(str, row))}" for row in boxes.quantize(found[2:]).tolist()]
        assert all(weight for piece, weight in example.target if not re.fullmatch(r" ?(\d+ ){3}\d+", piece))
    assert len(orders) == 2


def test_names_and_their_translations_share_their_questions():
    """The same words with an image and without, so that the text teaches what the image is asked for."""
    assert naming(IMAGE, "chien", "fr").prompt == "Answer in fr: what is this?"
    assert translation("dog", "chien", "fr").prompt == "Answer in fr: what is dog?"
    seen, read = naming(IMAGE, "chien", "fr", ("dog", "en")), translation("Hund", "chien", "fr", ("dog", "en"))
    assert seen.prompt == "Answer in fr: what is this? first in en"
    assert read.prompt == "Answer in fr: what is Hund? first in en"
    assert seen.answer == read.answer == "dog ; chien"
    assert seen.images.shape == (1, 64, 64, 3) and read.images.shape == (0, 64, 64, 3)
    assert seen.task == read.task == "vqa"


def test_a_word_is_looked_up_by_its_name():
    example = recall(["Hund", "Apfel"], ["vuck", "gub"], 0, "de")
    assert example.prompt == "Answer in de: what is Hund? vuck ; what is Apfel? gub ; what is Hund?"
    assert example.answer == "vuck" and len(example.images) == 0


def test_detection_with_fewer_bins_and_without_objects():
    """0.5 of 33 bins is round(0.5 * 32) = 16; 0.75 is 24."""
    assert detection(IMAGE, BOXES, NAMES, ["red apple"], keyed_rng(0), bins=33).answer == "8 16 32 24 red apple"
    assert detection(IMAGE, [], [], ["dog"], keyed_rng(0), total=2).answer.count("noise") == 2


def test_codes_of_hidden_cells_are_written_row_by_row():
    images = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    codebook = visual_tokens.cut(images, 8).reshape(-1, 8, 8, 3)  # every patch is its own entry: 0, 1, 2, ...
    for i, image in enumerate(images):
        hidden = visual_tokens.mask((8, 8), 0.3, keyed_rng(0, i))
        example = masked_tokens(image, hidden, codebook)
        codes = [int(word) for word in example.answer.split(" ")]
        assert codes == [64 * i + 8 * y + x for y in range(8) for x in range(8) if hidden[y, x]]
        cells = visual_tokens.cut(example.images, 8)[0]
        assert (cells[hidden] == 128).all()
        np.testing.assert_array_equal(cells[~hidden], visual_tokens.cut(image[None], 8)[0][~hidden])


# --- several images ---


def test_the_answer_to_a_made_up_word_is_among_the_exemplars():
    cutouts, names = scenes.objects("test")
    for i in range(20):
        episode = episodes.episode(cutouts, 3, 5, keyed_rng(0, i))
        example = made_up_words(episode, max_images=6)
        assert example.task == "episodic_vqa" and example.images.shape == (6, 64, 64, 3)
        np.testing.assert_array_equal(example.images, [*episode.images, episode.query])
        *exemplars, query = example.prompt
        assert query == "Answer in en: what is this?" and example.answer == episode.answer
        assert exemplars == [f"{query} {word}" for word in episode.words]
        assert f"{query} {example.answer}" in exemplars
        named = made_up_words(episode, names=names)
        assert named.prompt == (*exemplars, f"{query} first in en")
        *steps, last, word = named.answer.split(" ; ")
        assert steps[0::2] == [names[kind] for kind in episode.kinds] and steps[1::2] == [*episode.words]
        assert last == names[episode.query_kind] and word == episode.answer
        close = made_up_words(episode, names=names, joint=" ")
        both = zip(steps[0::2], steps[1::2], strict=True)
        assert close.answer == " ; ".join([*map(" ".join, both), f"{last} {word}"]) and close.prompt == named.prompt


def test_repeated_pairs_carry_loss_where_they_stand_again():
    dog, cat = ("dog", "dax"), ("red cat", "zug")
    example = repeated_pairs([dog, cat], [cat, dog, cat])
    assert example.task == "vqa" and not len(example.images)
    assert example.prompt == "Answer in en: what is this? first in en"
    assert example.answer == "dog dax ; red cat zug ; red cat zug ; dog dax ; red cat zug"
    assert [piece for piece, loss in example.target if loss] == [" zug", " dax", " zug"]


# --- errors ---

RNG, DE = keyed_rng(0), "de"
DOG, CAT = ("dog", "dax"), ("cat", "zug")


def boxed(boxes=BOXES, names=NAMES, asked=("dog",), **more):
    return detection(IMAGE, boxes, names, asked, RNG, **more)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: captioning(None, "cat", "en"), "There is no image"),
        (lambda: captioning(IMAGE / 255, "cat", "en"), r"Expected images uint8\[n, H, W, 3\], 0 to 255, got float64"),
        (lambda: captioning(FOUR, "cat", "en"), "4 images or frames; this example may have at most 1"),
        (lambda: video_captioning(FOUR, "cat", "en", max_images=3), "at most 3"),
        (lambda: episodic_vqa(FOUR, "abcd", "abcd", "en", max_images=3), "at most 3"),
        (lambda: episodic_captioning([IMAGE, IMAGE[:32]], ["a", "b"], "en"), "must be of one size"),
        (lambda: captioning(IMAGE, None, "en"), "visible"),
        (lambda: vqa(IMAGE, "is it?", "yes", "en", ocr=" "), "visible"),
        (lambda: question_generation(IMAGE, "is it?", "", "en"), "visible"),
        (lambda: screenshot_to_markup(IMAGE, ""), "visible"),
        (lambda: episodic_vqa(FOUR[:2], ["", "b"], ["c", "d"], "en"), "visible"),
        (lambda: translation(" ", "Hund", DE), "visible"),
        (lambda: translation("chien", "Hund", DE, (" ", "en")), "visible"),
        (lambda: repeated_pairs([("dog", " ")], [("dog", " ")]), "visible"),
        (lambda: captioning(IMAGE, f"a {FIRST}", "en"), "A sentinel stands for words that are left out"),
        (
            lambda: span_corruption("a " * 255 + "a", RNG, density=0.5, mean_span=1),
            "have 128 spans .* are 64 sentinels",
        ),
        (lambda: span_corruption("word", RNG), "length is 1"),
        (lambda: captioning(IMAGE, "cat", "german"), "'german'.* did you mean 'de'"),
        (lambda: captioning(IMAGE, "a  cat", "en"), "White space .*'a  cat'"),
        (lambda: split_captioning(IMAGE, "a cat", "en", 2), "2 parts, 2 are given"),
        (lambda: split_ocr(IMAGE, [], "en", 0), "The text has 0 parts"),
        (lambda: episodic_captioning(FOUR[:1], ["a"], "en"), "at least 2 images and as many texts, got 1 images"),
        (lambda: episodic_vqa(FOUR[:2], ["a", "b"], ["c"], "en"), "got 2 images, 2 and 1 texts"),
        (lambda: recall(["Hund"], ["vuck", "gub"], 0, DE), "different names and a word for each"),
        (lambda: recall(["Hund", "Hund"], ["vuck", "gub"], 0, DE), "different names and a word for each"),
        (lambda: repeated_pairs([DOG], [CAT]), "again, got"),
        (lambda: repeated_pairs([DOG, CAT], []), "again, got"),
        (lambda: boxed(asked=[]), r"several different ones, got \[\]"),
        (lambda: boxed(asked=["dog", "dog"]), "several different ones"),
        (lambda: boxed(asked=["dog ; cat"]), "read back, got 'dog ; cat'"),
        (lambda: boxed(names=NAMES[:2]), "2 names for 3 boxes"),
        (lambda: boxed(total=1), "2 objects, more than the total of 1"),
        (lambda: boxed(asked=["cat"]), r"None of \['cat'\] is in the image"),
        (lambda: boxed(BOXES * 64), "are these pixels"),
        (lambda: boxed(BOXES + np.array([[0], [0.6], [0]])), "in .0, 1."),  # of a name that is not asked for
        (lambda: boxed(names=["noise", *NAMES[1:]]), "'noise' is the class of boxes"),
        (lambda: masked_tokens(IMAGE, MASK[:1], CODEBOOK), r"bool\[2, 2\] with .* hidden cell, got bool\[1, 2\]"),
        (lambda: masked_tokens(IMAGE, MASK & False, CODEBOOK), "at least one hidden cell"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
