"""The largest published sizes, compiled for TPU slices that exist: `kit pods`, without a TPU.

    kit pods                         # which rows there are
    kit pods "ViT-22B on v5p:4x8x8"  # compiles one and prints what the compiler says
    kit pods --all                   # all, a process each, and writes data/results/pods.csv; about 40 minutes
    kit pods L/16 --slice v5e:4x4 --mesh data=4,fsdp=4 --batch 1024  # any model of `configs`, or of a row, on any slice

First what a training step has to compute, read and send, in closed form (`bounds`); then the rows of the table; then
the same steps compiled. Activations are bfloat16, parameters and optimiser float32; stacks are scanned and
rematerialised. All-to-alls are compared with the least that expert parallelism can move, and the step with its lower
bounds (`parallel.ahead_of_time`). Collective permutes (permute_mib) are gathers and reductions that XLA overlaps, piece
by piece, with matrix products.

Read in notebooks/16_from_laptop_to_pod.ipynb.
"""

import dataclasses
import functools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kitlib import configs
from kitlib.configs import MoEConfig, PaLIXConfig, T5Config, ViTConfig
from kitlib.configs.arguments import one_of, whole
from kitlib.configs.parts import DEEP
from kitlib.data import files
from kitlib.models import flops, palix, t5
from kitlib.models.vit import ViT
from kitlib.moe import capacity, e3
from kitlib.parallel import ahead_of_time, mesh, rules
from kitlib.parallel.ahead_of_time import Volume
from kitlib.training import classification, loop, optim


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


def bounds(pod: Pod) -> ahead_of_time.Bounds:
    """The roofline of a step of a dense ViT, without compiling it."""
    topology = ahead_of_time.find(pod.topology)
    model_flops, executed_flops = step_flops(pod)
    # Float32 parameters and moments, read and written; bfloat16 weights, read in two forward and one backward pass.
    parameters = sum(flops.vit_parameters(pod.config).values()) / pod.axes.get("tensor", 1)
    moments = {"adamw": 8, "adafactor": 0, "adafactor-momentum": 2}[pod.optimizer]
    memory = 2 * (4 + moments) * parameters / pod.axes.get("fsdp", 1) + 3 * 2 * parameters
    arriving = ahead_of_time.arriving_bytes(fsdp_and_tensor_traffic(pod))
    work = ahead_of_time.Work(model_flops, executed_flops, memory, arriving)
    return ahead_of_time.step_time(work, topology.chip, topology.chips)


# ---------------------------------------------------------------------------------------------- the rows

# Each model is on at least two slices, with a mesh on which it fits. Sizes and batches are the papers' where they state
# them (V-MoE and E3: the classes of JFT-300M and a batch of 4,096; ViT-22B: a batch of 65,536 on 1,024 TPU v4). PaLI-X
# states neither batch nor lengths: 2,048 is what RT-2 (2307.15818) fine-tuned the 55B with, 512 and 512 are UL2's, for
# stage 1. Meshes are ours.
JFT = {"num_classes": 29_593, **DEEP}  # JFT-3B
JFT_300M = {"num_classes": 18_291, "pool": "gap", **DEEP}
CHOICE = MoEConfig(num_experts=32, transport="bfloat16")  # V-MoE: K = 1, capacity factor 1.05
UPCYCLED = MoEConfig(
    num_experts=32, router="expert_choice", capacity_factor=2.0, renormalize=True, noise_std=0.0, transport="bfloat16"
)
ODD = tuple(range(1, 24, 2))


def _pali_x() -> PaLIXConfig:
    return configs.palix("55B", tower=DEEP, text=DEEP)


def _upcycled_t5():
    encoder = configs.T5_ENCODER_MOE.replace(num_experts=32, transport="bfloat16")
    decoder = configs.T5_DECODER_MOE.replace(num_experts=32, transport="bfloat16")
    sparse = {"moe": encoder, "moe_layers": ODD, "decoder_moe": decoder, "decoder_moe_layers": ODD}
    return configs.t5("1.1-xl", **sparse, **DEEP)


