"""kitlib.mixture: draws are pure and in proportion; the kit's makers tell the truth, in all scripts, within a split."""

import unicodedata
from collections import Counter

import numpy as np
import pytest

from kitlib import boxes, clips, data, mixture, pictures, rendered, scenes, visual_tokens
from kitlib.data import keyed_rng
from kitlib.mixture import Mixture, codebook, kit_makers, motion, placed, things
from kitlib.tasks import PREFIXES, SENTINEL, without_prefix
from kitlib.tokenizer import Tokenizer

SPLITS = ("train", "test")
SHOWN = 20  # examples a maker
FIRST = SENTINEL.format(0)
OTHERS = ("easy_vqa", "receipts", "naming", "made_up_words", "two_exemplars", "counting", "video_questions")
FAKE = {name: lambda rng, name=name: (name, rng.integers(1000)) for name in "abcd"}


@pytest.fixture(scope="module")
def examples():
    """examples[split][maker][i]"""
    out = {}
    for split in SPLITS:
        makers = kit_makers(split)
        out[split] = {
            name: [make(keyed_rng(k, i)) for i in range(SHOWN)] for k, (name, make) in enumerate(makers.items())
        }
    return out


def prompts(example):
    return [example.prompt] if isinstance(example.prompt, str) else example.prompt


# --- mixtures ---


def test_a_draw_depends_on_seed_and_place_alone():
    one, same, other = (Mixture(FAKE, dict.fromkeys("abcd", 1), seed) for seed in (0, 0, 1))
    forth = [one.draw(i) for i in range(50)]
    assert [same.draw(i) for i in reversed(range(50))] == forth[::-1]
    assert [other.draw(i) for i in range(50)] != forth and len(set(forth)) > 40
    turned = Mixture(dict(reversed(FAKE.items())), dict.fromkeys("dcba", 1))
    assert [turned.draw(i) for i in range(50)] == forth


def test_shares_are_the_weights():
    """Each count is binomial: within five standard deviations of what the weights say."""
    weights, n = {"a": 6, "b": 3, "c": 1, "d": 0}, 6000
    counts = Counter(Mixture(FAKE, weights, 3).draw(i)[0] for i in range(n))
    assert counts["d"] == 0
    for name, weight in weights.items():
        share = weight / 10
        assert abs(counts[name] - n * share) <= 5 * np.sqrt(n * share * (1 - share))
    few = {name: weight / 600 for name, weight in weights.items()}
    assert [Mixture(FAKE, few, 3).draw(i) for i in range(50)] == [Mixture(FAKE, weights, 3).draw(i) for i in range(50)]


def test_what_follows_is_independent_of_what_was_picked():
    """The maker's numbers are behind the one that picked it: their mean is the same for a rare and a frequent one."""
    drawn = [Mixture(FAKE, {"a": 1, "b": 9}, 4).draw(i) for i in range(6000)]
    for name in "ab":
        numbers = [number for which, number in drawn if which == name]
        assert abs(np.mean(numbers) - 499.5) < 5 * 1000 / np.sqrt(12 * len(numbers))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"captionin": 1}, "There is no maker 'captionin': did you mean 'captioning'. There are: captioning, vqa"),
        ({"xxx": 1}, "There is no maker 'xxx': There are: captioning, vqa"),
        ({"vqa": -1}, "The weight of vqa is -1; expected 0 or a finite number above"),
        ({"vqa": np.nan}, "The weight of vqa is nan"),
        ({"vqa": np.inf}, "The weight of vqa is inf"),
        ({"vqa": 0}, "No objective has a weight above 0"),
        ({}, "No objective has a weight above 0"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message) as caught:
        Mixture({"captioning": None, "vqa": None}, weights)
    assert "\n" not in str(caught.value)


# --- the kit's makers ---


