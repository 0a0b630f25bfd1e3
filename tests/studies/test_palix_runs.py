"""kitlib.studies.palix_runs: an arm is trained in phases and tested; towers are saved and read again."""

import jax
import numpy as np
import pytest

from kitlib.data import tokenizer
from kitlib.models import palix
from kitlib.multimodal import batching
from kitlib.studies import palix_runs
from kitlib.studies.palix_runs import MlpConnector, PaLIXArm, Phase, config, loss_of, pretrained_tower, run_arm
from kitlib.studies.palix_tasks import study_tasks, tasks_of_tests

pytestmark = pytest.mark.slow

WORDS = tokenizer.multilingual()


def test_a_small_arm_is_trained_and_gives_its_row(tmp_path, monkeypatch):
    """Two phases at two resolutions. The tower is made once and saved, so a second run gives the same row."""
    monkeypatch.setattr(palix_runs, "TOWER_STEPS", 2)
    monkeypatch.setattr(palix_runs, "TOWER_BATCH", 2)
    monkeypatch.setattr(palix_runs, "TEST_EXAMPLES", 4)
    whole = config()
    shallow = whole.replace(
        tower=whole.tower.replace(depth=1), text=whole.text.replace(num_encoder_layers=1, num_decoder_layers=1)
    )
    monkeypatch.setattr(palix_runs, "config", lambda: shallow)
    shape = {"rows": 2, "prompt_length": 40, "target_length": 40}
    phases = (
        Phase((("counting", 1.0),), 2, **shape),
        Phase((("counting", 1.0),), 2, image_size=96, frozen=False, **shape),
    )
    arm = PaLIXArm(phases, (("how many", "counting"),), connector="mlp")
    (row,) = run_arm(arm, 0, tmp_path, study_tasks(), tasks_of_tests())
    assert set(row) == {"accuracy: how many", "loss: how many"}
    assert 0 <= row["accuracy: how many"] <= 1 and 0 < row["loss: how many"] < 20
    assert len(list(tmp_path.glob("tower-*.npz"))) == 1
    kept = pretrained_tower("words and things", 0, tmp_path)
    again = pretrained_tower("words and things", 0, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, kept, again)
    (repeated,) = run_arm(arm, 0, tmp_path, study_tasks(), tasks_of_tests())
    assert repeated == row


def test_towers_of_other_kinds_and_seeds_have_other_files(tmp_path):
    files = {palix_runs.tower_file(kinds, seed, tmp_path) for kinds in ("words", "things") for seed in range(2)}
    assert len(files) == 4


def test_the_mlp_connector_has_two_layers():
    linear, mlp = palix.PaLIX(config()), MlpConnector(config())
    sizes = [jax.tree.map(np.shape, palix.init_params(model)["projection"]) for model in (linear, mlp)]
    assert sizes[0] == {"kernel": (64, 64), "bias": (64,)}
    assert [layer["kernel"] for layer in sizes[1].values()] == [(64, 256), (256, 64)]


def test_the_test_loss_is_the_loss_of_the_model():
    """It equals `palix.answer_loss` on the same examples, whatever the padding."""
    examples = tasks_of_tests()["counting"].examples(6, 0)
    model = palix.PaLIX(config())
    params = palix.init_params(model)
    got = loss_of(model, params, examples)
    batch = batching.to_arrays(examples, WORDS, num_images=1, prompt_length=64, target_length=8)  # more padding
    expected, _ = palix.answer_loss(model)(params, batch, jax.random.key(0))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
