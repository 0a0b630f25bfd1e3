"""One training run, on one device or many: the same program, the same loop, the notebooks' losses.

    run = make(recipe, axes={"data": 2, "expert": 4})
    state, history = run.fit("build/vmoe", save_every=200, evaluate_every=200)

The mesh is not part of the recipe: a run may be started again on another one and goes on from its checkpoint.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax.sharding import Mesh
from scipy.stats import binom

from kitlib.configs import MoEConfig, PaLIXConfig, T5Config, ViTConfig
from kitlib.layers import initialize
from kitlib.models import flops, palix, t5
from kitlib.models.vit import ViT
from kitlib.moe import capacity, e3
from kitlib.parallel import mesh, rules
from kitlib.runs import data_sets, recipes
from kitlib.runs.recipes import Recipe
from kitlib.training import checkpoints, classification, loop, metric_writers, optim


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """All parts of a run; nothing is computed until `fit`."""

    recipe: Recipe
    mesh: Mesh
    make_params: Callable[[], dict]
    loss: Callable  # (params, batch, key) -> (loss, metrics)
    eval_loss: Callable  # the same without dropout and router noise
    tx: optax.GradientTransformation

    def fit(self, folder: str | Path | None = None, *, save_every: int = 0, evaluate_every: int = 0, **options):
        """(state, history) at the end of the run. folder: for checkpoints, from which the run goes on if there are
        any, and for metrics.csv; options: of `loop.fit`, and `tensorboard`, `wandb` as in `kit train`.

        Raises ValueError if the folder has another recipe.
        """
        data = data_sets.load(self.recipe, mesh.parts_of(self.mesh.shape))
        services = options.pop("tensorboard", False), options.pop("wandb", None)
        saves = {"checkpoint_dir": Path(folder) / "checkpoints", "save_every": save_every} if folder else {}
        shardings = loop.state_shardings(jax.eval_shape(self.make_params), self.tx, self.mesh)
        step = loop.make_step(self.loss, self.tx, accumulate=self.recipe.accumulate, shardings=shardings)
        state = loop.init_sharded(self.make_params, self.tx, self.mesh, self.recipe.seed)
        batches = OnMesh(data.batches, self.mesh)
        evaluate = self.evaluator(data.evaluation) if data.evaluation else None
        with jax.set_mesh(self.mesh):
            return loop.fit(
                step, state, batches, self.recipe.steps, evaluate=evaluate, evaluate_every=evaluate_every,
                writer=functools.partial(make_writer, folder, self.recipe, *services),
                recipe=repr(self.recipe), **saves, **options,
            )  # fmt: skip

    def evaluator(self, batches: list[dict]) -> Callable:
        """state -> {"loss", "accuracy", ...}, the means over batches of one size, and the number of "examples"."""
        on_mesh = [mesh.global_batch(self.mesh, batch) for batch in batches]
        scores_of = jax.jit(lambda params, batch: self.eval_loss(params, batch, jax.random.key(0)))

        def evaluate(state: loop.TrainState) -> dict[str, float]:
            scores = []
            for batch in on_mesh:
                loss, metrics = scores_of(state.params, batch)
                scores.append({"loss": loss} | {name: x for name, x in metrics.items() if x.ndim == 0})
            means = {name: float(np.mean([float(s[name]) for s in scores])) for name in scores[0]}
            return means | {"examples": sum(len(next(iter(batch.values()))) for batch in on_mesh)}

        return evaluate


class OnMesh(data_sets.Mapped):
    """A resumable iterator whose batches are divided among the devices of a mesh."""

    def __init__(self, batches, device_mesh: Mesh):
        super().__init__(batches, functools.partial(mesh.global_batch, device_mesh))


def make(recipe: Recipe, axes: dict[str, int] | None = None) -> Run:
    """The run of a recipe on a mesh with these axes; None: all devices along `data`.

    Raises ValueError for data that does not go with the model, and for a mesh that does not divide the devices, the
    batch, the experts or the parameters.
    """
    data_sets.check(recipe)
    device_mesh = mesh.make(**(axes or {"data": jax.device_count()}))
    c, parts = recipe.model, mesh.parts_of(device_mesh.shape)
    if recipe.batch_size % (parts * recipe.accumulate):
        raise ValueError(
            f"A batch of {recipe.batch_size} does not divide among {parts} parts of the mesh and {recipe.accumulate} "
            f"parts of accumulation; use a multiple of {parts * recipe.accumulate}."
        )
    if recipe.warmup >= recipe.steps:
        fewer = f"expected fewer, such as --warmup {recipe.steps // 10}"
        raise ValueError(f"warmup is {recipe.warmup}, of {recipe.steps} steps; {fewer}.")
    if isinstance(c, ViTConfig):
        model, make_loss, inputs = ViT(c), classification.classification_loss, [(1, *c.image_size, c.channels)]
    elif isinstance(c, T5Config):
        model, make_loss, inputs = t5.T5(c), t5.seq2seq_loss, [(1, 1), (1, 1)]
    else:
        picture = (1, 1, *c.tower.image_size, c.tower.channels)
        model, make_loss, inputs = palix.PaLIX(c), palix.answer_loss, [picture, (1, 1), (1, 1)]

    def make_params():  # for `jax.jit` and `jax.eval_shape`: inputs made in here take no memory, however large they are
        examples = (jnp.zeros(shape, jnp.float32 if len(shape) > 2 else jnp.int32) for shape in inputs)
        return initialize.init_params(model, *examples, seed=recipe.seed)

    rules.specs(jax.eval_shape(make_params), device_mesh)  # raises for dimensions that do not divide
    return Run(recipe, device_mesh, make_params, make_loss(model), make_loss(model, train=False), optimizer(recipe))


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The optimiser of a recipe."""
    if recipe.schedule == "cosine":
        rate = optim.cosine(recipe.peak, recipe.steps, recipe.warmup)
    else:
        rate = optim.rsqrt(recipe.peak, recipe.steps, recipe.warmup, timescale=max(recipe.warmup, 1))
    core = optim.CORES[recipe.optimizer]()
    return optim.assemble(core, rate, weight_decay=recipe.weight_decay, clip_norm=recipe.clip_norm)


