"""kitlib.rendered: ink, boxes, order, markup and answers, each against a slow or separate computation."""

import itertools
import re
import unicodedata

import numpy as np
import pytest

from kitlib import rendered
from kitlib.data import keyed_rng
from kitlib.rendered import (
    bigrams,
    labels,
    line,
    markup_score,
    markup_tree,
    page,
    reading_order,
    receipt,
    render,
    scattered,
    spelled,
    words,
)

SPLITS = ("train", "valid", "test")
LANGUAGES = {"en", "fr", "de", "es", "it", "pt", "el", "ru"}
PAGE = "<h>cat</h><ul><li>dog</li><li>red fox</li></ul><b>go</b><t><r><c>1</c><c>23</c></r><r><c>4</c><c>5</c></r></t>"
TREE = (
    ("h", "cat"),
    ("ul", (("li", "dog"), ("li", "red fox"))),
    ("b", "go"),
    ("t", (("r", (("c", "1"), ("c", "23"))), ("r", (("c", "4"), ("c", "5"))))),
)


@pytest.fixture(scope="module")
def vocabularies():
    return {split: words(split) for split in SPLITS}


@pytest.fixture(scope="module")
def known(vocabularies):
    """All words of the training split, in all languages, each once."""
    return sorted({word for language in LANGUAGES for word in vocabularies["train"][language]})


def some(known, count: int, rng) -> list[str]:
    return [known[i] for i in rng.choice(len(known), count, replace=False)]


def paper_of(image):
    """The colour of most pixels."""
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    return colours[counts.argmax()]


def contrast(a, b) -> np.ndarray:
    """WCAG 2's contrast ratio of colours uint8[..., 3]: (light + 0.05) / (dark + 0.05) of their luminance, 1 to 21."""
    shares = np.asarray(a) / 255, np.asarray(b) / 255
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in shares]
    light = [c @ (0.2126, 0.7152, 0.0722) + 0.05 for c in linear]
    return np.maximum(*light) / np.minimum(*light)


def pixel_boxes(boxes, side: int):
    """int[n, 4], and the boxes are whole pixels inside the picture, one from its border."""
    whole = np.rint(boxes * side).astype(int)
    np.testing.assert_allclose(whole, boxes * side, atol=1e-9)
    assert whole.min() >= 1 and whole.max() <= side - 1 and (whole[:, 2:] > whole[:, :2]).all()
    return whole


# --- words ---


def plain(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if unicodedata.category(c) != "Mn")


def test_no_word_is_in_two_splits_whatever_its_language_case_or_accents(vocabularies):
    keys = [{plain(word) for listed in vocabularies[split].values() for word in listed} for split in SPLITS]
    assert all(not a & b for a, b in itertools.combinations(keys, 2))
    shares = np.array([len(key) for key in keys]) / sum(map(len, keys))
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.015)


def test_words_are_of_their_script_sorted_and_in_both_cases(vocabularies):
    scripts = dict.fromkeys(LANGUAGES, "LATIN") | {"el": "GREEK", "ru": "CYRILLIC"}
    for vocabulary in vocabularies.values():
        assert set(vocabulary) == LANGUAGES | {"digits"}
        for language, script in scripts.items():
            listed = vocabulary[language]
            assert len(listed) > 150 and list(listed) == sorted(set(listed))
            assert all(2 <= len(w) <= 9 and (w == w.lower() or w == w.upper()) for w in listed)
            assert all(unicodedata.name(c).startswith(script) for w in listed for c in w)
            assert 0.4 < np.mean([w.islower() for w in listed]) < 0.6
    assert "dog" in vocabularies["train"]["en"] and "DOG" in vocabularies["train"]["en"]
    numbers = [n for vocabulary in vocabularies.values() for n in vocabulary["digits"]]
    assert sorted(numbers, key=int) == [str(i) for i in range(1000)]


def test_no_greek_or_russian_word_looks_latin(vocabularies):
    latin = str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧνουАВЕКМНОРСТУХасеорух", "ABEZHIKMNOPTYXvouABEKMHOPCTYXaceopyx")
    for language, vocabulary in itertools.product(("el", "ru"), vocabularies.values()):
        assert not [w for w in vocabulary[language] if w.translate(latin).isascii()]
    greek = [w for vocabulary in vocabularies.values() for w in vocabulary["el"]]
    accented = ["\N{COMBINING ACUTE ACCENT}" in unicodedata.normalize("NFD", w) for w in greek]
    assert any(accented) and not any(a for a, w in zip(accented, greek, strict=True) if w.isupper())


