"""Examples of every objective from the kit's own data: one builder function per kind of task, over one data object.

    data = kit_data("train")
    counting(data, rng)                   # an `Example`; the generator decides everything that is random
    captionings(data, rng)                # several examples about one picture: its name in four languages
    few_shot(data, rng, shots=2)          # "what is this? dax ; what is this? zug ; what is this?", three images
    recall(data, rng)                     # "what is Hund? vuck ; what is Apfel? gub ; what is Hund?", a text
    repeated_pairs(data, rng)             # "dog dax ; cat zug ; dog dax ; dog dax ; cat zug", the target of a text

All images are 64 x 64 and made here: emoji, each anywhere on a random background; scenes and videos of emoji; easy-VQA;
rendered words, pages and receipts. `tasks.TABLE` gives each builder its names and its metric.

A builder with a plural name gives several examples about the same images, up to `PROMPTS`: what a frozen tower says of
an image is computed once for all of them (`mixtures.feature_batches`). Pictures that are named in training are named in
the languages of `kit_data.languages_with_pictures` only, in the answer as in the prompt.

To answer a few-shot prompt, a model has to know which word belongs to which image, to find the exemplar that looks like
the query, and to copy its word. A small model learns the first two late. So in half of the prompts of the training it
is asked to say all of it, image by image: "dog ; dax ; cat ; zug ; dog ; dax". From the stage "shots" on, a word stands
right behind its name, "dog dax ; cat zug ; dog dax": then its last step is to repeat what followed a name before, which
texts alone can teach (`repeated_pairs`). Words for all this must be many: 52 are memorised.
"""

from collections.abc import Sequence

import numpy as np

from kitlib.data import captioned
from kitlib.multimodal import objectives, prompts, visual_tokens
from kitlib.multimodal.kit_data import SHOTS, KitData, codebook, pick, place_on_background, retry_until_fits
from kitlib.multimodal.prompts import Example
from kitlib.synthetic import episodes, rendered_text, scenes, video
from kitlib.synthetic.scenes import SIZE

PROMPTS = 4  # examples about one picture, at most
FRAMES = 4  # per video, as in PaLI-X
CELL = 8  # pixels: the width of a patch
PACE = CELL  # pixels per frame of what moves slowly, as the tower hardly shows less
OBJECTS, SIDES = 4, (12, 24)  # in a scene, at most; smallest and largest longer side of an object in pixels
FOUND, LARGE = 2, (16, 28)  # the same for detection: few, large objects, as little was learned from more, smaller ones
COUNTED = (12, 20)  # pixels: smaller objects share their patch with others
BINS = 33  # of coordinates: at 64 pixels, rounding leaves these boxes an IoU of 0.9 on average, 0.7 at worst
BOXES = 4  # written for detection, boxes of noise included
TO_READ = (10, 20)  # pixels per em of a single word
OCR_WORDS = 12  # of a receipt in the prompt, at most; no receipt has more
GRID, HIDDEN = (8, 8), 0.25  # cells of 8 x 8 pixels each; the share of hidden cells
ENTRIES = 128  # in the codebook

# ---------------------------------------------------------------------------------------------- captions and names


def captionings(data: KitData, rng) -> list[Example]:
    """A named object on a background -> its name, in several of 16 languages."""
    image, row = pictured(data, data.object_rows, rng)
    languages = several(data.languages[row], rng)
    return [objectives.captioning(image, data.emoji.names[language][row], language) for language in languages]


def split_captioning(data: KitData, rng) -> Example:
    """Any emoji on a background and the beginning of its name -> the rest. Names of one unit are split at 0."""
    image, row = pictured(data, range(len(data.emoji)), rng)
    language = pick(data.languages[row], rng)
    caption = data.emoji.names[language][row]
    position = prompts.draw_position(len(prompts.units(caption, language)), rng)
    return objectives.split_captioning(image, caption, language, position)


def namings(data: KitData, rng, *, by_english: bool = False) -> list[Example]:
    """What is this? -> the name, in several languages. by_english: the English name, then that in another language."""
    image, row = pictured(data, data.object_rows, rng)
    names = {language: data.emoji.names[language][row] for language in data.languages[row]}
    first = (names.pop("en"), "en") if by_english else None
    return [objectives.naming(image, names[language], language, first) for language in several(tuple(names), rng)]


