"""Mixtures of objectives: training example i is a pure function of (seed, i), so a run resumes at any i.

    makers = kit_makers("train")                                       # one function an objective: rng -> Example
    stage1 = Mixture(makers, {"captioning": 4, "vqa": 1, "detection": 1})
    stage1.draw(7)                                                     # the same whatever was drawn before
    everything = Mixture(makers, dict.fromkeys(tasks.PREFIXES, 1))     # all thirteen, equally often

The weights of PaLI-X (arXiv 2305.18565) are in no text that was found; its second stage has split_ocr,
screenshot_to_markup and detection alone. The kit's data are small and made here, all in pictures of 64 x 64: emoji,
each anywhere on a ground of its own; scenes and films of emoji; easy-VQA; rendered words, pages and receipts.
"""

import contextlib
import difflib
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kitlib import clips, data, episodes, pictures, rendered, scenes, tasks, visual_tokens
from kitlib.scenes import SIZE
from kitlib.tasks import BETWEEN, WHAT, Example

Maker = Callable[[np.random.Generator], Example]

FRAMES = 4  # of a film, as in PaLI-X
SHOTS = 4  # exemplars before the query, as PaLI-X is asked
OBJECTS, SIDES = 4, (12, 24)  # in a scene, at most; the longer side of each in pixels
FOUND, LARGE = 2, (16, 28)  # the same for detection: few and large, of more and smaller ones little was learned
BOXES = 4  # that are written down for it, those of noise included
OCR_WORDS = 12  # of a receipt in the prompt; none has more
GRID, HIDDEN = (8, 8), 0.25  # cells of 8 x 8 pixels; the share of them that is hidden
ENTRIES = 128  # of the codebook


@dataclass(frozen=True, eq=False)
class Mixture:
    """Objectives that take turns at random.

    Attributes:
        makers: what makes an example of each objective from a generator.
        weights: how often each comes, relative to the others, 0 or more; those left out never do.
        seed: another seed, other examples.

    Raises ValueError for a weight that no maker has, that is negative or not finite, and for none above 0.
    """

    makers: Mapping[str, Maker]
    weights: Mapping[str, float]
    seed: int = 0

    def __post_init__(self):
        for name, weight in self.weights.items():
            if name not in self.makers:
                near = difflib.get_close_matches(str(name), self.makers, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"There is no maker {name!r}: {hint}There are: {', '.join(self.makers)}.")
            if not 0 <= weight < np.inf:
                raise ValueError(f"The weight of {name} is {weight}; expected 0 or a finite number above.")
        if not any(self.weights.values()):
            raise ValueError("No objective has a weight above 0, so there is nothing to draw.")

    def draw(self, i: int) -> Example:
        """The i-th example, i = 0, 1, ... The order in which the weights were written down does not matter."""
        rng = data.keyed_rng(self.seed, i)
        names = sorted(self.weights)
        weights = np.array([self.weights[name] for name in names], np.float64)
        return self.makers[rng.choice(names, p=weights / weights.sum())](rng)


def motion(clip: clips.Clip, names: Sequence[str]) -> str:
    """The caption of a film, in English: "cat stands still ; dog moves left", in the order of the alphabet."""
    ways = {direction: way for way, direction in clips.WAYS.items()}
    told = []
    for kind, velocity in zip(clip.indices, clip.velocities, strict=True):
        way = ways.get(tuple(np.sign(velocity).tolist()))
        told.append(f"{names[kind]} moves {way}" if way else f"{names[kind]} stands still")
    return BETWEEN.join(sorted(told, key=str.lower))


