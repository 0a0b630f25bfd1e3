"""The command line of `kit train`.

    kit train vit                                                       # a ViT on Fashion-MNIST, in a minute or two
    kit train vmoe --devices 8 --mesh data=2,expert=4 --steps 400       # on eight devices of the CPU
    kit train t5 --scale gpu --model.dropout 0.1 --folder runs/t5
    kit train palix --data vqav2 --files questions.json annotations.json train2014
    kit train vit --data pets --model.image-size 56 56                  # your own pictures: pets/cat/1.png, ...
    kit train t5 --data tales.txt                                       # your own text: one per line
    kit train vit --scale pod --devices 64 --mesh fsdp=64 --dry-run     # sizes, memory, specs; computes nothing

`LAUNCH` has the lines for GPUs, SLURM and TPU slices.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import tyro

from kitlib.configs.arguments import whole

LAUNCH = """
On accelerators, once their JAX is installed, and without --devices. Not run by us, as there was no such machine:
  one GPU         kit train vit --scale gpu
  8 GPUs          kit train vmoe --scale gpu --mesh expert=8
  SLURM           srun --ntasks-per-node=1 kit train vit --scale pod --distributed --mesh fsdp=64
  a TPU slice     gcloud compute tpus tpu-vm ssh NAME --worker=all --command LINE, with this LINE:
                  "kit train vit --scale pod --distributed --mesh fsdp=32 --folder DISK/vit"

Every process runs the same line, with a --folder on a disk that all of them see.
"""
SUPERVISED = "KIT_SUPERVISED"  # the environment variable of the process that does the work
Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run is done with; none of it changes what is learned.

    Attributes:
        scale: cpu, gpu or pod: which model on which data, as listed above.
        folder: for checkpoints and metrics.csv; started again with the same folder, the run goes on. Default:
            build/runs/NAME.
        mesh: as data=2,expert=4; default: all devices along data.
        devices: simulate this many devices of the CPU.
        dry_run: print sizes, memory per device and the table of specs, and end.
        log_every: steps between two rows of metrics.
        evaluate_every: steps between two evaluations, on the first 5,000 examples of the test set, in whole batches; 0:
            at the end only.
        save_every: steps between two checkpoints; 0: at the end only.
        distributed: connect with the other processes of the cluster (SLURM, Open MPI, Cloud TPU, Kubernetes).
        address: without such a cluster: host:port of process 0; with --processes and --index.
        processes: how many there are.
        index: which one this is.
        tensorboard: also write event files for TensorBoard (needs tensorboardX).
        wandb: also log to this project of Weights & Biases (needs wandb, and the network).
    """

    scale: str = "cpu"
    folder: Path | None = None
    mesh: str = ""
    devices: int = 0
    dry_run: Flag = False
    log_every: int = 50
    evaluate_every: int = 200
    save_every: int = 200
    distributed: Flag = False
    address: str | None = None
    processes: int | None = None
    index: int | None = None
    tensorboard: Flag = False
    wandb: str | None = None

    def __post_init__(self):
        least = {"devices": 0, "log_every": 1, "evaluate_every": 0, "save_every": 0}
        for name, bound in least.items():
            whole(f"--{name.replace('_', '-')}", getattr(self, name), bound)


def main(arguments: list[str]) -> int:
    """Runs `kit train ARGUMENTS`; the result is the exit status."""
    name, recipe, options = _parsed("kit train", arguments)
    together = options.distributed or options.address is not None
    if together and SUPERVISED not in os.environ:
        return _supervised(arguments, options.folder)
    return explained("kit train", lambda: _run(name, recipe, options))


def export(arguments: list[str]) -> int:
    """Runs `kit export NAME FOLDER --folder RUN`: the ViT of a finished run, in the layout of Hugging Face. The run's
    options are in its folder (`recipes.write`); those of older runs have to be given again."""
    if len(arguments) < 2 or any(argument.startswith("-") for argument in arguments[:2]):
        raise SystemExit(
            "kit export NAME FOLDER [--folder RUN]: after `kit train vit --model.pool tok --folder runs/tok`, for "
            "example, kit export vit hf/vit --folder runs/tok"
        )
    name, target, *rest = arguments
    _, recipe, options = _parsed("kit export", [name, *rest])
    return explained("kit export", lambda: _export(name, Path(target), recipe, options))


