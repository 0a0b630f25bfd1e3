"""kitlib.studies.palix.runs: an arm is trained in phases and tested; towers are saved and read again."""

import dataclasses

import jax
import numpy as np
import pytest

from kitlib.data import tokenizer
from kitlib.models import palix
from kitlib.multimodal import batching
from kitlib.studies.palix import runs
from kitlib.studies.palix.easy_tasks import study_tasks, tasks_of_tests
from kitlib.studies.palix.runs import MlpConnector, PaLIXArm, Phase, StageZero, config, run_arm

pytestmark = pytest.mark.slow

WORDS = tokenizer.multilingual()


def test_a_small_arm_is_trained_and_gives_its_row(tmp_path, monkeypatch):
    """Two phases at two resolutions. The tower is made once and saved, so a second run gives the same row."""
    monkeypatch.setattr(runs, "TOWER_BATCH", 2)
    monkeypatch.setattr(runs, "TEST_EXAMPLES", 6)
    whole = config()
    shallow = whole.replace(
        tower=whole.tower.replace(depth=1), text=whole.text.replace(num_encoder_layers=1, num_decoder_layers=1)
    )
    monkeypatch.setattr(runs, "config", lambda *widths: shallow)
    shape = {"rows": 2, "prompt_length": 40, "target_length": 40}
    phases = (
        Phase((("counting", 1.0),), 2, **shape),
        Phase((("counting", 1.0),), 2, image_size=96, frozen=False, **shape),
    )
    arm = PaLIXArm(phases, (("how many", "counting"),), StageZero(steps=2), connector="mlp")
    (row,) = run_arm(arm, 0, tmp_path, study_tasks(), tasks_of_tests())
    assert set(row) == {"accuracy: how many", "loss: how many"}
    assert 0 <= row["accuracy: how many"] <= 1 and 0 < row["loss: how many"] < 20
    assert len(list(tmp_path.glob("tower-*.npz"))) == 1
    (repeated,) = run_arm(arm, 0, tmp_path, study_tasks(), tasks_of_tests())
    assert repeated == row
    bare = dataclasses.replace(arm, phases=phases[:1], connector="linear", positions=False, probed=True)
    (probed,) = run_arm(bare, 0, tmp_path, study_tasks(), tasks_of_tests())
    assert set(probed) == {*row, "patches: tower", "patches: encoder"}
    model, params = runs.trained(bare, 0, tmp_path, study_tasks())
    assert not model.config.visual_positions and "positions" not in params


def test_widths_change_both_halves_and_no_numbers_of_blocks():
    """An attention head stays 32 wide, an MLP 4 times as wide as its tower or twice as wide as its text model."""
    assert config() == config(64, 64)
    other = config(128, 32)
    tower = {"width": 128, "mlp_dim": 512, "num_heads": 4}
    assert other.tower == config().tower.replace(**tower)
    assert other.text == config().text.replace(width=32, mlp_dim=64, num_heads=1)


def test_the_mlp_connector_has_two_layers_and_towers_have_their_own_files(tmp_path):
    linear, mlp = palix.PaLIX(config()), MlpConnector(config())
    sizes = [jax.tree.map(np.shape, palix.init_params(model)["projection"]) for model in (linear, mlp)]
    assert sizes[0] == {"kernel": (64, 64), "bias": (64,)}
    assert [layer["kernel"] for layer in sizes[1].values()] == [(64, 256), (256, 64)]
    recipes = [StageZero(), StageZero("words"), StageZero(width=32), StageZero(steps=5), StageZero(peak=1e-3)]
    assert len({runs.tower_file(recipe, seed, tmp_path) for recipe in recipes for seed in range(2)}) == 10


def test_the_test_loss_is_the_loss_of_the_model():
    """It equals `palix.answer_loss` on the same examples, whatever the padding."""
    examples = tasks_of_tests()["counting"].examples(6, 0)
    model = palix.PaLIX(config())
    params = palix.init_params(model)
    got = runs.loss_of(model, params, examples)
    batch = batching.to_arrays(examples, WORDS, num_images=1, prompt_length=64, target_length=8)  # more padding
    expected, _ = palix.answer_loss(model)(params, batch, jax.random.key(0))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
