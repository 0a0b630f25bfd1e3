"""Few-shot examples: exemplars with pictures in the prompt, and names with a word each to look up.

    made_up_words(data, rng)             # "what is this? dax ; what is this? zug ; what is this?" with three images
    recall(data, rng)                    # "what is Hund? vuck ; what is Apfel? gub ; what is Hund?", a text
    repeated_pairs(data, rng)            # "dog dax ; cat zug ; dog dax ; dog dax ; cat zug", the target of a text

To answer a few-shot prompt, a model has to know which word belongs to which image, to find the exemplar that looks like
the query, and to copy its word. A small model learns the first two late. So in half of the prompts of the training it
is asked to say all of it, image by image: "dog ; dax ; cat ; zug ; dog ; dax". From the stage "shots" on, a word stands
right behind its name, "dog dax ; cat zug ; dog dax": then its last step is to repeat what followed a name before, which
texts alone can teach (`repeated_pairs`). Words for all this must be many: 52 are memorised.
"""

from collections.abc import Sequence

from kitlib.data import captioned
from kitlib.multimodal import objectives
from kitlib.multimodal.example_builders import languages_of
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
    """Exemplars that name two kinds of objects by made-up words, then a query. The words are few enough to be
    memorised, but their meaning is drawn again for every prompt."""
    return objectives.made_up_words(episodes.episode(pick(data.scene_cutouts, rng), 2, SHOTS, rng))


def made_up_words_by_name(data: KitData, rng) -> Example:
    """The same with an answer that names what every image shows, in English, each name with its made-up word."""
    episode = episodes.episode(pick(data.scene_cutouts, rng), 2, SHOTS, rng)
    return objectives.made_up_words(episode, names=data.scene_names, joint=" ")


def two_made_up_words_by_name(data: KitData, rng) -> Example:
    """The same with one exemplar of each kind."""
    episode = episodes.episode(pick(data.scene_cutouts, rng), 2, 2, rng)
    return objectives.made_up_words(episode, names=data.scene_names, joint=" ")


def four_exemplars(data: KitData, rng) -> Example:
    """Any two objects and two of thousands of words that mean nothing here: made-up ones of two syllables, or short
    ones of other languages. Half of the time the answer names every image.

    Not quite nothing: of the 3,497 short words 70 are Turkish or Vietnamese names of things that the kit names, and 20
    of these are held out from pictures (`held_out`). To leave them out would be another training than the released one.
    """
    return _exemplars(data, rng, SHOTS)


def two_exemplars(data: KitData, rng) -> Example:
    """`four_exemplars` with one of each object."""
    return _exemplars(data, rng, 2)


def two_exemplars_by_name(data: KitData, rng) -> Example:
    """`two_exemplars` with an answer that names every image, each name with its word right behind it."""
    return _exemplars_by_name(data, rng, 2)


def four_exemplars_by_name(data: KitData, rng) -> Example:
    """The same with four exemplars."""
    return _exemplars_by_name(data, rng, SHOTS)


def _exemplars(data: KitData, rng, shots: int) -> Example:
    episode, names = _episode(data, data.object_rows, rng, shots)
    return objectives.made_up_words(episode, names=names if rng.integers(2) else None)


def _exemplars_by_name(data: KitData, rng, shots: int) -> Example:
    """Half of the time of the objects of scenes, with which few-shot prompts are tested."""
    episode, names = _episode(data, pick((data.object_rows, data.scene_rows), rng), rng, shots)
    return objectives.made_up_words(episode, names=names, joint=" ")


def _episode(data: KitData, rows: Sequence[int], rng, shots: int) -> tuple[episodes.Episode, list[str]]:
    """(episode of two of the rows, their English names)"""
    rows = rng.choice(rows, 2, replace=False)
    words = _words(data, rng)
    episode = episodes.episode([data.drawing(row, rng) for row in rows], 2, shots, rng, words=words)
    return episode, [data.emoji.names["en"][row] for row in rows]


def _words(data: KitData, rng) -> Sequence[str]:
    return episodes.nonsense(2) if rng.integers(2) else data.short_words


def repeated_pairs(data: KitData, rng) -> Example:
    """Two to four names with a word each, four pairs in all, and then eight times one of them again."""
    return _repeated(data, data.object_rows, _words(data, rng), rng)


def repeated_made_up_words(data: KitData, rng) -> Example:
    """The same with the names and the words of `made_up_words`."""
    return _repeated(data, data.scene_rows, episodes.nonsense(), rng)


def _repeated(data: KitData, rows: Sequence[int], vocabulary: Sequence[str], rng) -> Example:
    rows = rng.choice(rows, rng.integers(2, SHOTS + 1), replace=False)
    names = [data.emoji.names["en"][row] for row in rows]
    words = [vocabulary[i] for i in rng.choice(len(vocabulary), len(names), replace=False)]
    pairs = list(zip(names, words, strict=True))
    listed = [
        pairs[i] for i in rng.permutation([*range(len(pairs)), *rng.integers(len(pairs), size=SHOTS - len(pairs))])
    ]
    return objectives.repeated_pairs(listed, [pick(pairs, rng) for _ in range(8)])


def recall(data: KitData, rng) -> Example:
    """Two to five names of objects with a word each, then one of the names -> its word. Looking up in the prompt, which
    few-shot prompts with pictures need, too, can be learned from texts, and these are short."""
    rows, language = (
        rng.choice(data.object_rows, rng.integers(2, 6), replace=False),
        pick(tuple(captioned.LANGUAGES), rng),
    )
    names = [data.emoji.names[language][row] for row in rows]
    words = [data.short_words[i] for i in rng.choice(len(data.short_words), len(names), replace=False)]
    return objectives.recall(names, words, rng.integers(len(names)), language)


def episodic_vqa(data: KitData, rng) -> Example:
    """New words for two objects, or five questions of easy-VQA."""
    if rng.integers(2):
        return four_exemplars(data, rng)
    easy, rows = data.questions, rng.integers(len(data.questions), size=SHOTS + 1)
    questions, answers = ([texts[row] for row in rows] for texts in (easy.questions, easy.answers))
    return objectives.episodic_vqa(easy.images[easy.image_index[rows]], questions, answers, "en")