def test_all_objectives_are_there_and_valid(examples):
    tokenizer = Tokenizer.load()
    for split in SPLITS:
        assert set(examples[split]) == {*PREFIXES, *OTHERS}
        for name, made in examples[split].items():
            for example in made:
                parts = dict.fromkeys(OTHERS, "vqa") | dict.fromkeys(("made_up_words", "two_exemplars"), "episodic_vqa")
                assert example.task == parts.get(name, name)
                assert example.images.dtype == np.uint8 and example.images.shape[1:] == (64, 64, 3)
                episode = example.task.startswith("episodic")
                pictures = {"span_corruption": 0, "two_exemplars": 3, "video_captioning": 4, "video_questions": 4}
                count = pictures.get(name, 5 if episode else 1)
                assert len(example.images) == count and isinstance(example.prompt, tuple) == episode
                assert len(prompts(example)) == (count if episode else 1)
                for text in (*prompts(example), example.answer):
                    assert type(text) is str and text.strip() and tokenizer.decode(tokenizer.encode(text)) == text
                assert {weight for _, weight in example.target} <= {True, name != "detection"}
                if name != "span_corruption":
                    assert len(prompts(without_prefix(example))) == len(prompts(example))
            answers = {(example.images.tobytes(), example.prompt, example.answer) for example in made}
            assert len(answers) == SHOWN


def test_a_maker_is_a_function_of_its_generator(examples):
    makers = kit_makers("test")
    for k, (name, made) in enumerate(examples["test"].items()):
        again = makers[name](keyed_rng(k, 7))
        assert (again.prompt, again.target) == (made[7].prompt, made[7].target)
        np.testing.assert_array_equal(again.images, made[7].images)


def test_all_scripts_are_seen(examples):
    seen = {split: set() for split in SPLITS}
    for split in SPLITS:
        for name in ("captioning", "split_captioning", "episodic_captioning", "naming", "detection"):
            for example in examples[split][name]:
                text = "".join(prompts(example)) + example.answer
                seen[split] |= {unicodedata.name(c, "?").split()[0] for c in text if c.isalpha()}
        scripts = {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "DEVANAGARI", "THAI", "HANGUL", "CJK"}
        assert scripts <= seen[split] and seen[split] & {"HIRAGANA", "KATAKANA"}


