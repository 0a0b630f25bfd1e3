"""The public sets on which PaLI-X is evaluated, as tasks: COCO captions, VQAv2, TextVQA, DocVQA, LVIS.

    source = vqav2("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json", "val2014")
    source[7]                                              # its image is opened now: Answer in en: ... -> net
    source.task().evaluate(model, params, count=500)
    Mixture({"vqav2": source.task()}, {"vqav2": 1})        # to train on
    from_tfds("lvis", tfds.builder_from_directory(folder).as_data_source("validation"))

Nothing is downloaded: fetch the official files, unpack them, and pass the paths of the files and of their images.
TensorFlow Datasets (TFDS) has two of the sets; it needs TensorFlow or Beam to prepare them, but not to read them.

Whole images are stretched to a square of `image_size` pixels, as in PaliGemma: nothing is cut off, and boxes, in shares
of the image, stay the same. All texts are English. Prompts and targets have single spaces for white space; references
are as in the files. A missing file raises FileNotFoundError; a file that is not the official one of a split with
answers, or a broken image, raises ValueError; both errors name the file.
"""

import io
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kitlib.configs.arguments import one_of
from kitlib.data import keyed_rng
from kitlib.metrics import detection
from kitlib.metrics.text_metrics import anls, cider_d, vqa_accuracy
from kitlib.multimodal import objectives
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.tasks import Task, read_detections

PIXELS = 224
KNOWN = ("neg_category_ids", "not_exhaustive_category_ids")  # of the images of LVIS
# A class of LVIS has a letter for its number of training images: less than 10, 10 to 99, 100 or more.
FREQUENCIES = {"r": 1, "c": 10, "f": 100}


@dataclass(frozen=True, eq=False)
class Judged(Example):
    """An example and the references for its score: all texts that people gave, or the objects in the image."""

    references: tuple[str, ...] | detection.Truth


@dataclass(frozen=True, eq=False)
class PublicSet:
    """A set with random access, `len(s)` and `s[i]`; made by the functions of this module.

    Attributes:
        name: for tables.
        count: examples.
        make: (i, generator) -> example i. The generator decides which caption is the target, or the order of boxes.
        score: (predictions, references) -> float64[B], or one float for all; `unit` is its name.
        class_names, image_counts: of LVIS, for `federated`; TFDS does not have the counts: ().
    """

    name: str
    count: int
    make: Callable[[int, np.random.Generator], Judged]
    score: Callable[[Sequence[str], Sequence], np.ndarray | float]
    unit: str
    class_names: tuple[str, ...] = ()
    image_counts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Judged:
        """Example i, the same each time. Raises IndexError, and for its image the errors above."""
        i = range(self.count)[i]
        return self.make(i, keyed_rng(0, i))

    def draw(self, rng: np.random.Generator) -> Judged:
        """One example; all are equally likely."""
        return self.make(int(rng.integers(self.count)), rng)

    def task(self) -> Task:
        """The set as a task, for training and evaluation; its test examples are all different."""

        def choose(count: int, seed: int) -> list[Judged]:
            return [self[i] for i in keyed_rng(seed, 0).permutation(self.count)[:count].tolist()]

        def metric(predictions, examples):
            return self.score(predictions, [example.references for example in examples])

        return Task(self.name, self.draw, metric, self.unit, choose)


# ---------------------------------------------------------------------------------------------- the sets


def coco_captions(annotations: str | Path, pictures: str | Path, *, image_size: int = PIXELS) -> PublicSet:
    """`objectives.captioning` of each image, with one of its captions at random. CIDEr-D, 0 to 10.

    annotations: captions_{train,val}{2014,2017}.json; pictures: that split's folder, such as val2017. The weights of
    words come from the examples that are scored, so scores are only comparable between equal choices of examples.
    """

    def rows(content) -> list:
        captions = defaultdict(list)
        for one in content["annotations"]:
            captions[one["image_id"]].append(text_of(one["caption"], f"a caption of image {one['image_id']}"))
        check_ids(captions, content["images"], "caption")
        return [(picture_path(pictures, image["file_name"]), captions[image["id"]]) for image in content["images"]]

    found = read_json(annotations, rows)
    return _captions("COCO captions", len(found), found.__getitem__, image_size)


def vqav2(questions: str | Path, annotations: str | Path, pictures: str | Path, *, image_size: int = PIXELS):
    """`objectives.vqa` of each question with the most frequent of ten answers, of equal ones the first. VQA accuracy.

    questions: v2_OpenEnded_mscoco_{train2014,val2014}_questions.json; annotations: v2_mscoco_..._annotations.json;
    pictures: the folder train2014 or val2014.
    """

    def answers(content) -> dict:
        return {
            one["question_id"]: answers_of(one["question_id"], *(a["answer"] for a in one["answers"]))
            for one in content["annotations"]
        }

    given = read_json(annotations, answers)

    def rows(content) -> list:
        for one in content["questions"]:
            if one["question_id"] not in given:
                raise ValueError(f"question {one['question_id']} has no answers in {annotations}")
        name = f"COCO_{content['data_subtype']}_{{:012d}}.jpg"
        return [_row(pictures, name.format(q["image_id"]), q, given[q["question_id"]]) for q in content["questions"]]

    return _questions("VQAv2", read_json(questions, rows), vqa_accuracy, "VQA accuracy", image_size)


