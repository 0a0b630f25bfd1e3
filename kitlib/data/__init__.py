"""Data: real files that are part of the kit, the full public sets, and batches of both.

Read `files` (paths, checksums, seeded generators, content), then `images` and `datasets` (what `load` returns;
`tfds_builders` prepares full public sets), then `image_batches`; `own_files` (your own pictures and texts). For text:
`texts`, `tokenizer`, `denoise` (objectives and batches). For multimodal work: `captioned` (emoji with names in 16
languages, in several drawing styles; easy-VQA). For robustness: `shifts`. `download` fetches weights.
"""

from kitlib.data.datasets import load
from kitlib.data.files import data_folder, keyed_rng
from kitlib.data.images import Source, from_arrays
from kitlib.data.own_files import from_files, texts_from_file
from kitlib.data.texts import glosses

__all__ = [
    "Source", "data_folder", "from_arrays", "from_files", "glosses", "keyed_rng", "load", "texts_from_file",
]  # fmt: skip
