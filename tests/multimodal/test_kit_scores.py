"""kitlib.multimodal.kit_scores: what is new in each test is new, and its metric gives 1 for the true answers."""

import numpy as np
import pytest

from kitlib.data import captioned, keyed_rng
from kitlib.multimodal import kit_scores
from kitlib.multimodal.kit_data import BY_TEXT, by_text_alone, object_rows
from kitlib.multimodal.kit_scores import TASKS, caption_examples, nearest_names, pair_examples, wups_values
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.tasks import kit_tasks
from kitlib.synthetic import rendered_text, scenes

pytestmark = pytest.mark.slow

IMAGE = np.zeros((1, 64, 64, 3), np.uint8)


def named(name: str) -> Example:
    return Example(IMAGE, "Answer in en: what is this?", ((name, True),), "vqa")


def test_captions_are_of_their_language_and_differ_between_seeds():
    names = captioned.emoji("train").names["el"]
    one, other = caption_examples("el")(12, 0), caption_examples("el")(12, 1)
    assert {e.answer for e in one} <= set(names) and len({e.answer for e in one}) == 12
    assert all(e.prompt == "Generate the alt-text in el at 0: <extra_id_0>" for e in one)
    assert [e.answer for e in one] != [e.answer for e in other]
    assert len(caption_examples("en", "test")(1000, 0)) == 83
    with pytest.raises(ValueError, match=r"'german'.* did you mean 'de'"):
        caption_examples("german")(3, 0)


@pytest.mark.parametrize("style", captioned.EMOJI_STYLES)
def test_captions_come_in_every_style(style, monkeypatch):
    """The picture of a caption is the drawing of its emoji in this style."""
    drawn = captioned.drawings(style)
    row = {cutout.tobytes(): i for i, cutout in zip(drawn.rows, scenes.cut_outs(drawn.images), strict=True)}
    placed = []
    monkeypatch.setattr(kit_scores, "place_on_background", lambda cutout, _: (placed.append(cutout) or IMAGE[0], None))
    examples = caption_examples("de", style=style)(20, 0)
    names = captioned.emoji("train").names["de"]
    assert [e.answer for e in examples] == [names[row[cutout.tobytes()]] for cutout in placed]


def test_known_captions_leave_out_the_held_out_pairs():
    """In French, of 417 things all but those that no picture teaches; in English all."""
    codes, names = captioned.emoji("train").codes, captioned.emoji("train").names["fr"]
    taught = {names[i] for i in object_rows("train") if not by_text_alone(codes[i], "fr")}
    assert {e.answer for e in caption_examples("fr")(1000, 0)} == taught and 280 < len(taught) < 345
    assert len(caption_examples("en")(1000, 0)) == 417


def test_pairs_are_held_out():
    emoji = captioned.emoji("train")
    for by_english in (False, True):
        languages = set()
        examples = pair_examples(by_english=by_english)(60, 0)
        for example in examples:
            language, question = example.prompt.removeprefix("Answer in ").split(": ", 1)
            *first, name = example.answer.split(" ; ")
            row = emoji.names[language].index(name)
            assert by_text_alone(emoji.codes[row], language) and row in object_rows("train")
            assert first == ([emoji.names["en"][row]] if by_english else [])
            assert question == "what is this?" + " first in en" * by_english
            languages.add(language)
        assert languages == set(BY_TEXT) and len({e.images.tobytes() for e in examples}) == 60
    direct, by_way = (pair_examples(by_english=flag)(9, 3) for flag in (False, True))
    assert all((a.images == b.images).all() for a, b in zip(direct, by_way, strict=True))  # the same pictures


def test_words_to_read_are_new_and_of_a_readable_size(monkeypatch):
    known = {word for words in rendered_text.words("test").values() for word in words}
    sizes, line = [], rendered_text.line
    monkeypatch.setattr(rendered_text, "line", lambda *args: sizes.append(args[3]) or line(*args))
    examples = kit_scores.reading_examples()(24, 0)
    assert all(e.answer in known and 4 <= len(e.answer) <= 6 for e in examples) and set(sizes) == {(16, 20)}
    # Eight languages, one after the other; numbers have at most three digits.
    assert len({e.prompt for e in examples}) == 8 and not any(e.answer.isdigit() for e in examples)
    assert [e.prompt for e in examples[:8]] == [e.prompt for e in examples[8:16]]


