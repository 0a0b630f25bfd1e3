"""kitlib.synthetic.rendered_text: words, ink, boxes and order, each against a slow or separate computation."""

import itertools
import re
import unicodedata

import numpy as np
import pytest

from kitlib.data import keyed_rng
from kitlib.synthetic import rendered_text
from kitlib.synthetic.rendered_text import (
    line,
    markup_tree,
    more_words,
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
    """The boxes as int[n, 4]; they must be whole pixels inside the picture, at least one pixel from its border."""
    whole = np.rint(boxes * side).astype(int)
    np.testing.assert_allclose(whole, boxes * side, atol=1e-9)
    assert whole.min() >= 1 and whole.max() <= side - 1 and (whole[:, 2:] > whole[:, :2]).all()
    return whole


def plain(word: str) -> str:
    """Without case and accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if unicodedata.category(c) != "Mn")


def test_words_are_in_their_script_sorted_and_in_both_cases(vocabularies):
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
    listed = {word for vocabulary in vocabularies.values() for part in vocabulary.values() for word in part}
    assert all(set("".join(listed)) <= rendered_text._glyphs(font) for font in rendered_text.FONTS)
    narrow = rendered_text.font_of_size("DejaVuSansMono", rendered_text.SMALLEST)
    assert max(map(narrow.getlength, listed)) <= 60  # one font fits at side 64
    for function in (words, more_words):
        with pytest.raises(ValueError, match="Unknown split of the words 'dev'"):
            function("dev")


def test_no_greek_or_russian_word_looks_latin(vocabularies):
    latin = str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧνουАВЕКМНОРСТУХасеорух", "ABEZHIKMNOPTYXvouABEKMHOPCTYXaceopyx")
    for language, vocabulary in itertools.product(("el", "ru"), vocabularies.values()):
        assert not [w for w in vocabulary[language] if w.translate(latin).isascii()]
    greek = [w for vocabulary in vocabularies.values() for w in vocabulary["el"]]
    accented = ["\N{COMBINING ACUTE ACCENT}" in unicodedata.normalize("NFD", w) for w in greek]
    assert any(accented) and not any(a for a, w in zip(accented, greek, strict=True) if w.isupper())


def test_ink_is_dark_on_light_paper_with_the_contrast_that_small_print_needs(known):
    """The smallest contrast is between the darkest paper and the lightest ink; WCAG 2 requires 4.5. The strongest ink
    of a word is nearly its full colour: thin strokes cover a pixel only in part."""
    white, black, grey = (255, 255, 255), (0, 0, 0), (119, 119, 119)
    assert contrast(white, black) == contrast(black, white) == pytest.approx(21)
    assert contrast(grey, grey) == 1 and contrast(white, grey) == pytest.approx(4.48, abs=0.005)  # WebAIM says 4.48
    assert contrast((255, 0, 0), white) == pytest.approx(3.998, abs=0.005)
    assert contrast([rendered_text.PAPER[0]] * 3, [rendered_text.INK[1] - 1] * 3) >= 4.5
    for seed in range(100):
        rng = keyed_rng(1, seed)
        image, _ = line(some(known, 1, rng)[0], rng, sizes=(8, 14))
        assert (paper_of(image) >= rendered_text.PAPER[0]).all()
        assert contrast(image.reshape(-1, 3), paper_of(image)).max() >= 0.7 * 4.5


@pytest.mark.parametrize("side", [64, 96, 128])
def test_the_box_of_a_line_holds_exactly_the_pixels_that_differ_from_the_paper(side, known):
    for seed in range(40):
        rng = keyed_rng(2, seed)
        image, box = line(some(known, 1, rng)[0], rng, side)
        assert image.dtype == np.uint8 and image.shape == (side, side, 3) and box.dtype == np.float64
        ys, xs = np.nonzero((image != paper_of(image)).any(-1))
        assert pixel_boxes(box[None], side).tolist() == [[ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]]


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
                assert apart.max() >= rendered_text.GAP
        assert not ink.any()
        assert slow_order(boxes) == list(range(count))


def test_long_words_fit_each_box_is_at_its_own_word_and_no_texts_are_an_empty_picture(known):
    """Four long words fit at 64, six at 96. A wide word and a narrow one: the boxes' widths tell which is which."""
    long = [word for word in known if len(word) == 9 and word.isupper()]
    for seed in range(30):
        rng = keyed_rng(4, seed)
        for count, side in ((4, 64), (6, 96)):
            assert len(scattered(some(long, count, rng), rng, side)[1]) == count
        _, texts, boxes = scattered(["WWWW", "ll"], rng, sizes=(10, 10))
        width = dict(zip(texts, boxes[:, 3] - boxes[:, 1], strict=True))
        assert width["WWWW"] > 2 * width["ll"]
    image, texts, boxes = scattered([], keyed_rng(7))
    assert (image == image[0, 0]).all() and texts == () and boxes.shape == (0, 4)


def test_size_is_the_height_of_letters_and_long_texts_become_smaller():
    def high(text, sizes, seed):
        box = line(text, keyed_rng(6, seed), 64, sizes)[1]
        return 64 * (box[2] - box[0])

    for seed in range(10):
        assert 7 <= high("HI", (12, 12), seed) <= 12 < high("HI", (20, 20), seed) <= 20
        assert 7 <= high("HI", (12, 20), seed) <= 20
        assert high("HIHIHIHIHI", (8, 40), seed) <= 12  # ten letters in 62 pixels


def test_spelled_gives_the_same_picture_and_the_letters_boxes_divide_the_box_of_their_word(known):
    """Letters are side by side, and their boxes extend beyond the word's ink by at most 3 pixels."""
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
    """In a font of fixed width each letter takes a quarter of ".W.W", and W has ink in more columns than a dot."""
    monkeypatch.setattr(rendered_text, "FONTS", ("DejaVuSansMono",))
    image, letters, boxes = spelled([".W.W"], keyed_rng(10))
    np.testing.assert_allclose(np.diff(boxes[:, 1]), boxes[0, 3] - boxes[0, 1])
    ink = (image != paper_of(image)).any(-1)
    columns = [ink[:, round(64 * x0) : round(64 * x1)].any(0).sum() for _, x0, _, x1 in boxes]
    assert letters == ".W.W" and min(columns[1::2]) > max(columns[::2])
    assert spelled([], keyed_rng(7))[1:][0] == "" and spelled([], keyed_rng(7))[2].shape == (0, 4)


def slow_order(boxes) -> list[int]:
    """The same rule, box by box: choose the box that is read next."""
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


def test_reading_order_by_hand_and_by_its_rule_whatever_the_order_given():
    boxes = [[0.5, 0.1, 0.6, 0.3], [0.1, 0.6, 0.2, 0.9], [0.12, 0.1, 0.2, 0.5], [0.53, 0.4, 0.64, 0.6]]
    assert reading_order(boxes).tolist() == [2, 1, 0, 3]
    # Sharing half of the rows of the less tall box is enough, a little less is not.
    assert reading_order([[0, 0.5, 0.4, 1], [0.3, 0, 0.5, 0.3]]).tolist() == [1, 0]
    assert reading_order([[0, 0.5, 0.4, 1], [0.31, 0, 0.5, 0.3]]).tolist() == [0, 1]
    assert reading_order([]).shape == (0,) and reading_order([]).dtype == np.int64
    for seed in range(200):
        rng = keyed_rng(8, seed)
        corner, size = rng.random((7, 2)), rng.uniform(0.05, 0.4, (7, 2))
        boxes, mixed = np.hstack([corner, corner + size]), rng.permutation(7)
        order = reading_order(boxes)
        assert order.tolist() == slow_order(boxes.tolist()) == mixed[reading_order(boxes[mixed])].tolist()


def test_no_word_is_in_two_splits_whatever_its_language_case_or_accents(vocabularies):
    """`more_words` are those of 35 further languages, in the same letters, without those of `words`."""
    more = {split: set(more_words(split)) for split in SPLITS}
    usual = {word for part in vocabularies.values() for found in part.values() for word in found}
    keys = [{plain(word) for listed in vocabularies[split].values() for word in listed} for split in SPLITS]
    np.testing.assert_allclose([len(key) / sum(map(len, keys)) for key in keys], (0.8, 0.1, 0.1), atol=0.015)
    assert [len(more[split]) for split in SPLITS] == [23_191, 2_940, 2_882]
    keys = [{plain(word) for word in more[split].union(*vocabularies[split].values())} for split in SPLITS]
    assert all(not a & b for a, b in itertools.combinations(keys, 2))
    for found in more.values():
        assert not found & usual and {letter for word in found for letter in word} <= set("".join(usual))
        assert all(2 <= len(word) <= 9 for word in found) and {"hond", "HOND"} <= set().union(*more.values())


@pytest.mark.parametrize(("texts", "sizes", "message"), [
    ([" "], (8, 16), "nothing to draw in a blank text"),
    (["cat 🐈"], (8, 16), "No font has glyphs for all of 'cat 🐈'"),
    (["שלום"], (8, 16), "No font has glyphs"),  # DejaVu has them, but they run to the left
    (["e\u0301"], (8, 16), "No font has glyphs"),  # a loose accent
    (["a\u200bb"], (8, 16), "No font has glyphs"),  # invisible
    (["cat", "an endless line of many words"], (8, 16), "is too long for 64 pixels, even at size 8"),
    (["HIHIHIHIHI"], (20, 40), "1 texts do not fit into 64 pixels, even at size 20"),
    (["cat"] * 30, (8, 16), "30 texts do not fit into 64 pixels, even at size 8"),
    (["cat"], (7, 12), r"sizes are \(7, 12\); expected \(smallest, largest\), at least 8 pixels"),
])  # fmt: skip
def test_texts_that_cannot_be_drawn(texts, sizes, message):
    with pytest.raises(ValueError, match=message):
        scattered(texts, keyed_rng(16), sizes=sizes)


PAGE = "<h>cat</h><ul><li>dog</li><li>red fox</li></ul><b>go</b><t><r><c>1</c><c>23</c></r><r><c>4</c><c>5</c></r></t>"
TREE = (
    ("h", "cat"),
    ("ul", (("li", "dog"), ("li", "red fox"))),
    ("b", "go"),
    ("t", (("r", (("c", "1"), ("c", "23"))), ("r", (("c", "4"), ("c", "5"))))),
)


def as_markup(tree) -> str:
    return "".join(f"<{tag}>{x if isinstance(x, str) else as_markup(x)}</{tag}>" for tag, x in tree)


def test_markup_by_hand_and_back():
    assert markup_tree(PAGE) == TREE and as_markup(TREE) == PAGE
    spaced = re.sub(r"(</?(h|ul|li|b|t|r|c)>)", r" \1\n", PAGE).replace("red fox", "red \n fox")
    assert markup_tree(spaced) == TREE


@pytest.mark.parametrize("text", [
    "fish & chips", "&", "a&b;c", "'\"/=!?", "]]", "-- x:y [CDATA[", "naïve ёлка",
    "&amp; &lt; &#65; &x;",  # nothing is escaped, so these are ordinary characters
])  # fmt: skip
def test_all_characters_but_two_stand_for_themselves_in_a_text(text):
    for tag, wrapped in (("h", "<h>{}</h>"), ("b", "<b>{}</b>")):
        assert markup_tree(wrapped.format(text)) == ((tag, text),)
    assert markup_tree(f"<ul><li>{text}</li></ul>") == (("ul", (("li", text),)),)


MALFORMED = {
    # what is missing, and what is in the wrong element
    "": "nothing is in <page>, which holds <h> or <ul> or <b> or <t>.", "<ul></ul>": "nothing is in <ul>",
    "<h> </h>": "nothing is in <h>, which holds text.", "<t><r></r></t>": "nothing is in <r>, which holds <c>.",
    "cat": "'cat' is in <page>", "<h>cat</h> dog": "'dog' is in <page>", "&<h>cat</h>": "'&' is in <page>",
    "<ul>cat</ul>": "'cat' is in <ul>", "<ul><li>cat</li>dog</ul>": "'dog' is in <ul>",
    "<li>cat</li>": "<li> is in <page>", "<ul><h>cat</h></ul>": "<h> is in <ul>", "<t><c>1</c></t>": "<c> is in <t>",
    "<h>a<b>c</b></h>": "<b> is in <h>", "<x>a</x>": "<x> is in <page>", "<H>a</H>": "<H> is in <page>",
    "<page><h>a</h></page>": "<page> is in <page>", "<h>1 > 2</h>": "'>' is in <h>", "<ul>></ul>": "'>' is in <ul>",
    # tags without a partner
    "<h>cat": "mismatched tag: line 1, column 14 of '<page><h>cat</page>'.",
    "<h>cat</b>": "mismatched tag: line 1, column 14", "<ul><li>cat</li>": "mismatched tag: line 1, column 24",
    "<h>a</h></h>": "mismatched tag: line 1, column 16",
    "<h>a & b</h></h>": "mismatched tag: line 1, column 24 of '<page><h>a &amp; b</h></h></page>'.",
    "<h>a</h>\n</h>": r"mismatched tag: line 2, column 2 of '<page><h>a</h>\n</h></page>'.",
    # the parser's own <page> cannot be closed and opened again
    "<h>a</h></page>": "not well-formed (invalid token): line 1, column 22", "<h>a</h></page><page>": "junk after",
    # a < that begins no tag, and XML that is not markup of a page
    "<h>1 < 2</h>": 5, "<h>a</h": 4, "<h>a</h><": 8, "<<</h>>": 0,
    "<>a</>": 0, "<h >a</h>": 0, "<h>a</h >": 4, "<h>a</h\n>": 4, "<h x='1'>a</h>": 0, "<ul><li id=1>a</li></ul>": 4,
    '<h xmlns="x">a</h>': 0, "<x:h>a</x:h>": 0, "<h/>": 0, "<h>a</h><b/>": 8, "<t><r><c/></r></t>": 6,
    "<!-- a --><h>a</h>": 0, "<h>a<!-- b --></h>": 4, "<h><![CDATA[a]]></h>": 3, "<?xml version='1.0'?><h>a</h>": 0,
    "<!DOCTYPE page [<!ENTITY x 'y'>]><h>&x;</h>": 0,
    # characters and names that XML does not allow
    "<h>\0</h>": r"not well-formed (invalid token): line 1, column 9 of '<page><h>\x00</h></page>'.",
    "<h>a]]>b</h>": "not well-formed", "<1>a</1>": "not well-formed (invalid token): line 1, column 7",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MALFORMED.items())
def test_malformed_markup_is_refused_with_its_position_or_element(text, message):
    if isinstance(message, int):
        message = f"'<' at character {message} begins no plain tag like <h> or </h>."
    with pytest.raises(ValueError, match=f"^Malformed markup: {re.escape(message)}") as error:
        markup_tree(text)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("side", [96, 128])
def test_a_page_has_the_content_of_its_markup(side, known):
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


@pytest.mark.parametrize(("markup", "rows"), [
    ("<h>HAT</h>", 1), ("<h>HAT</h><ul><li>sun</li><li>TREE</li><li>xx</li></ul>", 4),
    ("<t><r><c>1</c><c>2</c></r><r><c>33</c><c>44</c></r></t>", 2),
    ("<h>HAT</h><b>OK</b>", 2),  # the frame is around its text
])  # fmt: skip
def test_each_row_of_a_page_is_drawn_below_the_last(markup, rows):
    """Letters without descenders and accents, so that there is paper between the rows: bands of rows with ink."""
    for seed in range(10):
        image = render(markup, keyed_rng(11, seed), 128)
        colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        ink = (image != colours[counts.argmax()]).any((1, 2)).astype(int)  # paper has the colour of most pixels
        assert (np.diff(ink) == 1).sum() == rows


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
    vocabulary = ["total", "TOTAL", "7", "42", "a", "A", "b", "c", "d", "e"]  # no item could be a price or the total
    found = {item for seed in range(20) for item in receipt(vocabulary, keyed_rng(13, seed))[1][:-2:2]}
    assert {item.casefold() for item in found} <= set("abcde")


def test_the_widest_words_fit_on_pages_and_receipts_of_side_96(vocabularies):
    listed = {w for v in vocabularies.values() for language, words in v.items() if language != "digits" for w in words}
    font = rendered_text.font_of_size("DejaVuSans-Bold", rendered_text.SMALLEST)
    widest = sorted(sorted(listed), key=font.getlength)[-12:]
    for seed in range(15):
        page(widest, keyed_rng(14, seed))
        receipt(widest, keyed_rng(14, seed))


@pytest.mark.parametrize("draw", [page, receipt, lambda known, rng: (render(PAGE, rng),)])
def test_the_same_generator_draws_the_same_and_another_something_else(draw, known):
    first, again, other = (draw(known, keyed_rng(15, seed)) for seed in (0, 0, 1))
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize(("draw", "message"), [
    *((lambda words, rng, draw=draw: draw(["a", "A", "dog", "7"], rng), "2 words that") for draw in (page, receipt)),
    *((lambda words, rng, draw=draw: draw(words, rng, 40), "(fit into|too long for) 40") for draw in (page, receipt)),
    *((lambda words, rng, draw=draw: draw(list("漢字日本語文"), rng), "has glyphs") for draw in (page, receipt)),
    (lambda words, rng: render("cat", rng), "Malformed"),
    (lambda words, rng: render("<h>" + "long " * 10 + "</h>", rng), "is too long for 96 pixels"),
    (lambda words, rng: render("<h>many</h>" * 20, rng), "The page does not fit into 96 pixels, even at size 8"),
])  # fmt: skip
def test_what_cannot_be_drawn(draw, message, known):
    with pytest.raises(ValueError, match=message):
        draw(known, keyed_rng(17))
