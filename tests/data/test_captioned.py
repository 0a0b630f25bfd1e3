"""kitlib.data.captioned: the committed emoji, drawings, easy-VQA and taxonomy, and the loaders' errors."""

import gzip
import hashlib
import io
import json
import re
import shutil
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest

from kitlib import data
from kitlib.data import captioned, files
from kitlib.multimodal.kit_data import object_rows

FOLDER = data.data_folder()
FILES = ("emoji.npz", "emoji_names.json.gz", "easy_vqa.npz", "taxonomy.json.gz")
SIZES = {"train": 1_235, "valid": 126, "test": 186}


SCRIPTS = {  # a letter of the language's script has this in its Unicode name
    "ru": "CYRILLIC", "el": "GREEK", "ar": "ARABIC", "hi": "DEVANAGARI", "th": "THAI", "ja": "HIRAGANA|KATAKANA|CJK",
    "ko": "HANGUL", "zh": "CJK", **dict.fromkeys(("en", "de", "fr", "es", "pt", "it", "tr", "vi"), "LATIN"),
}  # fmt: skip


@pytest.fixture(scope="module")
def splits():
    return {split: captioned.emoji(split) for split in SIZES}


@pytest.fixture
def folder(tmp_path):
    """A copy of the data folder whose files a test may damage."""
    for name in (*FILES, "checksums.txt"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    return tmp_path


def sealed(folder) -> None:
    """Correct checksums for whatever the files hold now."""
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    (folder / "checksums.txt").write_text("".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()))


def load(file: str, folder):
    return getattr(captioned, re.match(r"emoji|easy_vqa|taxonomy", file)[0])(data_dir=folder)


def test_emoji_have_pictures_codes_names_and_keywords(splits):
    for split, size in SIZES.items():
        source = splits[split]
        assert len(source) == size and source.images.shape == (size, 32, 32, 3) and source.images.dtype == np.uint8
        assert len(source.codes) == size
        assert all(re.fullmatch(r"[0-9A-F]{4,5}(-[0-9A-F]{4,5})*", code) for code in source.codes)
        assert list(source.names) == list(source.keywords) == list(captioned.LANGUAGES)
        for language in captioned.LANGUAGES:
            assert len(source.names[language]) == len(source.keywords[language]) == size
    names = dict(zip(splits["train"].codes, splits["train"].names["en"], strict=True))
    assert names["1F600"] == "grinning face" and names["1F415-200D-1F9BA"] == "service dog"


def test_no_picture_no_near_duplicate_and_no_caption_is_in_two_splits(splits, make_pictures):
    images = np.concatenate([source.images for source in splits.values()])
    split, pairs = np.repeat(np.arange(3), list(SIZES.values())), make_pictures.near_duplicates(images)
    assert len(pairs) > 100 and all(split[i] == split[j] for i, j in pairs)  # the measure finds some, within the splits
    seen = defaultdict(set)
    for source in splits.values():
        facts = {"pictures": [image.tobytes() for image in source.images], "codes": list(source.codes)}
        facts |= {language: [name.lower() for name in names] for language, names in source.names.items()}
        for kind, values in facts.items():
            assert len(set(values)) == len(values), f"{kind}: a repetition in one split"
            assert seen[kind].isdisjoint(values), kind
            seen[kind] |= set(values)


def test_a_family_is_in_one_split_and_so_is_one_person_as_a_woman_a_man_and_neither(splits):
    names = [(name, split) for split, source in splits.items() for name in source.names["en"]]
    unsuitable = {"bomb", "dagger", "water pistol", "middle finger", "cigarette", "beer mug", "flag: France"}
    assert unsuitable.isdisjoint(dict(names)) and "kitchen knife" in dict(names)
    families = {r".*(o’clock|-thirty)": 24, r".*\bmoon( face)?": 13, r"keycap: .*": 10, r"\w+ circle": 8}
    for family, at_least in families.items():
        count = Counter(split for name, split in names if re.fullmatch(family, name))
        assert len(count) == 1 and count.total() >= at_least, (family, count)
    where, size = defaultdict(set), Counter()
    for name, split in names:
        base = re.sub(r"^((wo)?m[ae]n|person|people) ", "", name)
        where[base].add(split)
        size[base] += 1
    assert sum(n == 3 for n in size.values()) > 40
    assert all(len(where[base]) == 1 for base, n in size.items() if n > 1)


