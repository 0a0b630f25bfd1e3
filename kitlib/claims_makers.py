"""What the small models of `claims_palix` are shown and asked: the kit's tasks, some in easier forms.

makers()["captioning"](rng)        # things with 48 names in three languages, where the kit's have 417 in sixteen
exams()["captioning"]              # the same, with its metric
"""

import functools
from dataclasses import replace

import numpy as np

from kitlib import boxes, clips, data, mixture, pictures, rendered, scenes, tasks, tokenizer
from kitlib.answer_metrics import exact_match
from kitlib.palix_scores import Task, ap50, drawn, exact
from kitlib.tasks import without_prefix

SMALL = 96  # pixels of a picture whose letters are too small once it is shrunk to 64
SPOKEN = ("en", "de", "ja")  # what things are called in the studies
FRAMES = (2, 4, 8, 16)  # of the 16 moments of a film
PASSING = 3  # moments in a row in which a thing is there
# Asked with and without their prefix, which alone tells the language of the first two.
BARE = ("captioning", "naming", "question_generation", "object_aware_vqa")
REPEATED = ("easy_vqa", "naming")  # prompts without a sentinel


# ---------------------------------------------------------------------------------------------- what is shown


@functools.cache
def makers(split: str = "train") -> dict:
    """`mixture.kit_makers`, with fewer names, and those of the studies."""
    cutouts, names = scenes.objects(split)
    emoji = pictures.emoji(split)
    rows = [emoji.names["en"].index(name) for name in names]

    def pick(items, rng):
        return items[rng.integers(len(items))]

    def named(rng):
        """A picture of a thing of `scenes.objects`, its name, the language. Of 417 things in sixteen languages a small
        model named none after 6,400 captions."""
        i, language = rng.integers(len(names)), pick(SPOKEN, rng)
        return mixture.placed(cutouts[i], rng)[0], emoji.names[language][rows[i]], language

    def naming(rng):
        image, name, language = named(rng)
        return tasks.vqa(image, tasks.WHAT, name, language)

    kit = mixture.kit_makers(split) | {"captioning": lambda rng: tasks.captioning(*named(rng)), "naming": naming}

    def counting(rng):
        scene, subject = countable(cutouts, rng)
        return tasks.vqa(scene.image, *scenes.ask(scene, names, subject, rng)["count"], "en")

    def read(rng, *size):
        """One of `few_words`."""
        word = pick(few_words(), rng)
        return tasks.split_ocr(rendered.line(word, rng, *size)[0], [word], "en", 0)

    def two_words(rng, with_text: bool):
        """A question about the order of two words, with the text of the picture in the prompt or without."""
        image, texts, _ = rendered.scattered(rng.choice(few_words(), 2, replace=False).tolist(), rng, scenes.SIZE)
        which = rng.integers(2)
        question = f"which word is {('first', 'last')[which]}?"
        return tasks.vqa(image, question, texts[which], "en", ocr=" ".join(texts) if with_text else "")

    def shown_language(rng):
        """Four pictures with their names and one more to name: the names tell the language, no prefix does."""
        language, chosen = pick(SPOKEN, rng), rng.choice(len(names), mixture.SHOTS + 1, replace=False)
        said = [emoji.names[language][rows[i]] for i in chosen]
        images = [mixture.placed(cutouts[i], rng)[0] for i in chosen]
        return without_prefix(tasks.episodic_captioning(images, said, language))

    def passing(rng, frames: int):
        """Evenly spaced frames of a film in which a thing passes, perhaps between two of them."""
        i, first, ground = rng.integers(len(names)), rng.integers(max(FRAMES) - PASSING + 1), scenes.background(rng)
        velocity = [list(clips.WAYS.values())[rng.integers(4)]]
        film = np.repeat(ground[None], max(FRAMES), axis=0)
        passed = clips.film(cutouts, [i], velocity, PASSING, rng, sides=(20, 28), ground=ground)
        film[first : first + PASSING] = passed.frames
        step = max(FRAMES) // frames
        return tasks.vqa(film[step // 2 :: step], "what passes?", names[i], "en")

    def bare(maker):
        return lambda rng: without_prefix(kit[maker](rng))

    def repeated(maker, loss: bool):
        """The decoder writes the prompt, with or without loss, and then the answer."""

        def make(rng):
            example = kit[maker](rng)
            return replace(example, target=((example.prompt, loss), (f" {example.answer}", True)))

        return make

    return kit | {
        "word": read,
        "small_word": lambda rng: read(rng, SMALL, rendered.SMALLEST),
        "words_with_text": lambda rng: two_words(rng, True),
        "words_alone": lambda rng: two_words(rng, False),
        "counting": counting,
        "shown_language": shown_language,
        "few_counting": lambda rng: counting(data.keyed_rng(7, rng.integers(200))),
        **{f"film_{n}": functools.partial(passing, frames=n) for n in FRAMES},
        **{f"bare_{name}": bare(name) for name in BARE},
        **{f"told_{name}": repeated(name, True) for name in REPEATED},
        **{f"asked_{name}": repeated(name, False) for name in REPEATED},
    }


def countable(cutouts, rng) -> tuple[scenes.Scene, int]:
    """(scene, the kind to be counted): nought to four of it, as many as there can be boxes in detection."""
    indices, subject = scenes.contents(len(cutouts), rng, mixture.BOXES)
    return scenes.compose(cutouts, indices, mixture.SIDES, rng), subject


@functools.cache
def few_words() -> list[str]:
    """The 67 English words of three to five small letters that are one token. Of all words of eight languages, a small
    model learned to read one letter in twenty."""
    encode = tokenizer.multilingual().encode
    words = rendered.words("train")["en"]
    return [word for word in words if word.islower() and 3 <= len(word) <= 5 and len(encode(f" {word}")) == 1]


# ---------------------------------------------------------------------------------------------- what is asked


def counted_boxes(predictions, examples) -> np.ndarray:
    """float[B] of 0 and 1: are as many boxes written as there are things, whatever their places?"""
    counts = [[sum(name != boxes.NOISE for name in boxes.from_text(text)[1]) for text in texts]
              for texts in (predictions, [example.answer for example in examples])]  # fmt: skip
    return np.equal(*counts).astype(float)


def behind_the_prompt(predictions, examples) -> np.ndarray:
    """float[B] of 0 and 1: is what follows the prompt the answer?"""
    pairs = zip(predictions, examples, strict=True)
    said = [text.removeprefix(example.target[0][0]).strip() for text, example in pairs]
    return exact_match(said, [example.target[1][0].strip() for example in examples])


def name_of_any_picture(predictions, examples) -> np.ndarray:
    """float[B] of 0 and 1: is it what the query is called, or what an exemplar is called?"""
    pairs = zip(predictions, examples, strict=True)
    return np.array([text in (example.answer, *example.prompt[:-1]) for text, example in pairs], float)


def boxes_of_one_kind(count: int, seed: int) -> list:
    """Scenes as for counting, with the prompt of detection for the kind that would be counted."""
    cutouts, names = scenes.objects("train")
    out = []
    for i in range(count):
        rng = data.keyed_rng(seed, i)
        scene, subject = countable(cutouts, rng)
        found = [names[kind] for kind in scene.indices]
        out.append(tasks.detection(scene.image, scene.boxes, found, [names[subject]], rng, mixture.BOXES))
    return out


def exams() -> dict[str, Task]:
    """By name; the unit is in the name of the metric's column."""
    plain = ("captioning", "naming", "counting", "object_aware_vqa", "question_generation", "made_up_words")
    plain += ("word", "small_word", "words_with_text", "words_alone", "shown_language")
    found = {name: (drawn(makers, name), exact) for name in (*plain, *(f"film_{n}" for n in FRAMES))}
    found |= {f"bare_{name}": (drawn(makers, f"bare_{name}"), exact) for name in BARE}
    found |= {"asked_naming": (drawn(makers, "asked_naming"), behind_the_prompt)}
    found |= {"asked_easy_vqa": (drawn(makers, "asked_easy_vqa", "test"), behind_the_prompt)}
    found |= {"detection": (drawn(makers, "detection"), ap50)}
    found |= {"easy_vqa": (drawn(makers, "easy_vqa", "test"), exact)}
    found |= {"made_up_words, unseen": (drawn(makers, "made_up_words", "test"), exact)}
    found |= {"of any picture": (drawn(makers, "shown_language"), name_of_any_picture)}
    found |= {"counted boxes": (boxes_of_one_kind, counted_boxes)}
    return {name: Task(name, make, metric) for name, (make, metric) in found.items()}