def textvqa(questions: str | Path, pictures: str | Path, *, image_size: int = PIXELS) -> PublicSet:
    """As `vqav2`. questions: TextVQA_0.5.1_{train,val}.json; pictures: the folder train_images, for both."""

    def rows(content) -> list:
        return [_row(pictures, f"{one['image_id']}.jpg", one, one["answers"]) for one in content["data"]]

    return _questions("TextVQA", read_json(questions, rows), vqa_accuracy, "VQA accuracy", image_size)


def docvqa(questions: str | Path, pictures: str | Path, *, image_size: int = PIXELS) -> PublicSet:
    """As `vqav2`, but scored by ANLS, without regard to case and white space, as on DocVQA's own site.

    questions: {train,val}_v1.0_withQT.json, or without _withQT; pictures: the folder spdocvqa_images or documents.
    """

    def rows(content) -> list:
        return [_row(pictures, one["image"].split("/")[-1], one, one["answers"]) for one in content["data"]]

    def score(predictions, references) -> np.ndarray:
        plain = [[_spaced(text).lower() for text in texts] for texts in (predictions, *references)]
        return anls(plain[0], plain[1:])

    return _questions("DocVQA", read_json(questions, rows), score, "ANLS", image_size)


def lvis(annotations: str | Path, pictures: str | Path, *, noise: int = 1, image_size: int = PIXELS) -> PublicSet:
    """`objectives.detection` in each image, of all classes that are present or known to be absent. Federated AP.

    annotations: lvis_v1_{train,val}.json; pictures: the folder with train2017 and val2017, as the validation split has
    images of both. noise: boxes of noise after the objects; with 0, images without objects raise ValueError.

    Boxes that are inverted or have no area are left out, with a warning that counts them (TFDS: 17 of 1.5 million).
    Boxes up to a pixel outside their image are clipped; boxes farther outside raise ValueError.
    """

    def decode(content):
        classes = sorted(content["categories"], key=lambda one: one["id"])
        number = {one["id"]: i for i, one in enumerate(classes)}
        objects, rows, empty = defaultdict(list), [], 0
        for one in content["annotations"]:
            objects[one["image_id"]].append(one)
        check_ids(objects, content["images"], "box")
        for image in content["images"]:
            found = objects[image["id"]]
            boxes, kinds = shares_of(found, image), np.array([number[one["category_id"]] for one in found], int)
            area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            truth = detection.Truth(boxes[area], kinds[area], *([number[i] for i in image[key]] for key in KNOWN))
            rows.append((picture_path(pictures, *image["coco_url"].split("/")[-2:]), truth))
            empty += int((~area).sum())
        named = [text_of(one["name"], "the name of a class") for one in classes]
        return rows, named, [FREQUENCIES[one["frequency"]] for one in classes], empty

    rows, names, counts, empty = read_json(annotations, decode)
    if empty:
        warnings.warn(f"{annotations}: {empty} boxes are inverted or have no area; they are left out.", stacklevel=2)
    return _detections("LVIS", len(rows), rows.__getitem__, names, counts, noise, image_size)


def from_tfds(name: str, records, *, noise: int = 1, image_size: int = PIXELS) -> PublicSet:
    """The same from TFDS's data source of "coco_captions" or "lvis". Raises ValueError for another name."""
    one_of("set of TFDS", name, ("coco_captions", "lvis"))

    def captions(i: int):
        record = records[i]
        return record["image"], [text.decode() for text in record["captions"]["text"]]

    def truth(i: int):
        record = records[i]
        objects, known = record["objects"], [list(map(int, record[key])) for key in KNOWN]
        boxes = np.array(objects["bbox"], float).reshape(-1, 4)  # TFDS gives lists where there is none
        return record["image"], detection.Truth(boxes, np.array(objects["label"], int), *known)

    if name == "coco_captions":
        return _captions("COCO captions", len(records), captions, image_size)
    names = records.dataset_info.features["objects"]["label"].names
    return _detections("LVIS", len(records), truth, names, (), noise, image_size)


def federated(predictions: Sequence[str], truths: Sequence[detection.Truth], class_names: Sequence[str], image_counts):
    """`metrics.detection.lvis` of generated texts; boxes are ranked by their position in the text.

    image_counts: int[C], training images per class, for the groups rare, common and frequent.
    """
    number = {name: i for i, name in enumerate(class_names)}
    found = [read_detections(text, number) for text in predictions]
    return detection.lvis(found, truths, np.array(image_counts, int))