def test_names_and_keywords_are_clean(splits):
    for source in splits.values():
        for language in captioned.LANGUAGES:
            for name, words in zip(source.names[language], source.keywords[language], strict=True):
                assert len(words) <= 6 and len(set(words)) == len(words) and name not in words
                for text in (name, *words):
                    assert text and text == " ".join(text.split()) == unicodedata.normalize("NFC", text)
                    assert text.replace("\u200d", "").isprintable()  # Hindi spells with the zero-width joiner


@pytest.mark.parametrize(("language", "script"), SCRIPTS.items())
def test_names_are_in_their_script_and_most_emoji_share_keywords(splits, language, script):
    names = [name for source in splits.values() for name in source.names[language]]
    written = [any(re.search(script, unicodedata.name(char, "")) for char in name) for name in names]
    assert np.mean(written) > 0.98
    if language != "en":  # nothing fell back to English
        english = [name for source in splits.values() for name in source.names["en"]]
        assert np.mean([a.lower() == b.lower() for a, b in zip(names, english, strict=True)]) < 0.1
    words = splits["train"].keywords[language]
    assert np.mean([bool(each) for each in words]) > 0.98
    assert max(Counter(word for each in words for word in each).values()) >= 25


def test_twemoji_are_the_test_emoji_in_another_style(splits):
    noto, twemoji = splits["test"], captioned.emoji("test", style="twemoji")
    assert twemoji.codes == noto.codes and twemoji.names == noto.names and twemoji.images.shape == noto.images.shape
    difference = np.abs(twemoji.images.astype(int) - noto.images).mean((1, 2, 3))
    assert difference.min() > 1 and twemoji.images.dtype == np.uint8
    # They show the same objects: a picture is nearer to its own twin than to another picture.
    others = np.abs(twemoji.images.astype(int) - np.roll(noto.images, 1, 0)).mean((1, 2, 3))
    assert np.mean(difference < others) > 0.9
    corners = splits["train"].images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.mean((corners > 240).all((1, 2))) > 0.9  # on white


@pytest.mark.parametrize(("split", "images", "questions", "yes_no"), [
    ("train", 4_000, 38_575, 28_407), ("test", 1_000, 9_673, 7_136),
])  # fmt: skip
def test_easy_vqa_is_the_published_benchmark(split, images, questions, yes_no):
    source, other = captioned.easy_vqa(split), captioned.easy_vqa("test" if split == "train" else "train")
    assert source.images.shape == (images, 64, 64, 3) and source.images.dtype == np.uint8
    assert len(source) == len(source.questions) == len(source.answers) == len(source.image_index) == questions
    assert set(source.answers) == set(captioned.ANSWERS) and len(captioned.ANSWERS) == 13
    assert sum(answer in ("yes", "no") for answer in source.answers) == yes_no
    assert source.image_index.dtype == np.int32 and (np.diff(source.image_index) >= 0).all()
    assert set(source.image_index.tolist()) == set(range(images))
    pictures, others = ({image.tobytes() for image in each.images} for each in (source, other))
    assert len(pictures) == images and not pictures & others
    if split == "test":
        first = source.questions[0], source.answers[0], source.image_index[0]
        assert first == ("what is the red shape?", "triangle", 0)