def _parsed(program: str, arguments: list[str]) -> tuple:
    """(name of the run, recipe, options). Ends the program with a message where they cannot be understood.

    The scale, one's own pictures and, for `kit export`, the folder decide what the other options are by default.
    """
    from kitlib.runs import data_sets, recipes

    if not arguments or arguments[0].startswith("-"):
        raise SystemExit(
            f"kit train NAME [options]; names: {', '.join(recipes.NAMES)}, and palix_s, the released model in all its "
            f"stages. kit train {recipes.NAMES[0]} --help lists the options."
        )
    name, *rest = arguments
    first = argparse.ArgumentParser(prog=f"{program} {name}", add_help=False, allow_abbrev=False)
    first.add_argument("--scale", default="cpu")
    first.add_argument("--data")
    first.add_argument("--folder", type=Path, default=Path("build/runs", name))
    first.add_argument("--model.patch-size", "--model.patch_size", type=int, dest="patch_size")
    given, _ = first.parse_known_args(rest)

    @dataclasses.dataclass(frozen=True)
    class Command(Options, recipes.Recipe):
        __doc__ = f"{Options.__doc__}\n{recipes.Recipe.__doc__.partition('Attributes:')[2]}"

        def __post_init__(self):
            """Its two parts are checked below: tyro would put a box around the sentence."""

    def parsed():
        recipe = recipes.named(name, given.scale)
        if program == "kit export":
            recipe = recipes.read(given.folder) or recipe
        if given.data:
            recipe = data_sets.fitted(recipe, given.data, given.patch_size)
        both = tyro.cli(
            Command, default=Command(**_fields(recipe), **_fields(Options(given.scale, given.folder))), args=rest,
            prog=f"{program} {name}", description=_description(name), config=(tyro.conf.AvoidSubcommands,),
        )  # fmt: skip
        return name, *(kind(**_fields(both, kind)) for kind in (recipes.Recipe, Options))

    return explained(program, parsed)


