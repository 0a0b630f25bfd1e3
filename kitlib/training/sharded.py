"""The sharded state of a run on a mesh: born divided, so that no device ever holds a whole large model.

    shardings = state_shardings(shapes, tx, devices)                  # of TrainState, by `parallel.rules`
    state = init_state(make_params, tx, devices, seed=0)              # every device draws its own part
    step = loop.make_step(loss_fn, tx, shardings=shardings)
    with jax.set_mesh(devices):                                       # devices: a Mesh, from `parallel.mesh`
        state, metrics = step(state, mesh.global_batch(devices, batch))

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from kitlib.parallel import rules
from kitlib.training import loop


def state_shapes(params, tx: optax.GradientTransformation) -> loop.TrainState:
    """The shapes of a fresh state for parameters, arrays or shapes; nothing is computed."""
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    return jax.eval_shape(lambda p: loop.init_state(p, tx), shapes)


def state_specs(params, tx: optax.GradientTransformation, mesh: Mesh) -> loop.TrainState:
    """The PartitionSpecs of a state; raises ValueError as `rules.specs` and `rules.state_specs` do."""
    specs = rules.specs(params, mesh)
    moments = rules.state_specs(tx, params, specs)
    return loop.TrainState(P(), specs, moments, P())  # type: ignore[arg-type]  # specs in place of arrays


def state_shardings(params, tx: optax.GradientTransformation, mesh: Mesh) -> loop.TrainState:
    """The NamedShardings of a state on a mesh."""
    return rules.shardings(state_specs(params, tx, mesh), mesh)


def init_state(make_params: Callable, tx: optax.GradientTransformation, mesh: Mesh, seed: int = 0) -> loop.TrainState:
    """A fresh state on a mesh. make_params(): the initial parameters, the same on every process, such as
    `lambda: t5.init_params(model)`; it is compiled into one program that computes each device's part there."""
    shardings = state_shardings(jax.eval_shape(make_params), tx, mesh)
    return jax.jit(lambda: loop.init_state(make_params(), tx, seed), out_shardings=shardings)()
