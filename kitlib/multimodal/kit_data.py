"""The data that the kit's own multimodal examples are drawn from, and which names no picture teaches.

    data = kit_data("train")
    image, box = place_on_background(data.drawing(0, rng), rng)
    by_text_alone("1F415", "fr")         # whether the French name of a dog is only ever taught by translation

Names are held out to test transfer between languages. Half of the sixteen languages are taught every name with
pictures. In the other half, `BY_TEXT`, a quarter of the objects are named in texts alone ("what is dog?", answered in
French): no picture of such an object comes with its name in that language, neither as an answer nor in a prompt (but
for a gap that `example_builders.few_shot` describes). To name it from a picture, what the model sees and what it reads
must have met. Which quarter depends on the object's code and the language, so it differs between languages.
"""

import contextlib
import functools
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kitlib.configs.arguments import one_of
from kitlib.data import captioned, files, glosses, tokenizer
from kitlib.multimodal.prompts import CODES
from kitlib.synthetic import episodes, named_pictures, rendered_text, scenes
from kitlib.synthetic.scenes import SIZE

SHOTS = 4  # exemplars before the query, as PaLI-X is prompted
BY_TEXT = ("fr", "pt", "it", "el", "tr", "hi", "ko", "vi")  # half of the languages, half of the scripts
ONE_IN = 4  # objects per such language


def by_text_alone(code: str, language: str) -> bool:
    """Whether no picture of the object with this code (of `captioned.Emoji.codes`) has its name in this language.

    Raises ValueError for an unknown language.
    """
    digest = hashlib.sha256(f"{code} {CODES[language]}".encode()).hexdigest()
    return language in BY_TEXT and int(digest, 16) % ONE_IN == 0


def languages_with_pictures(code: str) -> tuple[str, ...]:
    """The languages in which this object is named with pictures: 8 to 16 of them."""
    return tuple(language for language in captioned.LANGUAGES if not by_text_alone(code, language))


