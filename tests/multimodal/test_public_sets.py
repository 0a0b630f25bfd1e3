"""kitlib.multimodal.public_sets: small sets in the official formats are read exactly and scored.

No test uses the network; TensorFlow is not needed."""

import io
import json
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.object_detection import coco as tfds_coco
from tensorflow_datasets.object_detection.coco_captions import CocoCaptions

from kitlib.data import keyed_rng, tokenizer
from kitlib.multimodal import boxes, mixtures, prompts, public_sets, tasks

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def save(path, *colours, height=40, width=60) -> None:
    """Writes an image of vertical stripes of equal width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.repeat(np.array([colours], np.uint8), height, axis=0)
    Image.fromarray(np.repeat(stripes, width // len(colours), axis=1)).save(path, quality=95)


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# The fields of the official files, also some that are not read.
CAPTIONS = {
    "info": {"year": 2017},
    "images": [{"license": 4, "file_name": f"{i:012d}.jpg", "height": 40, "width": 60, "id": i} for i in (9, 25)],
    "annotations": [
        {"image_id": 25, "id": 1, "caption": "Two  giraffes near\na tall tree. "},
        {"image_id": 9, "id": 2, "caption": "A red square on white paper"},
        {"image_id": 9, "id": 3, "caption": "a red square on white paper."},
    ],
}


@pytest.fixture
def captions(tmp_path):
    save(tmp_path / "val2017" / "000000000009.jpg", RED)
    save(tmp_path / "val2017" / "000000000025.jpg", GREEN)
    file = write(tmp_path / "captions_val2017.json", CAPTIONS)
    return public_sets.coco_captions(file, tmp_path / "val2017", image_size=32)


def answered(*texts) -> list[dict]:
    return [{"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(texts, 1)]


QUESTIONS = {
    "task_type": "Open-Ended",
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 42, "question": "What color is it?", "question_id": 42000},
        {"image_id": 42, "question": "How many  are there?", "question_id": 42001},
        {"image_id": 262148, "question": "Is it red?", "question_id": 262148000},
    ],
}
ANSWERS = {
    "data_subtype": "val2014",
    "annotations": [  # not in the order of the questions
        {"question_id": 262148000, "image_id": 262148, "answers": answered(*["no"] * 10)},
        {"question_id": 42001, "image_id": 42, "answers": answered(*["two"] * 3, *["2"] * 2, *["1"] * 5)},
        {"question_id": 42000, "image_id": 42, "answers": answered(*["red"] * 5, *["dark red"] * 5)},
    ],
}


@pytest.fixture
def vqa(tmp_path):
    save(tmp_path / "val2014" / "COCO_val2014_000000000042.jpg", RED)
    save(tmp_path / "val2014" / "COCO_val2014_000000262148.jpg", BLUE)
    files = write(tmp_path / "questions.json", QUESTIONS), write(tmp_path / "annotations.json", ANSWERS)
    return public_sets.vqav2(*files, tmp_path / "val2014", image_size=32)


@pytest.fixture
def textvqa(tmp_path):
    save(tmp_path / "train_images" / "0054c91397f2fe05.jpg", RED, WHITE)
    row = {
        "question_id": 0, "question": "what is the brand of phone?", "image_id": "0054c91397f2fe05",
        "image_width": 60, "image_height": 40, "set_name": "val", "answers": ["nokia"] * 6 + ["NOKIA", "a", "b", "c"],
    }  # fmt: skip
    file = write(tmp_path / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": [row]})
    return public_sets.textvqa(file, tmp_path / "train_images", image_size=32)


@pytest.fixture
def docvqa(tmp_path):
    save(tmp_path / "spdocvqa_images" / "xnbl0037_1.png", WHITE, height=90)
    Image.new("L", (30, 50), 200).save(tmp_path / "spdocvqa_images" / "abcd0001_7.png")  # grey
    one = {"questionId": 337, "question": "what is the date?", "image": "documents/xnbl0037_1.png", "docId": 279}
    other = {"questionId": 338, "question": "Who wrote it?", "image": "documents/abcd0001_7.png", "docId": 280}
    rows = [one | {"answers": ["1/8/93", "January 8"]}, other | {"answers": ["P.  Smith"]}]
    file = write(tmp_path / "val_v1.0_withQT.json", {"dataset_name": "SP-DocVQA", "data": rows})
    return public_sets.docvqa(file, tmp_path / "spdocvqa_images", image_size=32)


def category(number, name, frequency) -> dict:
    return {"id": number, "name": name, "frequency": frequency, "image_count": 5, "synset": f"{name}.n.01"}


def box(number, image, kind, *bbox) -> dict:
    return {"id": number, "image_id": image, "category_id": kind, "bbox": list(bbox), "area": 1.0, "segmentation": []}


def photo(number, folder, negative=(), partial=()) -> dict:
    return {
        "id": number, "height": 40, "width": 60, "neg_category_ids": list(negative),
        "coco_url": f"http://images.cocodataset.org/{folder}/{number:012d}.jpg",
        "not_exhaustive_category_ids": list(partial),
    }  # fmt: skip


LVIS = {
    "images": [photo(7, "val2017", [3], [1]), photo(8, "train2017", [1, 2])],
    "categories": [category(3, "zebra", "f"), category(1, "alarm_clock", "r"), category(2, "bow_(weapon)", "c")],
    # In 60 x 40 pixels: the left half; the lower right quarter.
    "annotations": [box(1, 7, 1, 0.0, 0.0, 30.0, 40.0), box(2, 7, 2, 30.0, 20.0, 30.0, 20.0)],
}


@pytest.fixture
def lvis(tmp_path):
    save(tmp_path / "coco" / "val2017" / "000000000007.jpg", RED, BLUE)
    save(tmp_path / "coco" / "train2017" / "000000000008.jpg", WHITE)
    return public_sets.lvis(write(tmp_path / "lvis_v1_val.json", LVIS), tmp_path / "coco", image_size=32)


@pytest.fixture
def everything(captions, vqa, textvqa, docvqa, lvis):
    return captions, vqa, textvqa, docvqa, lvis


def content(example) -> tuple:
    return example.task, example.prompt, example.answer


def near(example, colour, part=np.s_[:]) -> bool:
    """Whether this part of the image has about this colour, as JPEG is not exact."""
    return np.abs(example.images[0][part].astype(int) - np.array([[colour]])).max() < 12


def test_captions(captions):
    first, second = captions
    asked = "captioning", "Generate the alt-text in en at 0: <extra_id_0>"
    assert content(second) == (*asked, "Two giraffes near a tall tree.")
    assert second.references == ("Two  giraffes near\na tall tree. ",)  # as in the file
    assert first.references == ("A red square on white paper", "a red square on white paper.")
    assert first.images.shape == (1, 32, 32, 3) and near(first, RED) and near(second, GREEN)
    drawn = {captions.draw(keyed_rng(0, i)).answer for i in range(40)}
    assert drawn == {*first.references, second.answer}  # any caption of any image


def test_vqav2(vqa):
    assert [content(example) for example in vqa] == [
        ("vqa", "Answer in en: What color is it?", "red"),  # the first of two answers of five people each
        ("vqa", "Answer in en: How many are there?", "1"),
        ("vqa", "Answer in en: Is it red?", "no"),
    ]
    assert vqa[1].references == ("two", "two", "two", "2", "2", "1", "1", "1", "1", "1")
    assert near(vqa[1], RED) and near(vqa[2], BLUE)


def test_textvqa(textvqa):
    (example,) = textvqa
    assert content(example) == ("vqa", "Answer in en: what is the brand of phone?", "nokia")
    assert len(example.references) == 10
    assert near(example, RED, np.s_[:, :10]) and near(example, WHITE, np.s_[:, 22:])  # the whole width


def test_docvqa(docvqa):
    first, second = map(content, docvqa)
    assert first[1:] == ("Answer in en: what is the date?", "1/8/93")
    assert second[1:] == ("Answer in en: Who wrote it?", "P. Smith")
    assert docvqa[0].references == ("1/8/93", "January 8")
    assert docvqa[1].images.shape == (1, 32, 32, 3) and (docvqa[1].images == 200).all()


def test_lvis(lvis):
    first, second = lvis
    assert lvis.class_names == ("alarm clock", "bow (weapon)", "zebra") and lvis.image_counts == (1, 10, 100)
    prompted = first.prompt.removeprefix("detect ").split(" ; ")
    assert first.task == "detection" and sorted(prompted) == ["alarm clock", "bow (weapon)", "zebra"]
    found, names, dropped = boxes.from_text(first.answer)
    # The left half is x 0 to 1/2, y 0 to 1; the lower right quarter both from 1/2 on. 0.5 * 999 = 499.5 -> 500 (even).
    expected = {"alarm clock": [0, 0, 1, 500 / 999], "bow (weapon)": [500 / 999, 500 / 999, 1, 1]}
    assert dropped == 0 and len(names) == 3 and names[2] == "noise"
    assert {name: row.tolist() for name, row in zip(names[:2], found[:2], strict=True)} == expected
    assert (first.references.negatives, first.references.not_exhaustive) == ([2], [0])
    assert near(first, RED, np.s_[:, :14]) and near(first, BLUE, np.s_[:, 18:])
    # The second image has no objects; two classes are known to be absent. The target is a single box of noise.
    assert sorted(second.prompt.removeprefix("detect ").split(" ; ")) == ["alarm clock", "bow (weapon)"]
    assert boxes.from_text(second.answer)[1] == ["noise"] and near(second, WHITE)


def test_orders_are_random_but_an_index_gives_one_example(lvis):
    orders = {tuple(boxes.from_text(lvis.make(0, keyed_rng(i)).answer)[1]) for i in range(20)}
    assert len(orders) == 2 and len({lvis.make(0, keyed_rng(i)).prompt for i in range(40)}) == 6
    assert content(lvis[0]) == content(lvis[0]) == content(lvis[-2])
    with pytest.raises(IndexError):
        lvis[2]


def test_all_classes_of_lvis_can_be_written_down():
    names = tfds.core.tfds_path("datasets/lvis/classes.txt").read_text().replace("_", " ").split("\n")[:1203]
    assert len(set(names)) == 1203
    assert boxes.from_text(boxes.to_text([[0, 0, 1, 1]] * 1203, names))[1:] == (names, 0)


def test_the_targets_have_perfect_scores(everything):
    """CIDEr-D is 10, as the captions of one image are equal for it: it ignores case and full stops."""
    perfect = {"COCO captions": 10, "VQAv2": 1, "TextVQA": 1, "DocVQA": 1, "LVIS": 1}
    for source in everything:
        task, examples = source.task(), source.task().examples(100, 0)
        assert len(examples) == len(source) and task.name == source.name
        score = np.mean(task.metric([example.answer for example in examples], examples))
        np.testing.assert_allclose(score, perfect[task.name], err_msg=task.name)
        assert np.mean(task.metric(["nothing of the kind"] * len(examples), examples)) == 0


def test_other_answers_by_hand(vqa, docvqa, lvis):
    """For VQA "two" and "2" are one answer, given by five of ten: 1. "dark red" is given by five: 1; "yes" by none."""
    assert vqa.task().metric(["dark red", "two", "yes"], list(vqa)).tolist() == [1, 1, 0]
    # Case and spaces are ignored; "p. smythe" has nine letters, of which "y" and "e" are wrong: 1 - 2/9.
    np.testing.assert_allclose(docvqa.task().metric([" JANUARY  8", "p. smythe"], list(docvqa)), [1, 1 - 2 / 9])
    # Zebras are known to be absent from the first image; in the second, nobody checked.
    clock, bow = "0 0 999 500 alarm clock", "500 500 999 999 bow (weapon)"
    assert lvis.task().metric([f"{clock} ; {bow}", "0 0 9 9 zebra"], list(lvis)) == pytest.approx(1)
    # In the first image not all alarm clocks have boxes, so a second one is ignored. A bow in the second image is wrong
    # and ranks before the correct one, as does the wrong bow in the first image: precision 1/3.
    extra = "0 0 500 999 alarm clock"
    result = public_sets.federated(
        [f"{extra} ; {clock} ; 0 0 99 99 bow (weapon) ; {bow}", "0 0 500 500 bow (weapon)"],
        [example.references for example in lvis], lvis.class_names, lvis.image_counts,
    )  # fmt: skip
    # Bows by falling score: (image 2, position 0) wrong, (image 1, position 2) wrong, (image 1, position 3) correct.
    np.testing.assert_allclose([result.rare, result.common, result.ap], [1, 1 / 3, 2 / 3])
    assert np.isnan(result.frequent)


def test_a_scorecard_of_all(everything, monkeypatch):
    """The controls keep the references: a model that always writes the target does not need its images."""
    monkeypatch.setattr(tasks, "generated_texts", lambda model, params, examples: [e.answer for e in examples])
    sets = [source.task() for source in everything if len(source) > 1]  # a single example cannot be shuffled
    table = tasks.scorecard(None, None, sets, count=2)
    assert table["n"].tolist() == [2] * 4 and table["unit"].tolist() == ["CIDEr-D", "VQA accuracy", "ANLS", "AP"]
    np.testing.assert_allclose(table["score"], [10, 1, 1, 1])
    assert (table["blind"] == table["score"]).all() and (table["shuffled"] == table["score"]).all()


def test_public_sets_are_tasks_of_a_mixture(everything):
    words, sets = tokenizer.multilingual(), {source.name: source.task() for source in everything}
    mixed = mixtures.Mixture(sets, dict.fromkeys(sets, 1))
    group = mixtures.Group(mixed, 8, num_images=1, prompt_length=64, target_length=64, image_size=32)
    one, again = (mixtures.group_batch(group, words, 3) for _ in range(2))
    assert one["images"].shape == (8, 1, 32, 32, 3) and one["images_valid"].all()
    np.testing.assert_array_equal(one["prompt_tokens"], again["prompt_tokens"])
    assert {mixed.draw(i).task for i in range(40)} == {"captioning", "vqa", "detection"} <= set(prompts.PREFIXES)


def png(colour) -> io.BytesIO:
    """An image of 60 x 40, or a mask for a number, as a file, which TFDS takes without TensorFlow."""
    file = io.BytesIO()
    Image.new("L" if isinstance(colour, int) else "RGB", (60, 40), colour).save(file, format="PNG")
    file.seek(0)
    return file


class StandIn:
    """Examples from memory instead of TFDS's downloads."""

    def _split_generators(self, dl_manager):
        return {"val": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(self.examples)


def prepared(builder):
    builder.download_and_prepare(file_format="array_record")
    source = tfds.builder_from_directory(builder.data_dir).as_data_source("val")
    assert "tensorflow" not in sys.modules
    return source


def test_coco_captions_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_coco, "tf", SimpleNamespace(int64=np.int64))  # the only part that TFDS's features need

    class Captions(StandIn, CocoCaptions, skip_registration=True):
        name = "coco_captions"
        examples = (
            {"image": png(RED), "image/filename": "COCO_val2014_000000000009.jpg", "image/id": 9, "objects": [],
             "captions": [{"id": 1, "text": "Ein  Café"}, {"id": 2, "text": "a café"}]},
        )  # fmt: skip

    (example,) = public_sets.from_tfds("coco_captions", prepared(Captions(data_dir=tmp_path)), image_size=32)
    assert example.references == ("Ein  Café", "a café") and example.answer in ("Ein Café", "a café")
    assert example.images.shape == (1, 32, 32, 3) and near(example, RED)