# ---------------------------------------------------------------------------------------------- kinds of sets


def _captions(name: str, count: int, row: Callable, image_size: int) -> PublicSet:
    def make(i: int, rng: np.random.Generator) -> Judged:
        picture, captions = row(i)
        caption = _spaced(rng.choice(captions)) if captions else ""
        return _judged(objectives.captioning(square_picture(picture, image_size), caption, "en"), tuple(captions))

    return PublicSet(name, count, make, cider_d, "CIDEr-D")


def _row(pictures, file: str, one: dict, answers: Sequence) -> tuple[Path, str, list[str]]:
    """The picture, the question and the answers of one row of a question file."""
    question = text_of(one["question"], f"the question on {file}")
    return picture_path(pictures, file), question, answers_of(file, *answers)


def _questions(name: str, rows: Sequence, score: Callable, unit: str, image_size: int) -> PublicSet:
    def make(i: int, rng: np.random.Generator) -> Judged:
        picture, question, answers = rows[i]
        answer = Counter(map(_spaced, answers)).most_common(1)[0][0]
        image = square_picture(picture, image_size)
        return _judged(objectives.vqa(image, _spaced(question), answer, "en"), tuple(answers))

    return PublicSet(name, len(rows), make, score, unit)


def _detections(name: str, count: int, row: Callable, names, counts, noise: int, image_size: int) -> PublicSet:
    names = tuple(name.replace("_", " ") for name in names)

    def make(i: int, rng: np.random.Generator) -> Judged:
        picture, truth = row(i)
        prompted = [names[k] for k in rng.permutation(sorted({*truth.classes.tolist(), *truth.negatives}))]
        found, image = [names[k] for k in truth.classes], square_picture(picture, image_size)
        return _judged(objectives.detection(image, truth.boxes, found, prompted, rng, len(found) + noise), truth)

    def score(predictions, truths) -> float:
        return federated(predictions, truths, names, [0] * len(names)).ap  # the mean over all classes needs no groups

    return PublicSet(name, count, make, score, "AP", names, tuple(counts))


def _judged(example: Example, references) -> Judged:
    return Judged(example.images, example.prompt, example.target, example.task, references)


def _spaced(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------- reading files


def read_json(file: str | Path, decode: Callable):
    """decode(content) of an official JSON file: rows, or a tuple that begins with them.

    Raises FileNotFoundError, and ValueError with the file's name for whatever decode finds wrong and for no rows.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: fetch the official file and pass its path.")
    try:
        found = decode(json.loads(path.read_bytes()))
        if not found or not all(found[:1] if isinstance(found, tuple) else [found]):
            raise ValueError("it has no examples")
        return found
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is damaged, or not the official file of a split with answers: {reason}.") from error


def check_ids(by_image: dict, images: Sequence[dict], what: str) -> None:
    """Raises ValueError if something belongs to an image that is not in the list."""
    if unknown := set(by_image) - {image["id"] for image in images}:
        raise ValueError(f"there is a {what} of image {min(unknown, key=str)}, which is not among its images")


def answers_of(about, *answers) -> list[str]:
    """The answers to a question. Raises ValueError if there is none, or one that is no text."""
    if not answers:
        raise ValueError(f"{about} has no answers")
    return [text_of(answer, f"an answer to {about}") for answer in answers]


def text_of(value, what: str) -> str:
    """The value. Raises ValueError if it is no text."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {value!r}, expected a text")
    return value


def picture_path(folder: str | Path, *parts: str) -> Path:
    """The path of a picture in its folder; a name that would lead out of it is refused."""
    for part in parts:
        if not isinstance(part, str) or not part or part in (".", "..") or Path(part).name != part or "\\" in part:
            raise ValueError(f"{part!r} is no name of a picture in {folder}")
    return Path(folder, *parts)


def square_picture(picture: Path | np.ndarray, size: int) -> np.ndarray:
    """uint8[size, size, 3] of a file or of uint8[H, W, C]."""
    if isinstance(picture, Path):
        if not picture.is_file():
            raise FileNotFoundError(f"{picture} is missing: unpack the set's images there.")
        try:
            picture = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{picture} is not a whole image ({error}): get it again.") from error
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def shares_of(objects: Sequence, image) -> np.ndarray:
    """ "bbox" of each, [x, y, width, height] in pixels -> float64[n, 4], y0, x0, y1, x1 in shares of the image."""
    x, y, width, height = np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4).T
    pixels, size = np.stack([y, x, y + height, x + width], axis=1), np.array([[image["height"], image["width"]] * 2])
    inside = np.clip(pixels, 0, size)
    if (outside := np.abs(pixels - inside).max(initial=0)) > 1:
        raise ValueError(f"a box of image {image['id']} is {outside:g} pixels outside")
    return inside / size
