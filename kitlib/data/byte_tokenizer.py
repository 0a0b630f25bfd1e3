"""A tokenizer without a vocabulary of words: every byte of UTF-8 is a token, as in ByT5 (2105.13626).

    words = ByteTokenizer()
    words.encode("né")                    # [113, 198, 172]: bytes 110, 195, 169, each plus 3
    words.decode([113, 198, 172])         # "né"

It needs no file and knows every language; sequences are three to four times as long as with pieces. It has the
interface of `tokenizer.Tokenizer`, so `denoise` and `text_batches` take either.
"""

from collections.abc import Iterable

import numpy as np

from kitlib.configs.arguments import whole

SPECIAL = 3  # pad, end, unknown: as in ByT5, where no byte is unknown either
BYTES = 256


class ByteTokenizer:
    """Ids: 0 padding, 1 end of sequence, 2 unused, 3 to 258 the bytes, then the sentinels in descending order.

    As in T5, sentinel 0 is the last id. sentinels: their number.
    """

    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, sentinels: int = 29):
        self.sentinels = whole("sentinels", sentinels, 0)

    @property
    def vocab_size(self) -> int:
        """V."""
        return SPECIAL + BYTES + self.sentinels

    @property
    def sentinel_ids(self) -> np.ndarray:
        """int32[sentinels], sentinel 0 first."""
        return np.arange(self.vocab_size - 1, SPECIAL + BYTES - 1, -1, dtype=np.int32)

    def encode(self, text: str) -> list[int]:
        """The bytes of a text; no end of sequence is added."""
        return [byte + SPECIAL for byte in text.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the bytes among the ids; special ids and sentinels give none, torn characters U+FFFD."""
        return bytes(i - SPECIAL for i in map(int, ids) if SPECIAL <= i < SPECIAL + BYTES).decode(errors="replace")

    def is_text(self, ids):
        """bool, of the shape of the array ids: which are bytes of a text, neither sentinels nor special ids."""
        return (ids >= SPECIAL) & (ids < SPECIAL + BYTES)