def test_lvis_of_tfds(tmp_path, lvis):
    """Its records are those of the file, so the examples are the same, up to the order of names and boxes."""
    official = tfds.builder_cls("lvis")(data_dir=tmp_path)

    def annotation(number, label, *corners):
        bbox = tfds.features.BBox(*map(float, corners))
        return {"id": number, "area": 1, "label": label, "bbox": bbox, "segmentation": png(0)}

    first = {"image": png(RED), "image/id": 7, "neg_category_ids": [2], "not_exhaustive_category_ids": [0]}
    second = {"image": png(WHITE), "image/id": 8, "neg_category_ids": [0, 1], "not_exhaustive_category_ids": []}

    class Lvis(StandIn, tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = official.version
        examples = (
            first | {"objects": [annotation(1, 0, 0, 0, 1, 0.5), annotation(2, 1, 0.5, 0.5, 1, 1)]},
            second | {"objects": []},
        )

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=official.info.features)

    source = public_sets.from_tfds("lvis", prepared(Lvis(data_dir=tmp_path)), image_size=32)
    assert len(source.class_names) == 1203 and source.class_names[16] == "arctic (type of shoe)"
    for ours, theirs in zip(source, lvis, strict=True):
        np.testing.assert_array_equal(ours.references.boxes, theirs.references.boxes)
        assert ours.references.classes.tolist() == theirs.references.classes.tolist()
        assert ours.references.negatives == theirs.references.negatives
        assert ours.references.not_exhaustive == theirs.references.not_exhaustive
    assert source.task().metric([example.answer for example in source], list(source)) == pytest.approx(1)


