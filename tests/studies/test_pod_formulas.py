import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from kitlib import configs
from kitlib.parallel import mesh
from kitlib.studies import pods
from kitlib.studies.pods import Pod
from kitlib.training import loop

MOE = configs.MoEConfig(num_experts=8, capacity_factor=1.0, capacity_multiple_of=1)
VIT = configs.vit("B/16", pool="gap", moe=MOE, moe_blocks=(9, 11))


def pod(config, axes, batch, lengths=(0, 0), topology="v5e:4x4"):
    return Pod("x", config, topology, axes, batch, "adamw", lengths)


def test_a_backward_pass_is_two_forward_passes():
    model, executed = pods.step_flops(pod(configs.vit("B/16", pool="gap"), {"data": 16}, 10))
    # 17.5 GMACs per picture (2010.11929's ViT-B/16 at 224 pixels), average pooling: 35 GFLOP forward.
    assert model == pytest.approx(10 * 3 * 35.0e9, rel=0.01)
    assert executed / model == pytest.approx(4 / 3)


def test_a_frozen_tower_has_no_backward_pass():
    config = configs.palix("XS")
    trained = Pod("x", config, "v5e:2x2", {"data": 4}, 8, "adafactor", (7, 5))
    frozen = dataclasses.replace(trained, frozen=("tower/",))
    tower = sum(pods.flops.vit_forward_flops(config.tower).values())
    assert pods.step_flops(trained)[0] - pods.step_flops(frozen)[0] == pytest.approx(8 * 2 * tower)


def test_the_least_of_all_to_alls_by_hand():
    # 16 chips, 64 pictures, 4 per chip: 4 * 196 = 784 tokens, 98 slots for each of 8 experts. Per layer 4 buffers of
    # 8 * 98 * 768 numbers of 2 bytes; two layers.
    wanted = 2 * 4 * 8 * 98 * 768 * 2
    assert pods.all_to_all_minimum(pod(VIT, {"data": 2, "expert": 8}, 64)) == wanted
    # Two groups per chip: 392 tokens each, 49 slots, the same in all.
    grouped = VIT.replace(moe=MOE.replace(group_size=392))
    assert pods.all_to_all_minimum(pod(grouped, {"data": 2, "expert": 8}, 64)) == wanted
    assert pods.all_to_all_minimum(pod(VIT, {"data": 16}, 64)) == 0.0
    # In an E3 of two each token has two copies, and the experts as many slots as for twice the tokens.
    ensemble = VIT.replace(e3=configs.E3Config(2))
    assert pods.all_to_all_minimum(pod(ensemble, {"data": 2, "expert": 8}, 64)) == 2 * wanted


def test_the_least_of_both_stacks_and_of_embeddings():
    moe = configs.T5_DECODER_MOE.replace(num_experts=4, num_selected=1, capacity_multiple_of=1)
    config = configs.t5("tiny", decoder_moe=moe, decoder_moe_layers=(1,))
    # 2 texts per chip, 16 + 8 tokens of 64 numbers: the embeddings, there and back, 2 * 2 * 2 * 24 * 64 bytes. One
    # layer with experts: 16 tokens of the decoder, 4 slots each.
    found = pods.all_to_all_minimum(pod(config, {"fsdp": 2, "expert": 2}, 8, (16, 8)))
    assert found == 2 * 2 * 2 * 24 * 64 + 4 * 4 * 4 * 64 * 2


def test_memory_traffic_by_hand():
    params = {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    state = loop.TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, (), 0)
    specs = loop.TrainState(P(), {"w": P("fsdp")}, (), P())
    # On one device: 64 numbers and a step of 4 bytes, and a key of 8, twice; 64 bfloat16 numbers three times.
    assert pods.hbm_bytes(state, specs, mesh.make()) == 2 * (256 + 4 + 8) + 3 * 128


def test_traffic_of_vit_22b_by_hand():
    row = pods.ROWS[0]
    found = pods.fsdp_and_tensor_traffic(row)
    # A block has 12 * 6144^2 numbers in matrices: 216 MiB in bfloat16 on one of four tensor slices, gathered twice.
    blocks = 2 * 48 * 12 * 6144**2 * 2 / 4
    assert found["all-gather"].bytes == pytest.approx(blocks, rel=0.06)  # and what is outside of the blocks
    # 16 pictures of 256 tokens per part, three times per block.
    assert found["all-reduce"].bytes == 3 * 48 * 16 * 256 * 6144 * 2


def test_the_roofline_of_the_published_run():
    found = pods.bounds(pods.ROWS[1])
    assert found.bound == "compute" and found.mfu == pytest.approx(0.75)
    # 65,536 pictures of 4 * 11.25 TFLOP on 1,024 chips of 275 TFLOP/s: 10.5 s.
    assert found.seconds == pytest.approx(65_536 * 4 * 11.25e12 / (1_024 * 275e12), rel=0.01)