def saved_step(folder: str | Path) -> int | None:
    """The step of the newest whole checkpoint of a run; None if it has none."""
    return max(checkpoints.whole_steps(Path(folder, "checkpoints")), default=None)


def last_evaluation(folder: str | Path) -> dict[str, float]:
    """What the newest evaluation of a run measured, from its metrics.csv; {} if it had none."""
    rows = pd.read_csv(Path(folder, "metrics.csv"))
    rows = rows[rows["name"].str.startswith("eval/")]
    newest = rows[rows["step"] == rows["step"].max()]
    return {name.removeprefix("eval/"): value for name, value in zip(newest["name"], newest["value"], strict=True)}


def make_writer(folder, recipe: Recipe, tensorboard: bool, wandb: str | None):
    """The writers of a run's metrics, on the first process; None without a folder."""
    if not folder or jax.process_index():
        return None
    if saved_step(folder) is None:  # else it may be another recipe, which the checkpoints will refuse
        recipes.write(folder, recipe)
    writers = [metric_writers.CsvWriter(Path(folder) / "metrics.csv")]
    if tensorboard:
        writers.append(metric_writers.TensorBoardWriter(folder))
    if wandb:
        writers.append(metric_writers.WandbWriter(wandb, folder, {"recipe": repr(recipe)}))
    return metric_writers.MetricWriters(writers)


# ---------------------------------------------------------------------------------------------- without running


def sizes(run: Run) -> dict[str, float]:
    """What can be said before anything is computed: parameters, GFLOP per step, and GB per device of parameters,
    optimiser state and gradients. Activations come on top; a compiler counts them (`kit pods`)."""
    shapes = jax.eval_shape(run.make_params)
    state, specs = loop.state_shapes(shapes, run.tx), loop.state_specs(shapes, run.tx, run.mesh)
    params = rules.bytes_per_device(state.params, specs.params, run.mesh)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        "GFLOP per step": 3 * run.recipe.batch_size * sum(forward_flops(run.recipe).values()) / 1e9,
        "GB of parameters per device": params / 1e9,
        "GB of optimiser state per device": rules.bytes_per_device(state.opt_state, specs.opt_state, run.mesh) / 1e9,
        "GB of gradients per device": params / 1e9,
    }


