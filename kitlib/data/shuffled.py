"""An endless iterator over batches of rows: each epoch has all rows once, in a new order.

    iterator = batches(len(facts), 256, lambda rows, position: {"inputs": facts.inputs[rows]}, seed=0)

`recall` and `synthetic.named_pictures` make their batches with it.
"""

import functools
import sys
from collections.abc import Callable

import grain
import numpy as np

from kitlib.configs.arguments import whole
from kitlib.data.files import keyed_rng


def batches(
    size: int, batch_size: int, make: Callable[[np.ndarray, int], dict[str, np.ndarray]], *, seed: int = 0
) -> grain.DatasetIterator:
    """Yields make(rows int[batch_size], number of the batch) without end.

    `get_state` and `set_state` continue with the very next batch. The last incomplete batch of an epoch is dropped.
    Raises ValueError if there are fewer rows than batch_size, or it is not positive.
    """
    whole("batch_size (of all examples at most)", batch_size, 1, size)
    steps = size // batch_size

    @functools.lru_cache(maxsize=2)  # the reader thread may be in two epochs at once
    def order(epoch: int) -> np.ndarray:
        return keyed_rng(seed, 0, epoch).permutation(size)

    def batch(position: int) -> dict[str, np.ndarray]:
        epoch, step = divmod(position, steps)
        return make(order(epoch)[step * batch_size : (step + 1) * batch_size], position)

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # works while the device computes
    return iter(grain.MapDataset.range(steps * (sys.maxsize // steps)).map(batch).to_iter_dataset(options))
