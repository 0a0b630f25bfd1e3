"""kitlib.studies.real_probes: what the probes are fitted to, on made features whose answers are known."""

import numpy as np
import pytest

from kitlib.data import files
from kitlib.studies import real_probes
from kitlib.studies.real_probes import ProbeArm


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Features of 10 classes: "block01" is the class as a unit vector, "pixels" says nothing about it."""
    monkeypatch.setattr(real_probes, "SIZES", {"train": 300, "valid": 100, "test": 100})
    monkeypatch.setattr(real_probes, "PROBED", 200)
    rng, arrays = np.random.default_rng(0), {}
    for split, size in real_probes.SIZES.items():
        labels = np.arange(size, dtype=np.int32) % 10
        arrays |= {f"{split}_labels": labels, f"{split}_block01": np.eye(10, dtype=np.float16)[labels]}
        arrays |= {f"{split}_pixels": rng.normal(size=(size, 10)).astype(np.float16)}
    files.write_npz(real_probes._features_file(tmp_path), arrays)
    return tmp_path


def test_probes_of_features_that_know_everything_and_nothing(folder):
    (row,) = real_probes.run_arm(ProbeArm("block01"), 0, folder)
    assert {name: row[name] for name in row if name != "l2"} == {
        "accuracy": 1.0, "shots_1": 1.0, "shots_5": 1.0, "shots_10": 1.0,
    }  # fmt: skip
    (row,) = real_probes.run_arm(ProbeArm("pixels"), 0, folder)
    assert all(row[name] < 0.3 for name in ("accuracy", "shots_1", "shots_5", "shots_10"))
    assert row["l2"] in real_probes.L2


def test_seeds_draw_other_pictures(folder):
    rows = [real_probes.run_arm(ProbeArm("pixels"), seed, folder)[0] for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_the_decay_is_chosen_on_the_validation_split_alone(folder, monkeypatch):
    """Whatever the test labels are, the same decay is chosen."""
    before = real_probes.run_arm(ProbeArm("pixels"), 0, folder)[0]["l2"]
    arrays = files.read_arrays(real_probes._features_file(folder))
    monkeypatch.setattr(real_probes, "_cached", lambda path: arrays | {"test_labels": arrays["test_labels"][::-1]})
    assert real_probes.run_arm(ProbeArm("pixels"), 0, folder)[0]["l2"] == before
