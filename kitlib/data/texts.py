"""The kit's text: entries of WordNet's dictionary, as strings.

    glosses("train")                             # 18,000 entries

`text_batches` makes training batches from them.
"""

import gzip
import zlib
from pathlib import Path

from kitlib.configs.nearest_name import one_of
from kitlib.data.files import data_folder, read_checked


def glosses(split: str = "train", *, data_dir: str | Path | None = None) -> list[str]:
    """The kit's text: 18,000 ("train") or 2,000 ("test") entries of WordNet 3.0, one string each, without line breaks.

    An entry is a word or phrase, its definition and often an example: 'ice cube: a small cube of artificial ice; ...'.
    No definition and no example occurs twice, so none is in both splits. The order is random but fixed: the first n are
    a fair subset. data_dir: as for `datasets.load`.

    Raises the errors of `files.read_checked`, and ValueError for an unknown split or a file with other content.
    """
    one_of("split of the glosses", split, ("train", "test"))
    folder, file = Path(data_dir) if data_dir else data_folder(), "glosses.txt.gz"
    data = read_checked(folder, file)
    try:
        train, test = gzip.decompress(data).decode().split("\n\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{folder / file} is not a data file of the kit ({error}): expected gzipped lines, an empty one between "
            f"the splits; make it with data/make_data.py."
        ) from error
    return (train if split == "train" else test).splitlines()
