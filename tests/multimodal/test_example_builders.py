"""kitlib.multimodal.example_builders: prompts and targets are true, in all scripts, and only use their split."""

import re
from collections import Counter

import numpy as np
import pytest

from kitlib import data
from kitlib.data import captioned, keyed_rng
from kitlib.multimodal import boxes, example_builders, visual_tokens
from kitlib.multimodal.example_builders import motion_caption
from kitlib.multimodal.kit_data import BY_TEXT, by_text_alone, codebook, kit_data, object_rows
from kitlib.multimodal.prompts import SENTINEL, units, without_prefix
from kitlib.multimodal.tasks import kit_tasks
from kitlib.synthetic import episodes, named_pictures, rendered_text, scenes, video

pytestmark = pytest.mark.slow

SPLITS = ("train", "test")
COUNT = 20  # examples per task
FIRST = SENTINEL.format(0)


@pytest.fixture(scope="module")
def examples():
    """examples[split][task][i]"""
    tasks = {split: enumerate(kit_tasks(split).items()) for split in SPLITS}
    return {
        split: {name: [task.draw(keyed_rng(k, i)) for i in range(COUNT)] for k, (name, task) in tasks[split]}
        for split in SPLITS
    }


@pytest.fixture
def composed(monkeypatch):
    """The scenes that are composed in the test."""
    seen, compose = [], scenes.compose
    monkeypatch.setattr(scenes, "compose", lambda *args, **kwargs: seen.append(compose(*args, **kwargs)) or seen[-1])
    return seen


def prompts(example):
    return [example.prompt] if isinstance(example.prompt, str) else example.prompt


def content(example):
    return without_prefix(example).prompt


def language_of(example):
    """The language that the prefix of its prompt names."""
    return re.search(" in ([a-z]+)", prompts(example)[0])[1]