READERS = {
    "coco_captions": public_sets.coco_captions,
    "vqav2, questions": lambda file, folder: public_sets.vqav2(file, write(folder / "a.json", ANSWERS), folder),
    "vqav2, annotations": lambda file, folder: public_sets.vqav2(write(folder / "q.json", QUESTIONS), file, folder),
    "textvqa": public_sets.textvqa,
    "docvqa": public_sets.docvqa,
    "lvis": public_sets.lvis,
}


@pytest.mark.parametrize("name", READERS)
def test_missing_broken_and_other_files_are_named(name, tmp_path):
    file = tmp_path / "official.json"
    with pytest.raises(FileNotFoundError, match=r"official\.json is missing: fetch the official file"):
        READERS[name](file, tmp_path)
    bad = (b'{"data": [', b"\xff\xfe\x00", b"[1, 2]", b"{}", b'{"data": [{"question": "?", "image_id": "a"}]}', b"3")
    for content in (*bad, b"[" * 200_000):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"official\.json is damaged, or not the official file of a") as caught:
            READERS[name](file, tmp_path)
        assert "\n" not in str(caught.value)


def test_missing_and_damaged_images_are_named(tmp_path, vqa):
    picture = tmp_path / "val2014" / "COCO_val2014_000000262148.jpg"
    whole = picture.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no picture"):
        picture.write_bytes(content)
        with pytest.raises(ValueError, match=r"COCO_val2014_000000262148\.jpg is not a whole image"):
            vqa[2]
    picture.unlink()
    with pytest.raises(FileNotFoundError, match=r"COCO_val2014_000000262148\.jpg is missing: unpack the set's images"):
        vqa[2]
    assert vqa[0].answer == "red"  # images are opened one by one