@functools.cache
def codebook() -> np.ndarray:
    """uint8[128, 8, 8, 3], learned from 500 scenes of the training split when it is first asked for: a few seconds.

    k-means is exact. But scenes have a sine in their background, whose last bit may differ between processors, so the
    codebook may, too: compare codes of one machine only.
    """
    cutouts, names = scenes.objects("train")
    images = [_scene(cutouts, names, data.keyed_rng(0, i)).image for i in range(500)]
    patches = visual_tokens.cut(np.stack(images), SIZE // GRID[0])
    patches, rng = patches.reshape(-1, *patches.shape[3:]), data.keyed_rng(1)
    some = rng.choice(len(patches), 8000, replace=False)  # a quarter: all of them would take four times as long
    return visual_tokens.learn(patches[some], ENTRIES, rng, steps=20)


def kit_makers(split: str = "train") -> dict[str, Maker]:
    """A maker for each objective, from the kit's own data of a split, "train" or "test"; and parts of them, and tasks.

    captioning, split_captioning
        `things`, `placed`, and their names in the 16 languages. Split captions are of all emoji: names of several units
        are what can be split; those of one unit are split at 0.
    episodic_captioning
        Five things that share an English keyword, in one language: episodes of loosely related pairs.
    vqa, question_generation
        easy-VQA or a receipt, in English. For vqa also: what is this? with the name of a thing in any language.
    easy_vqa, receipts, naming
        The parts of vqa, each by itself, with its task. Half of the questions about a receipt come with its text.
    episodic_vqa
        Made-up words for two kinds, or five questions of easy-VQA.
    made_up_words, two_exemplars
        The first half of these, with `SHOTS` exemplars or two.
    object_aware_vqa, detection, masked_tokens
        Scenes. Detection asks for the kinds that are there and an absent one, in any language, and has noise.
    video_captioning
        Films of four frames, by `motion`.
    counting, video_questions
        Scenes, how many: dog? Films, by `clips.make`. Their task is vqa; neither is an objective of the mixture: models
        are fine-tuned on them.
    split_ocr, screenshot_to_markup
        One to four words, half of the time one, from any position; pages, of which only those with few rows fit.
    span_corruption
        The glosses, in English.

    Raises ValueError for another split: easy-VQA and glosses have no third.
    """
    if split not in ("train", "test"):
        raise ValueError(f"There is no split {split!r} of all the kit's data: use 'train' or 'test'.")
    emoji, questions, glosses = pictures.emoji(split), pictures.easy_vqa(split), data.glosses(split)
    everything = scenes.cut_outs(emoji.images)
    cutouts, names = scenes.objects(split)
    rows = [emoji.names["en"].index(name) for name in names]
    # Receipts with longer words do not fit into 64 pixels.
    vocabularies = [
        (language, listed, [word for word in listed if len(word) <= 5])
        for language, listed in rendered.words(split).items()
        if language in pictures.LANGUAGES
    ]
    named, sharing = things(split), defaultdict(list)
    for i in named:
        for keyword in emoji.keywords["en"][i]:
            sharing[keyword].append(i)
    groups = [group for group in sharing.values() if len(group) > SHOTS]

    def pick(items, rng):
        return items[rng.integers(len(items))]

    def language_of(rng):
        return pick(list(pictures.LANGUAGES), rng)

    def captioned(rows, rng):
        i, language = pick(rows, rng), language_of(rng)
        return placed(everything[i], rng)[0], emoji.names[language][i], language

    def easy_question(rng):
        i = rng.integers(len(questions))
        return questions.images[questions.image_index[i]], questions.questions[i], questions.answers[i], ()

    def receipt_question(rng):
        # Few receipts, one in some thousands, do not fit.
        image, texts, pairs = fitting(lambda: rendered.receipt(pick(vocabularies, rng)[2], rng, SIZE))
        return image, *pick(pairs, rng), texts

    def asked(rng):
        """(picture, question, answer, texts of the picture)"""
        return (easy_question if rng.integers(2) else receipt_question)(rng)

    def answered(image, question, answer, texts, rng):
        ocr = tasks.first_words(texts, OCR_WORDS)[0] if texts and rng.integers(2) else ""
        return tasks.vqa(image, question, answer, "en", ocr=ocr)

    def filmed(rng):
        return clips.make(pick(clips.TASKS, rng), cutouts, names, FRAMES, rng)

    def span_corruption(rng):
        return tasks.span_corruption(pick(glosses, rng), rng)

    def split_captioning(rng):
        image, caption, language = captioned(range(len(emoji)), rng)
        position = tasks.draw_position(len(tasks.units(caption, language)), rng)
        return tasks.split_captioning(image, caption, language, position)

    def captioning(rng):
        return tasks.captioning(*captioned(named, rng))

    def split_ocr(rng):
        language, words, _ = pick(vocabularies, rng)
        chosen = [pick(words, rng) for _ in range(min(rng.geometric(0.5), 4))]
        image, texts, _ = rendered.scattered(chosen, rng, SIZE)
        return tasks.split_ocr(image, texts, language, rng.integers(len(texts)))

    def easy_vqa(rng):
        return answered(*easy_question(rng), rng)

    def receipts(rng):
        return answered(*receipt_question(rng), rng)

    def naming(rng):
        image, name, language = captioned(named, rng)
        return tasks.vqa(image, WHAT, name, language)

    def vqa(rng):
        return pick((easy_vqa, receipts, naming), rng)(rng)

    def question_generation(rng):
        image, question, answer, _ = asked(rng)
        return tasks.question_generation(image, question, answer, "en")

    def object_aware_vqa(rng):
        return tasks.object_aware_vqa(_scene(cutouts, names, rng), names, rng)

    def episodic_captioning(rng):
        chosen, language = rng.choice(pick(groups, rng), SHOTS + 1, replace=False), language_of(rng)
        captions = [emoji.names[language][i] for i in chosen]
        return tasks.episodic_captioning([placed(everything[i], rng)[0] for i in chosen], captions, language)

    def made_up_words(rng, shots=SHOTS):
        return tasks.made_up_words(episodes.episode(cutouts, 2, shots, rng))

    def episodic_vqa(rng):
        if rng.integers(2):
            return made_up_words(rng)
        chosen = rng.integers(len(questions), size=SHOTS + 1)
        texts = ([listed[i] for i in chosen] for listed in (questions.questions, questions.answers))
        return tasks.episodic_vqa(questions.images[questions.image_index[chosen]], *texts, "en")

    def screenshot_to_markup(rng):
        words = pick(vocabularies, rng)[1]
        return tasks.screenshot_to_markup(*fitting(lambda: rendered.page(words, rng, SIZE)))  # one in three fits

    def video_captioning(rng):
        clip = filmed(rng)[0]
        return tasks.video_captioning(clip.frames, motion(clip, names), "en")

    def counting(rng):
        indices, subject = scenes.contents(len(names), rng)
        scene = scenes.compose(cutouts, indices, (10, 20), rng)
        return tasks.vqa(scene.image, *scenes.ask(scene, names, subject, rng)["count"], "en")

    def video_questions(rng):
        clip, question, answer = filmed(rng)
        return tasks.vqa(clip.frames, question, answer, "en")

    def detection(rng):
        scene, translated = _scene(cutouts, names, rng, FOUND, LARGE), emoji.names[language_of(rng)]
        local = [translated[row] for row in rows]
        here = set(scene.indices.tolist())
        wanted = rng.permutation([*here, pick(sorted(set(range(len(names))) - here), rng)])
        found = [local[i] for i in scene.indices]
        return tasks.detection(scene.image, scene.boxes, found, [local[i] for i in wanted], rng, BOXES)

    def masked_tokens(rng):
        scene = _scene(cutouts, names, rng)
        return tasks.masked_tokens(scene.image, visual_tokens.mask(GRID, HIDDEN, rng), codebook())

    makers = (
        span_corruption, split_captioning, captioning, split_ocr, vqa, question_generation, object_aware_vqa,
        episodic_captioning, episodic_vqa, screenshot_to_markup, video_captioning, detection, masked_tokens, easy_vqa,
        receipts, naming, made_up_words, counting, video_questions,
    )  # fmt: skip
    two_exemplars = functools.partial(made_up_words, shots=2)
    return {maker.__name__: maker for maker in makers} | {"two_exemplars": two_exemplars}


def things(split: str) -> list[int]:
    """Rows of `pictures.emoji(split)` that are named: by one word in English, or because they are in `scenes.EASY`.

    417 of 1,235 in training, 83 of 186 for the test. The others would be 13,000 names more to learn by heart.
    """
    names = pictures.emoji(split).names["en"]
    return [i for i, name in enumerate(names) if " " not in name or name in scenes.EASY[split]]


def fitting(draw: Callable, tries: int = 100):
    """What draw() returns, the first time that it raises no ValueError; the last error if it always does.

    For pages and receipts: whether one fits into its picture is known once it is laid out.
    """
    for _ in range(tries - 1):
        with contextlib.suppress(ValueError):
            return draw()
    return draw()


def placed(cutout, rng: np.random.Generator, sides: tuple[int, int] = (28, SIZE)) -> tuple[np.ndarray, np.ndarray]:
    """uint8[32, 32, 4] of `scenes.cut_outs` -> (uint8[64, 64, 3], box float64[4]): enlarged to a random side (smallest,
    largest) of the whole cut-out in pixels, at a random place, on white in one of four pictures, else on a
    `scenes.background`. The box is that of the whole cut-out.

    So few emoji make many pictures, and those of a test can be new though the thing in them is known.
    """
    side = int(rng.integers(sides[0], sides[1] + 1))
    ground = np.full((SIZE, SIZE, 3), 255, np.uint8) if rng.integers(4) == 0 else scenes.background(rng)
    top, left = rng.integers(0, SIZE - side + 1, 2)
    thing = np.array(Image.fromarray(cutout).resize((side, side), Image.Resampling.BILINEAR)).astype(np.float64)
    share, window = thing[..., 3:] / 255, ground[top : top + side, left : left + side]
    window[:] = np.rint(share * thing[..., :3] + (1 - share) * window)
    return ground, np.array([top, left, top + side, left + side]) / SIZE


def _scene(cutouts, names: Sequence[str], rng: np.random.Generator, most=OBJECTS, sides=SIDES) -> scenes.Scene:
    return scenes.compose(cutouts, scenes.contents(len(names), rng, most)[0], sides, rng)
