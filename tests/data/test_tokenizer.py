"""kitlib.data.tokenizer: a round trip of every text, the layout of the ids, other models, training, bad input."""

import io
import itertools

import numpy as np
import pytest
import sentencepiece

from kitlib import data
from kitlib.data import captioned, denoise
from kitlib.data.tokenizer import MODES, ByteTokenizer, Tokenizer, multilingual, train

KIT = Tokenizer.load()
MULTILINGUAL = multilingual()
TEXTS = [f"{word} number {i}: the {word} of {i * i} {word}s" for i in range(60) for word in ("cat", "dog", "tree")]


def another_model(folder, **kwargs):
    """A .model file with SentencePiece's own defaults and one piece per letter."""
    model = io.BytesIO()
    kwargs = {"vocab_size": 30, "model_type": "char", "minloglevel": 2} | kwargs
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **kwargs)
    path = folder / "other.model"
    path.write_bytes(model.getvalue())
    return path


def random_texts(count, rng):
    """Texts of 0 to 20 characters from all of Unicode, from its lower part, from ASCII, and of special strings."""
    special = [*" \u2581\t\n\r\0\ufeff\u200d\u00a0\ufffd<>/_[]", "<extra_id_3>", "</s>", "[NLU]", "<0x41>", "  "]
    for _ in range(count):
        limits = rng.choice([0x80, 0x900, 0x3000, 0x110000], rng.integers(0, 21))
        points = [int(rng.integers(limit)) for limit in limits]
        parts = [chr(point) for point in points if not 0xD800 <= point < 0xE000]
        parts += [str(part) for part in rng.choice(special, rng.integers(0, 6))]
        yield "".join(rng.permutation(parts)) if parts else ""


@pytest.mark.parametrize("text", [
    "", " ", "   leading, inner   and trailing spaces   ", "tab\tand\nlines\r\n\r\n", "हिन्दी में एक वाक्य।",
    "größer, naïve, ﬁne ½ Å Å",  # a ligature, a fraction, an Angstrom sign: compatibility forms stay
    "🙂👩‍👩‍👧 🏳️‍🌈",
    "▁ is how SentencePiece writes a space▁▁", "\0\x7f\ufffd\ufeff\U0010ffff", "no" * 5000, "[NLU] [S2S][NLG]x [NLU",
    "<unk><pad></s><s> <0x41> <0xE2>",  # names of pieces are ordinary text
    "<extra_id_0> <extra_id_63> <extra_id_64> <extra_id_00> <extra_id_-1> <extra_id_५>",
])  # fmt: skip
def test_round_trip(text):
    ids = KIT.encode(text)
    assert KIT.decode(ids) == text
    assert all(isinstance(i, int) and 3 <= i < 2048 for i in ids)  # never padding, end or unknown


@pytest.mark.parametrize("tokenizer", [KIT, MULTILINGUAL], ids=["kit", "multilingual"])
def test_round_trip_of_random_unicode_and_the_glosses(tokenizer):
    texts = [*random_texts(2000, np.random.default_rng(0)), *data.glosses("test")]
    ids = [tokenizer.encode(text) for text in texts]
    for text, found in zip(texts, ids, strict=True):
        assert tokenizer.decode(found) == text, ascii(text)
    assert tokenizer.decode(itertools.chain(*ids)) == "".join(texts)  # no space is added before a text and none removed
    assert 2 * sum(map(len, ids[2000:])) < sum(map(len, texts[2000:]))


def test_round_trip_of_every_character():
    points = [point for point in range(0x20000) if not 0xD800 <= point < 0xE000]  # the planes that have most characters
    for start in range(0, len(points), 4096):
        text = "".join(map(chr, points[start : start + 4096]))
        assert KIT.decode(KIT.encode(text)) == text