def explained(program: str, work) -> int:
    """work(), or the end of the program with one sentence for what users can change."""
    try:
        return work()
    except (ValueError, ModuleNotFoundError, FileNotFoundError, ConnectionError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    except OSError as error:
        from kitlib.data import files

        raise SystemExit(f"{program}: {files.sentence(error)}") from None


def _description(name: str) -> str:
    """What `--help` says first: the run at each scale, and the lines for accelerators."""
    from kitlib.runs import recipes

    lines = []
    for scale in recipes.SCALES:
        recipe = recipes.named(name, scale)
        data = f"{recipe.data}, the full set (needs the network once)" if recipe.full else recipe.data
        width = getattr(recipe.model, "text", recipe.model).width
        lines.append(f"  {scale:4} width {width}, on {data}; {recipe.steps:,} steps of {recipe.batch_size:,}")
    return "\n".join([f"Train the run {name!r}. Its scales:", *lines]) + "\n" + LAUNCH


def _fields(value, kind=None) -> dict:
    """The fields of a dataclass by name; kind: only those of this class."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind or value)}


def _supervised(arguments: list[str], folder: Path) -> int:
    """Runs the same command in a process of its own, and says what happened if that process dies.

    When one of several processes is gone, JAX ends the others from C++, where no Python can explain it.
    """
    line = "import sys; from kitlib.runs import command; sys.exit(command.main(sys.argv[1:]))"
    child = subprocess.Popen([sys.executable, "-c", line, *arguments], env=os.environ | {SUPERVISED: "1"})
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))  # it saves, then ends
    status = child.wait()
    if status >= 0:
        return status
    why = {-signal.SIGABRT: "another process is gone or does not answer", -signal.SIGKILL: "killed, or out of memory"}
    print(
        f"The run ended with {signal.Signals(-status).name}: {why.get(status, 'see above')}. Start all processes again "
        f"with the same command: the run goes on from its last checkpoint in {folder}.",
        file=sys.stderr,
    )
    return 1


def _run(name: str, recipe, options: Options) -> int:
    from kitlib.parallel import mesh, processes

    if options.devices:
        processes.simulate(options.devices)
    if options.distributed or (options.address, options.processes, options.index) != (None, None, None):
        processes.start(options.address, count=options.processes, index=options.index)
    import jax

    from kitlib.runs import recipes, train

    run = train.make(recipe, mesh.parse(options.mesh))
    if options.dry_run:
        return _describe(run)
    first, folder = jax.process_index() == 0, options.folder
    if first:
        print(f"{name} on {jax.device_count()} {jax.devices()[0].device_kind} devices, mesh {dict(run.mesh.shape)}")
        _remark(run)
        if (step := train.saved_step(folder)) and recipes.read(folder) in (None, recipe):
            print(f"goes on from step {step} of {recipe.steps} in {folder}; a new run needs another --folder")
    _, history = run.fit(
        folder, save_every=options.save_every, evaluate_every=options.evaluate_every, check_every=options.log_every,
        progress=name if first else None, tensorboard=options.tensorboard, wandb=options.wandb,
    )  # fmt: skip
    if first:
        print(f"step {recipe.steps}: training loss {history['loss'][-1]:.4f}; metrics in {folder / 'metrics.csv'}")
        if scores := train.last_evaluation(folder):
            examples = scores.pop("examples")
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            print(f"on {examples:,.0f} test examples: {shown}")
        else:
            print("not evaluated: the test examples do not divide among the devices; add some, or use fewer devices")
    return 0


def _remark(run) -> None:
    """Prints what a user should know of a run before it begins, a line each."""
    from kitlib.parallel import mesh
    from kitlib.runs import data_sets, train

    rows = train.routing(run.recipe, mesh.parts_of(run.mesh.shape))
    remarks = [data_sets.described(run.recipe), *(row["but"] for row in rows)]
    if run.mesh.shape["expert"] > 1 and not rows:
        remarks.append("The model has no experts: the axis expert of the mesh divides the batch, as data does.")
    for remark in filter(None, remarks):
        print(remark)


def _export(name: str, target: Path, recipe, options: Options) -> int:
    from kitlib.configs import ViTConfig
    from kitlib.models import hugging_face
    from kitlib.parallel import mesh
    from kitlib.runs import data_sets, train

    if not isinstance(recipe.model, ViTConfig):
        raise ValueError(f"{name} is no ViT; only ViTs are exported.")
    if (step := train.saved_step(options.folder)) != recipe.steps:
        raise ValueError(
            f"There is no finished run in {options.folder}: it is at step {step or 0} of {recipe.steps}. Train it "
            "first, with the same options: kit train."
        )
    hugging_face.check(recipe.model)
    state, _ = train.make(recipe, mesh.parse(options.mesh)).fit(options.folder)
    classes = data_sets.pictures(recipe, "train").class_names
    hugging_face.save_vit(target, state.params, recipe.model, classes)
    print(f"wrote {target}: config.json, model.safetensors, preprocessor_config.json")
    return 0


def _describe(run) -> int:
    """Prints the table of specs, then what can be said of the run as a whole."""
    import jax
    import pandas as pd

    from kitlib.parallel import mesh, rules
    from kitlib.runs import train

    table = pd.DataFrame(rules.describe(jax.eval_shape(run.make_params), run.mesh))
    print(table.to_string(index=False, formatters={"bytes per device": "{:,}".format}))
    print(f"\nmesh {dict(run.mesh.shape)}")
    _remark(run)
    for label, value in train.sizes(run).items():
        print(f"{label}: {value:,.4g}")
    for row in train.routing(run.recipe, mesh.parts_of(run.mesh.shape)):
        said = {label: f"{x:.2%}" if isinstance(x, float) else x for label, x in row.items() if label != "but"}
        print(*(f"{label}: {x}" for label, x in said.items()), sep="\n")
    print("Activations come on top; for some models on some slices of TPUs, kit pods counts them.")
    return 0
