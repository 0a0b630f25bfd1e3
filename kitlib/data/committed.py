"""How the kit's own data files are read: checked first, then decoded, and refused by name if something else is in them.

decoded(data_folder(), "taxonomy.json.gz", "make_pictures", lambda content: json.loads(gzip.decompress(content)))
decoded_arrays(data_folder(), "emoji.npz", "make_pictures", lambda arrays: arrays["test_images"])
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kitlib.data.files import read_checked


def decoded(folder: Path, file: str, script: str, decode: Callable[[bytes], Any]):
    """decode(content) of a file of the kit, which data/`script`.py has made; `decode` raises for other content.

    Raises the errors of `read_checked`, and ValueError with the file's name for whatever `decode` raises.
    """
    content = read_checked(folder, file)
    try:
        return decode(content)
    except Exception as error:  # unpacking, parsing and looking up fail in a dozen ways, deep JSON in another one
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{folder / file} is not a data file of the kit ({reason}): make it with data/{script}.py."
        ) from error


def decoded_arrays(folder: Path, file: str, script: str, decode: Callable[[Any], Any]):
    """decode(arrays) of an .npz of the kit. Nothing in it is ever unpickled. Errors as for `decoded`."""

    def load(content: bytes):
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return decode(arrays)

    return decoded(folder, file, script, load)
