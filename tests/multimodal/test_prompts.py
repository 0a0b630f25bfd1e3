"""kitlib.multimodal.prompts: prefixes are removed, captions are split without loss, and bad examples are refused."""

from collections import Counter

import numpy as np
import pytest

from kitlib.data import keyed_rng
from kitlib.multimodal.objectives import span_corruption, vqa
from kitlib.multimodal.prompts import Example, draw_position, first_words, units, without_prefix

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
CAPTION, RED = "Generate the alt-text in en at 0: ", "is it red? no"
PROMPTS = {  # objective: its prompt, the same without its prefix
    "split_captioning": ("Generate the alt-text in en at 2: big red <extra_id_0>", "big red <extra_id_0>"),
    "split_ocr": ("Generate the ocr_text in fr at 1: EXIT <extra_id_0>", "EXIT <extra_id_0>"),
    "vqa": ("Answer in en: is it red?", "is it red?"),
    "question_generation": ("Generate a question in en: yes", "yes"),
    "episodic_captioning": ((f"{CAPTION}dog", f"{CAPTION}<extra_id_0>"), ("dog", "<extra_id_0>")),
    "episodic_vqa": ((f"Answer in en: {RED}", "Answer in en: what is it?"), (RED, "what is it?")),
    "screenshot_to_markup": ("Generate the markup", ""),
    "detection": ("detect red apple ; cat ; dog", "red apple ; cat ; dog"),
}


@pytest.mark.parametrize("objective", PROMPTS)
def test_a_prompt_without_its_prefix_is_its_content(objective):
    prompt, content = PROMPTS[objective]
    example = Example(IMAGE[None], prompt, (("yes", True),), objective)
    short = without_prefix(example)
    assert short.prompt == content
    assert short.images is example.images and short.target == example.target and short.task == objective
    with pytest.raises(ValueError, match=f"This example of {objective} has no prefix to be taken away"):
        without_prefix(short)


def test_only_the_prefix_is_removed_and_only_once():
    quoted = vqa(IMAGE, "Answer in en: what does it say?", "hi", "de")
    assert without_prefix(quoted).prompt == "Answer in en: what does it say?"
    half = Example(IMAGE[None], (f"Answer in en: {RED}", "what is it?"), (("a dog", True),), "episodic_vqa")
    with pytest.raises(ValueError, match="episodic_vqa has no prefix"):
        without_prefix(half)
    with pytest.raises(ValueError, match="span_corruption has no prefix"):
        without_prefix(span_corruption("detect a cat or a dog", keyed_rng(0)))


def test_units_by_hand():
    assert units("pomme rouge, verte", "fr") == ["pomme", "rouge,", "verte"]
    assert units("红苹果", "zh") == ["红", "苹", "果"] and units("FREEマーク", "ja") == [*"FREEマーク"]
    # A Thai vowel or tone above or below a letter stays with it: "นี่" is one letter with two marks.
    assert units("ที่นี่", "th") == ["ที่", "นี่"] and units("사과 나무", "ko") == ["사과", "나무"]
    assert units("カ\u3099", "ja") == ["カ\u3099"]


def test_positions_are_equally_likely_and_a_single_unit_is_split_at_0():
    rng = np.random.default_rng(0)
    counts = Counter(draw_position(4, rng) for _ in range(3000))
    assert set(counts) == {1, 2, 3} and max(abs(n - 1000) for n in counts.values()) < 5 * np.sqrt(3000 * 2 / 9)
    assert {draw_position(1, rng) for _ in range(9)} == {0} and {draw_position(2, rng) for _ in range(9)} == {1}


def test_first_words_are_kept_and_dropped_words_are_counted():
    texts = ["one", "two three", "four"]
    assert first_words(texts, 4) == ("one two three four", 0) == first_words(texts, 9)
    assert first_words(texts, 2) == ("one two", 2) and first_words([], 3) == ("", 0)
    ocr, _ = first_words(texts, 3)
    example = vqa(IMAGE, "what is {ocr}?", "one", "en", ocr=ocr)
    assert example.prompt == "Answer in en: what is {ocr}? OCR: one two three"
    assert without_prefix(example).prompt == "what is {ocr}? OCR: one two three"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: first_words(["a"], 0), "most is 0; expected at least 1 word"),
        (lambda: units("a  cat", "en"), "White space must be single spaces between words.*'a  cat'"),
        (lambda: units("", "en"), "need a visible character, got ''"),
        (lambda: Example(IMAGE[None], (), (("a", True),), "episodic_vqa"), "needs one text per image, got none"),
        (lambda: Example(IMAGE[None], "a", ((" ", True),), "vqa"), "needs a target with a visible character"),
        (lambda: Example(IMAGE[None], "", (), "vqaa"), "Unknown objective of PaLI-X 'vqaa'; did you mean 'vqa'?"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
