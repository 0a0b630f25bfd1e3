"""Examples of every objective from the kit's own data: one builder function per objective, over one data object.

    data = kit_data("train")
    captioning(data, rng)                # an `Example`; the generator decides everything that is random

All images are 64 x 64 and made here: emoji, each anywhere on a random background; scenes and videos of emoji; easy-VQA;
rendered words, pages and receipts. `kit_tasks` gives each builder a name and a metric.
"""

from collections.abc import Sequence

import numpy as np

from kitlib.data import captioned
from kitlib.multimodal import objectives, prompts, visual_tokens
from kitlib.multimodal.kit_data import SHOTS, KitData, codebook, pick, place_on_background, retry_until_fits
from kitlib.multimodal.prompts import Example
from kitlib.synthetic import episodes, rendered_pages, rendered_text, scenes, video
from kitlib.synthetic.scenes import SIZE

FRAMES = 4  # per video, as in PaLI-X
OBJECTS, SIDES = 4, (12, 24)  # in a scene, at most; smallest and largest longer side of an object in pixels
FOUND, LARGE = 2, (16, 28)  # the same for detection: few, large objects, as little was learned from more, smaller ones
BOXES = 4  # written for detection, boxes of noise included
OCR_WORDS = 12  # of a receipt in the prompt, at most; no receipt has more
GRID, HIDDEN = (8, 8), 0.25  # cells of 8 x 8 pixels each; the share of hidden cells
ENTRIES = 128  # in the codebook


# ---------------------------------------------------------------------------------------------- captions and names


def captioning(data: KitData, rng) -> Example:
    """A named object on a background -> its name in one of 16 languages."""
    return objectives.captioning(*_captioned(data, data.object_rows, rng))


def split_captioning(data: KitData, rng) -> Example:
    """Any emoji on a background and the beginning of its name -> the rest. Names of one unit are split at 0."""
    image, caption, language = _captioned(data, range(len(data.emoji)), rng)
    position = prompts.draw_position(len(prompts.units(caption, language)), rng)
    return objectives.split_captioning(image, caption, language, position)


def naming(data: KitData, rng) -> Example:
    """What is this? -> the name, in any language."""
    image, name, language = _captioned(data, data.object_rows, rng)
    return objectives.vqa(image, prompts.WHAT, name, language)


def episodic_captioning(data: KitData, rng) -> Example:
    """Five objects that share an English keyword, with names in one language: loosely related pairs."""
    rows = rng.choice(pick(data.related, rng), SHOTS + 1, replace=False)
    language = _language(rng)
    captions = [data.emoji.names[language][row] for row in rows]
    images = [place_on_background(data.cutouts[row], rng)[0] for row in rows]
    return objectives.episodic_captioning(images, captions, language)


def _captioned(data: KitData, rows: Sequence[int], rng) -> tuple[np.ndarray, str, str]:
    """(image, name, language)"""
    row = pick(rows, rng)
    language = _language(rng)
    return place_on_background(data.cutouts[row], rng)[0], data.emoji.names[language][row], language


def _language(rng) -> str:
    return pick(list(captioned.LANGUAGES), rng)


# ---------------------------------------------------------------------------------------------- questions


def easy_vqa(data: KitData, rng) -> Example:
    """A question of easy-VQA."""
    return _answered(*_easy_question(data, rng), rng)


def receipts(data: KitData, rng) -> Example:
    """A question about a receipt; half of the prompts have the receipt's text."""
    return _answered(*_receipt_question(data, rng), rng)


def vqa(data: KitData, rng) -> Example:
    """`easy_vqa`, `receipts` or `naming`."""
    return pick((easy_vqa, receipts, naming), rng)(data, rng)


def question_generation(data: KitData, rng) -> Example:
    """An answer to a question of easy-VQA or about a receipt -> the question."""
    image, question, answer, _ = (_easy_question if rng.integers(2) else _receipt_question)(data, rng)
    return objectives.question_generation(image, question, answer, "en")


def object_aware_vqa(data: KitData, rng) -> Example:
    """A question about the objects in a scene."""
    return objectives.object_aware_vqa(_scene(data, rng), data.scene_names, rng)


def counting(data: KitData, rng) -> Example:
    """How many: dog? An example of vqa that is not in the pretraining mixture: models are fine-tuned on it."""
    indices, subject = scenes.contents(len(data.scene_names), rng)
    scene = scenes.compose(data.scene_cutouts, indices, (10, 20), rng)
    return objectives.vqa(scene.image, *scenes.ask(scene, data.scene_names, subject, rng)["count"], "en")


def made_up_words(data: KitData, rng, shots: int = SHOTS) -> Example:
    """Exemplars that name two kinds of objects by made-up words, then a query."""
    return objectives.made_up_words(episodes.episode(data.scene_cutouts, 2, shots, rng))


def two_exemplars(data: KitData, rng) -> Example:
    """`made_up_words` with two exemplars."""
    return made_up_words(data, rng, shots=2)


