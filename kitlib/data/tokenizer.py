"""Text to token ids and back without loss: subwords from a SentencePiece file, followed by T5's sentinels.

    tokenizer = Tokenizer.load()                          # the kit's own, 2,048 ids, English
    tokenizer.decode(tokenizer.encode(text)) == text      # for every text, in every script
    multilingual()                                        # 4,096 ids, for PaLI-X: 16 languages, whole numbers
    ByteTokenizer().encode("né")                          # [113, 198, 172]: bytes 110, 195, 169, each plus 3

The kit's model is a unigram model of 1,984 pieces, trained on the training glosses: padding 0, end of sequence 1,
unknown 2, UL2's mode tokens 3 to 5, the 256 bytes, then subwords. Characters that no subword covers are spelt in their
UTF-8 bytes, so no text is ever unknown. 64 sentinels follow; `<extra_id_0>` has the largest id, as in T5 (arXiv
1910.10683). That makes 2,048 ids, a round number for the embedding. T5 has 100 sentinels; the densest denoiser of UL2
(half of the tokens in spans of 3) needs 64 for inputs of 256 tokens, and more would leave fewer ids for subwords.

The multilingual model has the same layout. The numbers 0 to 999, with the space before them, are one piece each: PaLI-X
writes boxes in whole numbers and has a token for each up to 1,000. So the model expects a space before every text, as
its training texts had (data/make_multilingual.py).

A mode token is ordinary text that happens to be one piece: `encode("[NLU] a text")`. So a file without these pieces
works too, with a longer prefix.

`ByteTokenizer` has the same interface without a vocabulary of words: every byte of UTF-8 is a token, as in ByT5
(2105.13626). It needs no file and knows every language; sequences are three to four times as long.
"""

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from kitlib.configs.arguments import whole
from kitlib.data import files

VOCAB_SIZE = 2048
SENTINELS = 64
MODES = ("[NLU]", "[NLG]", "[S2S]")  # arXiv 2205.05131; the tokens of the published UL2 20B

SPACE = "\u2581"  # SentencePiece writes a space as this character and reads this character as a space


class Tokenizer:
    """A SentencePiece model with sentinels.

    vocab_size: V, sentinels included. pad_id, eos_id: padding (for a model without, an id after its pieces) and end of
    sequence. sentinel_ids: int32[n], the id of `<extra_id_k>` at index k: V - 1, V - 2, ... byte_fallback: whether the
    model can spell any text in bytes; if not, `lost` lists what it cannot.
    """

    def __init__(self, model: bytes, *, sentinels: int = SENTINELS, name: str = "the model"):
        """model: a serialized SentencePiece model; sentinels: how many to add; name: for error messages.

        Raises ValueError for bytes that are no such model, a model that cannot end a sequence, or negative sentinels.
        The format has no checksum: another score or text of a piece cannot be seen. What no training writes is refused:
        unknown fields, equal pieces or such as are no UTF-8, scores above 0, 255 of the 256 bytes.
        """
        whole("sentinels", sentinels, 0)
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"{name} is not a SentencePiece model: get it again, or make one by train.") from error
        if self._model.eos_id() < 0:
            raise ValueError(f"{name} has no piece for the end of a sequence (eos): train it with one.")
        size = self._model.get_piece_size()
        self.eos_id = self._model.eos_id()
        self.pad_id = self._model.pad_id() if self._model.pad_id() >= 0 else size
        first = max(size, self.pad_id + 1)
        self.vocab_size = first + sentinels
        self.sentinel_ids = np.arange(self.vocab_size - 1, first - 1, -1, dtype=np.int32)
        bytes_ids = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self.byte_fallback = any(map(self._model.is_byte, bytes_ids))
        if not self._is_whole(model, bytes_ids):
            raise ValueError(f"{name} is a damaged SentencePiece model: get it again.")
        self._special = {f"<extra_id_{k}>": [int(i)] for k, i in enumerate(self.sentinel_ids)}
        if self.byte_fallback:  # otherwise the character would be decoded as a space
            self._special[SPACE] = [bytes_ids[byte] for byte in SPACE.encode()]
        self._split = re.compile(f"({'|'.join(map(re.escape, self._special))})" if self._special else "(?!)")

    @classmethod
    def load(cls, path: str | Path | None = None, *, sentinels: int = SENTINELS) -> "Tokenizer":
        """Reads a SentencePiece .model file; without a path the kit's own, whose checksum is verified.

        Warns if the file has no byte fallback. Raises FileNotFoundError if it is missing, and ValueError if it is no
        SentencePiece model, or the kit's own file was changed.
        """
        if path is None:
            return cls(files.read_checked(files.data_folder(), "tokenizer.model"), sentinels=sentinels)
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: name a SentencePiece .model file, or none for the kit's own.")
        tokenizer = cls(path.read_bytes(), sentinels=sentinels, name=str(path))
        if not tokenizer.byte_fallback:
            lost = "characters outside its pieces are lost; Tokenizer.lost(text) names them."
            warnings.warn(f"{path.name} has no byte fallback: {lost}", stacklevel=2)
        return tokenizer

    def _is_whole(self, model: bytes, bytes_ids: Sequence[int]) -> bool:
        """Whether this could come from a training: a changed bit may turn a piece into a field that nobody reads."""
        everything = range(self._model.get_piece_size())
        try:
            _ = [self._model.id_to_piece(i) for i in everything]
        except UnicodeDecodeError:
            return False
        likely = all(-1e9 < self._model.get_score(i) <= 0 for i in everything)  # logarithms of probabilities, or ranks
        whole_bytes = self.byte_fallback == all(map(self._model.is_byte, bytes_ids))
        return likely and whole_bytes and self._model.serialized_model_proto() == model

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end of sequence. `<extra_id_k>` in the text becomes that sentinel.

        Raises ValueError for half a surrogate pair, which no encoding of Unicode can hold.
        """
        text.encode()  # raises a clear error for half a pair; SentencePiece would report a failed cast
        ids = []
        for part in self._split.split(text):
            ids += self._special.get(part) or self._model.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids: padding and end give no text, sentinels `<extra_id_k>`, half a character U+FFFD.

        Raises ValueError for an id outside 0 ... V - 1.
        """
        text, run = [], []
        for i in self._checked(ids):
            if self._is_sentinel(i):
                text += [self._model.decode(run), self._piece(i)]
                run = []
            elif i != self.pad_id:
                run.append(i)
        return "".join(text) + self._model.decode(run)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One readable string per id: `▁` is a space, `<0xE0>` a byte, `</s>` the end of a sequence."""
        return [self._piece(i) for i in self._checked(ids)]

    def _piece(self, i: int) -> str:
        if self._is_sentinel(i):
            return f"<extra_id_{self.vocab_size - 1 - i}>"
        return self._model.id_to_piece(i) if i < self._model.get_piece_size() else "<pad>"

    def lost(self, text: str) -> list[str]:
        """The parts of the text that this model can only encode as unknown, in order; [] with byte fallback."""
        if self.byte_fallback:
            return []
        found = zip(self._model.encode(text, out_type=str), self._model.encode(text), strict=True)
        return [piece for piece, i in found if i == self._model.unk_id()]

    def _is_sentinel(self, i: int) -> bool:
        return i >= self.vocab_size - len(self.sentinel_ids)

    def _checked(self, ids: Iterable[int]) -> list[int]:
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(f"The ids go from {min(ids)} to {max(ids)}; expected 0 to {self.vocab_size - 1}.")
        return ids


def multilingual() -> Tokenizer:
    """The kit's own model for the sixteen languages of `captioned.LANGUAGES`; its checksum is verified."""
    return Tokenizer(files.read_checked(files.data_folder(), "multilingual.model"))


