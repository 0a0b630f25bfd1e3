"""kitlib.data.tokenizer: bytes by hand, every text back, denoising and batches as with pieces."""

import numpy as np
import pytest

from kitlib import data
from kitlib.data import denoise
from kitlib.data.tokenizer import ByteTokenizer


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