def test_test_splits_and_other_annotations(tmp_path, vqa):
    row = {"question": "what?", "image_id": "a", "image": "documents/a.png"}
    file = write(tmp_path / "test.json", {"data": [row]})
    for read in (public_sets.textvqa, public_sets.docvqa):
        with pytest.raises(ValueError, match=r"test\.json .* of a split with answers: it lacks 'answers'"):
            read(file, tmp_path)
    other = write(tmp_path / "other.json", {"annotations": ANSWERS["annotations"][:2]})
    with pytest.raises(ValueError, match=r"questions\.json .*: question 42000 has no answers in .*other\.json"):
        public_sets.vqav2(tmp_path / "questions.json", other, tmp_path)


def test_an_unknown_set_of_tfds_and_an_image_without_a_caption(tmp_path, captions):
    with pytest.raises(ValueError, match=r"'vqa_v2'.*Known: coco_captions, lvis"):
        public_sets.from_tfds("vqa_v2", [])
    file = write(tmp_path / "some.json", CAPTIONS | {"annotations": CAPTIONS["annotations"][:1]})
    source = public_sets.coco_captions(file, tmp_path / "val2017")
    with pytest.raises(ValueError, match="visible"):
        source[0]


def with_boxes(tmp_path, boxes, **options):
    """LVIS with these annotations."""
    return public_sets.lvis(write(tmp_path / "own.json", LVIS | {"annotations": boxes}), tmp_path / "coco", **options)


