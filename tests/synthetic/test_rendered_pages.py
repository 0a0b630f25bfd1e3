"""kitlib.synthetic.rendered_text: markup, pages and receipts; their content, drawings, draws and errors."""

import re

import numpy as np
import pytest

from kitlib.data import keyed_rng
from kitlib.synthetic import rendered_text
from kitlib.synthetic.rendered_text import markup_tree, page, receipt, render

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
