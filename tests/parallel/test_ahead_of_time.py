import importlib.util

import jax
import jax.numpy as jnp
import pytest
from devices import run_on_devices
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kitlib.parallel import ahead_of_time, mesh, topologies

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


def test_shapes_get_their_shardings():
    one = mesh.make()
    whole = NamedSharding(one, P())
    (x,) = ahead_of_time.abstract((jnp.ones((2, 3)),), (whole,))
    assert (x.shape, x.dtype, x.sharding) == ((2, 3), jnp.float32, whole)
    batch = ahead_of_time.abstract_batch({"a": jax.ShapeDtypeStruct((4, 2), jnp.int32)}, one)
    assert batch["a"].sharding.spec == P(mesh.BATCH_AXES)


ON_EIGHT = """
from kitlib.parallel import ahead_of_time
m = mesh.make(fsdp=8)
step = jax.jit(lambda w, x: jnp.sum((x @ w) ** 2))
w = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(m, P("fsdp")))
x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=mesh.batch_sharding(m))
report = ahead_of_time.compile_step(step, (w, x), m, fast=False)
found["gathered"], found["peak"] = report.collectives["all-gather"].bytes, report.peak_gib
found["seconds"] = report.compile_seconds
"""


@pytest.mark.slow
def test_a_step_is_compiled_and_not_run():
    """FSDP by hand: w, 64 x 32 numbers of 4 bytes, is divided, and gathered for the product."""
    found = run_on_devices(ON_EIGHT)
    assert found["gathered"] == 64 * 32 * 4
    assert found["seconds"] > 0 and 64 * 32 * 4 / 8 / 2**30 < found["peak"] < 1e-3


class Refused:
    """A step whose compilation fails as that of a TPU does."""

    def __init__(self, message):
        self.message = message

    def lower(self, *_):
        return self

    def compile(self, **_):
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_step_that_does_not_fit():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.21G of 15.75G hbm. Exceeded by 1.46G."
    with pytest.raises(ahead_of_time.DoesNotFit, match=r"needs 17\.21G of the 15\.75G of a chip.*smaller batch"):
        ahead_of_time.compile_step(Refused(message), (), mesh.make())
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        ahead_of_time.compile_step(Refused("INTERNAL: a bug"), (), mesh.make())


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (the extra `pods`)")
def test_a_step_for_a_tpu_slice():
    m = topologies.mesh_of(topologies.find("v5e:2x2"), data=4)
    step = jax.jit(lambda w, x: w - jnp.mean(x, axis=0)[:, None])
    w = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=NamedSharding(m, P()))
    x = jax.ShapeDtypeStruct((16, 256), jnp.float32, sharding=mesh.batch_sharding(m))
    report = ahead_of_time.compile_step(step, (w, x), m)
    assert report.collectives["all-reduce"] == (1, 256 * 4)  # the mean over the batch