@dataclass(frozen=True, eq=False)
class KitData:
    """The data of one split, from which the builders draw.

    Attributes:
        emoji: all emoji with their names and keywords.
        object_rows: the rows of emoji that captioning and naming use (see `object_rows`).
        drawn: per emoji, its cut-outs uint8[32, 32, 4]; objects in every taught style, all others in Noto's.
        languages: per emoji, the languages in which it is named with pictures (`languages_with_pictures`).
        questions: easy-VQA.
        texts: the glosses.
        scene_cutouts: per taught style, uint8[K, 32, 32, 4], the K objects of scenes and videos; Noto's come first and
            stand in where a style lacks an object.
        scene_names, scene_rows: their English names, their emoji rows.
        vocabularies: (language, words to read, those of them that are short enough for receipts).
        more_words: words of further languages, in the same letters.
        short_words: those of them that are short and of few pieces: names that a prompt gives to objects.
        related: groups of more than `SHOTS` rows of `object_rows` that share an English keyword.
    """

    emoji: captioned.Emoji
    object_rows: list[int]
    drawn: list[list[np.ndarray]]
    languages: list[tuple[str, ...]]
    questions: captioned.EasyVqa
    texts: list[str]
    scene_cutouts: list[np.ndarray]
    scene_names: Sequence[str]
    scene_rows: list[int]
    vocabularies: list[tuple[str, Sequence[str], list[str]]]
    more_words: Sequence[str]
    short_words: list[str]
    related: list[list[int]]

    def drawing(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """A cut-out uint8[32, 32, 4] of an emoji in one of its styles, varied."""
        return named_pictures.varied(pick(self.drawn[row], rng), rng)


@functools.cache
def kit_data(split: str = "train") -> KitData:
    """The data of "train" or "test". Test objects have Noto's style alone and are named in all languages.

    Raises ValueError for another split, as easy-VQA and the glosses have no third.
    """
    one_of("split of all the kit's data", split, ("train", "test"))
    emoji, rows, training = captioned.emoji(split), object_rows(split), split == "train"
    drawn = [[cutout] for cutout in scenes.cut_outs(emoji.images)]
    scene_rows = [emoji.names["en"].index(name) for name in scenes.EASY[split]]
    scene_cutouts = [np.stack([drawn[row][0] for row in scene_rows])]
    if training:
        for row, cutouts in zip(rows, named_pictures.cutouts(rows), strict=True):
            drawn[row] = cutouts
        for style in captioned.TAUGHT[1:]:
            in_style = named_pictures.cutouts(scene_rows, ("noto", style))
            scene_cutouts.append(np.stack([cutouts[-1] for cutouts in in_style]))
    vocabularies = [
        (language, words, [word for word in words if len(word) <= 5])  # longer words do not fit into 64 pixels
        for language, words in rendered_text.words(split).items()
        if language in captioned.LANGUAGES
    ]
    more_words, sharing = rendered_text.more_words(split), defaultdict(list)
    for row in rows:
        for keyword in emoji.keywords["en"][row]:
            sharing[keyword].append(row)
    return KitData(
        emoji=emoji,
        object_rows=rows,
        drawn=drawn,
        languages=[languages_with_pictures(c) if training else tuple(captioned.LANGUAGES) for c in emoji.codes],
        questions=captioned.easy_vqa(split),
        texts=glosses(split),
        scene_cutouts=scene_cutouts,
        scene_names=scenes.EASY[split],
        scene_rows=scene_rows,
        vocabularies=vocabularies,
        more_words=more_words,
        short_words=_short(more_words),
        related=[group for group in sharing.values() if len(group) > SHOTS],
    )


def _short(words: Sequence[str]) -> list[str]:
    """The words of 3 to 7 lower-case letters and at most three pieces, without the made-up ones of the tests."""
    encode, made_up = tokenizer.multilingual().encode, set(episodes.nonsense())
    fitting = [word for word in words if 3 <= len(word) <= 7 and word.islower() and word not in made_up]
    return [word for word in fitting if len(encode(f" {word}")) <= 3]


@functools.cache
def codebook() -> np.ndarray:
    """uint8[128, 8, 8, 3], the kit's visual tokens: k-means over 8,000 patches of 500 scenes of the training split.

    It was learned once and belongs to the released model, which writes its codes.
    """
    content = files.read_checked(files.data_folder(), "visual_codebook.npz")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["codebook"]


def object_rows(split: str) -> list[int]:
    """Rows of `captioned.emoji(split)` whose English name is a single word, or that are in `scenes.EASY`.

    They are 417 of 1,235 in training, 83 of 186 for the test. The others would be 13,000 more names to memorise.
    """
    names = captioned.emoji(split).names["en"]
    return [i for i, name in enumerate(names) if " " not in name or name in scenes.EASY[split]]


def place_on_background(
    cutout, rng: np.random.Generator, sides: tuple[int, int] = (28, SIZE)
) -> tuple[np.ndarray, np.ndarray]:
    """uint8[32, 32, 4] of `scenes.cut_outs` -> (uint8[64, 64, 3], box float64[4]), the box of the whole cut-out.

    The cut-out is resized to a random side in pixels (`sides`: smallest, largest) and put at a random position, on
    white in one of four images, else on a `scenes.random_background`. So few emoji make many images, and the images of
    a test can be new although the objects in them are known.
    """
    side = int(rng.integers(sides[0], sides[1] + 1))
    background = np.full((SIZE, SIZE, 3), 255, np.uint8) if rng.integers(4) == 0 else scenes.random_background(rng)
    top, left = rng.integers(0, SIZE - side + 1, 2)
    enlarged = np.array(Image.fromarray(cutout).resize((side, side), Image.Resampling.BILINEAR)).astype(np.float64)
    alpha, window = enlarged[..., 3:] / 255, background[top : top + side, left : left + side]
    window[:] = np.rint(alpha * enlarged[..., :3] + (1 - alpha) * window)
    return background, np.array([top, left, top + side, left + side]) / SIZE


def pick(items: Sequence, rng: np.random.Generator):
    """One of the items, all equally likely."""
    return items[rng.integers(len(items))]


def retry_until_fits(draw: Callable, tries: int = 100):
    """The result of the first call of draw() that raises no ValueError; after `tries` calls the last error is raised.

    For pages and receipts: whether one fits into its image is only known once it is laid out.
    """
    for _ in range(tries - 1):
        with contextlib.suppress(ValueError):
            return draw()
    return draw()
