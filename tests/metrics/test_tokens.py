import unicodedata

import numpy as np
import pytest

from kitlib.metrics import text_metrics as text_metrics


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man, a plan: a canal!", ["a", "man", "a", "plan", "a", "canal"]),
        ("The man's T-shirt", ["the", "man", "'s", "t-shirt"]),
        ("It doesn't; they’ve left.", ["it", "does", "n't", "they", "'ve", "left"]),
        ("the dogs' (two) \"bowls\" - 'old' ones", ["the", "dogs", "two", "bowls", "old", "ones"]),
        ("3.5 of 1,000. Yes.No", ["3.5", "of", "1,000", "yes", "no"]),
        ("ﬁne ｆｕｌｌ　width", ["fine", "full", "width"]),  # a ligature, full-width letters and space
        ("so\u00adft  and/or_this 😀 50%", ["soft", "and", "or", "this", "50"]),  # a soft hyphen is invisible
        ("five o'clock", ["five", "o'clock"]),
        ("", []),
        (" ...'-' ", []),
        ("一只黑猫。", ["一", "只", "黑", "猫"]),
        ("黒い猫とtwoカップ", ["黒", "い", "猫", "と", "two", "カ", "ッ", "プ"]),
        ("ｶﾞ", ["ガ"]),  # half-width with its mark is one character in NFKC
        ("ที่ดี", ["ที่", "ดี"]),  # a consonant carries its vowel and tone mark
        ("한국어 문장", ["한국어", "문장"]),  # Korean has spaces
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs, which \w cuts words at, stay inside
        ("größer Çay", ["größer", "çay"]),
    ],
)
def test_tokens_by_hand(caption, tokens):
    assert text_metrics.tokenise(caption) == tokens


def test_composed_and_decomposed_letters_are_the_same_tokens():
    text = "Ein Café über Ñandú, が"
    forms = {tuple(text_metrics.tokenise(unicodedata.normalize(form, text))) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert forms == {("ein", "café", "über", "ñandú", "が")}


@pytest.mark.parametrize("seed", range(5))
def test_tokens_are_a_fixed_point(seed):
    # Tokens joined by spaces give the same tokens, whatever the characters: nothing is lost or split on the second
    # pass. A clitic is the exception, as 's alone begins with an apostrophe; the alphabet has none.
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list("abZ09 .,-!?%猫ンที่ßéि\n"), size=300))
    tokens = text_metrics.tokenise(text)
    assert tokens
    assert text_metrics.tokenise(" ".join(tokens)) == tokens
    assert all(token and not token.isspace() for token in tokens)


def test_texts_come_back_as_lists():
    assert text_metrics.check_texts(("a", "b"), np.array(["c", "d"]), several=False) == (["a", "b"], ["c", "d"])
    assert text_metrics.check_texts(iter(["a"]), [("b", "c")], several=True) == (["a"], [["b", "c"]])
    assert text_metrics.check_texts([""], [[""]], several=True) == ([""], [[""]])  # a model may say nothing


@pytest.mark.parametrize(
    ("predictions", "references", "several", "error", "message"),
    [
        ("cat", ["cat"], False, TypeError, r"predictions must be a list, got the string 'cat'; write \['cat'\]"),
        # The classic: as a list of letters, it would be seven references of one letter.
        (["cat"], ["a cat."], True, TypeError, r"references\[0\] must be a list, got the string 'a cat.'"),
        ({1: "cat"}, ["cat"], False, TypeError, "predictions must be a list, .* got dict"),
        (["cat"], [{"cat"}], True, TypeError, r"references\[0\] must be a list, .* got set"),
        (7, ["cat"], False, TypeError, "got int"),
        (["a", "b"], [["c"], ["c", None]], True, TypeError, r"references\[1\]\[1\] must be a string, got NoneType"),
        (["cat"], [[]], True, ValueError, r"references\[0\] is empty"),
        (["cat", "dog"], ["cat"], False, ValueError, "got 2 predictions and 1 references"),
    ],
)
def test_texts_refused(predictions, references, several, error, message):
    with pytest.raises(error, match=message):
        text_metrics.check_texts(predictions, references, several=several)


def test_tokenise_refuses_a_list():
    with pytest.raises(TypeError, match="tokenise each"):
        text_metrics.tokenise(["a cat"])
