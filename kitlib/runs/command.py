"""The command line of `kit train`.

    kit train vit                                                       # a ViT on Fashion-MNIST, in a minute or two
    kit train vmoe --devices 8 --mesh data=2,expert=4 --steps 400       # on eight devices of the CPU
    kit train t5 --scale gpu --model.dropout 0.1 --folder runs/t5
    kit train palix --data vqav2 --files questions.json annotations.json train2014
    kit train vit --scale pod --devices 64 --mesh fsdp=64 --dry-run     # sizes, memory, specs; computes nothing

`LAUNCH` has the lines for GPUs, SLURM and TPU slices.
"""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import tyro

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
        evaluate_every: steps between two evaluations, on the first 5,000 examples of the test set, in whole batches.
        save_every: steps between two checkpoints.
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


def main(arguments: list[str]) -> int:
    """Runs `kit train ARGUMENTS`; the result is the exit status."""
    name, recipe, options = _parsed("kit train", arguments)
    together = options.distributed or options.address is not None
    if together and SUPERVISED not in os.environ:
        return _supervised(arguments, options.folder or Path("build/runs", name))
    return explained("kit train", lambda: _run(name, recipe, options))


def export(arguments: list[str]) -> int:
    """Runs `kit export NAME FOLDER OPTIONS`: the ViT of a finished run of `kit train NAME OPTIONS`, in the layout of
    Hugging Face."""
    if len(arguments) < 2 or any(argument.startswith("-") for argument in arguments[:2]):
        raise SystemExit(
            "kit export NAME FOLDER [the options of the run]: after `kit train vit --model.pool tok`, for example, "
            "kit export vit hf/vit --model.pool tok"
        )
    name, target, *rest = arguments
    _, recipe, options = _parsed("kit export", [name, *rest])
    return explained("kit export", lambda: _export(name, Path(target), recipe, options))


def _parsed(program: str, arguments: list[str]) -> tuple:
    """(name of the run, recipe, options). Ends the program with a message where they cannot be understood."""
    from kitlib.runs import recipes

    try:
        name, scale, rest = _name_and_scale(arguments)
        recipe = recipes.named(name, scale)
    except ValueError as error:
        raise SystemExit(str(error)) from None

    @dataclasses.dataclass(frozen=True)
    class Command(Options, recipes.Recipe):
        __doc__ = f"{Options.__doc__}\n{recipes.Recipe.__doc__.partition('Attributes:')[2]}"

    parsed = tyro.cli(
        Command, default=Command(**_fields(recipe), **_fields(Options(scale=scale))), args=rest,
        prog=f"{program} {name}", description=_description(name), config=(tyro.conf.AvoidSubcommands,),
    )  # fmt: skip
    return name, *(kind(**_fields(parsed, kind)) for kind in (recipes.Recipe, Options))


def explained(program: str, work) -> int:
    """work(), or the end of the program with one sentence for what users can change."""
    try:
        return work()
    except (ValueError, ModuleNotFoundError, FileNotFoundError, ConnectionError) as error:
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


def _name_and_scale(arguments: list[str]) -> tuple[str, str, list[str]]:
    """The run's name, the value of --scale, and the other arguments."""
    from kitlib.runs import recipes

    known = ", ".join(recipes.NAMES)
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(
            f"kit train NAME [options]; names: {known}, and palix_s, the released model in all its stages. "
            f"kit train {recipes.NAMES[0]} --help lists the options."
        )
    name, *rest = arguments
    scale = "cpu"
    for i, argument in enumerate(rest):
        if argument.startswith("--scale="):
            scale = rest.pop(i).split("=", 1)[1]
            break
        if argument == "--scale" and i + 1 < len(rest):
            scale = rest[i + 1]
            del rest[i : i + 2]
            break
    return name, scale, rest


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
    if options.distributed or options.address:
        processes.start(options.address, count=options.processes, index=options.index)
    import jax

    from kitlib.runs import train

    axes = mesh.parse(options.mesh)
    if math.prod(axes.values()) > jax.device_count() == 1:
        raise ValueError(
            f"The mesh {options.mesh} has {math.prod(axes.values())} devices, but JAX sees one "
            f"{jax.devices()[0].platform}: install JAX for your accelerators, or simulate devices with --devices."
        )
    run = train.make(recipe, axes)
    if options.dry_run:
        return _describe(run)
    first = jax.process_index() == 0
    folder = options.folder or Path("build/runs", name)
    if first:
        print(f"{name} on {jax.device_count()} {jax.devices()[0].device_kind} devices, mesh {dict(run.mesh.shape)}")
        if step := train.saved_step(folder):
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
    return 0


def _export(name: str, target: Path, recipe, options: Options) -> int:
    from kitlib import data
    from kitlib.configs import ViTConfig
    from kitlib.models import hugging_face
    from kitlib.parallel import mesh
    from kitlib.runs import train

    if not isinstance(recipe.model, ViTConfig):
        raise ValueError(f"{name} is no ViT; only ViTs are exported.")
    hugging_face.check(recipe.model)
    folder = options.folder or Path("build/runs", name)
    if (step := train.saved_step(folder)) != recipe.steps:
        raise ValueError(
            f"There is no finished run in {folder}: it is at step {step or 0} of {recipe.steps}. Train it first, with "
            "the same options: kit train."
        )
    state, _ = train.make(recipe, mesh.parse(options.mesh)).fit(folder)
    classes = data.load(recipe.data, "train", full=recipe.full).class_names
    hugging_face.save_vit(target, state.params, recipe.model, classes)
    print(f"wrote {target}: config.json, model.safetensors, preprocessor_config.json")
    return 0


def _describe(run) -> int:
    """Prints the table of specs, then what can be said of the run as a whole."""
    import jax
    import pandas as pd

    from kitlib.parallel import rules
    from kitlib.runs import train

    table = pd.DataFrame(rules.describe(jax.eval_shape(run.make_params), run.mesh))
    print(table.to_string(index=False, formatters={"bytes per device": "{:,}".format}))
    print(f"\nmesh {dict(run.mesh.shape)}")
    for label, value in train.sizes(run).items():
        print(f"{label}: {value:,.4g}")
    print("Activations come on top; for some models on some slices of TPUs, kit pods counts them.")
    return 0