def train(
    texts: Sequence[str],
    vocab_size: int = VOCAB_SIZE,
    *,
    sentinels: int = SENTINELS,
    symbols: Sequence[str] = (),
    coverage: float = 1.0,
) -> bytes:
    """Trains a unigram model (Kudo, arXiv 1804.10959) for a `Tokenizer` with this many ids and sentinels.

    symbols: texts that become one piece wherever they occur, the longest match first; they write a space as `SPACE`.
    coverage: the share of all characters, from the most frequent on, that become pieces; the others are spelt in bytes.
    Returns the serialized model, the content of a .model file: the same bytes for the same texts. Raises ValueError if
    there are too few texts for this number of pieces, or too few pieces for bytes and characters.
    """
    texts_and_sizes = f"{len(texts)} texts, {vocab_size} ids of which {sentinels} sentinels"
    if not texts:
        raise ValueError(f"{texts_and_sizes}: there is nothing to train on.")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size - sentinels,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            user_defined_symbols=[*MODES, *symbols],
            byte_fallback=True,
            character_coverage=coverage,
            # Off: three changes of SentencePiece that cannot be undone, of Unicode compatibility forms and of spaces.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            max_sentence_length=2**30,  # longer texts would be left out without a warning
            num_threads=1,  # several threads add in another order, which gives another model
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).split("] ")[-1]  # before it is the failed line of SentencePiece's source code
        raise ValueError(f"{texts_and_sizes}: {reason}") from error
    return model.getvalue()


SPECIAL = 3  # pad, end, unknown: as in ByT5, where no byte is unknown either
BYTES = 256


class ByteTokenizer:
    """Ids: 0 padding, 1 end of sequence, 2 unused, 3 to 258 the bytes, then the sentinels in descending order.

    As in T5, sentinel 0 is the last id. sentinels: their number.
    """

    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, sentinels: int = 29):
        self.vocab_size = SPECIAL + BYTES + whole("sentinels", sentinels, 0)  # V
        self.sentinel_ids = np.arange(self.vocab_size - 1, SPECIAL + BYTES - 1, -1, dtype=np.int32)  # sentinel 0 first

    def encode(self, text: str) -> list[int]:
        """The bytes of a text; no end of sequence is added."""
        return [byte + SPECIAL for byte in text.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the bytes among the ids; special ids and sentinels give none, torn characters U+FFFD."""
        return bytes(i - SPECIAL for i in map(int, ids) if SPECIAL <= i < SPECIAL + BYTES).decode(errors="replace")

    def is_text(self, ids):
        """bool, of the shape of the array ids: which are bytes of a text, neither sentinels nor special ids."""
        return (ids >= SPECIAL) & (ids < SPECIAL + BYTES)