VIT_22B = configs.vit("22B/14", pool="map", **JFT)
VMOE_15B = configs.vmoe("VMoE-15B/14", "every-2", CHOICE, pool="gap", **JFT)
VMOE_L16 = configs.vmoe("L/16", "last-2", CHOICE, representation_size=1_024, **JFT_300M)
VMOE_H14 = configs.vmoe("H/14", "last-5", CHOICE, representation_size=1_280, **JFT_300M)
E3_H14 = configs.e3("H/14", "last-5", 2, CHOICE, representation_size=1_280, **JFT_300M)
UPCYCLED_L16 = configs.vit("L/16", moe=UPCYCLED, moe_blocks=tuple(range(12, 24)), **JFT_300M)

STAGE_1 = (512, 512), ("tower/",)  # lengths; the tower is frozen

# One batch on 256 to 4,096 chips: the scaling curve of notebook 16.
SCALING = tuple(
    Pod("ViT-22B, batch 16,384", VIT_22B, name, {"fsdp": chips // 4, "tensor": 4}, 16_384, "adafactor-momentum")
    for name, chips in (("v5p:4x8x8", 256), ("v5p:8x8x8", 512), ("v5p:8x8x16", 1_024), ("v5p:16x16x16", 4_096))
)

ROWS = (
    Pod("ViT-22B", VIT_22B, "v5p:4x8x8", {"fsdp": 64, "tensor": 4}, 1_024, "adafactor-momentum"),
    Pod("ViT-22B", VIT_22B, "v4:8x8x16", {"data": 4, "fsdp": 256}, 65_536, "adafactor-momentum"),
    *SCALING,
    Pod("PaLI-X 55B", _pali_x(), "v5p:8x8x8", {"fsdp": 128, "tensor": 4}, 512, "adafactor", (64, 64)),
    Pod("PaLI-X 55B", _pali_x(), "v4:8x8x8", {"fsdp": 128, "tensor": 4}, 512, "adafactor", (64, 64)),
    Pod("PaLI-X 55B, stage 1", _pali_x(), "v5p:8x8x16", {"fsdp": 256, "tensor": 4}, 2_048, "adafactor", *STAGE_1),
    Pod("PaLI-X 55B, stage 1", _pali_x(), "v4:8x16x16", {"fsdp": 512, "tensor": 4}, 2_048, "adafactor", *STAGE_1),
    Pod("V-MoE 15B", VMOE_15B, "v5e:16x16", {"fsdp": 8, "expert": 32}, 4_096, "adafactor-momentum"),
    Pod("V-MoE 15B", VMOE_15B, "v4:4x8x8", {"fsdp": 8, "expert": 32}, 4_096, "adafactor-momentum"),
    Pod("V-MoE L/16", VMOE_L16, "v5e:8x8", {"data": 2, "expert": 32}, 4_096, "adamw"),
    Pod("V-MoE L/16", VMOE_L16, "v4:4x4x4", {"data": 2, "expert": 32}, 4_096, "adamw"),
    Pod("V-MoE H/14", VMOE_H14, "v5e:8x16", {"data": 4, "expert": 32}, 4_096, "adamw"),
    Pod("V-MoE H/14", VMOE_H14, "v4:4x4x8", {"data": 4, "expert": 32}, 4_096, "adamw"),
    Pod("E3 H/14", E3_H14, "v5e:8x16", {"data": 4, "expert": 32}, 4_096, "adamw"),
    Pod("E3 H/14", E3_H14, "v4:4x4x8", {"data": 4, "expert": 32}, 4_096, "adamw"),
    Pod("upcycled T5-XL", _upcycled_t5(), "v5e:16x16", {"fsdp": 8, "expert": 32}, 512, "adafactor", (512, 114)),
    Pod("upcycled T5-XL", _upcycled_t5(), "v4:4x8x8", {"fsdp": 8, "expert": 32}, 512, "adafactor", (512, 114)),
    Pod("upcycled ViT-L/16", UPCYCLED_L16, "v5e:8x8", {"data": 2, "expert": 32}, 4_096, "adamw"),
    Pod("upcycled ViT-L/16", UPCYCLED_L16, "v4:4x4x4", {"data": 2, "expert": 32}, 4_096, "adamw"),
)  # fmt: skip

# The ladder is for machines that people have: a v5e-8 (v5e:2x4), and one GPU with 80 GB, whose memory is measured with
# the compiler of one v5p chip: no GPU is compiled for. Its batch is the largest power of two that fits.
FEW = MoEConfig(num_experts=8, group_size=4_096, transport="bfloat16")
SMALL_VMOE = configs.vmoe("B/16", "every-2", FEW, pool="gap", num_classes=1_000, **DEEP)
STEPS = (  # models of the ladder: name, configuration, optimiser, lengths, mesh on a v5e-8
    ("ViT-L/16", configs.vit("L/16", pool="gap", num_classes=1_000, **DEEP), "adamw", (0, 0), {"fsdp": 8}),
    ("ViT-H/14", configs.vit("H/14", pool="gap", num_classes=1_000, **DEEP), "adamw", (0, 0), {"fsdp": 8}),
    ("V-MoE B/16, E=8", SMALL_VMOE, "adamw", (0, 0), {"expert": 8}),
    ("T5 1.1-large", configs.t5("1.1-large", **DEEP), "adafactor", (512, 114), {"fsdp": 8}),
    ("PaLI-X L", configs.palix("L", tower=DEEP, text=DEEP), "adafactor", (64, 64), {"fsdp": 8}),
    ("PaLI-X XL", configs.palix("XL", tower=DEEP, text=DEEP), "adafactor", (64, 64), {"fsdp": 8}),
)
LADDER = tuple(
    Pod(name, config, topology, mesh, 0, optimizer, lengths)
    for name, config, optimizer, lengths, on_eight in STEPS
    for topology, mesh in (("v5e:2x4", on_eight), ("gpu:80GB", {"data": 1}))
)


COLUMNS = (
    "config", "topology", "chips", "mesh", "batch", "optimizer", "compile_seconds", "host_gib", "peak_gib", "hbm_gib",
    "fits", "flops", "all_to_all_mib", "all_to_all_minimum_mib", "all_gather_mib", "reduce_mib", "permute_mib",
    "step_seconds", "bound", "mfu", "versions",
)  # fmt: skip
# ---------------------------------------------------------------------------------------------- the step of a row


def named(title: str, topology: str, axes: str = "", batch: int = 0) -> Pod:
    """The model of a row, or one of `configs`, on any slice. axes: as "data=4,fsdp=4"; "": all chips along fsdp. batch
    0: the largest that fits. Raises ValueError for what does not exist or does not divide."""

    rows = {pod.name: pod for pod in (*LADDER, *ROWS)}
    rows |= {
        name: Pod(name, configs.t5(name, **DEEP), "", {}, 0, "adafactor", (512, 114)) for name in configs.T5_MODELS
    }
    for name in (*configs.PALIX_LADDER, *configs.PALI_MODELS):
        rows[name] = Pod(name, configs.palix(name, tower=DEEP, text=DEEP), "", {}, 0, "adafactor", (64, 64))
    if title not in rows and "/" in title:
        rows[title] = Pod(title, configs.vit(title, pool="gap", **DEEP), "", {}, 0, "adamw")
    one_of("model", title, rows)
    chips = ahead_of_time.find(topology).chips
    sizes = mesh.parse(axes) or {"fsdp": chips}
    mesh.sizes_of(sizes, chips)
    if whole("The batch", batch, 0) % mesh.parts_of(sizes):
        raise ValueError(f"A batch of {batch} does not divide among {mesh.parts_of(sizes)} parts of the mesh.")
    return dataclasses.replace(rows[title], topology=topology, axes=sizes, batch=batch)


def loss_and_shapes(pod: Pod) -> tuple[Callable, dict, dict]:
    """(loss, shapes of the parameters, shapes of a batch); nothing is computed."""
    c, b, (n, m) = pod.config, pod.batch, pod.lengths
    key, tokens = jax.random.key(0), jnp.ones((1, 1), jnp.int32)

    def shape(*axes, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(axes, dtype)

    def parameters(model, *inputs):
        return jax.eval_shape(lambda: model.init(key, *inputs)["params"])

    if isinstance(c, ViTConfig):
        model, picture = ViT(c), (*c.image_size, c.channels)
        batch = {"image": shape(b, *picture, dtype=jnp.bfloat16), "label": shape(b)}
        return classification.classification_loss(model), parameters(model, jnp.zeros((1, *picture))), batch
    if isinstance(c, T5Config):
        model, batch = t5.T5(c), {"inputs": shape(b, n), "targets": shape(b, m)}
        return t5.seq2seq_loss(model), parameters(model, tokens, tokens), batch
    model, picture = palix.PaLIX(c, frozen_tower=bool(pod.frozen)), (1, *c.tower.image_size, c.tower.channels)
    batch = {"images": shape(b, *picture, dtype=jnp.bfloat16), "prompt_tokens": shape(b, n), "targets": shape(b, m)}
    return palix.answer_loss(model), parameters(model, jnp.zeros((1, *picture)), tokens, tokens), batch


def compile_pod(pod: Pod, *, fast: bool = True) -> dict:
    """The row of the table, except for "host_gib"."""
    topology = ahead_of_time.find(pod.topology)
    device_mesh = ahead_of_time.mesh_of(topology, **pod.axes)
    loss, params, batch = loss_and_shapes(pod)
    tx = optim.assemble(optim.CORES[pod.optimizer](), 1e-3, clip_norm=1.0, freeze=pod.frozen)
    state, specs = loop.state_shapes(params, tx), loop.state_specs(params, tx, device_mesh)
    shardings = rules.shardings(specs, device_mesh)
    step = loop.make_step(loss, tx, shardings=shardings)
    arguments = ahead_of_time.abstract(state, shardings), ahead_of_time.abstract_batch(batch, device_mesh)
    model_flops, executed_flops = step_flops(pod)
    row = {
        "config": pod.name, "topology": pod.topology, "chips": topology.chips,
        "mesh": ",".join(f"{axis}={size}" for axis, size in pod.axes.items()),
        "batch": pod.batch, "optimizer": pod.optimizer, "hbm_gib": topology.chip.hbm_gib, "flops": model_flops,
        "all_to_all_minimum_mib": round(all_to_all_minimum(pod) / 2**20, 3), "versions": ahead_of_time.versions(),
    }  # fmt: skip
    try:
        report = ahead_of_time.compile_step(step, arguments, device_mesh, fast=fast)
    except ahead_of_time.DoesNotFit as error:
        print(f"{pod.title}: {error}", file=sys.stderr)
        return row | {"fits": False}
    if report.peak_gib > topology.chip.hbm_gib:  # a GPU, whose memory is smaller than that of the chip compiled for
        return row | {"fits": False}
    arriving = ahead_of_time.arriving_bytes(report.collectives)
    work = ahead_of_time.Work(model_flops, executed_flops, hbm_bytes(state, specs, device_mesh), arriving)
    bounds = ahead_of_time.step_time(work, topology.chip, topology.chips)

    def mib(*kinds):
        return round(sum(report.collectives[kind].bytes for kind in kinds) / 2**20, 3)

    return row | {
        "compile_seconds": round(report.compile_seconds, 1), "peak_gib": round(report.peak_gib, 2), "fits": True,
        "all_to_all_mib": mib("all-to-all"), "all_gather_mib": mib("all-gather"),
        "reduce_mib": mib("all-reduce", "reduce-scatter"), "permute_mib": mib("collective-permute"),
        "step_seconds": round(bounds.seconds, 4), "bound": bounds.bound, "mfu": round(bounds.mfu, 3),
    }  # fmt: skip


def largest_batch(pod: Pod, start: int = 8) -> dict:
    """The row for the largest batch that fits, a power of two times the number of parts of the batch.

    From two compilations, memory is extrapolated to the batch at which it is full; then the batch is halved until it
    fits, or doubled until it does not. The compiler's lowest effort may say that a batch fits which does not when a
    program is compiled to be run (PaLI-X XL: 15.1 GiB against 18.1), so the last word, and the peak, are those of the
    default effort.
    """
    parts = mesh.parts_of(pod.axes)

    @functools.cache
    def row(per_part: int, fast: bool = True) -> dict:
        return compile_pod(dataclasses.replace(pod, batch=per_part * parts), fast=fast)

    small, large = row(start), row(2 * start)
    if not large["fits"]:
        start = 1 if not small["fits"] else start
    else:
        per_example = max((large["peak_gib"] - small["peak_gib"]) / start, 1e-6)
        room = (small["hbm_gib"] - small["peak_gib"]) / per_example + start
        start = 2 ** int(np.log2(max(room, 1)))
    while start > 1 and not row(start)["fits"]:
        start //= 2
    while row(start)["fits"] and row(2 * start)["fits"]:
        start *= 2
    while start > 1 and not row(start, fast=False)["fits"]:
        start //= 2
    return row(start) | {name: row(start, fast=False).get(name) for name in ("fits", "peak_gib")}


# ---------------------------------------------------------------------------------------------- the table


def main(title: str = "", run_all: bool = False, topology: str = "", axes: str = "", batch: int = 0) -> int:
    """`kit pods`: lists the rows, compiles the one called `title` and prints it, or compiles all for the table; on a
    slice that is given, compiles what `named` says."""

    if bool(topology) != bool(topology or axes or batch) or (topology and (run_all or not title)):
        raise SystemExit("--slice needs a model, --mesh and --batch a slice, as in: kit pods L/16 --slice v5e:4x4.")
    titles = {pod.title: pod for pod in (*ROWS, *LADDER)}
    if run_all:
        return _write_table(titles)
    if not title:
        print("\n".join([*titles, "", 'kit pods "ViT-22B on v5p:4x8x8" compiles one: pip install "kitlib[pods]".']))
        print("What the compiler said about all of them: data/results/pods.csv.")
        return 0
    if not topology and title not in titles:
        near = [known for known in titles if title.lower() in known.lower()]
        said = f"There is no row {title!r} (with --slice, a model will do); known are:"
        raise SystemExit("\n".join([said, *(near or titles)]))
    os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu compiles; it must not look for a TPU
    try:
        pod = named(title, topology, axes, batch) if topology else titles[title]
        row = compile_pod(pod) if pod.batch else largest_batch(pod)
    except (ModuleNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    row["host_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps({name: row.get(name) for name in COLUMNS}))
    return 0


def _write_table(pods: dict[str, Pod]) -> int:
    """Compiles every row in a process of its own, and writes data/results/pods.csv.

    Rows are kept in build/pods until the table is written, so that a run that is stopped goes on where it was.
    """
    import pandas as pd

    rows, kept = [], files.writable("build/pods")
    kept.mkdir(parents=True, exist_ok=True)
    for i, (title, pod) in enumerate(pods.items()):
        done = kept / f"{files.recipe_hash(f'{pod} {COLUMNS} {ahead_of_time.versions()}')}.json"
        if not done.exists():
            code = f"from kitlib.studies import pods; raise SystemExit(pods.main({title!r}))"
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if child.returncode:
                print(child.stderr[-2000:], file=sys.stderr)
                raise SystemExit(f"{title}: the compilation failed; no table was written.")
            files.write_text(done, child.stdout.strip().splitlines()[-1])
        rows.append(json.loads(done.read_text()))
        shown = ", ".join(f"{name} {rows[-1][name]}" for name in ("compile_seconds", "peak_gib", "bound", "mfu"))
        print(f"{i + 1}/{len(pods)} {title}: {shown}", flush=True)
    path = files.writable("data/results/pods.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False))
    files.note_checksum(path)
    print(f"wrote {path}")
    return 0
