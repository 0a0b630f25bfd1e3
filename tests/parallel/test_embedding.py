import jax.numpy as jnp
import numpy as np
import pytest
from devices import run_on_devices

from kitlib.parallel.mesh import read_rows


def test_on_one_device_rows_are_read():
    table = jnp.arange(12.0).reshape(4, 3)
    assert read_rows(table, jnp.array([[3, 0], [1, 1]])).tolist() == [[[9, 10, 11], [0, 1, 2]], [[3, 4, 5], [3, 4, 5]]]


ON_EIGHT = """
from kitlib.parallel.mesh import read_rows
rng = np.random.default_rng(0)
table, tokens = rng.normal(size=(64, 32)).astype(np.float32), rng.integers(64, size=(16, 5))
weights = rng.normal(size=(16, 5, 32)).astype(np.float32)
def loss(table, tokens):
    return jnp.sum(weights * read_rows(table, tokens))
want = jax.grad(loss)(table, tokens)
meshes = {"fsdp": {"fsdp": 8}, "all": {"data": 2, "fsdp": 2, "tensor": 2}, "expert": {"fsdp": 4, "expert": 2}}
for name, axes in meshes.items():
    m = mesh.make(**axes)
    with jax.set_mesh(m):
        t = jax.device_put(table, NamedSharding(m, P("tensor", "fsdp")))
        x = mesh.global_batch(m, tokens)
        compiled = jax.jit(jax.value_and_grad(loss)).lower(t, x).compile()
        value, grad = compiled(t, x)
        volumes = ahead_of_time.totals(jax.jit(read_rows).lower(t, x).compile().as_text())
        found[name] = {
            "loss": abs(float(value - loss(table, tokens))), "grad": float(jnp.abs(grad - want).max()),
            "all_to_all": volumes["all-to-all"].bytes, "gathered": volumes["all-gather"].bytes,
        }
"""


@pytest.mark.slow
def test_the_table_is_not_gathered():
    found = run_on_devices(ON_EIGHT)
    for name, row in found.items():
        assert row["loss"] < 1e-4 and row["grad"] < 1e-5, name
    # fsdp=8: two examples per device, their D = 32 columns come together in one all-to-all: 2 * 5 * 32 * 4 bytes. The
    # tokens of the group, 16 * 5, are gathered; the table would be 64 * 32 * 4 = 8,192 bytes.
    assert found["fsdp"]["all_to_all"] == 2 * 5 * 32 * 4
    assert found["fsdp"]["gathered"] in (16 * 5 * 4, 16 * 5 * 8)
    assert found["expert"]["all_to_all"] == 2 * 5 * 32 * 4
    assert np.max([row["gathered"] for row in found.values()]) < 1000