def test_nearest_names_by_hand(monkeypatch):
    """On a branch of its own, "wolf" shares two of three nodes with "dog", one with "apple": 2 * 2 / (3 + 3) = 2/3
    against 1/3. So "dog" is nearest, and "apple" is not; a word outside of the taxonomy is near nothing."""
    taxonomy = {"wolf": ("e", "canine", "wolf"), "dog": ("e", "canine", "dog"), "apple": ("e", "fruit", "apple")}
    taught = captioned.Emoji(IMAGE, ("1", "2"), {"en": ("dog", "apple")}, {})
    monkeypatch.setattr(captioned, "taxonomy", lambda: taxonomy)
    monkeypatch.setattr(captioned, "emoji", lambda split: taught)
    monkeypatch.setattr(kit_scores, "object_rows", lambda split: [0, 1])
    texts = ["dog", "apple", "wolf", "dog"]
    examples = [named("wolf"), named("wolf"), named("wolf"), named("zug")]
    assert nearest_names(texts, examples).tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(wups_values(texts, examples), [2 / 3, 1 / 3, 1, 0])


def test_all_tests_have_examples_and_true_answers_score_one():
    """But for "nearest name": the true name of an unseen thing was not taught."""
    names = {task.name for task in TASKS}
    assert len(names) == len(TASKS)
    assert names >= {f"captions, {style}{code}" for code in captioned.LANGUAGES for style in ("", "Twemoji, ")}
    for task in TASKS:
        if not task.name.startswith("captions, ") or task.name.endswith(("en", "name")):
            examples, again = task.examples(3, 0), task.examples(3, 0)
            assert len(examples) == 3, task.name
            perfect = np.mean(task.metric([e.answer for e in examples], examples))
            assert perfect == (0 if task.unit == "nearest name" else 1), task.name
            pairs = zip(examples, again, strict=True)
            assert all((a.images == b.images).all() and a.prompt == b.prompt for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "task", "split"),
    [
        ("easy-VQA, test set", "easy_vqa", "test"),
        ("receipts", "receipts", "test"),
        ("counting", "counting", "train"),
        ("counting, unseen objects", "counting", "test"),
        ("videos, unseen objects", "video_questions", "test"),
        ("videos, unseen objects, by way of positions", "video_questions_by_positions", "test"),
        ("detection, with absent kinds, unseen objects", "detection", "test"),
        ("4-shot, new words, unseen objects", "made_up_words", "test"),
        ("4-shot, new words, unseen objects, by way of English", "made_up_words_by_name", "test"),
    ],
)
def test_rows_of_the_table_are_of_their_split(name, task, split):
    (one,) = {each.name: each for each in TASKS}[name].examples(1, 5)
    other = kit_tasks(split)[task].draw(keyed_rng(5, 0))
    np.testing.assert_array_equal(one.images, other.images)
    assert (one.prompt, one.target) == (other.prompt, other.target)


def test_one_or_two_names_are_asked_for():
    """Of a scene with two kinds there are three prompts: either name, not the first of the alphabet alone, and both.
    One scene in six has two, so of 200 prompts about 11 have both names, with a standard deviation of 3."""
    examples = kit_scores.finding_examples(200, 3)
    asked = [example.prompt.removeprefix("detect ").split(" ; ") for example in examples]
    assert {len(names) for names in asked} == {1, 2} and 2 <= sum(len(names) == 2 for names in asked) <= 25
    assert all(name in one.answer for names, one in zip(asked, examples, strict=True) for name in names)
    first = kit_tasks("train")["finding"]
    alphabetical = [first.draw(keyed_rng(3, i)).prompt for i in range(200)]
    alone = [(one.prompt, usual) for one, usual in zip(examples, alphabetical, strict=True) if " ; " not in one.prompt]
    assert any(prompt > usual for prompt, usual in alone)


def test_a_box_for_what_is_not_there_costs_in_any_language():
    (task,) = (each for each in TASKS if each.name == "detection, with absent kinds")
    examples, wrong = task.examples(60, 1), []
    answers = [example.answer for example in examples]
    for example, answer in zip(examples, answers, strict=True):
        absent = [name for name in example.prompt.removeprefix("detect ").split(" ; ") if name not in answer]
        wrong.append(" ; ".join([*(f"0 0 32 32 {name}" for name in absent), answer]))
    assert task.metric(answers, examples) == 1.0 > 0.9 > task.metric(wrong, examples)
