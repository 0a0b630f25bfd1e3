"""The largest published sizes, compiled for TPU slices that exist: `kit pods`, without a TPU.

    kit pods                         # which rows there are
    kit pods "ViT-22B on v5p:4x8x8"  # compiles one and prints what the compiler says
    kit pods --all                   # all, a process each, and writes data/results/pods.csv; about 40 minutes
    kit pods L/16 --slice v5e:4x4 --mesh data=4,fsdp=4 --batch 1024  # any model of `configs`, or of a row, on any slice

Activations are bfloat16, parameters and optimiser float32; stacks are scanned and rematerialised. All-to-alls are
compared with the least that expert parallelism can move, and the step with its lower bounds (`parallel.topologies`).
Collective permutes (permute_mib) are gathers and reductions that XLA overlaps, piece by piece, with matrix products.

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
from kitlib.configs import T5Config, ViTConfig
from kitlib.configs.arguments import one_of, whole
from kitlib.configs.parts import DEEP
from kitlib.data import files
from kitlib.models import palix, t5
from kitlib.models.vit import ViT
from kitlib.parallel import ahead_of_time, mesh, rules, topologies
from kitlib.studies.pod_formulas import Pod, all_to_all_minimum, hbm_bytes, step_flops
from kitlib.training import classification, loop, optim

COLUMNS = (
    "config", "topology", "chips", "mesh", "batch", "optimizer", "compile_seconds", "host_gib", "peak_gib", "hbm_gib",
    "fits", "flops", "all_to_all_mib", "all_to_all_minimum_mib", "all_gather_mib", "reduce_mib", "permute_mib",
    "step_seconds", "bound", "mfu", "versions",
)  # fmt: skip
# ---------------------------------------------------------------------------------------------- the step of a row


def named(title: str, topology: str, axes: str = "", batch: int = 0) -> Pod:
    """The model of a row, or one of `configs`, on any slice. axes: as "data=4,fsdp=4"; "": all chips along fsdp. batch
    0: the largest that fits. Raises ValueError for what does not exist or does not divide."""
    from kitlib.studies import pod_rows

    rows = {pod.name: pod for pod in (*pod_rows.LADDER, *pod_rows.ROWS)}
    rows |= {
        name: Pod(name, configs.t5(name, **DEEP), "", {}, 0, "adafactor", (512, 114)) for name in configs.T5_MODELS
    }
    for name in (*configs.PALIX_LADDER, *configs.PALI_MODELS):
        rows[name] = Pod(name, configs.palix(name, tower=DEEP, text=DEEP), "", {}, 0, "adafactor", (64, 64))
    if title not in rows and "/" in title:
        rows[title] = Pod(title, configs.vit(title, pool="gap", **DEEP), "", {}, 0, "adamw")
    one_of("model", title, rows)
    chips = topologies.find(topology).chips
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
    topology = topologies.find(pod.topology)
    device_mesh = topologies.mesh_of(topology, **pod.axes)
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
        "all_to_all_minimum_mib": round(all_to_all_minimum(pod) / 2**20, 3), "versions": topologies.versions(),
    }  # fmt: skip
    try:
        report = ahead_of_time.compile_step(step, arguments, device_mesh, fast=fast)
    except ahead_of_time.DoesNotFit as error:
        print(f"{pod.title}: {error}", file=sys.stderr)
        return row | {"fits": False}
    if report.peak_gib > topology.chip.hbm_gib:  # a GPU, whose memory is smaller than that of the chip compiled for
        return row | {"fits": False}
    arriving = topologies.arriving_bytes(report.collectives)
    work = topologies.Work(model_flops, executed_flops, hbm_bytes(state, specs, device_mesh), arriving)
    bounds = topologies.step_time(work, topology.chip, topology.chips)

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
    from kitlib.studies import pod_rows

    if bool(topology) != bool(topology or axes or batch) or (topology and (run_all or not title)):
        raise SystemExit("--slice needs a model, --mesh and --batch a slice, as in: kit pods L/16 --slice v5e:4x4.")
    titles = {pod.title: pod for pod in (*pod_rows.ROWS, *pod_rows.LADDER)}
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
        done = kept / f"{files.recipe_hash(f'{pod} {COLUMNS} {topologies.versions()}')}.json"
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
