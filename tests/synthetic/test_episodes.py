"""kitlib.synthetic.episodes: bindings within an episode, none across episodes, renderings, words, and errors."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from kitlib import data
from kitlib.data import captioned, tokenizer
from kitlib.synthetic import scenes
from kitlib.synthetic.episodes import episode, nonsense

COLOURS = [(250, 0, 0), (0, 0, 250), (0, 250, 0), (250, 250, 0), (0, 250, 250)]
SQUARES = np.array([np.full((24, 24, 4), (*colour, 255), np.uint8) for colour in COLOURS])


@pytest.fixture(scope="module")
def many():
    """900 episodes of 5 kinds, all ways and shots: (ways, shots, episode)."""
    sizes = [(ways := 2 + i % 3, ways + i // 3 % (9 - ways)) for i in range(900)]
    return [(*size, episode(SQUARES, *size, data.keyed_rng(0, i), sides=(8, 12))) for i, size in enumerate(sizes)]


def kind_of(image):
    """The index of the square in the picture, from its pixels."""
    counts = [(image == np.array(colour)).all(-1).sum() for colour in COLOURS]
    assert sum(count >= 64 for count in counts) == 1
    return int(np.argmax(counts))


@pytest.mark.slow
def test_words_and_kinds_are_bound_one_to_one(many):
    for ways, shots, e in many:
        assert e.images.shape == (shots, 64, 64, 3) and e.images.dtype == np.uint8 and e.query.shape == (64, 64, 3)
        assert len(e.words) == len(e.kinds) == shots
        pairs = set(zip(e.kinds.tolist(), e.words, strict=True))
        assert len(pairs) == len(set(e.words)) == len(set(e.kinds.tolist())) == ways
        assert (e.query_kind, e.answer) in pairs and set(e.words) <= set(nonsense())
    drawn = [episode(SQUARES, 2, 3, data.keyed_rng(1, i), words=["uno", "due", "tre"]) for i in range(40)]
    assert {word for one in drawn for word in one.words} == {"uno", "due", "tre"}


def test_pictures_show_their_kinds(many):
    for _, _, e in many[:150]:
        assert [kind_of(image) for image in e.images] == e.kinds.tolist() and kind_of(e.query) == e.query_kind


def test_the_query_is_another_rendering():
    cutouts, _ = scenes.objects("train")
    for i in range(20):
        e = episode(cutouts, 3, 8, data.keyed_rng(1, i))
        assert len({image.tobytes() for image in [*e.images, e.query]}) == 9


def test_objects_are_mirrored_in_half_of_the_pictures():
    cutout = np.zeros((24, 24, 4), np.uint8)
    cutout[:, :, 3], cutout[:, :12] = 255, (250, 0, 0, 255)
    sides = Counter()
    for i in range(60):
        e = episode([cutout, SQUARES[1]], 2, 8, data.keyed_rng(2, i))
        for image in e.images[e.kinds == 0]:
            red = np.nonzero((image == (250, 0, 0)).all(-1))[1].mean()
            sides["left" if red < np.nonzero((image == 0).all(-1))[1].mean() else "right"] += 1
    assert len(sides) == 2 and abs(sides["left"] - sides["right"]) < 5 * np.sqrt(sides.total())


def coincidences(kinds, words):
    """The number of pairs of episodes in which one kind has the same word."""
    counts = Counter(zip(kinds, words, strict=True))
    return sum(n * (n - 1) // 2 for n in counts.values())


def test_a_word_does_not_depend_on_the_kind(many):
    """A permutation test: shuffled over the bindings of all episodes, the words coincide as often as before."""
    bindings = [pair for _, _, e in many for pair in sorted(set(zip(e.kinds.tolist(), e.words, strict=True)))]
    kinds, words = zip(*bindings, strict=True)
    rng = np.random.default_rng(0)
    shuffled = [coincidences(kinds, rng.permutation(words)) for _ in range(200)]
    observed = coincidences(kinds, words)
    assert observed > 100 and abs(observed - np.mean(shuffled)) < 4 * np.std(shuffled)
    # All words are equally likely: among W words, n bindings coincide in n (n - 1) / 2 / W pairs.
    n = len(words)
    assert coincidences([0] * n, words) == pytest.approx(n * (n - 1) / 2 / len(nonsense()), rel=0.05)


@pytest.mark.parametrize("ways", [2, 3, 4])
def test_strategies_without_the_exemplars_pictures_are_guesses(ways, many):
    """Each strategy is right in 1 of `ways` episodes, within 4 standard deviations."""
    right, total, memory = Counter(), 0, defaultdict(Counter)
    for _, _, e in (each for each in many if each[0] == ways):
        names = sorted(set(e.words))
        guesses = {
            "first": e.words[0],
            "last": e.words[-1],
            "most frequent": max(names, key=e.words.count),
            "alphabet": names[0],
            "memory": max(names, key=lambda word: memory[e.query_kind][word]),  # the kind's word in earlier episodes
        }
        for strategy, guess in guesses.items():
            right[strategy] += guess == e.answer
        total += 1
        for kind, word in set(zip(e.kinds.tolist(), e.words, strict=True)):
            memory[kind][word] += 1
    assert total == 300
    for strategy, count in right.items():
        assert abs(count - total / ways) < 4 * np.sqrt(total / ways * (1 - 1 / ways)), (strategy, count)


def test_all_kinds_of_exemplars_and_queries_are_equally_likely(many):
    for kind in (lambda e: e.query_kind, lambda e: int(e.kinds[0]), lambda e: int(e.kinds[-1])):
        counts = Counter(kind(e) for _, _, e in many)
        assert len(counts) == 5 and max(abs(n - 180) for n in counts.values()) < 5 * np.sqrt(180)


def test_words_can_be_pronounced_and_mean_nothing():
    words = nonsense()
    assert len(set(words)) == len(words) > 50 and {"dax", "zug", "wizz"} <= set(words)
    for word in words:
        assert len(tokenizer.multilingual().encode(f" {word}")) <= 2
        assert re.fullmatch("[bdgklmprstvwzn]{1,2}[aeiu](b|ck|g|lk|x|zz)", word)
    for split in ("train", "valid", "test"):
        source = captioned.emoji(split)
        for name in (*source.names["en"], *(word for each in source.keywords["en"] for word in each)):
            assert set(re.findall("[a-z]+", name.lower())).isdisjoint(words)
    assert {"bag", "tick", "wig", "mug", "milk", "six"}.isdisjoint(words)
    # Of two syllables: a model that copies these, in training, has met all pieces of the others, the tests.
    two, encode = nonsense(2), tokenizer.multilingual().encode
    assert len(set(two)) == len(two) > 4000 and not set(words) & set(two)
    pieces = [{piece for word in each for piece in encode(f" {word}")} for each in (words, two)]
    assert pieces[0] <= pieces[1] and max(len(encode(f" {word}")) for word in two) == 3
    assert all(re.fullmatch("([bdgklmprstvwzn]{1,2}[aeiu]){2}(b|ck|g|lk|x|zz)", word) for word in two)


def test_a_generator_decides_every_byte():
    def example(i):
        e = episode(SQUARES, 3, 4, data.keyed_rng(3, i))
        return e.images.tobytes(), e.query.tobytes(), e.words, e.answer, e.kinds.tolist(), e.query_kind

    six = [example(i) for i in range(6)]
    assert [example(i) for i in range(4)] == six[:4] and len({each[0] for each in six}) == 6


@pytest.mark.parametrize(("ways", "shots", "kinds", "message"), [
    (1, 4, 5, "ways is 1; expected 2 to 4 kinds"),
    (3, 2, 5, "shots is 2; expected 3, so that each kind has an exemplar, to 8"), (2, 9, 5, "shots is 9"),
    (4, 4, 3, "An episode of 4 ways needs 4 kinds, got 3"),
])  # fmt: skip
def test_other_numbers_are_refused(ways, shots, kinds, message):
    with pytest.raises(ValueError, match=message):
        episode(SQUARES[:kinds], ways, shots, np.random.default_rng(0))