def translations(data: KitData, rng, *, held_out: bool = False) -> list[Example]:
    """A name without a picture -> the name in another language, for several pairs; half by way of English.

    Here the names are taught that no picture teaches. Half of those by way of English do not say what is to be named,
    as in `namings` but without the picture: the English name is then a guess, and what can be learned is to translate
    what one has just written. held_out: only names that no picture teaches, a quarter in half of the languages.
    """
    english, languages = data.emoji.names["en"], tuple(captioned.LANGUAGES)
    row = pick([i for i in data.object_rows if not held_out or len(data.languages[i]) < len(languages)], rng)
    examples = []
    for language in several([code for code in languages if not held_out or code not in data.languages[row]], rng):
        name = data.emoji.names["en" if rng.integers(2) else pick(languages, rng)][row]
        first = (english[row], "en") if language != "en" and rng.integers(2) else None
        if first and rng.integers(2):
            name = "this"
        examples.append(objectives.translation(name, data.emoji.names[language][row], language, first))
    return examples


def pictured(data: KitData, rows: Sequence[int], rng) -> tuple[np.ndarray, int]:
    """(image, row)"""
    row = pick(rows, rng)
    return place_on_background(data.drawing(row, rng), rng)[0], row


def languages_of(data: KitData, rows: Sequence[int]) -> list[str]:
    """The languages in which pictures of all these emoji are named."""
    return [language for language in captioned.LANGUAGES if all(language in data.languages[row] for row in rows)]


def several(items: Sequence, rng) -> list:
    """`PROMPTS` different ones of the items, or all."""
    return [items[i] for i in rng.permutation(len(items))[:PROMPTS]]


# ---------------------------------------------------------------------------------------------- questions


def easy_vqas(data: KitData, rng) -> list[Example]:
    """Questions of easy-VQA about one picture."""
    easy = data.questions
    image = easy.image_index[rng.integers(len(easy))]
    rows = several(np.flatnonzero(easy.image_index == image), rng)
    return [objectives.vqa(easy.images[image], easy.questions[i], easy.answers[i], "en") for i in rows]


def receipts(data: KitData, rng) -> list[Example]:
    """Questions about a receipt; half of the prompts have the receipt's text."""
    # Of some thousands of receipts one does not fit into its image.
    image, texts, pairs = retry_until_fits(lambda: rendered_text.receipt(pick(data.vocabularies, rng)[2], rng, SIZE))
    text = prompts.first_words(texts, OCR_WORDS)[0]
    return [
        objectives.vqa(image, question, answer, "en", ocr=text if rng.integers(2) else "")
        for question, answer in several(pairs, rng)
    ]


def vqa(data: KitData, rng) -> Example:
    """One of `easy_vqas`, `receipts` or `namings`."""
    return pick((easy_vqas, receipts, namings), rng)(data, rng)[0]


def question_generation(data: KitData, rng) -> Example:
    """An answer to a question of easy-VQA or about a receipt -> the question."""
    asked = pick((easy_vqas, receipts), rng)(data, rng)[0]
    question = prompts.without_prefix(asked).prompt.partition(prompts.WITH_OCR.format(question="", ocr=""))[0]
    return objectives.question_generation(asked.images[0], question, asked.answer, "en")


def object_aware_vqa(data: KitData, rng) -> Example:
    """A question about the objects in a scene."""
    return objectives.object_aware_vqa(_scene(data, rng), data.scene_names, rng)


