import jax.numpy as jnp
import numpy as np
import pytest
from devices import run_on_devices

from kitlib.layers import batch_ensemble


def test_on_one_device_members_are_outermost():
    x = jnp.arange(3)
    assert batch_ensemble.tile(x, 2).tolist() == [0, 1, 2, 0, 1, 2]
    assert batch_ensemble.split(batch_ensemble.tile(x, 2), 2).tolist() == [[0, 1, 2], [0, 1, 2]]
    y = jnp.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(batch_ensemble.split(batch_ensemble.merge(y), 2), y)


@pytest.mark.parametrize("x", [jnp.ones(3), jnp.ones((5, 2)), jnp.ones(())])
def test_unequal_members_are_refused(x):
    with pytest.raises(ValueError, match="does not hold 2 members of equally many examples"):
        batch_ensemble.split(x, 2)


ON_EIGHT = """
from kitlib.layers import batch_ensemble as members
m = mesh.make(data=2, fsdp=4)
with jax.set_mesh(m):
    x = mesh.global_batch(m, np.arange(16).reshape(16, 1))
    tiled = jax.jit(lambda x: mesh.constrain(members.tile(x, 2), "tokens"))
    found["tiled"] = np.asarray(tiled(x)).ravel()[:8].tolist()
    both = jax.jit(lambda x: members.split(members.tile(x, 2), 2))(x)
    found["split"] = bool((np.asarray(both) == np.asarray(x)[None]).all())
    text = tiled.lower(x).compile().as_text()
    found["moved"] = sum(volume.bytes for volume in ahead_of_time.totals(text).values())
    try:
        members.merge(jnp.ones((2, 12)))
    except ValueError as error:
        found["error"] = str(error)
"""


@pytest.mark.slow
def test_on_a_mesh_copying_moves_nothing():
    found = run_on_devices(ON_EIGHT)
    assert found["tiled"] == [0, 1, 0, 1, 2, 3, 2, 3]  # two examples per device, and their copies
    assert found["split"] and found["moved"] == 0
    assert found["error"] == "A batch of 12 does not divide among the 8 parts of the mesh."
