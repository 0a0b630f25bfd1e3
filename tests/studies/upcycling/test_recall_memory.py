"""kitlib.studies.upcycling.recall_memory: more parameters at the same FLOPs, as often shown."""

import jax

from kitlib.configs import T5Config
from kitlib.studies.upcycling import recall_memory, setups
from kitlib.upcycling import surgery

TASK = setups.recall()
ARMS = recall_memory.memory().arms


def parameters(config: T5Config) -> int:
    leaves = jax.tree.leaves(jax.eval_shape(lambda: TASK.init(TASK.model(config), 0)))
    return sum(leaf.size for leaf in leaves)


def test_every_model_sees_every_name_as_often():
    assert {arm.steps for arm in ARMS.values()} == {TASK.parent_steps}


def test_experts_add_parameters_and_no_flops_but_the_routers():
    """An expert is an MLP without biases: a gate, an input and an output of 32 x 128 (three matrices, 12,288), and a
    column of the router, 32. A token pays for one expert and for the router's column: 2 x 32 of the FLOPs."""
    mlp = 3 * 32 * 128
    for n in recall_memory.EXPERTS:
        config = ARMS[f"E={n}"].config
        assert {moe.num_experts for moe in surgery.moe_layers(config).values()} == {n}
        assert parameters(config) - parameters(TASK.dense) == 2 * ((n - 1) * mlp + 32 * n)
        assert 1.0 < TASK.relative_cost(config) < 1.05
        assert config.moe.capacity_factor == 1.0 and config.decoder_moe.num_selected == 1
    for times in recall_memory.WIDER:
        config = ARMS[f"{times} F"].config
        assert parameters(config) - parameters(TASK.dense) == 4 * (times - 1) * mlp
        assert TASK.relative_cost(config) > 1.5
