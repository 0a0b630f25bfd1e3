import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import run_on_devices
from jax.sharding import PartitionSpec as P

from kitlib.parallel import mesh
from kitlib.training import loop, optim

PARAMS = {"head": {"kernel": jnp.arange(8.0).reshape(4, 2), "bias": jnp.zeros(2)}}


def test_shapes_and_specs_of_a_state():
    tx = optim.assemble(optax.scale_by_adam(), 1e-3)
    shapes = loop.state_shapes(PARAMS, tx)
    assert shapes.params["head"]["kernel"].shape == (4, 2) and shapes.step.shape == ()
    specs = loop.state_specs(PARAMS, tx, mesh.make())
    assert specs.params["head"]["kernel"] == P("fsdp") and specs.step == P()
    moments = [s for s in jax.tree.leaves(specs.opt_state, is_leaf=lambda x: isinstance(x, P)) if s == P("fsdp")]
    assert len(moments) == 2  # the two of Adam, for the kernel


def test_a_state_on_one_device_is_that_of_the_loop():
    tx = optim.assemble(optax.scale_by_adam(), 1e-3)
    want = loop.init_state(PARAMS, tx, seed=3)
    got = loop.init_sharded(lambda: PARAMS, tx, mesh.make(), seed=3)
    jax.tree.map(np.testing.assert_array_equal, got.replace(key=0), want.replace(key=0))
    assert (jax.random.key_data(got.key) == jax.random.key_data(want.key)).all()


ON_EIGHT = """
import optax
from kitlib.training import loop, optim
from kitlib.layers.initialize import init_params
m = mesh.make(data=2, fsdp=4)
def make():
    return {"head": {"kernel": jax.random.normal(jax.random.key(0), (64, 8)), "bias": jnp.zeros(8)}}
tx = optim.assemble(optax.scale_by_adam(), 0.1)
def loss(params, batch, key):
    return jnp.mean((batch["x"] @ params["head"]["kernel"] + params["head"]["bias"] - batch["y"]) ** 2), {}
rng = np.random.default_rng(0)
batch = {"x": rng.normal(size=(32, 64)).astype(np.float32), "y": rng.normal(size=(32, 8)).astype(np.float32)}
plain, state = loop.init_state(make(), tx), loop.init_sharded(make, tx, m)
kernel = state.params["head"]["kernel"]
found["spec"], found["rows"] = str(kernel.sharding.spec), kernel.addressable_shards[0].data.shape[0]
shardings = loop.state_shardings(jax.eval_shape(make), tx, m)
steps = loop.make_step(loss, tx), loop.make_step(loss, tx, shardings=shardings)
accumulated = loop.make_step(loss, tx, accumulate=4, shardings=shardings)
again = loop.init_sharded(make, tx, m)
with jax.set_mesh(m):
    rows = mesh.global_batch(m, batch)
    for _ in range(3):
        plain, _ = steps[0](plain, batch)
        state, _ = steps[1](state, rows)
        again, _ = accumulated(again, rows)
    text = {n: s.lower(again, rows).compile().as_text() for n, s in (("once", steps[1]), ("accumulated", accumulated))}
found["after"] = str(state.params["head"]["kernel"].sharding.spec)
for name, other in (("difference", state), ("accumulated", again)):
    pairs = zip(jax.tree.leaves(plain.params), jax.tree.leaves(other.params))
    found[name] = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
found["volumes"] = {n: {k: list(v) for k, v in ahead_of_time.totals(t).items()} for n, t in text.items()}
only = mesh.make(data=8)
def volumes(accumulate):
    with jax.set_mesh(only):
        step = loop.make_step(loss, tx, accumulate=accumulate)
        state = loop.init_sharded(make, tx, only)
        text = step.lower(state, mesh.global_batch(only, batch)).compile().as_text()
        return {k: list(v) for k, v in ahead_of_time.totals(text).items()}
found["data"] = volumes(1), volumes(4)
try:
    with jax.set_mesh(m):
        loop.gradients(loss, make(), batch, jax.random.key(0), 3)
except ValueError as error:
    found["error"] = str(error)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_training_on_a_mesh_is_training_on_one_device():
    found = run_on_devices(ON_EIGHT)
    assert found["spec"] == found["after"] == "P('fsdp',)" and found["rows"] == 16
    assert found["difference"] < 1e-5 and found["accumulated"] < 1e-5
    # With data=8, four parts send what one part sends: gradients and loss, once. No example travels.
    once, parts = found["data"]
    assert once["all-reduce"][1] == parts["all-reduce"][1] and parts["all-gather"][1] == once["all-gather"][1] == 0
    # With fsdp=4, the kernel is gathered for all parts together, before the loop.
    assert found["volumes"]["accumulated"]["all-gather"][1] == 64 * 8 * 4
    assert found["error"] == "A batch of 32 cannot be cut into 3 equal parts on each of 8 devices; change one of them."


ON_TWO = """
from kitlib.training import loop
def loss(params, batch, key):
    return params["p"] * batch.mean(), {"drawn": jax.random.uniform(key)}
key, batch = jax.random.key(3), np.ones((4, 1), np.float32)
with jax.set_mesh(mesh.make(data=2)):
    (_, metrics), _ = jax.jit(lambda p: loop.gradients(loss, p, batch, key, 2))({"p": jnp.float32(1)})
found["mean"] = float(metrics["drawn"])
found["drawn"] = [
    float(jax.random.uniform(part)) for d in range(2) for part in jax.random.split(jax.random.fold_in(key, d), 2)
]
"""


@pytest.mark.slow
def test_every_part_on_every_device_draws_its_own_numbers():
    """Two devices with two parts each draw four numbers; the metric is their mean."""
    found = run_on_devices(ON_TWO, count=2)
    assert len(set(found["drawn"])) == 4
    assert found["mean"] == pytest.approx(np.mean(found["drawn"]), abs=1e-6)