def test_ids_that_no_text_has_can_be_decoded():
    byte = {piece: i for i, piece in enumerate(KIT.pieces(range(2048)))}
    assert KIT.decode([byte["<0xE2>"], byte["<0x96>"]]) in ("\ufffd", "\ufffd\ufffd")  # two bytes of three
    assert KIT.decode(np.arange(2048)).endswith("<extra_id_1><extra_id_0>")
    assert KIT.decode([*KIT.encode("a cat"), 1, 0, 0]) == "a cat" == KIT.decode([0, *KIT.encode("a cat")])
    assert KIT.decode([]) == "" == KIT.decode([0, 1]) and KIT.pieces([1, 0, 2047]) == ["</s>", "<pad>", "<extra_id_0>"]


def test_layout_of_the_ids():
    """Padding 0, end 1, unknown 2, modes, bytes, subwords; the sentinels from the last id down, as in T5."""
    assert KIT.vocab_size == 2048 and (KIT.pad_id, KIT.eos_id) == (0, 1) and KIT.byte_fallback
    pieces = KIT.pieces(range(2048))
    assert pieces[:6] == ["<pad>", "</s>", "<unk>", *MODES]
    assert pieces[6:262] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert pieces[1984:] == [f"<extra_id_{k}>" for k in range(63, -1, -1)]
    assert len(set(pieces)) == 2048
    assert KIT.sentinel_ids.tolist() == list(range(2047, 1983, -1)) and KIT.sentinel_ids.dtype == np.int32


def test_special_text_becomes_its_id_and_number_of_sentinels():
    assert KIT.encode("[NLU]") == [3] and KIT.encode("[NLG]") == [4] and KIT.encode("[S2S]") == [5]
    before, after = KIT.encode("a cat "), KIT.encode(" a hat")
    assert KIT.encode("a cat <extra_id_12> a hat") == [*before, 2047 - 12, *after]
    assert max(KIT.encode("<extra_id_64><extra_id_012>")) < 1984  # there are no such sentinels
    t5 = Tokenizer.load(sentinels=100)
    assert t5.vocab_size == 2084 and t5.sentinel_ids[[0, 99]].tolist() == [2083, 1984]
    assert t5.encode("<extra_id_99>") == [1984]
    none = Tokenizer.load(sentinels=0)
    assert none.vocab_size == 1984 and none.sentinel_ids.shape == (0,)
    assert none.decode(none.encode("<extra_id_0>▁")) == "<extra_id_0>▁"


def test_layout_of_the_multilingual_ids_and_boxes_take_one_token_per_number():
    assert MULTILINGUAL.vocab_size == 4096 and (MULTILINGUAL.pad_id, MULTILINGUAL.eos_id) == (0, 1)
    pieces = MULTILINGUAL.pieces(range(4096))
    assert len(set(pieces)) == 4096 and pieces[-1] == "<extra_id_0>" and MULTILINGUAL.byte_fallback
    assert {f"▁{i}" for i in range(1000)} < set(pieces) and "▁;" in pieces
    pieces = MULTILINGUAL.pieces(MULTILINGUAL.encode(" 0 40 873 999 Apfel ; 5 10 100 301 dog"))
    assert pieces[:4] == ["▁0", "▁40", "▁873", "▁999"] and "".join(pieces[4:]).startswith("▁Apfel▁;▁5▁10▁100▁301▁d")
    assert MULTILINGUAL.pieces(MULTILINGUAL.encode(" 1000"))[0] == "▁100"  # the longest match


@pytest.mark.parametrize("split", ["train", "test"])
def test_round_trip_of_names_in_every_language(split):
    emoji = captioned.emoji(split)
    for language in captioned.LANGUAGES:
        ids = [MULTILINGUAL.encode(f" {name}") for name in emoji.names[language]]
        assert [MULTILINGUAL.decode(i) for i in ids] == [f" {name}" for name in emoji.names[language]]
        assert max(map(len, ids)) < 40 and np.mean([*map(len, ids)]) < 10  # bytes alone would take three times that
        assert 2 not in np.concatenate(ids)  # nothing is unknown


