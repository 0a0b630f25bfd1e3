"""kitlib.synthetic.rendered_pages: markup, pages and receipts; their content, drawings, draws and errors."""

import re

import numpy as np
import pytest

from kitlib.data import keyed_rng
from kitlib.synthetic import rendered_text
from kitlib.synthetic.rendered_pages import markup_tree, page, receipt, render

PAGE = "<h>cat</h><ul><li>dog</li><li>red fox</li></ul><b>go</b><t><r><c>1</c><c>23</c></r><r><c>4</c><c>5</c></r></t>"
TREE = (
    ("h", "cat"),
    ("ul", (("li", "dog"), ("li", "red fox"))),
    ("b", "go"),
    ("t", (("r", (("c", "1"), ("c", "23"))), ("r", (("c", "4"), ("c", "5"))))),
)


# --- markup ---


def as_markup(tree) -> str:
    return "".join(f"<{tag}>{x if isinstance(x, str) else as_markup(x)}</{tag}>" for tag, x in tree)


def test_markup_by_hand_and_back():
    assert markup_tree(PAGE) == TREE and as_markup(TREE) == PAGE
    spaced = re.sub(r"(</?(h|ul|li|b|t|r|c)>)", r" \1\n", PAGE).replace("red fox", "red \n fox")
    assert markup_tree(spaced) == TREE


@pytest.mark.parametrize(
    "text",
    [
        "fish & chips",
        "&",
        "&amp; &lt; &#65; &x;",  # nothing is escaped, so these are ordinary characters
        "a&b;c",
        "'\"/=!?",
        "]]",
        "-- x:y [CDATA[",
        "naïve ёлка",
    ],
)
def test_all_characters_but_two_stand_for_themselves_in_a_text(text):
    for tag, wrapped in (("h", "<h>{}</h>"), ("b", "<b>{}</b>")):
        assert markup_tree(wrapped.format(text)) == ((tag, text),)
    assert markup_tree(f"<ul><li>{text}</li></ul>") == (("ul", (("li", text),)),)


ON_PAGE = "which holds <h> or <ul> or <b> or <t>."
NO_TAG = "begins no plain tag like <h> or </h>."
MISMATCHED = "mismatched tag: line 1, column"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # what is missing
        ("", f"nothing is in <page>, {ON_PAGE}"),
        ("  ", f"nothing is in <page>, {ON_PAGE}"),
        ("<h></h>", "nothing is in <h>, which holds text."),
        ("<h> </h>", "nothing is in <h>, which holds text."),
        ("<ul></ul>", "nothing is in <ul>, which holds <li>."),
        ("<t><r></r></t>", "nothing is in <r>, which holds <c>."),
        # what is in the wrong element
        ("cat", f"'cat' is in <page>, {ON_PAGE}"),
        ("<h>cat</h> dog", f"'dog' is in <page>, {ON_PAGE}"),
        ("&<h>cat</h>", f"'&' is in <page>, {ON_PAGE}"),
        ("<ul>cat</ul>", "'cat' is in <ul>, which holds <li>."),
        ("<ul><li>cat</li>dog</ul>", "'dog' is in <ul>, which holds <li>."),
        ("<li>cat</li>", f"<li> is in <page>, {ON_PAGE}"),
        ("<ul><h>cat</h></ul>", "<h> is in <ul>, which holds <li>."),
        ("<t><c>1</c></t>", "<c> is in <t>, which holds <r>."),
        ("<h>a<b>c</b></h>", "<b> is in <h>, which holds text."),
        ("<x>a</x>", f"<x> is in <page>, {ON_PAGE}"),
        ("<H>a</H>", f"<H> is in <page>, {ON_PAGE}"),
        ("<page><h>a</h></page>", f"<page> is in <page>, {ON_PAGE}"),
        ("<h>1 > 2</h>", "'>' is in <h>, which holds text."),
        ("<ul>><li>a</li></ul>", "'>' is in <ul>, which holds <li>."),
        # tags without a partner
        ("<h>cat", f"{MISMATCHED} 14 of '<page><h>cat</page>'."),
        ("<h>cat</b>", f"{MISMATCHED} 14 of '<page><h>cat</b></page>'."),
        ("<ul><li>cat</li>", f"{MISMATCHED} 24 of '<page><ul><li>cat</li></page>'."),
        ("<h>a</h></h>", f"{MISMATCHED} 16 of '<page><h>a</h></h></page>'."),
        ("<h>a & b</h></h>", f"{MISMATCHED} 24 of '<page><h>a &amp; b</h></h></page>'."),
        ("<h>a</h>\n</h>", r"mismatched tag: line 2, column 2 of '<page><h>a</h>\n</h></page>'."),
        # the parser's own <page> cannot be closed and opened again
        ("<h>a</h></page>", "not well-formed (invalid token): line 1, column 22 of '<page><h>a</h></page></page>'."),
        ("<h>a</h></page><page><h>b</h>", "junk after document element: line 1, column 21 of '<page><h>a</h></page>"),
        # a < that begins no tag
        ("<h>1 < 2</h>", f"'<' at character 5 {NO_TAG}"),
        ("<h>a</h", f"'<' at character 4 {NO_TAG}"),
        ("<h>a</h><", f"'<' at character 8 {NO_TAG}"),
        ("<<</h>>", f"'<' at character 0 {NO_TAG}"),
        ("<>a</>", f"'<' at character 0 {NO_TAG}"),
        # XML that is not markup of a page
        ("<h >a</h>", f"'<' at character 0 {NO_TAG}"),
        ("<h>a</h >", f"'<' at character 4 {NO_TAG}"),
        ("<h>a</h\n>", f"'<' at character 4 {NO_TAG}"),
        ("<h x='1'>a</h>", f"'<' at character 0 {NO_TAG}"),
        ("<ul><li id=1>a</li></ul>", f"'<' at character 4 {NO_TAG}"),
        ('<h xmlns="x">a</h>', f"'<' at character 0 {NO_TAG}"),
        ("<x:h>a</x:h>", f"'<' at character 0 {NO_TAG}"),
        ("<h/>", f"'<' at character 0 {NO_TAG}"),
        ("<h>a</h><b/>", f"'<' at character 8 {NO_TAG}"),
        ("<t><r><c/></r></t>", f"'<' at character 6 {NO_TAG}"),
        ("<!-- a --><h>a</h>", f"'<' at character 0 {NO_TAG}"),
        ("<h>a<!-- b --></h>", f"'<' at character 4 {NO_TAG}"),
        ("<h><![CDATA[a]]></h>", f"'<' at character 3 {NO_TAG}"),
        ("<!DOCTYPE page [<!ENTITY x 'y'>]><h>&x;</h>", f"'<' at character 0 {NO_TAG}"),
        ("<?xml version='1.0'?><h>a</h>", f"'<' at character 0 {NO_TAG}"),
        # characters and names that XML does not allow
        ("<h>\0</h>", r"not well-formed (invalid token): line 1, column 9 of '<page><h>\x00</h></page>'."),
        ("<h>a]]>b</h>", "not well-formed (invalid token): line 1, column"),
        ("<1>a</1>", "not well-formed (invalid token): line 1, column 7 of '<page><1>a</1></page>'."),
    ],
)
def test_malformed_markup_is_refused_with_its_position_or_element(text, message):
    with pytest.raises(ValueError, match=f"^Malformed markup: {re.escape(message)}") as error:
        markup_tree(text)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# --- pages and receipts ---


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