def test_every_font_can_draw_every_word_and_one_fits_at_side_64(vocabularies):
    listed = {word for vocabulary in vocabularies.values() for part in vocabulary.values() for word in part}
    for font in rendered.FONTS:
        assert set("".join(listed)) <= rendered._glyphs(font)
    narrow = rendered._font("DejaVuSansMono", rendered.SMALLEST)
    assert max(map(narrow.getlength, listed)) <= 60


# --- labels ---


def test_labels_and_bigrams_by_hand():
    assert bigrams(["un DEUX", "un"]) == ("DE", "EU", "UX", "un")
    assert bigrams(["a", "", "xyz xy"]) == ("xy", "yz")
    vocabulary = ["cat", "DOG", "dog", "at", "red"]
    got = labels(["cat", "red DOG", "cat"], vocabulary)
    assert got.dtype == bool and got.tolist() == [True, True, False, False, True]
    assert labels(bigrams(["cat", "DOG"]), ["ca", "at", "tD", "OG", "og", "cat"]).tolist() == [1, 1, 0, 1, 0, 0]
    assert labels([], vocabulary).tolist() == [False] * 5 and labels(["cat"], []).shape == (0,)


def test_labels_of_a_picture_are_those_of_its_words(known):
    for seed in range(20):
        rng = keyed_rng(0, seed)
        texts = some(known, 3, rng)
        got = labels(scattered(texts, rng)[1], known)
        assert [known[i] for i in np.flatnonzero(got)] == sorted(texts, key=known.index)


# --- colours ---


def test_contrast_of_known_colours():
    white, black, grey = (255, 255, 255), (0, 0, 0), (119, 119, 119)
    assert contrast(white, black) == contrast(black, white) == pytest.approx(21)
    assert contrast(grey, grey) == 1 and contrast(white, grey) == pytest.approx(4.48, abs=0.005)  # WebAIM says 4.48
    assert contrast((255, 0, 0), white) == pytest.approx(3.998, abs=0.005)
    np.testing.assert_allclose(contrast(np.array([black, white]), white), [21, 1])


def test_ink_is_dark_on_light_paper_with_the_contrast_that_small_print_needs(known):
    """The least is between the darkest paper and the lightest ink; WCAG 2 asks for 4.5. The strongest ink of a word is
    its full colour, or nearly: thin strokes cover a pixel only in part."""
    assert contrast([rendered.PAPER[0]] * 3, [rendered.INK[1] - 1] * 3) >= 4.5
    for seed in range(100):
        rng = keyed_rng(1, seed)
        image, _ = line(some(known, 1, rng)[0], rng, size=14)
        assert (paper_of(image) >= rendered.PAPER[0]).all()
        assert contrast(image.reshape(-1, 3), paper_of(image)).max() >= 0.7 * 4.5


# --- words at places ---


@pytest.mark.parametrize("side", [64, 96, 128])
def test_the_box_of_a_line_holds_exactly_the_pixels_that_differ_from_the_paper(side, known):
    for seed in range(40):
        rng = keyed_rng(2, seed)
        image, box = line(some(known, 1, rng)[0], rng, side)
        assert image.dtype == np.uint8 and image.shape == (side, side, 3) and box.dtype == np.float64
        ys, xs = np.nonzero((image != paper_of(image)).any(-1))
        expected = [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]
        assert pixel_boxes(box[None], side).tolist() == [expected]


@pytest.mark.parametrize(("side", "count"), [(64, 1), (64, 2), (64, 4), (96, 8), (128, 10)])
def test_scattered_words_are_apart_and_their_boxes_hold_all_ink_and_nothing_else(side, count, known):
    for seed in range(15):
        rng = keyed_rng(3, side, count, seed)
        texts = some(known, count, rng)
        image, read, boxes = scattered(texts, rng, side)
        assert sorted(read) == sorted(texts)
        ink = (image != paper_of(image)).any(-1)
        for i, (y0, x0, y1, x1) in enumerate(whole := pixel_boxes(boxes, side)):
            inside = ink[y0:y1, x0:x1]
            assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all()  # tight
            ink[y0:y1, x0:x1] = False
            for other in whole[:i]:
                apart = np.maximum(other[:2] - (y1, x1), (y0, x0) - other[2:])
                assert apart.max() >= rendered.GAP
        assert not ink.any()
        assert slow_order(boxes) == list(range(count))