def test_another_model_lists_the_characters_that_it_loses_and_gets_an_id_for_padding(tmp_path):
    path = another_model(tmp_path)
    with pytest.warns(UserWarning, match=r"other\.model has no byte fallback.*Tokenizer\.lost"):
        tokenizer = Tokenizer.load(path)
    assert tokenizer.lost("the cat of हिन्दी dog 🙂") == ["हिन्दी", "🙂"]
    assert tokenizer.lost("the cat") == [] == KIT.lost("the cat of हिन्दी")
    assert tokenizer.decode(tokenizer.encode("the cat<extra_id_1>")) == "the cat<extra_id_1>"
    assert "⁇" in tokenizer.decode(tokenizer.encode("हिन्दी"))
    with pytest.warns(UserWarning):  # this one has no special strings
        plain = Tokenizer.load(path, sentinels=0)
    assert plain.encode("the cat") == tokenizer.encode("the cat") and plain.lost("a cat <") == ["<"]
    # SentencePiece's defaults: unknown 0, beginning 1, end 2, no padding. 30 pieces, so padding gets 30.
    with pytest.warns(UserWarning):
        tokenizer = Tokenizer.load(path, sentinels=10)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (2, 30, 41)
    assert tokenizer.sentinel_ids.tolist() == list(range(40, 30, -1))
    assert tokenizer.decode([*tokenizer.encode("a cat"), 2, 30]) == "a cat"
    assert tokenizer.pieces([2, 30, 31]) == ["</s>", "<pad>", "<extra_id_9>"]


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 100, "cut", None])
def test_a_bad_file_is_refused_by_name(content, tmp_path):
    if content == "cut":
        content = (data.data_folder() / "tokenizer.model").read_bytes()[:-100]
    if content is not None:
        (tmp_path / "bad.model").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=r"bad\.model is (not a SentencePiece model|missing)"):
        Tokenizer.load(tmp_path / "bad.model")


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"other\.model has no piece for the end"):
        Tokenizer.load(another_model(tmp_path, eos_id=-1))
    with pytest.raises(ValueError, match="sentinels is -1"):
        Tokenizer.load(sentinels=-1)
    with pytest.raises(ValueError, match="surrogates not allowed"):
        KIT.encode("a\ud83d")
    for function, ids in ((KIT.decode, [-1]), (KIT.pieces, [5, 2048])):
        with pytest.raises(ValueError, match=f"from {min(ids)} to {max(ids)}; expected 0 to 2047"):
            function(ids)


# A piece is stored as 0a, its length; 0a, length and text; 15 and the score, a float32.
WORD = "\u2581follow".encode()


def score(value):
    return WORD + b"\x15" + np.float32(value).tobytes()


@pytest.mark.parametrize(("old", "new"), [
    (WORD, WORD[:-1] + b"\xff"),  # no UTF-8
    (WORD, "\u2581number".encode()),  # there is one already
    (WORD + b"\x15", WORD + b"\x12"),  # a score that is none
    (b"<0x41>", b"<0x4a>"),  # one of the 256 bytes
    (b"\x0a\x10\x0a\x09" + WORD, b"\x4a\x10\x0a\x09" + WORD),  # a field that nobody reads: all ids behind it move
    *((None, score(value)) for value in (np.nan, np.inf, -np.inf, 9.0, -3e38)),  # which no training writes
])  # fmt: skip
def test_a_damaged_model_is_refused(old, new):
    content = (data.data_folder() / "tokenizer.model").read_bytes()
    at = content.index(WORD + b"\x15")
    old = old or content[at : at + len(new)]
    assert content.count(old) == 1
    with pytest.raises(ValueError, match=r"a\.model is .* SentencePiece model: get it again"):
        Tokenizer(content.replace(old, new), name="a.model")


