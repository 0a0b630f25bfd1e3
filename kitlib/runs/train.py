"""One training run, on one device or many: the same program, the same loop, the notebooks' losses.

    run = make(recipe, axes={"data": 2, "expert": 4})
    state, history = run.fit("build/vmoe", save_every=200, evaluate_every=200)

The mesh is not part of the recipe: a run may be started again on another one and goes on from its checkpoint.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd
from jax.sharding import Mesh

from kitlib.configs import T5Config, ViTConfig
from kitlib.models import flops, palix, t5
from kitlib.models.vit import ViT
from kitlib.parallel import mesh, rules
from kitlib.runs import data_sets
from kitlib.runs.recipes import Recipe
from kitlib.training import classification, loop, metric_writers, optim, sharded


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
        data = data_sets.load(self.recipe)
        writer = make_writer(folder, self.recipe, options.pop("tensorboard", False), options.pop("wandb", None))
        saves = {}
        if folder:
            saves = {"checkpoint_dir": Path(folder) / "checkpoints", "save_every": save_every}
        shardings = sharded.state_shardings(jax.eval_shape(self.make_params), self.tx, self.mesh)
        step = loop.make_step(self.loss, self.tx, accumulate=self.recipe.accumulate, shardings=shardings)
        state = sharded.init_state(self.make_params, self.tx, self.mesh, self.recipe.seed)
        batches = OnMesh(data.batches, self.mesh)
        evaluate = self.evaluator(data.evaluation) if data.evaluation else None
        with jax.set_mesh(self.mesh):
            result = loop.fit(
                step, state, batches, self.recipe.steps, evaluate=evaluate, evaluate_every=evaluate_every,
                writer=writer, recipe=repr(self.recipe), **saves, **options,
            )  # fmt: skip
        if writer:
            writer.close()
        return result

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


class OnMesh:
    """A resumable iterator whose batches are divided among the devices of a mesh."""

    def __init__(self, batches, device_mesh: Mesh):
        self.batches, self.mesh = batches, device_mesh
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __iter__(self):
        return self

    def __next__(self):
        return mesh.global_batch(self.mesh, next(self.batches))


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
            f"A batch of {recipe.batch_size} does not divide among {parts} parts of the mesh"
            + (f" and {recipe.accumulate} parts of accumulation" if recipe.accumulate > 1 else "")
            + f"; use a multiple of {parts * recipe.accumulate}."
        )
    if isinstance(c, ViTConfig):
        model, shape = ViT(c), (1, *c.image_size, c.channels)
        make_loss, make_params = (
            classification.classification_loss,
            lambda: classification.init_params(model, shape, recipe.seed),
        )
    elif isinstance(c, T5Config):
        model = t5.T5(c)
        make_loss, make_params = t5.seq2seq_loss, lambda: t5.init_params(model, recipe.seed)
    else:
        model = palix.PaLIX(c)
        make_loss, make_params = palix.answer_loss, lambda: palix.init_params(model, recipe.seed)
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
    """The step of the newest checkpoint of a run; None if it has none."""
    return max((int(path.name) for path in Path(folder, "checkpoints").glob("*") if path.name.isdigit()), default=None)


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
    state, specs = sharded.state_shapes(shapes, run.tx), sharded.state_specs(shapes, run.tx, run.mesh)
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
    c = recipe.model
    if isinstance(c, ViTConfig):
        return flops.vit_forward_flops(c)
    if isinstance(c, T5Config):
        return flops.t5_forward_flops(c, data_sets.INPUTS, 14)
    text = flops.t5_forward_flops(c.text, c.tower.num_tokens + data_sets.PROMPT, data_sets.TARGET)
    return {f"tower {name}": x for name, x in flops.vit_forward_flops(c.tower).items()} | text