def test_four_long_words_fit_at_64_and_six_at_96(known):
    long = [word for word in known if len(word) == 9 and word.isupper()]
    for seed in range(30):
        rng = keyed_rng(4, seed)
        assert len(scattered(some(long, 4, rng), rng, 64)[1]) == 4
        assert len(scattered(some(long, 6, rng), rng, 96)[1]) == 6


def test_each_box_is_at_its_own_word():
    """A wide word and a narrow one: the boxes' widths tell which is which."""
    for seed in range(30):
        _, texts, boxes = scattered(["WWWW", "ll"], keyed_rng(5, seed), size=10)
        width = dict(zip(texts, boxes[:, 3] - boxes[:, 1], strict=True))
        assert width["WWWW"] > 2 * width["ll"]


def test_size_is_the_height_of_letters_and_what_is_too_long_becomes_smaller():
    def high(text, size, seed):
        box = line(text, keyed_rng(6, seed), 64, size)[1]
        return 64 * (box[2] - box[0])

    for seed in range(10):
        assert 7 <= high("HI", 12, seed) <= 12 < high("HI", 20, seed) <= 20
        assert high("HIHIHIHIHI", 40, seed) <= 12  # ten letters in 62 pixels


def test_no_texts_are_an_empty_picture():
    image, texts, boxes = scattered([], keyed_rng(7))
    assert (image == image[0, 0]).all() and texts == () and boxes.shape == (0, 4)


def test_spelled_is_the_same_picture_and_letters_share_out_the_box_of_their_word(known):
    """Letters are side by side, and what is left and right of their ink is at most 3 pixels."""
    for seed in range(30):
        texts = some(known, 3, keyed_rng(8, seed))
        image, letters, boxes = spelled(texts, keyed_rng(9, seed))
        same, read, words = scattered(texts, keyed_rng(9, seed))
        np.testing.assert_array_equal(image, same)
        assert letters == "".join(texts) and boxes.shape == (len(letters), 4) and boxes.dtype == np.float64
        first = np.cumsum([0, *map(len, texts)])
        for text, i, j in zip(texts, first, first[1:], strict=False):
            word, own = words[read.index(text)], boxes[i:j]
            assert (own[:, [0, 2]] == word[[0, 2]]).all() and (own[1:, 1] == own[:-1, 3]).all()
            assert (np.diff(own[:, 1]) > 0).all() and np.abs(own[[0, -1], [1, 3]] - word[[1, 3]]).max() <= 3 / 64


def test_each_letter_is_where_it_is_drawn(monkeypatch):
    """In a font of fixed width each letter has a quarter of ".W.W", and W has ink in more columns than a dot."""
    monkeypatch.setattr(rendered, "FONTS", ("DejaVuSansMono",))
    image, letters, boxes = spelled([".W.W"], keyed_rng(10))
    np.testing.assert_allclose(np.diff(boxes[:, 1]), boxes[0, 3] - boxes[0, 1])
    ink = (image != paper_of(image)).any(-1)
    columns = [ink[:, round(64 * x0) : round(64 * x1)].any(0).sum() for _, x0, _, x1 in boxes]
    assert letters == ".W.W" and min(columns[1::2]) > max(columns[::2])
    assert spelled([], keyed_rng(7))[1:][0] == "" and spelled([], keyed_rng(7))[2].shape == (0, 4)


# --- reading order ---


def slow_order(boxes) -> list[int]:
    """The rule once more: choose, one box after the other, who is read next."""
    order, rest, here = [], set(range(len(boxes))), []
    while rest:
        if not here:
            a0, _, a1, _ = boxes[min(rest, key=lambda i: (boxes[i][0], boxes[i][1]))]
            heights = {i: (min(boxes[i][2], a1) - max(boxes[i][0], a0), boxes[i][2] - boxes[i][0]) for i in rest}
            here = [i for i, (shared, own) in heights.items() if 2 * shared >= min(own, a1 - a0)]
        order.append(min(here, key=lambda i: (boxes[i][1], boxes[i][0])))
        rest.remove(order[-1])
        here.remove(order[-1])
    return order


