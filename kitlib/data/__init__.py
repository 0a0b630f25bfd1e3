"""Data: real files that are part of the kit, the full public sets, and batches of both.

Read `files` (checksums, decoding, writing, seeded generators), then `images` (what `load` returns) and `image_batches`;
`own_files` (your own pictures and texts). For text: `texts` (glosses, messages, names to know by heart), `tokenizer`,
`denoise`. For multimodal work: `captioned` (emoji with names in 16 languages, in five drawing styles; easy-VQA). For
robustness: `shifts` (corruptions, out-of-distribution sets). `datasets` prepares full public sets, `download` fetches
weights.
"""

from kitlib.data.files import data_folder, keyed_rng
from kitlib.data.images import Source, from_arrays, load
from kitlib.data.own_files import from_files, texts_from_file
from kitlib.data.texts import glosses

__all__ = [
    "Source", "data_folder", "from_arrays", "from_files", "glosses", "keyed_rng", "load", "texts_from_file",
]  # fmt: skip