def rows_of_ink(markup: str, seed: int, side: int = 128) -> int:
    """The number of bands of rows with ink, each with paper above and below."""
    image = render(markup, keyed_rng(11, seed), side)
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    ink = (image != colours[counts.argmax()]).any((1, 2)).astype(int)  # paper has the colour of most pixels
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
    listed = {w for v in vocabularies.values() for language, words in v.items() if language != "digits" for w in words}
    font = rendered_text.font_of_size("DejaVuSans-Bold", rendered_text.SMALLEST)
    widest = sorted(sorted(listed), key=font.getlength)[-12:]
    for seed in range(15):
        page(widest, keyed_rng(14, seed))
        receipt(widest, keyed_rng(14, seed))


# --- draws ---


@pytest.mark.parametrize("draw", [page, receipt, lambda known, rng: (render(PAGE, rng),)])
def test_the_same_generator_draws_the_same_and_another_something_else(draw, known):
    first, again, other = (draw(known, keyed_rng(15, seed)) for seed in (0, 0, 1))
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()


# --- errors ---


@pytest.mark.parametrize("draw", [page, receipt])
def test_pages_and_receipts_that_cannot_be_drawn(draw, known):
    rng = keyed_rng(17)
    with pytest.raises(ValueError, match="The vocabulary has 2 words that differ by more than case, but"):
        draw(["cat", "CAT", "dog", "7"], rng)
    with pytest.raises(ValueError, match=r"does not fit into 40 pixels|is too long for 40 pixels"):
        draw(known, rng, 40)
    with pytest.raises(ValueError, match="No font has glyphs"):
        draw(list("漢字日本語文"), rng)


def test_markup_that_cannot_be_drawn():
    rng = keyed_rng(17)
    with pytest.raises(ValueError, match="Malformed"):
        render("cat", rng)
    with pytest.raises(ValueError, match="is too long for 96 pixels"):
        render("<h>" + "long " * 10 + "</h>", rng)
    with pytest.raises(ValueError, match="The page does not fit into 96 pixels, even at size 8"):
        render("<h>many</h>" * 20, rng)