def episodic_vqa(data: KitData, rng) -> Example:
    """Made-up words, or five questions of easy-VQA."""
    if rng.integers(2):
        return made_up_words(data, rng)
    easy, rows = data.questions, rng.integers(len(data.questions), size=SHOTS + 1)
    questions, answers = ([texts[row] for row in rows] for texts in (easy.questions, easy.answers))
    return objectives.episodic_vqa(easy.images[easy.image_index[rows]], questions, answers, "en")


def _easy_question(data: KitData, rng) -> tuple[np.ndarray, str, str, tuple]:
    """(image, question, answer, texts in the image)"""
    i = rng.integers(len(data.questions))
    easy = data.questions
    return easy.images[easy.image_index[i]], easy.questions[i], easy.answers[i], ()


def _receipt_question(data: KitData, rng) -> tuple[np.ndarray, str, str, tuple]:
    """The same for a receipt. Of some thousands of receipts one does not fit into its image."""
    image, texts, pairs = retry_until_fits(lambda: rendered_pages.receipt(pick(data.vocabularies, rng)[2], rng, SIZE))
    return image, *pick(pairs, rng), texts


def _answered(image, question, answer, texts, rng) -> Example:
    ocr = prompts.first_words(texts, OCR_WORDS)[0] if texts and rng.integers(2) else ""
    return objectives.vqa(image, question, answer, "en", ocr=ocr)


# ---------------------------------------------------------------------------------------------- reading


def split_ocr(data: KitData, rng) -> Example:
    """An image of one to four words, half of the time one, and the first of them -> the others."""
    language, words, _ = pick(data.vocabularies, rng)
    chosen = [pick(words, rng) for _ in range(min(rng.geometric(0.5), 4))]
    image, texts, _ = rendered_text.scattered(chosen, rng, SIZE)
    return objectives.split_ocr(image, texts, language, rng.integers(len(texts)))


def screenshot_to_markup(data: KitData, rng) -> Example:
    """A page -> its markup; only pages with few rows fit."""
    _, words, _ = pick(data.vocabularies, rng)
    page = retry_until_fits(lambda: rendered_pages.page(words, rng, SIZE))  # one in three fits
    return objectives.screenshot_to_markup(*page)


def span_corruption(data: KitData, rng) -> Example:
    """An English gloss without some of its words -> these words."""
    return objectives.span_corruption(pick(data.texts, rng), rng)


# ---------------------------------------------------------------------------------------------- video, boxes, patches


def video_captioning(data: KitData, rng) -> Example:
    """Four frames -> which object moves in which direction (see `motion_caption`)."""
    clip, _, _ = _video_question(data, rng)
    return objectives.video_captioning(clip.frames, motion_caption(clip, data.scene_names), "en")


def video_questions(data: KitData, rng) -> Example:
    """A question about four frames. An example of vqa that is not in the pretraining mixture."""
    clip, question, answer = _video_question(data, rng)
    return objectives.vqa(clip.frames, question, answer, "en")


def detection(data: KitData, rng) -> Example:
    """The names of the objects in a scene and an absent one, in any language -> boxes, with boxes of noise."""
    scene, translated = _scene(data, rng, FOUND, LARGE), data.emoji.names[_language(rng)]
    names = [translated[row] for row in data.scene_rows]
    present = set(scene.indices.tolist())
    prompted = rng.permutation([*present, pick(sorted(set(range(len(names))) - present), rng)])
    found = [names[i] for i in scene.indices]
    return objectives.detection(scene.image, scene.boxes, found, [names[i] for i in prompted], rng, BOXES)


def masked_tokens(data: KitData, rng) -> Example:
    """A scene with grey cells -> the codes of the hidden cells."""
    scene = _scene(data, rng)
    return objectives.masked_tokens(scene.image, visual_tokens.mask(GRID, HIDDEN, rng), codebook())


def motion_caption(clip: video.Video, names: Sequence[str]) -> str:
    """The caption of a video, in English: "cat stands still ; dog moves left", in alphabetical order."""
    direction_names = {direction: name for name, direction in video.DIRECTIONS.items()}
    parts = []
    for kind, velocity in zip(clip.indices, clip.velocities, strict=True):
        direction = direction_names.get(tuple(np.sign(velocity).tolist()))
        parts.append(f"{names[kind]} moves {direction}" if direction else f"{names[kind]} stands still")
    return prompts.BETWEEN.join(sorted(parts, key=str.lower))


def _scene(data: KitData, rng, most: int = OBJECTS, sides: tuple[int, int] = SIDES) -> scenes.Scene:
    indices, _ = scenes.contents(len(data.scene_names), rng, most)
    return scenes.compose(data.scene_cutouts, indices, sides, rng)


def _video_question(data: KitData, rng) -> tuple[video.Video, str, str]:
    """(video, question, answer)"""
    kind = pick(video.QUESTION_KINDS, rng)
    return video.draw_question(kind, data.scene_cutouts, data.scene_names, FRAMES, rng)