def test_training_is_deterministic_gives_the_size_and_finds_the_frequent_words():
    model = train(TEXTS, 340, sentinels=8)
    assert model == train(list(TEXTS), 340, sentinels=8)
    tokenizer = Tokenizer(model, sentinels=8)
    assert tokenizer.vocab_size == 340 and (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.encode("[S2S]") == [5]
    for text in ("the cat", "  हिन्दी ▁ ", *random_texts(100, np.random.default_rng(2))):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer = Tokenizer(train(data.glosses()[:500], 700, sentinels=8), sentinels=8)
    for word, other in ((" the", " hte"), (" of", " fo"), (" with", " iwth")):
        assert len(tokenizer.encode(word)) == 1 < len(tokenizer.encode(other))


def test_training_keeps_symbols_whole_and_spells_rare_characters():
    texts = [*TEXTS, "Ω rare"]
    tokenizer = Tokenizer(train(texts, 320, sentinels=8, symbols=["▁17", "▁1", "##"], coverage=0.99), sentinels=8)
    assert tokenizer.pieces(tokenizer.encode(" 17##a 1##")) == ["▁17", "##", "a", "▁1", "##"]
    assert tokenizer.pieces(tokenizer.encode("Ω")) == ["<0xCE>", "<0xA9>"]
    whole = Tokenizer(train(texts, 320, sentinels=8), sentinels=8)
    assert len(whole.encode("Ω")) == 1 and "##" not in whole.pieces(whole.encode(" 17##a 1##"))


def test_training_reads_texts_of_any_length_and_says_what_is_wrong():
    """By default SentencePiece leaves out texts of more than 4,192 bytes. Only the long text has a z."""
    tokenizer = Tokenizer(train([*TEXTS, "zebra " * 2000], 340, sentinels=8), sentinels=8)
    assert "z" in "".join(tokenizer.pieces(range(262, 332)))
    for texts, size, message in (([], 2048, "nothing to train on"), (TEXTS, 320, "Vocabulary size is smaller")):
        with pytest.raises(ValueError, match=f"{len(texts)} texts, {size} ids of which 64 sentinels: .*{message}"):
            train(texts, size)


def test_bytes_by_hand():
    # UTF-8: n is 110, é is 195 169, the euro sign 226 130 172; ids are 3 larger.
    words = ByteTokenizer()
    assert words.encode("né€") == [113, 198, 172, 229, 133, 175]
    assert words.decode([113, 198, 172]) == "né"
    assert words.decode([0, 113, 1, 287]) == "n"  # special ids and sentinels give no text
    assert words.decode([198]) == "\ufffd"  # half a character
    assert words.vocab_size == 3 + 256 + 29 == 288
    assert words.sentinel_ids[:2].tolist() == [287, 286] and len(words.sentinel_ids) == 29
    assert words.is_text(np.array([[0, 1, 2, 3], [258, 259, 287, 100]])).tolist() == [
        [False] * 3 + [True],
        [True, False, False, True],
    ]
    with pytest.raises(ValueError, match="sentinels is -1"):
        ByteTokenizer(-1)


@pytest.mark.parametrize("text", ["", "plain", "Größe", "日本語", "a\x00b", "👩‍🚀"])
def test_every_text_comes_back(text):
    words = ByteTokenizer()
    assert words.decode(words.encode(text)) == text


def test_denoising_and_batches_work_on_bytes():
    words = ByteTokenizer()
    stream = denoise.token_stream(data.glosses("test")[:200], words)
    spans = denoise.Denoiser("", 0.15, 6)
    batch = next(denoise.batches(stream, words, 4, inputs_length=96, denoisers=(spans,)))
    assert batch["inputs"].shape == (4, 96)
    for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True):
        whole = denoise.restore(inputs, targets, words.sentinel_ids, words.eos_id)
        # Text and ends of texts only, and a run of the stream.
        assert (words.is_text(whole) | (whole == words.eos_id)).all()
        assert " ".join(map(str, whole)) in " ".join(map(str, np.tile(stream, 2)))