def stamp(cutout):
    """An image that identifies its cut-out, in place of the cut-out on a background."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :32], image[32:, 32:] = cutout[..., :3], cutout[..., 3:]
    return image


@pytest.fixture(scope="module")
def stamped():
    """stamped[split][task]: examples with a `stamp` in place of each emoji on a background; of tasks that have several
    examples about one picture, all of them."""
    names = ("captioning", "naming", "naming_by_english", "split_captioning", "episodic_captioning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_pictures, "varied", lambda cutout, rng: cutout)
        patch.setattr(example_builders, "place_on_background", lambda cutout, rng: (stamp(cutout), None))
        out = {}
        for split in SPLITS:
            tasks = {name: kit_tasks(split)[name] for name in names}
            draws = {name: task.draw_all or (lambda rng, task=task: [task.draw(rng)]) for name, task in tasks.items()}
            keys = range(COUNT)
            out[split] = {name: [e for i in keys for e in draw(keyed_rng(0, i))] for name, draw in draws.items()}
        return out


def rows_of_stamps(split):
    """{the stamp of a cut-out: the row of its emoji}"""
    return {stamp(cutout).tobytes(): i for i, drawn in enumerate(kit_data(split).drawn) for cutout in drawn}


def test_captions_are_the_names_of_the_objects_in_the_images(stamped):
    assert not set(rows_of_stamps("train")) & set(rows_of_stamps("test"))
    for split in SPLITS:
        emoji, row = captioned.emoji(split), rows_of_stamps(split)
        for name in ("captioning", "split_captioning"):
            for example in stamped[split][name]:
                i = row[example.images[0].tobytes()]  # no image of another split
                assert name == "split_captioning" or i in object_rows(split)
                assert content(example).replace(FIRST, example.answer) == emoji.names[language_of(example)][i]
        for example in stamped[split]["episodic_captioning"]:
            rows = [row[image.tobytes()] for image in example.images]
            assert set(rows) <= set(object_rows(split))
            *exemplars, query = content(example)
            names = [emoji.names[language_of(example)][i] for i in rows]
            assert query == FIRST and [*exemplars, example.answer] == names
            assert set.intersection(*(set(emoji.keywords["en"][i]) for i in rows)) and len(set(rows)) == 5


def test_questions_and_ocr(examples):
    receipt = re.compile("costs|price|total")
    for split in SPLITS:
        source, forms = captioned.easy_vqa(split), Counter()
        easy = set(zip(source.questions, source.answers, strict=True))
        for example in examples[split]["vqa"]:
            question, _, ocr = content(example).partition(" OCR: ")
            if question == "what is this?":
                forms["name"] += 1
            elif receipt.search(question):
                forms["receipt"] += 1
                forms["ocr"] += ocr != ""
                assert not ocr or example.answer in ocr.split(" ")
            else:
                forms["easy"] += 1
                assert (question, example.answer) in easy and not ocr
        assert len(forms) == 4
        for example in examples[split]["question_generation"]:
            question = example.answer
            assert question.endswith("?") and ((question, content(example)) in easy or receipt.search(question))
        assert all((content(example), example.answer) in easy for example in examples[split]["easy_vqa"])
        assert 0 < sum(" OCR: " in example.prompt for example in examples[split]["receipts"]) < COUNT


def test_words_are_of_their_language_and_markup_is_valid(examples):
    for split in SPLITS:
        words, counts = rendered_text.words(split), Counter()
        for example in examples[split]["split_ocr"]:
            read = content(example).replace(FIRST, example.answer).split(" ")
            assert set(read) <= set(words[language_of(example)])
            counts[len(read)] += 1
        assert set(counts) == {1, 2, 3, 4}
        for example in examples[split]["screenshot_to_markup"]:
            assert len(rendered_text.markup_tree(example.answer)) == 3
        known, more = {word for one in words.values() for word in one}, set(rendered_text.more_words(split))
        answers = [example.answer for example in examples[split]["reading"]]
        assert set(answers) <= known | more and 0 < sum(answer in more for answer in answers) < COUNT


def test_split_texts_are_given_a_beginning(examples):
    """A caption is whole only if it has one unit; of images of words about half have more than one word."""
    for split in SPLITS:
        assert any(" at 0: " not in example.prompt for example in examples[split]["split_ocr"])
        for example in examples[split]["split_captioning"]:
            assert " at 0: " not in example.prompt or len(units(example.answer, language_of(example))) == 1


def test_detection_is_prompted_with_the_objects_and_an_absent_one(examples):
    for split in SPLITS:
        for example in examples[split]["detection"]:
            found, names, dropped = boxes.from_text(example.answer, example_builders.BINS)
            prompted = content(example).split(" ; ")
            assert dropped == 0 and len(found) == example_builders.BOXES == 4
            present = [name for name in names if name != "noise"]
            assert 1 <= len(present) <= example_builders.FOUND == 2
            assert len(set(prompted)) == len(prompted) == len(set(present)) + 1 and set(present) < set(prompted)


def test_no_picture_is_named_in_a_held_out_pair(stamped):
    """Neither in the answer nor in the prompt; and the names are those of the pictures."""
    emoji, row = captioned.emoji("train"), rows_of_stamps("train")
    for name in ("captioning", "split_captioning", "naming", "naming_by_english", "episodic_captioning"):
        languages = Counter()
        for example in stamped["train"][name]:
            language = language_of(example)
            languages[language] += 1
            for image in example.images:
                assert not by_text_alone(emoji.codes[row[image.tobytes()]], language)
        assert len(languages) > 7
    for example in stamped["train"]["naming"]:
        assert content(example) == "what is this?"
        assert example.answer == emoji.names[language_of(example)][row[example.images[0].tobytes()]]


def test_names_by_way_of_english(stamped):
    for split in SPLITS:
        names, row = captioned.emoji(split).names, rows_of_stamps(split)
        for example in stamped[split]["naming_by_english"]:
            i, language = row[example.images[0].tobytes()], language_of(example)
            assert language != "en" and example.prompt.endswith("what is this? first in en")
            assert example.answer == f"{names['en'][i]} ; {names[language][i]}"


def test_several_examples_are_about_the_same_images():
    """As many as there are languages, questions or names, but at most four. Names of held-out pairs are prompted in
    texts only."""
    tasks = kit_tasks("train")
    for name, task in tasks.items():
        if not task.draw_all:
            continue
        most = 0
        for i in range(COUNT):
            found = task.draw_all(keyed_rng(4, i))
            assert all((example.images == found[0].images).all() for example in found)
            # The order of boxes is drawn for each example, so equal prompts would not be equal examples.
            assert len({example.prompt for example in found}) == len(found) <= example_builders.PROMPTS
            assert task.draw(keyed_rng(4, i)).prompt == found[0].prompt
            most = max(most, len(found))
        assert most == (3 if name == "finding" else 4), name


def test_translations_of_what_is_written_or_named():
    """Half of those by way of English ask for "this", without a picture: what was written first is translated."""
    emoji, by_text, hidden = captioned.emoji("train"), 0, 0
    for i in range(40):
        for example in kit_tasks("train")["translation"].draw_all(keyed_rng(5, i)):
            language, question = language_of(example), content(example)
            row = emoji.names[language].index(example.answer.split(" ; ")[-1])
            asked = question.removeprefix("what is ").partition("?")[0]
            if asked == "this":
                assert question == "what is this? first in en"
            else:
                assert asked in {names[row] for names in emoji.names.values()}
            hidden += asked == "this"
            assert len(example.images) == 0
            by_text += by_text_alone(emoji.codes[row], language)
    assert by_text > 5 and 20 < hidden < 60  # of 160, 15/16 of a quarter: 37.5, standard deviation 5.4


def test_names_that_no_picture_teaches_are_translated_more_often():
    emoji, seen = captioned.emoji("train"), set()
    for i in range(60):
        for example in kit_tasks("train")["translation_by_text"].draw_all(keyed_rng(10, i)):
            language = language_of(example)
            answer = example.answer.split(" ; ")[-1]
            rows = [row for row in object_rows("train") if emoji.names[language][row] == answer]
            assert any(by_text_alone(emoji.codes[row], language) for row in rows) and len(example.images) == 0
            seen.add(language)
    assert seen == set(BY_TEXT)


def test_findings_ask_for_objects_that_are_there():
    for i in range(COUNT):
        for example in kit_tasks("train")["finding"].draw_all(keyed_rng(6, i)):
            found, names, dropped = boxes.from_text(example.answer, example_builders.BINS)
            assert dropped == 0 and set(names) == set(content(example).split(" ; "))
            assert 1 <= len(found) <= 2 and boxes.NOISE not in names


def test_objects_to_count_are_large(composed, examples):
    """Twelve pixels and more, also where nine are shown, but for thin tips that fade."""
    for i in range(60):
        kit_tasks("train")["counting"].draw(keyed_rng(7, i))
    longer = np.concatenate([(scene.boxes[:, 2:] - scene.boxes[:, :2]).max(1) for scene in composed]) * 64
    assert max(len(scene.indices) for scene in composed) == 9 and (longer >= 9).all()
    counts = Counter(example.answer for example in examples["test"]["counting"])
    assert set(counts) <= set("123456789") and len(counts) > 3


def test_positions_before_a_number_are_those_of_the_objects(composed):
    """Cells of 8 pixels that hold the centres of the boxes, in reading order; the number of them is the answer."""
    names, numbers = scenes.EASY["train"], set()
    for i in range(60):
        plain = kit_tasks("train")["counting"].draw(keyed_rng(8, i))
        example = kit_tasks("train")["counting_by_positions"].draw(keyed_rng(8, i))
        assert (example.images == plain.images).all() and example.prompt == plain.prompt + " first where"
        *places, answer = example.answer.split(" ; ")
        assert answer == plain.answer == str(len(places))
        kind = names.index(content(plain).removeprefix("how many: ").rstrip("?"))
        counted = composed[-1].boxes[composed[-1].indices == kind]
        cells = [(int(4 * (y0 + y1)), int(4 * (x0 + x1))) for y0, x0, y1, x1 in counted]  # 8 * (y0 + y1) / 2
        assert places == [f"{row} {column}" for row, column in sorted(cells)]
        numbers.add(answer)
    assert numbers == set("123456789")


def test_positions_before_an_answer_about_a_video_are_those_of_the_object_and_imply_the_answer():
    """With 8 pixels per frame at least, the motion is a whole number of cells on a ring of 8: the answer follows."""
    direct, task = kit_tasks("train")["video_questions"], kit_tasks("train")["video_questions_by_positions"]
    for i in range(60):
        example, plain = task.draw(keyed_rng(9, i)), direct.draw(keyed_rng(9, i))
        *path, answer = example.answer.split(" ; ")
        assert example.prompt == plain.prompt + " first where" and answer == plain.answer
        cells = np.array([cell.split() for cell in path], int)
        (step,) = {tuple(move) for move in ((np.diff(cells, axis=0) + 4) % 8 - 4).tolist()}  # -4 ... 3
        question = content(plain)
        pace = max(abs(part) for part in step)  # cells per frame
        if "which way" in question:
            assert video.DIRECTIONS[answer] == tuple(np.sign(step))
        elif "does it" in question:
            assert answer == ("yes" if pace else "no")
        elif "how fast" in question:
            assert answer == {1: "slow", 2: "fast"}[pace]
        else:
            named = question.removeprefix("which is faster: ").rstrip("?").split(" or ")
            assert answer == named[0 if pace == 2 else 1]


def test_captions_of_videos_state_how_the_objects_move(examples):
    cutouts, names = scenes.objects("test")
    directions = Counter()
    for i in range(40):
        clip = video.draw_question(video.QUESTION_KINDS[i % 4], cutouts, names, 4, keyed_rng(1, i))[0]
        caption = motion_caption(clip, names)
        stated = dict(part.split(" moves ") if " moves " in part else (part[:-13], "") for part in caption.split(" ; "))
        assert list(stated) == sorted(stated, key=str.lower) and len(stated) == len(clip.indices)
        for kind, (down, right) in zip(clip.indices, clip.velocities, strict=True):
            way = "down" if down > 0 else "up" if down < 0 else "right" if right > 0 else "left" if right < 0 else ""
            assert stated[names[kind]] == way
            directions[way] += 1
    assert set(directions) == {"up", "down", "left", "right", ""}
    for split in SPLITS:
        assert all(" moves " in e.answer or " stands still" in e.answer for e in examples[split]["video_captioning"])


def test_the_codebook_represents_new_images():
    """On scenes of the test split it explains more than half of the variance of the pixels."""
    (cutouts, names), rngs = scenes.objects("test"), [keyed_rng(2, i) for i in range(20)]
    drawn = [scenes.compose(cutouts, scenes.contents(len(names), rng)[0], (10, 20), rng) for rng in rngs]
    images = np.stack([scene.image for scene in drawn])
    assert codebook().shape == (128, 8, 8, 3) and len({entry.tobytes() for entry in codebook()}) == 128
    decoded = visual_tokens.decode(visual_tokens.encode(images, codebook()), codebook())
    assert np.square(decoded - images.astype(float)).mean() < 0.5 * images.var((0, 1, 2)).mean()


def test_masked_tokens_are_codes_of_the_codebook_and_corrupted_texts_glosses(examples):
    for split in SPLITS:
        for example in examples[split]["masked_tokens"]:
            codes = [int(word) for word in example.answer.split(" ")]
            grey = (visual_tokens.cut(example.images, 8)[0] == 128).all((2, 3, 4))
            assert len(codes) == grey.sum() == 16 and 0 <= min(codes) <= max(codes) < len(codebook())
        for example in examples[split]["span_corruption"]:
            start = example.prompt.split(" " + FIRST)[0]
            assert any(gloss.startswith(start) for gloss in data.glosses(split))


def drawn(name, split="train"):
    return [kit_tasks(split)[name].draw(keyed_rng(9, i)) for i in range(COUNT)]


def test_episodic_vqa_has_made_up_words_and_easy_vqa():
    for split in ("train", "test"):
        made_up = 0
        for example in drawn("episodic_vqa", split):
            *exemplars, query = example.prompt
            if query.startswith("Answer in en: what is this?"):
                made_up += 1
                assert f"Answer in en: what is this? {example.answer.split(' ; ')[-1]}" in exemplars
            else:
                assert example.answer in captioned.ANSWERS
        assert 0 < made_up < COUNT


@pytest.mark.parametrize(
    ("name", "shots", "named"),
    [
        ("two_exemplars", 2, {False, True}),
        ("four_exemplars", 4, {False, True}),
        ("made_up_words", 4, {False}),
        ("two_exemplars_by_name", 2, {True}),
        ("four_exemplars_by_name", 4, {True}),
        ("two_made_up_words_by_name", 2, {True}),
        ("made_up_words_by_name", 4, {True}),
    ],
)
def test_the_answer_is_the_word_of_the_exemplars_that_show_the_same(name, shots, named):
    """Two words, of the 52 of the tests or of those of images that are read and new ones. If the prompt asks for names,
    the answer has each picture's with its word: in order those of the exemplars, then the query's."""
    names, tests = set(captioned.emoji("train").names["en"]), set(episodes.nonsense())
    others = {*episodes.nonsense(2), *kit_data("train").short_words}
    found = set()
    for example in drawn(name):
        words = [text.removeprefix("Answer in en: what is this? ") for text in example.prompt[:-1]]
        cuts = 1 if name.endswith("_by_name") else 0  # a name of several words and its word behind it
        *steps, answer = [part for pair in example.answer.split(" ; ") for part in pair.rsplit(" ", cuts)]
        assert len(words) == shots and len(set(words)) == 2 and answer in words
        assert set(words) <= (tests if "made_up" in name else others)
        assert example.prompt[-1] == "Answer in en: what is this?" + " first in en" * bool(steps)
        if steps:
            shown = steps[0::2]
            assert set(shown) <= names and steps[1::2] == words and len(shown) == shots + 1
            assert dict(zip(shown[:-1], words, strict=True))[shown[-1]] == answer
        found.add(bool(steps))
    assert found == named and not tests & others


def test_repeated_pairs_ask_for_words_that_stand_there_before():
    """Four pairs of two to four names, none of which has two words; then eight of them again, with loss on the word."""
    for task in ("repeated_pairs", "repeated_made_up_words"):
        kinds = set()
        for example in drawn(task):
            (first, loss), *again = example.target
            pairs = dict(pair.rsplit(" ", 1) for pair in first.split(" ; "))
            assert not loss and len(first.split(" ; ")) == 4 and 2 <= len(pairs) <= 4
            assert len({*first.split(" ; ")}) == len(pairs) == len(set(pairs.values()))
            assert (set(pairs.values()) <= set(episodes.nonsense())) == (task == "repeated_made_up_words")
            assert [carries for _, carries in again] == [False, True] * 8
            for (name, _), (word, _) in zip(again[::2], again[1::2], strict=True):
                assert pairs[name.removeprefix(" ; ")] == word.strip()
            kinds.add(len(pairs))
        assert kinds == {2, 3, 4}


def test_a_word_is_recalled_in_every_language():
    """The name that is asked for at last stands in front of the answer, and two to five names were given."""
    numbers = set()
    for example in drawn("recall"):
        *given, asked = without_prefix(example).prompt.split(" ; ")
        assert f"{asked} {example.answer}" in given and len(set(given)) == len(given)
        numbers.add(len(given))
    assert numbers <= {2, 3, 4, 5} and len(numbers) > 2


def test_how_many_short_words_are_names_of_the_kit():
    """The gap that `few_shot` describes: Turkish and Vietnamese are in no list of words to read."""
    data = kit_data("train")
    named = {}
    for language, names in data.emoji.names.items():
        for row in data.object_rows:
            named.setdefault(names[row].lower(), []).append((data.emoji.codes[row], language))
    taken = [word for word in data.short_words if word in named]
    held_out = [word for word in taken if any(by_text_alone(*pair) for pair in named[word])]
    assert (len(data.short_words), len(taken), len(held_out)) == (3497, 70, 20)
    assert {language for word in taken for _, language in named[word]} == {"tr", "vi"}