COLOURS = {
    0x000000: "black", 0x0000FF: "blue", 0xA52A2A: "brown", 0x808080: "gray", 0x00FF00: "green", 0xFF0000: "red",
    0x008080: "teal", 0xFFFF00: "yellow",
}  # fmt: skip


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_fit_the_pictures(split):
    """The colour that is asked for or named is the most frequent one without the background, which is very light."""
    source, checked = captioned.easy_vqa(split), 0
    rgb = source.images.reshape(len(source.images), -1, 3).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    counts = np.stack([(rgb == colour).sum(axis=1) for colour in COLOURS])
    colours = [list(COLOURS.values())[best] for best in counts.argmax(axis=0)]
    for question, answer, i in zip(source.questions, source.answers, source.image_index, strict=True):
        named = [colour for colour in COLOURS.values() if f" {colour} " in question]
        if "what" in question and "color" in question:
            assert answer == colours[i], (question, i)
            checked += 1
        elif answer in ("yes", "no") and named:
            negated = " no " in question or " not " in question
            assert answer == ("yes" if (named[0] == colours[i]) != negated else "no"), (question, i)
            checked += 1
    assert checked > 0.4 * len(source)


def wups(a, b) -> float:
    common = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return 2 * common / (len(a) + len(b))


def test_taxonomy_paths_go_from_entity_to_the_word_or_its_synonym_and_similar_nouns_are_near(splits):
    table = captioned.taxonomy()
    assert len(table) > 2_000
    for word, path in table.items():
        assert path[0] == "entity" and 2 <= len(path) <= 20 and word == word.lower()
        assert table[path[-1]] == path  # the name of the last sense is a word with the same path
    assert np.mean([path[-1] == word for word, path in table.items()]) > 0.9
    assert table["automobile"] == table["car"] and table["car"][-1] == "car"
    assert {*captioned.ANSWERS, "dog", "guitar", "pizza", "ice cream", "mountain"} <= set(table)
    names = [name.lower().split() for source in splits.values() for name in source.names["en"]]
    assert np.mean([any(word in table for word in words) for words in names]) > 0.9
    assert wups(table["red"], table["blue"]) > 0.8 > wups(table["red"], table["circle"])
    one, near, far = (wups(table["cat"], table[word]) for word in ("cat", "dog", "guitar"))
    assert one == 1 > near > far