def test_reading_order_by_hand():
    boxes = [[0.5, 0.1, 0.6, 0.3], [0.1, 0.6, 0.2, 0.9], [0.12, 0.1, 0.2, 0.5], [0.53, 0.4, 0.64, 0.6]]
    assert reading_order(boxes).tolist() == [2, 1, 0, 3]
    # Overlap of half of the less high one is enough, a little less is not.
    assert reading_order([[0, 0.5, 0.4, 1], [0.3, 0, 0.5, 0.3]]).tolist() == [1, 0]
    assert reading_order([[0, 0.5, 0.4, 1], [0.31, 0, 0.5, 0.3]]).tolist() == [0, 1]
    assert reading_order([]).shape == (0,) and reading_order([]).dtype == np.int64


def test_reading_order_is_its_rule_and_does_not_depend_on_the_order_given():
    for seed in range(200):
        rng = keyed_rng(8, seed)
        corner, size = rng.random((7, 2)), rng.uniform(0.05, 0.4, (7, 2))
        boxes = np.hstack([corner, corner + size])
        order = reading_order(boxes)
        assert order.tolist() == slow_order(boxes.tolist())
        mixed = rng.permutation(7)
        assert mixed[reading_order(boxes[mixed])].tolist() == order.tolist()


# --- markup ---


def as_markup(tree) -> str:
    return "".join(f"<{tag}>{x if isinstance(x, str) else as_markup(x)}</{tag}>" for tag, x in tree)


def leaves(tree) -> list:
    return [leaf for tag, x in tree for leaf in ([(tag, x)] if isinstance(x, str) else leaves(x))]


def test_markup_by_hand_and_there_and_back():
    assert markup_tree(PAGE) == TREE and as_markup(TREE) == PAGE
    spaced = re.sub(r"(</?(h|ul|li|b|t|r|c)>)", r" \1\n", PAGE).replace("red fox", "red \n fox")
    assert markup_tree(spaced) == TREE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the end is in <page>, which holds <h> or <ul> or <b> or <t>"),
        ("  ", "the end is in <page>"),
        ("cat", "'cat' at character 0 is in <page>"),
        ("<h>cat", "the end is in <h>, which holds text and ends with </h>"),
        ("<h>cat</b>", "'</b>' at character 6 is in <h>"),
        ("<h></h>", "'</h>' at character 3 is in <h>, which holds text"),
        ("<h> </h>", "'</h>' at character 4 is in <h>"),
        ("<ul></ul>", "'</ul>' at character 4 is in <ul>, which holds <li>"),
        ("<ul>cat</ul>", "'cat' at character 4 is in <ul>, which holds <li> and ends with </ul>"),
        ("<ul><li>cat</li>", "the end is in <ul>"),
        ("<li>cat</li>", "'<li>' at character 0 is in <page>"),
        ("<t><c>1</c></t>", "'<c>' at character 3 is in <t>, which holds <r>"),
        ("<h>a<b>c</b></h>", "'<b>' at character 4 is in <h>"),
        ("<x>a</x>", "'<x>' at character 0 is in <page>"),
        ("<h>a</h></h>", "'</h>' at character 8 is in <page>"),
        ("<h>a</h></page>", "'</page>' at character 8 is in <page>"),
        ("<page><h>a</h></page>", "'<page>' at character 0"),
        ("<h>1 < 2</h>", "'<' at character 5 is in <h>"),
        ("<h>a</h", "'<' at character 4 is in <h>"),
        ("<h>a</h><", "'<' at character 8 is in <page>"),
        ("<h >a</h>", "'<' at character 0"),
        ("<>a</>", "'<' at character 0"),
    ],
)
def test_malformed_markup_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=f"^Malformed markup: {message}.*\\.$"):
        markup_tree(text)


def test_the_score_is_one_for_itself_and_zero_for_nothing_in_common():
    assert markup_score(PAGE, PAGE) == markup_score(PAGE.replace("><", "> <"), PAGE) == 1
    for other in ("", "cat", "<h>dog</h>", "<li>cat</li>", "<<</h>>", "<h>CAT</h><c>2</c>"):
        assert markup_score(other, PAGE) == 0
    assert markup_score("<h>cat</h>" + PAGE + "<b>more</b>", PAGE) == 1