def counting(data: KitData, rng, *, by_positions: bool = False) -> Example:
    """How many: dog? One to nine, in a scene of up to nine objects. No objective of the paper, but an example of vqa.

    by_positions: an answer in steps, first the row and the column of each one, in units of `CELL` pixels and in reading
    order, then their number.
    """
    indices, subject = scenes.contents(len(data.scene_names), rng, least=1)
    cutouts = pick(data.scene_cutouts, rng)
    scene = retry_until_fits(lambda: scenes.compose(cutouts, indices, COUNTED, rng, smallest=COUNTED[0]))
    question, answer = scenes.ask(scene, data.scene_names, subject, rng)["count"]
    counted = scene.boxes[scene.indices == subject]
    centres = (counted[:, :2] + counted[:, 2:]) / 2 * SIZE  # float[n, 2]
    places = sorted((centres // CELL).astype(int).tolist())
    return _answered_where(scene.image, question, answer, places if by_positions else None)


# ---------------------------------------------------------------------------------------------- reading


def reading(data: KitData, rng) -> Example:
    """An image of one word -> the word: half of the time one of the languages of the tests, else of another one."""
    language, words, _ = pick(data.vocabularies, rng)
    if rng.integers(2):
        language, words = "en", data.more_words  # the prompt has no code for the others

    def draw():
        word = pick(words, rng)
        return rendered_text.line(word, rng, SIZE, TO_READ)[0], [word]

    return objectives.split_ocr(*retry_until_fits(draw), language, 0)  # a few words are too wide


def split_ocr(data: KitData, rng) -> Example:
    """An image of one to four words, half of the time one, and the first of them -> the others."""
    language, words, _ = pick(data.vocabularies, rng)
    chosen = [pick(words, rng) for _ in range(min(rng.geometric(0.5), 4))]
    image, texts, _ = rendered_text.scattered(chosen, rng, SIZE)
    return objectives.split_ocr(image, texts, language, rng.integers(len(texts)))


def screenshot_to_markup(data: KitData, rng) -> Example:
    """A page -> its markup; only pages with few rows fit."""
    _, words, _ = pick(data.vocabularies, rng)
    return objectives.screenshot_to_markup(*retry_until_fits(lambda: rendered_text.page(words, rng, SIZE)))


def span_corruption(data: KitData, rng) -> Example:
    """An English gloss without some of its words -> these words."""
    return objectives.span_corruption(pick(data.texts, rng), rng)


# ---------------------------------------------------------------------------------------------- videos, boxes, patches


def video_captioning(data: KitData, rng) -> Example:
    """Four frames -> which object moves in which direction (see `motion_caption`)."""
    clip, _, _ = _video_question(data, rng)
    return objectives.video_captioning(clip.frames, motion_caption(clip, data.scene_names), "en")


def video_questions(data: KitData, rng, *, by_positions: bool = False) -> Example:
    """A question about four frames. No objective of the paper, but an example of vqa.

    by_positions: an answer in two steps, first the row and the column of the first object in each frame, in units of
    `CELL` pixels. What is slow moves by one of them per frame.
    """
    clip, question, answer = _video_question(data, rng)
    places = (clip.centres[:, 0] // CELL).astype(int)
    return _answered_where(clip.frames, question, answer, places if by_positions else None)


def _answered_where(images, question: str, answer: str, places) -> Example:
    """places: int[n, 2], rows and columns to be written before the answer, or None."""
    if places is not None:
        answer = prompts.BETWEEN.join([*(f"{row} {column}" for row, column in places), answer])
        question += prompts.FIRST_WHERE
    return objectives.vqa(images, question, answer, "en")


def findings(data: KitData, rng) -> list[Example]:
    """The English name of an object in a scene, or of two -> their boxes, and no others: detection for beginners.

    First the single names, in alphabetical order: `Task.draw` gives the first, `Task.draw_all` all of them.
    """
    scene = _scene(data, rng, FOUND, LARGE)
    found = [data.scene_names[i] for i in scene.indices]
    present = sorted(set(found))
    asked = [[name] for name in present] + ([list(rng.permutation(present))] if len(present) == 2 else [])
    return [objectives.detection(scene.image, scene.boxes, found, names, rng, bins=BINS) for names in asked]


def detections(data: KitData, rng) -> list[Example]:
    """The names of the objects in a scene and an absent one -> boxes, with boxes of noise; in several languages."""
    scene = _scene(data, rng, FOUND, LARGE)
    present = sorted(set(scene.indices.tolist()))
    prompted = [*present, pick(sorted(set(range(len(data.scene_names))) - set(present)), rng)]
    examples = []
    for language in several(languages_of(data, [data.scene_rows[i] for i in prompted]), rng):
        names = {i: data.emoji.names[language][data.scene_rows[i]] for i in prompted}
        asked, found = [names[i] for i in rng.permutation(prompted)], [names[i] for i in scene.indices]
        examples.append(objectives.detection(scene.image, scene.boxes, found, asked, rng, BOXES, BINS))
    return examples


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
    return scenes.compose(pick(data.scene_cutouts, rng), indices, sides, rng)


def _video_question(data: KitData, rng) -> tuple[video.Video, str, str]:
    """(video, question, answer)"""
    kind, cutouts = pick(video.QUESTION_KINDS, rng), pick(data.scene_cutouts, rng)
    return video.draw_question(kind, cutouts, data.scene_names, FRAMES, rng, pace=PACE)


# ---------------------------------------------------------------------------------------------- exemplars


def few_shot(data: KitData, rng, *, shots: int = SHOTS, tested: bool = False, by_name: bool = False) -> Example:
    """Exemplars that name two objects by a word each, then a query.

    Args:
        shots: exemplars, 2 (one of each object) to 8.
        tested: the kinds of objects and the 52 made-up words of the tests, few enough to be memorised, but what they
            mean is drawn again for every prompt. Else any two objects and two of thousands of words that mean nothing
            here: made-up ones of two syllables, or short ones of other languages; half of the answers name every image.
        by_name: all answers name every image in English, each name with its word right behind it. Half of the objects
            that are not `tested` are then those of scenes, too.

    The short words mean not quite nothing: of 3,497, 70 are Turkish or Vietnamese names of objects that the kit names,
    and 20 of these are held out from pictures. To leave them out would be another training than the released one.
    """
    if tested:
        cutouts, names, words = pick(data.scene_cutouts, rng), data.scene_names, None
    else:
        rows = pick((data.object_rows, data.scene_rows), rng) if by_name else data.object_rows
        rows = rng.choice(rows, 2, replace=False)
        words = _words(data, rng)
        cutouts, names = [data.drawing(row, rng) for row in rows], [data.emoji.names["en"][row] for row in rows]
    episode = episodes.episode(cutouts, 2, shots, rng, words=words)
    if by_name:
        return objectives.made_up_words(episode, names=names, joint=" ")
    return objectives.made_up_words(episode, names=names if not tested and rng.integers(2) else None)


def episodic_captioning(data: KitData, rng) -> Example:
    """Five objects that share an English keyword, with names in one language: loosely related pairs."""
    rows = rng.choice(pick(data.related, rng), SHOTS + 1, replace=False)
    language = pick(languages_of(data, rows), rng)
    captions = [data.emoji.names[language][row] for row in rows]
    images = [place_on_background(data.drawing(row, rng), rng)[0] for row in rows]
    return objectives.episodic_captioning(images, captions, language)


def episodic_vqa(data: KitData, rng) -> Example:
    """New words for two objects, or five questions of easy-VQA."""
    if rng.integers(2):
        return few_shot(data, rng)
    easy, rows = data.questions, rng.integers(len(data.questions), size=SHOTS + 1)
    questions, answers = ([texts[row] for row in rows] for texts in (easy.questions, easy.answers))
    return objectives.episodic_vqa(easy.images[easy.image_index[rows]], questions, answers, "en")


def repeated_pairs(data: KitData, rng, *, tested: bool = False) -> Example:
    """Two to four names with a word each, four pairs in all, and then eight times one of them again.

    tested: with the names and the words of the tests, as in `few_shot`.
    """
    rows, vocabulary = (data.scene_rows, episodes.nonsense()) if tested else (data.object_rows, _words(data, rng))
    rows = rng.choice(rows, rng.integers(2, SHOTS + 1), replace=False)
    names = [data.emoji.names["en"][row] for row in rows]
    pairs = list(zip(names, _different(vocabulary, len(names), rng), strict=True))
    order = rng.permutation([*range(len(pairs)), *rng.integers(len(pairs), size=SHOTS - len(pairs))])
    return objectives.repeated_pairs([pairs[i] for i in order], [pick(pairs, rng) for _ in range(8)])


def recall(data: KitData, rng) -> Example:
    """Two to five names of objects with a word each, then one of the names -> its word. Looking up in the prompt, which
    few-shot prompts with pictures need, too, can be learned from texts, and these are short."""
    rows = rng.choice(data.object_rows, rng.integers(2, 6), replace=False)
    language = pick(tuple(captioned.LANGUAGES), rng)
    names = [data.emoji.names[language][row] for row in rows]
    words = _different(data.short_words, len(names), rng)
    return objectives.recall(names, words, rng.integers(len(names)), language)


def _words(data: KitData, rng) -> Sequence[str]:
    return episodes.nonsense(2) if rng.integers(2) else data.short_words


def _different(words: Sequence[str], count: int, rng) -> list[str]:
    return [words[i] for i in rng.choice(len(words), count, replace=False)]
