"""What a training step on a slice has to compute, read and send, in closed form: no model is built, nothing compiled.

    pod = Pod("ViT-22B", config, "v5p:4x8x8", {"fsdp": 64, "tensor": 4}, 1_024, "adafactor-momentum")
    bounds(pod)                      # the roofline of a dense ViT, from `fsdp_and_tensor_traffic`

`pods` compiles the same steps and compares.

Read in notebooks/16_from_laptop_to_pod.ipynb.
"""

import dataclasses

import jax
import jax.numpy as jnp

from kitlib.configs import PaLIXConfig, T5Config, ViTConfig
from kitlib.models import flops
from kitlib.moe import capacity, e3
from kitlib.parallel import mesh, rules, topologies
from kitlib.parallel.ahead_of_time import Volume


@dataclasses.dataclass(frozen=True)
class Pod:
    """One row: a model and its training step on a slice."""

    name: str
    config: ViTConfig | T5Config | PaLIXConfig
    topology: str
    axes: dict[str, int]
    batch: int
    optimizer: str
    lengths: tuple[int, int] = (0, 0)  # tokens of the text input and of the target
    frozen: tuple[str, ...] = ()  # see `optim.assemble`

    @property
    def title(self) -> str:
        return f"{self.name} on {self.topology}"


def step_flops(pod: Pod) -> tuple[float, float]:
    """(FLOPs of a step that the model needs, FLOPs that are executed): a backward pass is two forward passes.

    Rematerialised blocks are computed twice forward. A frozen tower has no backward pass.
    """
    c, (n, m) = pod.config, pod.lengths
    if isinstance(c, PaLIXConfig):
        tower = sum(flops.vit_forward_flops(c.tower).values())
        text = sum(flops.t5_forward_flops(c.text, n + c.tower.num_tokens, m).values())
        text += 2 * c.tower.num_tokens * c.tower.width * c.text.width  # the projection
        passes = (1, 1) if pod.frozen else (3, 4)
        return pod.batch * (passes[0] * tower + 3 * text), pod.batch * (passes[1] * tower + 4 * text)
    forward = flops.vit_forward_flops(c) if isinstance(c, ViTConfig) else flops.t5_forward_flops(c, n, m)
    return 3.0 * pod.batch * sum(forward.values()), 4.0 * pod.batch * sum(forward.values())


def all_to_all_minimum(pod: Pod) -> float:
    """Bytes per chip in the all-to-alls of a step, at least: those of the experts and those of embeddings.

    Experts: four per layer, two forward and two backward, of buffers with E * C slots of D numbers of two bytes for
    every group; each part of the batch is one group. Embeddings: with a table divided along D, one forward and one
    backward for the D numbers of every token that is read (`parallel.mesh`).
    """
    c, rows = pod.config, pod.batch // mesh.parts_of(pod.axes)
    text = c.text if isinstance(c, PaLIXConfig) else c
    total = 0.0
    if isinstance(text, T5Config) and pod.axes.get("fsdp", 1) > 1:
        total += 2 * 2 * rows * sum(pod.lengths) * text.width
    if pod.axes.get("expert", 1) == 1:
        return total

    def buffer(c, moe, tokens, members=None):
        groups = -(-tokens // (moe.group_size or tokens))
        size = tokens // groups
        slots = e3.slots_of(moe, members, size) if members else capacity(moe, size)
        return 4 * 2 * groups * moe.num_experts * slots * c.width

    if isinstance(c, ViTConfig):
        return len(c.moe_blocks) * buffer(c, c.moe, rows * c.num_tokens, c.e3)
    stacks = ((c.moe, c.moe_layers, pod.lengths[0]), (c.decoder_moe, c.decoder_moe_layers, pod.lengths[1]))
    return total + sum(len(layers) * buffer(c, moe, rows * tokens) for moe, layers, tokens in stacks if moe)


def hbm_bytes(state, specs, axes_mesh) -> float:
    """Bytes that a chip reads and writes in a step, at least: its part of the state twice, and the bfloat16 weights in
    two forward passes and one backward pass, gathered along `fsdp`."""
    whole = jax.tree.map(
        lambda spec: jax.sharding.PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec)),
        specs.params, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec),
    )  # fmt: skip
    plain = state.replace(key=jax.ShapeDtypeStruct((2,), jnp.uint32))
    gathered = rules.bytes_per_device(state.params, whole, axes_mesh) / 2  # float32 -> bfloat16
    return 2.0 * rules.bytes_per_device(plain, specs, axes_mesh) + 3.0 * gathered


# ---------------------------------------------------------------------------------------------- a dense ViT


def fsdp_and_tensor_traffic(pod: Pod) -> dict[str, Volume]:
    """The collectives of a rematerialised dense ViT with parallel blocks, divided along fsdp and tensor, per chip.

    Every matrix is gathered along fsdp in the forward and in the backward pass, in bfloat16, and its gradient is
    reduced and divided once. Along tensor, each block ends with one all-reduce of its tokens in the forward pass, when
    it is computed again, and for the gradient of its input. Parts outside the blocks are gathered twice as well.
    """
    c, tensor, parts = pod.config, pod.axes.get("tensor", 1), mesh.parts_of(pod.axes)
    count = flops.vit_parameters(c)
    blocks, outside = 2 * count["blocks"] / tensor, 2 * (count["map_head"] / tensor + count["head"])  # bytes
    tokens = 2 * (pod.batch // parts) * c.num_tokens * c.width  # bytes
    reduced = 3 * c.depth * tokens if tensor > 1 else 0
    return {
        "all-gather": Volume(0, round(2 * (blocks + outside))),
        "reduce-scatter": Volume(0, round(blocks + outside)),
        "all-reduce": Volume(0, round(reduced)),
    }


def bounds(pod: Pod) -> topologies.Bounds:
    """The roofline of a step of a dense ViT, without compiling it."""
    topology = topologies.find(pod.topology)
    model_flops, executed_flops = step_flops(pod)
    # Float32 parameters and moments, read and written; bfloat16 weights, read in two forward and one backward pass.
    parameters = sum(flops.vit_parameters(pod.config).values()) / pod.axes.get("tensor", 1)
    moments = {"adamw": 8, "adafactor": 0, "adafactor-momentum": 2}[pod.optimizer]
    memory = 2 * (4 + moments) * parameters / pod.axes.get("fsdp", 1) + 3 * 2 * parameters
    arriving = topologies.arriving_bytes(fsdp_and_tensor_traffic(pod))
    work = topologies.Work(model_flops, executed_flops, memory, arriving)
    return topologies.step_time(work, topology.chip, topology.chips)
