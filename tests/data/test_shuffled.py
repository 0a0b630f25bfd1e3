"""kitlib.data.image_batches: rows are seen once per epoch, batches go on where they stopped, sizes are checked."""

import numpy as np
import pytest
from resuming import check_exact_resume

from kitlib.data import image_batches


def rows_and_number(rows, position):
    return {"rows": rows, "number": np.array(position)}


def test_an_epoch_has_each_row_once_and_drops_the_rest():
    iterator = image_batches.shuffled_batches(11, 3, rows_and_number, seed=5)
    epochs = [[next(iterator) for _ in range(3)] for _ in range(2)]
    assert [int(batch["number"]) for epoch in epochs for batch in epoch] == list(range(6))
    seen = [np.concatenate([batch["rows"] for batch in epoch]) for epoch in epochs]
    for rows in seen:
        assert len(set(rows.tolist())) == 9 and set(rows.tolist()) <= set(range(11))
    assert not np.array_equal(*seen)


def test_it_goes_on_and_depends_on_the_seed():
    check_exact_resume(lambda: image_batches.shuffled_batches(8, 4, rows_and_number, seed=0), 1)
    firsts = [next(image_batches.shuffled_batches(100, 50, rows_and_number, seed=seed))["rows"] for seed in (0, 1)]
    assert not np.array_equal(*firsts)


@pytest.mark.parametrize("size", [0, 9])
def test_wrong_sizes(size):
    with pytest.raises(ValueError, match=f"batch_size .* is {size}; expected a whole number from 1 to 8"):
        image_batches.shuffled_batches(8, size, rows_and_number)
