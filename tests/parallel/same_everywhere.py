"""Loss and gradients of every kind of model on a mesh of eight devices, compared with one device: one JSON line each.

    python same_everywhere.py                          # one process with eight devices
    python same_everywhere.py HOST:PORT COUNT INDEX    # this process of COUNT, with 8 / COUNT devices

The devices are simulated ones of the CPU.
"""

import json
import sys

import jax
import numpy as np

from kitlib import configs
from kitlib.models import palix, stacking, t5
from kitlib.models.vit import ViT
from kitlib.parallel import mesh, processes, rules
from kitlib.training import classification, loop

address, count, index = (sys.argv[1], int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 1 else ("", 1, 0)
processes.simulate(8 // count)
if count > 1:
    processes.start(address, count=count, index=index)

B = 16
SPREAD = {"data": 2, "fsdp": 2, "tensor": 2}
EXPERTS, EXPERTS_TOO = {"data": 2, "expert": 4}, {"fsdp": 2, "tensor": 2, "expert": 2}
# A group is the 2 x 16 tokens of one device's images: the same groups on one device and on eight.
MOE = configs.MoEConfig(num_experts=4, num_selected=2, noise_std=0.0, load_weight=0.0, group_size=32, z_weight=0.01)
DROPLESS = MOE.replace(dispatch="dropless", capacity_factor=None, expert_parallel="shard_map")
TINY = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10, pool="gap")
SPARSE = TINY.replace(moe=MOE, moe_blocks=(1,))
WRITTEN = SPARSE.replace(moe=MOE.replace(expert_parallel="shard_map"))
TEXT = {"vocab_size": 64, "num_encoder_layers": 2, "num_decoder_layers": 2}
ENCODER_MOE = configs.T5_ENCODER_MOE.replace(num_experts=4, group_size=24)  # 2 texts of 12 tokens
DECODER_MOE = configs.T5_DECODER_MOE.replace(num_experts=4, group_size=12)  # 2 targets of 6
SPARSE_TEXT = {"moe": ENCODER_MOE, "moe_layers": (1,), "decoder_moe": DECODER_MOE, "decoder_moe_layers": (1,)}
CASES = {
    "ViT": (TINY, SPREAD, 1),
    "ViT, accumulated": (TINY, {"data": 4, "fsdp": 2}, 2),
    "ViT, scanned": (TINY.replace(scan=True, remat="full"), {"fsdp": 4, "tensor": 2}, 1),
    "V-MoE": (SPARSE, EXPERTS, 1),
    "V-MoE, tensor": (SPARSE, EXPERTS_TOO, 1),
    "V-MoE, accumulated": (SPARSE.replace(moe=MOE.replace(group_size=16)), {"data": 4, "expert": 2}, 2),
    "V-MoE, shard_map": (WRITTEN, EXPERTS, 1),
    "V-MoE, shard_map, tensor": (WRITTEN, EXPERTS_TOO, 1),
    "V-MoE, dropless": (SPARSE.replace(moe=DROPLESS), EXPERTS, 1),
    "V-MoE, dropless, tensor": (SPARSE.replace(moe=DROPLESS.replace(renormalize=True)), EXPERTS_TOO, 1),
    "E3, dropless": (SPARSE.replace(moe=DROPLESS, e3=configs.E3Config(2)), EXPERTS, 1),
    "expert choice": (SPARSE.replace(moe=MOE.replace(router="expert_choice", capacity_factor=2.0)), EXPERTS, 1),
    "E3": (SPARSE.replace(e3=configs.E3Config(2)), EXPERTS, 1),
    "BatchEnsemble": (TINY.replace(batch_ensemble=configs.BatchEnsembleConfig((1,), 2)), SPREAD, 1),
    "T5": (configs.t5("tiny", **TEXT), SPREAD, 1),
    "T5-MoE": (configs.t5("tiny", **TEXT, **SPARSE_TEXT), EXPERTS_TOO, 1),
    "PaLI-X": (configs.palix("XS", text={"vocab_size": 64}), SPREAD, 1),
}
ON_TWO_PROCESSES = ("ViT", "V-MoE", "V-MoE, shard_map", "E3", "T5-MoE", "PaLI-X")  # the axes cross processes


def model_and_batch(c):
    """(loss, initial parameters, batch) of a configuration."""
    rng = np.random.default_rng(1)
    if isinstance(c, configs.ViTConfig):
        batch = {"image": rng.uniform(-1, 1, (B, 28, 28, 1)).astype(np.float32), "label": rng.integers(10, size=B)}
        model = ViT(c)
        return classification.classification_loss(model), classification.init_params(model, (1, 28, 28, 1)), batch
    targets = rng.integers(1, 64, (B, 6))
    if isinstance(c, configs.T5Config):
        model = t5.T5(c)
        batch = {"inputs": rng.integers(1, 64, (B, 12)), "targets": targets}
        return t5.seq2seq_loss(model, z_loss=1e-3), t5.init_params(model), batch
    model = palix.PaLIX(c)
    images = rng.uniform(-1, 1, (B, 1, 32, 32, 3)).astype(np.float32)
    batch = {"images": images, "prompt_tokens": rng.integers(1, 64, (B, 7)), "targets": targets}
    return palix.answer_loss(model), palix.init_params(model), batch


def compare(name: str) -> dict:
    """{"name", "loss", "gradient"}: differences, of gradients in shares of the largest gradient of the model."""
    c, axes, accumulate = CASES[name]
    loss, params, batch = model_and_batch(c)
    rng = np.random.default_rng(0)
    # Away from initial values: behind a head of zeros, all other gradients would be zero on every mesh.
    params = jax.tree.map(lambda p: np.asarray(p) + rng.normal(scale=0.05, size=p.shape).astype(np.float32), params)

    def gradients(params, batch):
        return loop.gradients(loss, params, batch, jax.random.key(0), accumulate)

    here = jax.local_devices()[0]
    with jax.default_device(here):
        # One device computes the whole batch at once: parts and devices are what is tested.
        whole = jax.jit(lambda p, b: loop.gradients(loss, p, b, jax.random.key(0)))
        (want, _), want_grads = jax.device_get(whole(params, batch))
    device_mesh = mesh.make(**axes)
    with jax.set_mesh(device_mesh):
        specs = rules.specs(params, device_mesh)
        divided = jax.tree.map(
            lambda p, s: jax.make_array_from_callback(p.shape, s, lambda i, p=p: p[i]),
            params, rules.shardings(specs, device_mesh),
        )  # fmt: skip
        rows = mesh.global_batch(device_mesh, processes.own_rows(batch))
        whole_again = rules.shardings(jax.tree.map(lambda _: jax.sharding.PartitionSpec(), params), device_mesh)
        (got, _), grads = jax.jit(gradients, out_shardings=(None, whole_again))(divided, rows)
    leaves = list(zip(jax.tree.leaves(want_grads), jax.tree.leaves(jax.device_get(grads)), strict=True))
    largest = max(np.abs(a).max() for a, _ in leaves)
    smallest = min(np.abs(a).max() for a, _ in leaves)
    difference = max(np.abs(a - b).max() for a, b in leaves) / largest
    return {
        "name": name, "loss": abs(float(got) - float(want)), "gradient": float(difference),
        "nonzero": float(smallest), "stacks": len(stacking.stacks(c)) if hasattr(c, "scan") else 0,
    }  # fmt: skip


for name in CASES if count == 1 else ON_TWO_PROCESSES:
    print(json.dumps(compare(name)), flush=True)