def test_boxes_without_area_are_left_out_and_counted(tmp_path, lvis):
    bad = [box(3, 7, 3, 5.0, 5.0, 0.0, 9.0), box(4, 8, 3, 5.0, 5.0, 9.0, -2.0)]
    with pytest.warns(UserWarning, match=r"own\.json: 2 boxes are inverted or have no area; they are left out"):
        source = with_boxes(tmp_path, LVIS["annotations"] + bad, image_size=32)
    assert [example.answer for example in source] == [example.answer for example in lvis]


def test_boxes_outside(tmp_path, lvis):
    """Up to a pixel outside is rounding, and clipped; more raises ValueError."""
    source = with_boxes(tmp_path, [box(3, 8, 3, 30.0, 0.0, 30.5, 40.9)])
    assert source[1].references.boxes.tolist() == [[0, 0.5, 1, 1]]
    with pytest.raises(ValueError, match=r"own\.json .*: a box of image 8 is 2 pixels outside"):
        with_boxes(tmp_path, [box(3, 8, 3, 30.0, 0.0, 32.0, 40.0)])


def test_without_noise_an_image_without_objects_raises(tmp_path, lvis):
    source = with_boxes(tmp_path, LVIS["annotations"], noise=0, image_size=32)
    assert boxes.NOISE not in source[0].answer
    with pytest.raises(ValueError, match="nothing to write but noise"):
        source[1]