def test_the_score_by_hand():
    assert markup_score("<h>cat</h><ul><li>dog</li><li>red", PAGE) == 2 / 8  # cut short
    assert markup_score("<b>go</b><h>cat</h><li>dog</li>", PAGE) == 2 / 8  # order counts, the list does not
    assert markup_score(PAGE.replace("cat", "rat").replace("23", "2 3"), PAGE) == 6 / 8
    with pytest.raises(ValueError, match="Malformed"):
        markup_score(PAGE, "<h>")


def slow_common(a, b) -> int:
    """The longest common subsequence, by trying all of a's."""
    for length in range(len(a), 0, -1):
        for chosen in itertools.combinations(a, length):
            rest = iter(b)
            if all(item in rest for item in chosen):
                return length
    return 0


def test_the_score_is_the_longest_common_subsequence_and_falls_as_nodes_are_deleted(known):
    for seed in range(20):
        rng = keyed_rng(9, seed)
        truth, other = page(known, rng)[1], page(known, rng)[1]
        a, b = leaves(markup_tree(truth)), leaves(markup_tree(other))
        mixed = [(a + b)[i] for i in rng.permutation(len(a) + len(b))][:9]
        assert markup_score(as_markup(mixed), truth) == slow_common(mixed, a) / len(a)
        left, scores = list(a), [1.0]
        while left:
            del left[rng.integers(len(left))]
            scores.append(markup_score(as_markup(left), truth))
        np.testing.assert_allclose(scores, np.linspace(1, 0, len(a) + 1))
        last = 1.0
        while mixed:  # from any prediction, a deletion never raises the score
            now = markup_score(as_markup(mixed), truth)
            assert now <= last
            last = now
            del mixed[rng.integers(len(mixed))]


# --- pages and receipts ---


@pytest.mark.parametrize("side", [96, 128])
def test_a_page_is_what_its_markup_says(side, known):
    seen = set()
    for seed in range(40):
        image, markup = page(known, keyed_rng(10, seed), side)
        assert image.dtype == np.uint8 and image.shape == (side, side, 3)
        border = np.concatenate([image[[0, -1]].reshape(-1, 3), image[:, [0, -1]].reshape(-1, 3)])
        assert (border == border[0]).all() and len(np.unique(image.reshape(-1, 3), axis=0)) > 5
        tree = markup_tree(markup)
        assert as_markup(tree) == markup
        (first, title), *blocks = tree
        kinds = [tag for tag, _ in blocks]
        assert first == "h" and sorted(kinds) in (["b", "ul"], ["t", "ul"])
        inside = dict(blocks)
        assert 2 <= len(inside["ul"]) <= 4
        if "t" in inside:
            assert [len(row) for _, row in inside["t"]] == [2, 2]
            assert all(0 <= int(cell) < 100 for _, row in inside["t"] for _, cell in row)
        found = [title, *(item for _, item in inside["ul"]), *([inside["b"]] if "b" in inside else [])]
        assert set(found) <= set(known) and len({word.casefold() for word in found}) == len(found)
        seen.add((*kinds, len(inside["ul"])))
    assert len(seen) >= 9  # of 2 kinds in 2 orders with 3 lengths


def rows_of_ink(markup: str, seed: int, side: int = 128) -> int:
    """How many bands of rows with ink there are, each with paper above and below."""
    image = render(markup, keyed_rng(11, seed), side)
    ink = (image != paper_of(image)).any((1, 2)).astype(int)
    return int((np.diff(ink) == 1).sum())


def test_each_row_of_a_page_is_drawn_below_the_last():
    """Letters without descenders and accents, so that there is paper between the rows."""
    for seed in range(10):
        assert rows_of_ink("<h>HAT</h>", seed) == 1
        assert rows_of_ink("<h>HAT</h><ul><li>sun</li><li>TREE</li><li>xx</li></ul>", seed) == 4
        assert rows_of_ink("<t><r><c>1</c><c>2</c></r><r><c>33</c><c>44</c></r></t>", seed) == 2
        assert rows_of_ink("<h>HAT</h><b>OK</b>", seed) == 2  # the frame is around its text