def stamp(cutout):
    """A picture from which one can tell which cut-out it shows: what is `placed` here."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :32], image[32:, 32:] = cutout[..., :3], cutout[..., 3:]
    return image


@pytest.fixture(scope="module")
def stamped():
    """stamped[split][maker][i], with a `stamp` in the place of each emoji."""
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "placed", lambda cutout, rng: (stamp(cutout), None))
        for split in SPLITS:
            makers = kit_makers(split)
            captioning = ("captioning", "split_captioning", "episodic_captioning")
            out[split] = {name: [makers[name](keyed_rng(0, i)) for i in range(SHOWN)] for name in captioning}
    return out


def test_captions_are_those_of_the_pictures_and_of_their_split(stamped):
    examples = stamped
    for split in SPLITS:
        emoji = pictures.emoji(split)
        row = {stamp(cutout).tobytes(): i for i, cutout in enumerate(scenes.cut_outs(emoji.images))}
        for name in ("captioning", "split_captioning"):
            for example in examples[split][name]:
                i = row[example.images[0].tobytes()]  # no picture of another split
                assert name == "split_captioning" or i in things(split)
                language = example.prompt.split(" ")[4]
                whole = without_prefix(example).prompt.replace(FIRST, example.answer)
                assert whole == emoji.names[language][i]
        for example in examples[split]["episodic_captioning"]:
            several = [row[image.tobytes()] for image in example.images]
            assert set(several) <= set(things(split))
            language = example.prompt[0].split(" ")[4]
            *shown, query = without_prefix(example).prompt
            assert query == FIRST and [*shown, example.answer] == [emoji.names[language][i] for i in several]
            assert set.intersection(*(set(emoji.keywords["en"][i]) for i in several)) and len(set(several)) == 5


def test_things_are_named_by_one_word_or_are_in_scenes():
    for split, count in (("train", 417), ("test", 83)):
        names = pictures.emoji(split).names["en"]
        named = [names[i] for i in things(split)]
        assert len(named) == count and set(scenes.EASY[split]) <= set(named)
        assert sum(" " in name for name in named) == sum(" " in name for name in scenes.EASY[split])
        assert not {name for name in set(names) - set(named) if " " not in name}


def test_no_emoji_of_the_test_is_in_training(stamped):
    own = {}
    for split in SPLITS:
        own[split] = {stamp(cutout).tobytes() for cutout in scenes.cut_outs(pictures.emoji(split).images)}
        for made in stamped[split].values():
            assert {image.tobytes() for example in made for image in example.images} <= own[split]
    assert not own["train"] & own["test"]


def test_a_thing_is_placed_whole_and_blended():
    """A cut-out of one colour, whose left half is there by a half: every pixel is ground, colour or their mean."""
    cutout = np.zeros((32, 32, 4), np.uint8)
    cutout[..., :3], cutout[:, :16, 3], cutout[:, 16:, 3] = (200, 10, 30), 128, 255
    white, tops = 0, set()
    for i in range(60):
        image, box = placed(cutout, keyed_rng(5, i), (32, 40))
        image = image.astype(int)
        full = (image == (200, 10, 30)).all(-1)
        rows, columns = np.nonzero(full)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 32 <= height <= 40 and abs(width - height / 2) <= 2 and full.sum() == height * width
        tops.add(int(rows.min()))
        # The box is that of the whole cut-out; what is there in full is its right half.
        y0, x0, y1, x1 = (64 * box).tolist()
        assert (y0, y1, x1) == (rows.min(), rows.max() + 1, columns.max() + 1) and x1 - x0 == height
        if (image[full.any(1)][:, -1] == 255).all() and (image[~full.any(1)] == 255).all():
            white += 1
            half = (image == np.rint(128 / 255 * np.array([200, 10, 30]) + 127 / 255 * 255)).all(-1)
            assert abs(half.sum() - full.sum()) <= 2 * height
    assert 5 <= white <= 30 and len(tops) > 15


def test_all_of_a_cut_out_is_shown_where_it_has_its_own_size():
    cutout = scenes.cut_outs(pictures.emoji("train").images[:1])[0]
    images = (placed(cutout, keyed_rng(6, i), (32, 32))[0] for i in range(99))
    image = next(image for image in images if image.min(-1).max() == 255)
    share = cutout[..., 3:] / 255
    wanted = np.rint(share * cutout[..., :3] + (1 - share) * 255)
    windows = np.lib.stride_tricks.sliding_window_view(image, (32, 32, 3))[:, :, 0]
    assert (windows == wanted).all((2, 3, 4)).sum() == 1


def test_questions_and_ocr(examples):
    sources = {split: pictures.easy_vqa(split) for split in SPLITS}
    for split in SPLITS:
        forms = Counter()
        easy = set(zip(sources[split].questions, sources[split].answers, strict=True))
        for example in examples[split]["vqa"]:
            question, _, ocr = without_prefix(example).prompt.partition(" OCR: ")
            if question == "what is this?":
                forms["name"] += 1
            elif "costs" in question or "price" in question or "total" in question:
                forms["receipt"] += 1
                forms["ocr"] += ocr != ""
                assert not ocr or example.answer in ocr.split(" ")
            else:
                forms["easy"] += 1
                assert (question, example.answer) in easy and not ocr
        assert len(forms) == 4
        for example in examples[split]["question_generation"]:
            question = example.answer
            known = (question, without_prefix(example).prompt) in easy
            assert question.endswith("?") and (
                known or "costs" in question or "price" in question or "total" in question
            )


def test_parts_of_vqa_and_counting(examples):
    for split in SPLITS:
        easy = pictures.easy_vqa(split)
        pairs, names = set(zip(easy.questions, easy.answers, strict=True)), pictures.emoji(split).names
        for example in examples[split]["easy_vqa"]:
            assert (without_prefix(example).prompt, example.answer) in pairs
        for example in examples[split]["naming"]:
            language = example.prompt.split(":")[0].split(" ")[-1]
            assert without_prefix(example).prompt == "what is this?" and example.answer in names[language]
        with_ocr = sum(" OCR: " in example.prompt for example in examples[split]["receipts"])
        assert 0 < with_ocr < SHOWN
        counts = Counter(example.answer for example in examples[split]["counting"])
        assert all("how many: " in example.prompt for example in examples[split]["counting"])
        assert set(counts) <= set("0123456789") and len(counts) > 3


def test_episodes_of_questions_have_both_kinds(examples):
    for split in SPLITS:
        made_up = 0
        for example in examples[split]["episodic_vqa"]:
            *solved, query = example.prompt
            if query == "Answer in en: what is this?":
                made_up += 1
                assert f"{query} {example.answer}" in solved
            else:
                assert example.answer in pictures.ANSWERS
        assert 0 < made_up < SHOWN


def test_words_are_of_their_language_and_pages_can_be_read(examples):
    for split in SPLITS:
        words, counts = rendered.words(split), Counter()
        for example in examples[split]["split_ocr"]:
            language = example.prompt.split(" ")[4]
            read = without_prefix(example).prompt.replace(FIRST, example.answer).split(" ")
            assert set(read) <= set(words[language])
            counts[len(read)] += 1
        assert set(counts) == {1, 2, 3, 4}
        for example in examples[split]["screenshot_to_markup"]:
            assert len(rendered.markup_tree(example.answer)) == 3


def test_detection_asks_for_what_is_there_and_one_that_is_not(examples):
    for split in SPLITS:
        for example in examples[split]["detection"]:
            found, names, dropped = boxes.from_text(example.answer)
            asked = without_prefix(example).prompt.split(" ; ")
            assert dropped == 0 and len(found) == mixture.BOXES == 4
            here = [name for name in names if name != "noise"]
            assert 1 <= len(here) <= mixture.FOUND == 2
            assert len(set(asked)) == len(asked) == len(set(here)) + 1 and set(here) < set(asked)


def test_films_are_told_as_they_move(examples):
    cutouts, names = scenes.objects("test")
    ways = Counter()
    for i in range(40):
        clip = clips.make(clips.TASKS[i % 4], cutouts, names, 4, keyed_rng(1, i))[0]
        caption = motion(clip, names)
        told = dict(part.split(" moves ") if " moves " in part else (part[:-13], "") for part in caption.split(" ; "))
        assert list(told) == sorted(told, key=str.lower) and len(told) == len(clip.indices)
        for kind, (down, right) in zip(clip.indices, clip.velocities, strict=True):
            way = "down" if down > 0 else "up" if down < 0 else "right" if right > 0 else "left" if right < 0 else ""
            assert told[names[kind]] == way
            ways[way] += 1
    assert set(ways) == {"up", "down", "left", "right", ""}
    still = clips.film(cutouts, [0], [(0, 0)], 4, keyed_rng(0))
    assert motion(still, ["red apple"]) == "red apple stands still"
    for split in SPLITS:
        assert all(" moves " in e.answer or " stands still" in e.answer for e in examples[split]["video_captioning"])


def test_masked_tokens_are_codes_of_the_codebook(examples):
    for split in SPLITS:
        for example in examples[split]["masked_tokens"]:
            told = [int(word) for word in example.answer.split(" ")]
            grey = (visual_tokens.cut(example.images, 8)[0] == 128).all((2, 3, 4))
            assert len(told) == grey.sum() == 16 and 0 <= min(told) <= max(told) < len(codebook())


def test_the_codebook_serves_pictures_that_it_has_not_seen():
    """On scenes of the test split it explains more than half of what pixels differ by, from each other."""
    cutouts, names = scenes.objects("test")
    shown = []
    for i in range(20):
        rng = keyed_rng(2, i)
        shown.append(scenes.compose(cutouts, scenes.contents(len(names), rng)[0], (10, 20), rng).image)
    images = np.stack(shown)
    assert codebook().shape == (128, 8, 8, 3) and len({entry.tobytes() for entry in codebook()}) == 128
    back = visual_tokens.decode(visual_tokens.encode(images, codebook()), codebook())
    assert np.square(back - images.astype(float)).mean() < 0.5 * images.var((0, 1, 2)).mean()


def test_a_text_of_the_mixture_is_a_gloss(examples):
    for split in SPLITS:
        glosses = set(data.glosses(split))
        for example in examples[split]["span_corruption"]:
            starts = example.prompt.split(" " + FIRST)[0]
            assert any(gloss.startswith(starts) for gloss in glosses)


def test_other_splits_are_refused():
    with pytest.raises(ValueError, match="There is no split 'valid' of all the kit's data: use 'train' or 'test'"):
        kit_makers("valid")


def test_what_does_not_fit_is_drawn_again_and_errors_that_stay_are_told():
    drawn = iter([ValueError("too long"), ValueError("too long"), "fits", "also"])

    def draw():
        value = next(drawn)
        if isinstance(value, ValueError):
            raise value
        return value

    assert mixture.fitting(draw) == "fits" and next(drawn) == "also"

    def never():
        raise ValueError("no such word")

    with pytest.raises(ValueError, match="no such word"):
        mixture.fitting(never, tries=3)
    with pytest.raises(KeyError):  # another error is not a matter of room
        mixture.fitting(lambda: {}["a"])