def forward_flops(recipe: Recipe) -> dict[str, float]:
    """FLOPs of the forward pass per example, by part, at the lengths of the recipe's data."""
    c, (n, m) = recipe.model, lengths(recipe)
    if isinstance(c, ViTConfig):
        return flops.vit_forward_flops(c)
    text = flops.t5_forward_flops(getattr(c, "text", c), n, m)
    tower = flops.vit_forward_flops(c.tower) if isinstance(c, PaLIXConfig) else {}
    return {f"tower {name}": x for name, x in tower.items()} | text


def lengths(recipe: Recipe) -> tuple[int, int]:
    """Tokens per example that the encoder and the decoder of a recipe read."""
    c = recipe.model
    if isinstance(c, PaLIXConfig):
        return c.tower.num_tokens + data_sets.PROMPT, data_sets.TARGET
    return (c.num_tokens, 0) if isinstance(c, ViTConfig) else (data_sets.INPUTS, data_sets.OUTPUTS)


def routing(recipe: Recipe, parts: int = 1) -> list[dict]:
    """What arithmetic says of a batch without padding on a mesh that divides it into `parts`: a row for every mixture
    of experts, whose "option" of `kit train` comes first.

    "groups" of all devices, per accumulated part; "tokens per group", "slots per expert" and group (None: dropless).
    "dropped at best": the share of choices (where experts choose: of tokens) without a slot if all experts are equally
    in demand; "dropped at random": the expected share if choices are random. "but": if groups are not those of one
    device, so that another function is learned, a sentence with what makes them equal; else "".
    """
    c, (n, m) = recipe.model, lengths(recipe)
    return [
        _routed(recipe, parts, moe, f"--model.{prefix}{name.replace('_', '-')}", length)
        for prefix, half in ({"tower.": c.tower, "text.": c.text} if isinstance(c, PaLIXConfig) else {"": c}).items()
        for name, length in (("moe", getattr(half, "num_tokens", n)), ("decoder_moe", m))
        if (moe := getattr(half, name, None))
    ]


def _routed(recipe: Recipe, parts: int, moe: MoEConfig, option: str, length: int) -> dict:
    e, members, examples = moe.num_experts, getattr(recipe.model, "e3", None), recipe.batch_size // recipe.accumulate

    def cut(parts):  # (tokens of one device, its groups, tokens per group) as in `moe_layer.to_groups`
        tokens = examples // parts * length
        groups = examples // parts if moe.router == "soft" else -(-tokens // min(moe.group_size or tokens, tokens))
        return tokens, groups, -(-tokens // groups)

    (tokens, groups, size), (_, alone, all_alone) = cut(parts), cut(1)
    slots, best, chance, but = None, 0.0, 0.0, ""
    if moe.dispatch != "dropless":
        slots = e3.slots_of(moe, members, size) if members else capacity(moe, size)
    if slots and moe.router != "soft":
        k, m = moe.num_selected if moe.router == "top_k" else 1, members.num_members if members else 1
        users = -(-e3.experts_of(members, e).size // e) if members else 1  # members that may choose one expert
        best, chosen = max(0.0, 1 - e * slots / (k * m * size)), np.arange(slots, users * size + 1)
        chance = (chosen - slots) @ binom.pmf(chosen, users * size, k * m / (e * users)) * e / (k * m * size)
        chance = (1 - slots / size) ** e if moe.router == "expert_choice" else chance
    if parts > 1 and (size != all_alone or tokens % size):
        fits = next(d for d in range(size, 0, -1) if tokens % d == 0)
        unit = parts * recipe.accumulate * (moe.group_size or 0) // math.gcd(moe.group_size or 1, length)  # examples
        batch = f"--batch-size {-(-recipe.batch_size // unit) * unit}, or " if unit else ""
        but = (
            f"{option}: {groups * parts} routing groups of {size} tokens, on one device {alone} of {all_alone}, so the "
            f"curve is another one; to make them equal: {batch}{option}.group-size {fits} on both."
        )
    return {
        "option": option, "groups": groups * parts, "tokens per group": size, "slots per expert": slots,
        "dropped at best": best, "dropped at random": chance, "but": but,
    }  # fmt: skip
