"""kitlib.studies.upcycling.ablations: one choice differs, the cost does not."""

import pytest

from kitlib.studies.upcycling import setups
from kitlib.studies.upcycling.ablations import COST, TOPICS, ablations, headline, placed
from kitlib.upcycling import surgery

TASKS = [setups.recall, setups.text, setups.pictures]


@pytest.mark.parametrize("setup", TASKS, ids=lambda setup: setup.__name__)
def test_all_arms_of_a_study_cost_the_same(setup):
    task = setup()
    for name, (question, arms) in ablations(task).items():
        assert question.endswith("?")
        costs = {key: arm.steps * task.relative_cost(arm.config) / task.parent_steps for key, arm in arms.items()}
        one_step = max(task.relative_cost(arm.config) for arm in arms.values()) / task.parent_steps
        least = 2 * COST if name == "cooldown" else COST
        assert all(least <= cost < least + one_step + 1e-9 for cost in costs.values()), name


@pytest.mark.parametrize("setup", TASKS, ids=lambda setup: setup.__name__)
def test_the_tuned_default_is_in_every_study_of_upcycling(setup):
    """So that each choice is compared with it; arms that are equal share their runs."""
    task = setup()
    studies = ablations(task)
    assert set(TOPICS) <= set(studies)
    default = studies["init"][1]["copies"]
    recipe = task.recipe("upcycled")
    c, kind = f"C={recipe.capacity:.0f}", "renormalized" if recipe.renormalize else "raw"
    here = {
        "experts": "E=16", "capacity": c, "blocks": "last 2" if setup is setups.pictures else "last",
        "routers": "expert choice", "init": "copies", "pretraining": "upcycled from 100 %",
        "optimizer": f"upcycled {'restarted' if recipe.moments == 'restart' else 'resumed'}",
        "renormalize": f"{kind} {c}",
    }  # fmt: skip
    for name, arm in here.items():
        assert studies[name][1][arm] == default, name
    assert default.config == headline(task)["upcycled"].config and default.recipe == headline(task)["upcycled"].recipe


def test_places_of_experts():
    task = setups.recall()
    found = {name: " ".join(surgery.moe_layers(config)) for name, config in placed(task.sparse(task.dense)).items()}
    assert found == {
        "last": "encoder/layers_1 decoder/layers_1", "first": "encoder/layers_0 decoder/layers_0",
        "all": "encoder/layers_0 encoder/layers_1 decoder/layers_0 decoder/layers_1",
        "encoder only": "encoder/layers_1", "decoder only": "decoder/layers_1",
    }  # fmt: skip
    vit = setups.vision()
    blocks = {name: config.moe_blocks for name, config in placed(vit.sparse(vit.dense)).items()}
    assert blocks["last 2"] == (2, 3) and blocks["first 2"] == (0, 1) and blocks["all"] == (0, 1, 2, 3)
    assert blocks["every second"] == (1, 3)
