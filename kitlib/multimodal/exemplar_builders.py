"""Examples whose answer stands in the prompt: exemplars with pictures, and names with a word each to look up.

    made_up_words(data, rng)             # "what is this? dax ; what is this? zug ; what is this?" with three images
    recall(data, rng)                    # "what is Hund? vuck ; what is Apfel? gub ; what is Hund?", a text
    recalls_by_picture(data, rng)        # "what is Hund? vuck ; what is Apfel? gub ; what is this?" with one image

To answer a few-shot prompt, a small model has to find the exemplar that looks like the query and to copy its word. It
learns both late (`stages`), so each is also trained alone. Words for it must be many: 52 are memorised.
"""

from collections.abc import Sequence

import numpy as np

from kitlib.data import captioned
from kitlib.multimodal import objectives
from kitlib.multimodal.example_builders import languages_of, pictured, several
from kitlib.multimodal.kit_data import SHOTS, KitData, pick, place_on_background
from kitlib.multimodal.prompts import Example
from kitlib.synthetic import episodes


def episodic_captioning(data: KitData, rng) -> Example:
    """Five objects that share an English keyword, with names in one language: loosely related pairs."""
    rows = rng.choice(pick(data.related, rng), SHOTS + 1, replace=False)
    language = pick(languages_of(data, rows), rng)
    captions = [data.emoji.names[language][row] for row in rows]
    images = [place_on_background(data.drawing(row, rng), rng)[0] for row in rows]
    return objectives.episodic_captioning(images, captions, language)


def made_up_words(data: KitData, rng) -> Example:
    """Exemplars that name two kinds of objects by made-up words, then a query. A test: training has `four_exemplars`,
    since the made-up words of the tests are few enough to be memorised."""
    return objectives.made_up_words(episodes.episode(pick(data.scene_cutouts, rng), 2, SHOTS, rng))


def made_up_words_by_name(data: KitData, rng) -> Example:
    """The same with an answer in two steps: the English name of what the query shows, then the made-up word."""
    episode = episodes.episode(pick(data.scene_cutouts, rng), 2, SHOTS, rng)
    return objectives.made_up_words(episode, first=(data.scene_names[episode.query_kind], "en"))


def four_exemplars(data: KitData, rng) -> Example:
    """Any two objects and two of thousands of made-up words, half of the time in two steps."""
    return _exemplars(data, rng, SHOTS)


def two_exemplars(data: KitData, rng) -> Example:
    """`four_exemplars` with one of each object."""
    return _exemplars(data, rng, 2)


def names_by_word(data: KitData, rng) -> Example:
    """`two_exemplars`, asked the other way round: a word, and the answer is the name of what it stands for. A name says
    more than one of two words does, so this teaches faster which word belongs to which picture."""
    episode, rows = _episode(data, rng, 2)
    named = dict(zip(episode.words, episode.kinds, strict=True))
    word = pick(episode.words, rng)
    return objectives.named_by_word(episode, word, data.emoji.names["en"][rows[named[word]]])


def _exemplars(data: KitData, rng, shots: int) -> Example:
    episode, rows = _episode(data, rng, shots)
    first = (data.emoji.names["en"][rows[episode.query_kind]], "en") if rng.integers(2) else None
    return objectives.made_up_words(episode, first=first)


def _episode(data: KitData, rng, shots: int) -> tuple[episodes.Episode, np.ndarray]:
    """(episode of two objects, the rows of its kinds)"""
    rows = rng.choice(data.object_rows, 2, replace=False)
    cutouts = [data.drawing(row, rng) for row in rows]
    return episodes.episode(cutouts, 2, shots, rng, words=episodes.nonsense(2)), rows


def recall(data: KitData, rng) -> Example:
    """Two to five names of objects with a word each, then one of the names -> its word. Looking up in the prompt, which
    few-shot prompts with pictures need, too, can be learned from texts, and these are short."""
    number, language = rng.integers(2, 6), pick(tuple(captioned.LANGUAGES), rng)
    return _recall(data, rng.choice(data.object_rows, number, replace=False), language, data.short_words, rng)


def recalls_by_picture(data: KitData, rng) -> list[Example]:
    """The same with a picture in place of the last name, in several languages: what is seen is looked up among what is
    read. In few-shot prompts what is looked up is seen, too."""
    image, row = pictured(data, data.object_rows, rng)
    examples = []
    for language in several(data.languages[row], rng):
        others = rng.choice(data.object_rows, rng.integers(2, 4), replace=False)
        examples.append(_recall(data, [row, *others], language, episodes.nonsense(2), rng, image))
    return examples


def _recall(data: KitData, rows: Sequence[int], language: str, words: Sequence[str], rng, image=None) -> Example:
    """rows: the first is asked for; the image, if there is one, shows it."""
    names = list(dict.fromkeys(data.emoji.names[language][row] for row in rows))  # two things may share a name
    drawn = [words[i] for i in rng.choice(len(words), len(names), replace=False)]
    asked = rng.integers(len(names))
    names[0], names[asked] = names[asked], names[0]
    return objectives.recall(names, drawn, asked, language, image)


def episodic_vqa(data: KitData, rng) -> Example:
    """New words for two objects, or five questions of easy-VQA."""
    if rng.integers(2):
        return four_exemplars(data, rng)
    easy, rows = data.questions, rng.integers(len(data.questions), size=SHOTS + 1)
    questions, answers = ([texts[row] for row in rows] for texts in (easy.questions, easy.answers))
    return objectives.episodic_vqa(easy.images[easy.image_index[rows]], questions, answers, "en")