@pytest.mark.parametrize(("call", "message"), [
    (lambda: captioned.emoji("validation"), "split of the emoji 'validation'; did you mean 'valid'"),
    (lambda: captioned.emoji("test", style="twitter"), "style of the emoji 'twitter'"),
    (lambda: captioned.emoji("train", style="twemoji"), "'twemoji' has no split 'train': use 'test', or"),
    (lambda: captioned.easy_vqa("valid"), "split of easy-VQA 'valid'"),
    (lambda: captioned.emoji("valid").names["german"], r"no language 'german': did you mean 'de' \(German\)"),
    (lambda: captioned.emoji("valid").keywords["xyz"], "no language 'xyz': There are: en, de, fr"),
])  # fmt: skip
def test_the_error_for_an_unknown_name_gives_the_nearest_one(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("file", FILES)
def test_files_with_other_content_are_refused_by_name(file, folder):
    other = io.BytesIO()
    np.savez(other, something=np.zeros(3))
    (folder / file).write_bytes(other.getvalue() if file.endswith(".npz") else gzip.compress(b"[1, 2]"))
    sealed(folder)
    with pytest.raises(ValueError, match=rf"{re.escape(file)} is not a data file of the kit.*make_pictures"):
        load(file, folder)


@pytest.mark.parametrize(("file", "change", "message"), [
    ("emoji.npz", lambda a: {"train_images": a["train_images"].astype(np.float32)}, "pictures are float32"),
    ("emoji.npz", lambda a: {"train_images": a["train_images"][:, :16]}, r"pictures are uint8\[1235, 16"),
    ("emoji.npz", lambda a: {"train_images": a["train_images"][1:]}, "1234 pictures, 1235 codes, 1235 of them"),
    ("emoji.npz", lambda a: {"train_codes": a["train_codes"][[0, *range(1234)]]}, "1234 of them different"),
    ("emoji.npz", lambda a: {"train_codes": np.arange(1235)}, "0 is no name"),
    ("easy_vqa.npz", lambda a: {"train_counts": a["train_counts"][1:]}, r"38575 answers, \d+ counted"),
    ("easy_vqa.npz", lambda a: {"answers": np.array(["maybe"] * 13)}, "'maybe' is none of easy-VQA's"),
    ("easy_vqa.npz", lambda a: {"train_pixels": a["train_pixels"][:, :32]}, r"pictures are uint8\[4000, 32"),
    ("easy_vqa.npz", lambda a: {"train_questions": a["train_questions"][:5]}, "5 questions, 38575 answers"),
])  # fmt: skip
def test_arrays_that_are_not_what_they_should_be(file, change, message, folder):
    """Beyond the checksum: another type or shape, doubled codes, unknown answers, counts that do not add up."""
    with np.load(folder / file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(folder / file, **arrays | change(arrays))
    sealed(folder)
    with pytest.raises(ValueError, match=rf"{re.escape(file)} is not a data file of the kit .*{message}"):
        load(file, folder)


@pytest.mark.parametrize("wrong", [None, "  ", ["a"]])
def test_names_that_are_no_text(wrong, folder):
    content, paths = (json.loads(gzip.decompress((folder / file).read_bytes())) for file in FILES[1::2])
    content["names"]["de"][content["codes"].index(str(captioned.emoji("train").codes[0]))] = wrong
    paths["dog"][2] = wrong
    for file, changed in zip(FILES[1::2], (content, paths), strict=True):
        (folder / file).write_bytes(gzip.compress(json.dumps(changed).encode()))
    sealed(folder)
    for file in FILES[1::2]:
        with pytest.raises(ValueError, match=rf"{re.escape(file)} is not a data file of the kit \(.* is no name\)"):
            load(file, folder)


COUNTS = {"noto": 1235, "flat": 409, "solid": 412, "noto_v1": 288, "twemoji": 417}


@pytest.mark.parametrize(("style", "count"), COUNTS.items())
def test_every_style_has_its_emoji(style, count):
    found = captioned.drawings(style)
    assert found.images.shape == (count, 32, 32, 3) and found.images.dtype == np.uint8
    assert len(set(found.rows.tolist())) == len(found.rows) == count
    assert (found.images.reshape(count, -1).min(axis=1) < 245).all()  # no picture is blank; the palest is a cloud
    if style == captioned.HELD_OUT:  # it has all that captions name
        assert found.rows.tolist() == object_rows("train") and style not in captioned.TAUGHT
    if style != "noto":
        assert set(found.rows.tolist()) <= set(object_rows("train"))
        assert all(len(np.unique(image.reshape(-1, 3), axis=0)) <= 64 for image in found.images)


@pytest.mark.parametrize("style", captioned.EMOJI_STYLES[1:])
def test_a_drawing_is_most_like_the_first_one_of_the_same_object(style):
    """Of red, green and blue, and 4 x 4 regions: chance is 1 in 417. Were rows mixed up, it would be chance."""
    found = captioned.drawings(style)

    def coarse(images):
        ink = 1 - images.reshape(-1, 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(len(images), -1) / 255
        return ink / np.linalg.norm(ink, axis=1, keepdims=True)

    rows = np.array(object_rows("train"))
    nearest = rows[(coarse(found.images) @ coarse(captioned.emoji("train").images[rows]).T).argmax(axis=1)]
    assert (nearest == found.rows).mean() > 0.2


def test_a_style_that_there_is_not_and_other_numbers_in_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown style of the drawings 'fluent'.* Known: noto, flat, solid"):
        captioned.drawings("fluent")
    for name in ("emoji.npz", "emoji_names.json.gz", "emoji_styles.npz"):
        shutil.copy(FOLDER / name, tmp_path)
    with np.load(tmp_path / "emoji_styles.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / "emoji_styles.npz", **arrays | {"flat_rows": arrays["flat_rows"][1:]})
    for path in tmp_path.glob("emoji*"):
        files.note_checksum(path)
    with pytest.raises(ValueError, match=r"emoji_styles\.npz is not .* \(409 pictures of 408 emoji\)"):
        captioned.drawings("flat", data_dir=tmp_path)