def test_a_receipts_sums_and_answers(known):
    counts = set()
    for seed in range(60):
        image, texts, questions = receipt(known, keyed_rng(12, seed))
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        *items, last = texts[::2]
        *prices, total = map(int, texts[1::2])
        assert last == "total" and total == sum(prices) and all(1 <= price <= 99 for price in prices)
        assert len({item.casefold() for item in items}) == len(items) == len(set(prices)) == len(prices)
        counts.add(len(items))
        assert len(dict(questions)) == len(questions) == 2 * len(items) + 1
        for question, answer in questions:
            if of := re.fullmatch(r"what is the price of (.+)\?", question):
                expected = texts[texts.index(of[1]) + 1]
            elif costs := re.fullmatch(r"which item costs (\d+)\?", question):
                expected = items[prices.index(int(costs[1]))]
            else:
                assert question == "what is the total?"
                expected = str(sum(prices))
            assert answer == expected
    assert counts == {3, 4, 5}


def test_receipts_have_no_items_that_could_be_prices_or_the_total():
    vocabulary = ["total", "TOTAL", "7", "42", "a", "A", "b", "c", "d", "e"]
    for seed in range(20):
        *items, _ = receipt(vocabulary, keyed_rng(13, seed))[1][::2]
        assert {item.casefold() for item in items} <= set("abcde")


def test_the_widest_words_fit_on_pages_and_receipts_of_side_96(vocabularies):
    listed = sorted({w for v in vocabularies.values() for lang in LANGUAGES for w in v[lang]})
    font = rendered._font("DejaVuSans-Bold", rendered.SMALLEST)
    widest = sorted(listed, key=font.getlength)[-12:]
    for seed in range(15):
        page(widest, keyed_rng(14, seed))
        receipt(widest, keyed_rng(14, seed))


# --- chance ---


@pytest.mark.parametrize(
    "draw",
    [
        lambda known, rng: line("cat", rng),
        lambda known, rng: scattered(["cat", "DOG", "ёлка"], rng),
        lambda known, rng: page(known, rng),
        lambda known, rng: receipt(known, rng),
        lambda known, rng: (render(PAGE, rng),),
    ],
)
def test_the_same_generator_draws_the_same_and_another_something_else(draw, known):
    first, again, other = (draw(known, keyed_rng(15, seed)) for seed in (0, 0, 1))
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to draw in a blank text"),
        (" ", "nothing to draw"),
        ("漢字", "No font has glyphs for all of '漢字'"),
        ("cat 🐈", "No font has glyphs"),
        ("a\nb", "No font has glyphs"),
        ("שלום", "No font has glyphs"),  # DejaVu has them, but they run to the left
        ("قطة", "No font has glyphs"),
        ("e\u0301", "No font has glyphs"),  # a loose accent
        ("a\u200bb", "No font has glyphs"),  # invisible
        ("an endless line of many words", "'an endless line of many words' is too long for 64 pixels, even at size 8"),
    ],
)
def test_texts_that_cannot_be_drawn(text, message):
    with pytest.raises(ValueError, match=message):
        line(text, keyed_rng(16))
    with pytest.raises(ValueError, match=message):
        scattered(["cat", text], keyed_rng(16))


def test_other_refusals(known):
    rng = keyed_rng(17)
    with pytest.raises(ValueError, match="There is no split 'dev' of the words: use 'train', 'valid' or 'test'"):
        words("dev")
    with pytest.raises(ValueError, match="The size is 7; expected at least 8 pixels"):
        line("cat", rng, size=7)
    with pytest.raises(ValueError, match="30 texts do not fit into 64 pixels, even at size 8"):
        scattered(["cat"] * 30, rng)
    for draw in (page, receipt):
        with pytest.raises(ValueError, match="The vocabulary has 2 words that differ by more than case, but"):
            draw(["cat", "CAT", "dog", "7"], rng)
        with pytest.raises(ValueError, match=r"does not fit into 40 pixels|is too long for 40 pixels"):
            draw(known, rng, 40)
        with pytest.raises(ValueError, match="No font has glyphs"):
            draw(list("漢字日本語文"), rng)
    with pytest.raises(ValueError, match="Malformed"):
        render("cat", rng)
    with pytest.raises(ValueError, match="is too long for 96 pixels"):
        render("<h>" + "long " * 10 + "</h>", rng)