def changed(content: dict, where: str, value) -> dict:
    """A copy of the content in which the value of the first key `where`, at any depth, is another."""
    values = iter([value])

    def change(node):
        return node | {where: next(values, node[where])} if where in node else node

    return json.loads(json.dumps(content), object_hook=change)


@pytest.mark.parametrize(
    ("name", "content", "where", "value", "message"),
    [
        ("coco_captions", CAPTIONS, "caption", None, "a caption of image .* is None, expected a text"),
        ("coco_captions", CAPTIONS, "file_name", "../secret.jpg", "'../secret.jpg' is no name of a"),
        ("coco_captions", CAPTIONS, "file_name", "/etc/passwd", "'/etc/passwd' is no name of a"),
        ("coco_captions", CAPTIONS, "image_id", 99, "a caption of image 99, which is not among"),
        ("coco_captions", CAPTIONS | {"annotations": []}, "images", [], "it has no examples"),
        ("vqav2, annotations", ANSWERS, "answer", 7, "an answer to .* is 7, expected a text"),
        ("vqav2, annotations", ANSWERS, "answers", [], "has no answers"),
        ("vqav2, questions", QUESTIONS, "question", None, "the question on .* is None"),
        ("vqav2, questions", QUESTIONS, "data_subtype", "../../x", "is no name of a picture"),
        ("vqav2, questions", QUESTIONS, "questions", [], "it has no examples"),
        ("lvis", LVIS, "coco_url", "http://x/../passwd", "'..' is no name of a picture"),
        ("lvis", LVIS, "image_id", 99, "a box of image 99, which is not among its images"),
        ("lvis", LVIS, "images", [], "which is not among its images"),
    ],
)
def test_wrong_content_is_refused(name, content, where, value, message, tmp_path):
    file = write(tmp_path / "official.json", changed(content, where, value))
    with pytest.raises(ValueError, match=rf"official\.json is damaged, or not the official file .*{message}"):
        READERS[name](file, tmp_path)


def values_of(node, path=()):
    """The paths of all values, at any depth."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from values_of(child, (*path, key))


@pytest.mark.parametrize("name", ["coco_captions", "vqav2, annotations", "vqav2, questions", "lvis"])
def test_any_value_replaced_by_any_other_is_refused_or_harmless(name, tmp_path):
    """Every value of a file in turn becomes null, a number, a text, a list or an object: reading refuses the file in
    one sentence with its name, or the examples can still be counted."""
    contents = {"coco_captions": CAPTIONS, "vqav2, annotations": ANSWERS, "vqav2, questions": QUESTIONS, "lvis": LVIS}
    file, content, refused = tmp_path / "official.json", contents[name], 0
    for path in list(values_of(content)):
        for other in (None, -1, 1.5, "text", [], {}):
            copy = json.loads(json.dumps({"root": content}))
            parent = copy
            for key in ("root", *path)[:-1]:
                parent = parent[key]
            parent[("root", *path)[-1]] = other
            write(file, copy["root"])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # boxes without area
                    assert len(READERS[name](file, tmp_path)) >= 1
            except ValueError as error:
                assert "official.json" in str(error) and "\n" not in str(error), (path, other, error)
                refused += 1
    assert refused > 50


@pytest.mark.parametrize("part", ["..", ".", "", "a/b.jpg", "/etc/passwd", "..\\secret", "a\\b", None, 3])
def test_names_that_lead_elsewhere_are_refused(part):
    with pytest.raises(ValueError, match="is no name of a picture in folder"):
        public_sets.picture_path("folder", "val2017", part)


def test_boxes_as_shares_by_hand():
    # 10, 20 to 40, 60 in an image 100 wide and 80 high: y 20/80 to 60/80, x 10/100 to 40/100.
    found = public_sets.shares_of([{"bbox": [10, 20, 30, 40]}], {"id": 1, "height": 80, "width": 100})
    np.testing.assert_allclose(found, [[0.25, 0.1, 0.75, 0.4]])


def test_answers_are_texts():
    assert public_sets.answers_of("question 1", "red", "blue") == ["red", "blue"]
    with pytest.raises(ValueError, match="question 1 has no answers"):
        public_sets.answers_of("question 1")
    with pytest.raises(ValueError, match="an answer to question 1 is None, expected a text"):
        public_sets.answers_of("question 1", "red", None)
