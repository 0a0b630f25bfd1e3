import importlib.util

import jax
import jax.numpy as jnp
import pytest
from devices import run_on_devices
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kitlib.parallel import ahead_of_time, mesh

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize(("name", "chips"), [("v5p:8x8x8", 512), ("v4:4x8x8", 256), ("v5e:16x16", 256), ("v6e:1x1", 1)])
def test_slices_have_as_many_chips_as_their_shape(name, chips):
    found = ahead_of_time.find(name)
    assert (found.name, found.chips, found.generation) == (name, chips, name.split(":")[0])


def test_every_slice_has_a_chip_and_fits_its_pod():
    largest = {"v4": 4096, "v5e": 256, "v5p": 6144, "v6e": 256, "gpu": 1}
    assert set(ahead_of_time.SHAPES) == set(ahead_of_time.CHIPS) == set(largest)
    for generation, shapes in ahead_of_time.SHAPES.items():
        assert max(ahead_of_time.find(f"{generation}:{shape}").chips for shape in shapes) == largest[generation]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("v5e:32x32", "v5e:"), ("v5p:8x8x9", "v5p:8x8x8"), ("v5p-512", "v5p:"), ("v7x:2x2", "2x2")],
)
def test_slices_that_do_not_exist(name, nearest):
    with pytest.raises(ValueError, match=rf"Unknown TPU slice '{name}'; did you mean '.*{nearest}.*Known: v4:2x2x1, "):
        ahead_of_time.find(name)


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_without_libtpu_the_extra_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kitlib\[pods\]'"):
        ahead_of_time.devices_of(ahead_of_time.find("v5e:2x2"))


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (the extra `pods`)")
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:1x1", "v5p:2x2x2", "v6e:2x4"])
def test_libtpu_makes_one_device_per_chip(name):
    topology = ahead_of_time.find(name)
    assert ahead_of_time.mesh_of(topology, data=topology.chips).size == topology.chips


# ------------------------------------------------------------------------------------------------------------ compiling


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
x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(m, P(mesh.BATCH_AXES)))
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
    m = ahead_of_time.mesh_of(ahead_of_time.find("v5e:2x2"), data=4)
    step = jax.jit(lambda w, x: w - jnp.mean(x, axis=0)[:, None])
    w = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=NamedSharding(m, P()))
    x = jax.ShapeDtypeStruct((16, 256), jnp.float32, sharding=NamedSharding(m, P(mesh.BATCH_AXES)))
    report = ahead_of_time.compile_step(step, (w, x), m)
    assert report.collectives["all-reduce"] == (1, 256 * 4)  # the mean over the batch


# ---------------------------------------------------------------------------------------------------------- collectives


TPU = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (p: bf16[64,8]) -> bf16[8,8] {
  %p = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[64,8]{1,0} all-reduce(%p), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %slice = bf16[8,8]{1,0} dynamic-slice(%all-reduce.9)
}

%body.1 (state: (s32[], bf16[4,16])) -> (s32[], bf16[4,16]) {
  %state = (s32[], bf16[4,16]{1,0}) parameter(0)
  %x = bf16[4,16]{1,0} get-tuple-element(%state), index=1
  %all-gather.3 = bf16[32,16]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=3, dimensions={0}
  %all-to-all.1 = (bf16[2,16]{1,0}, bf16[2,16]{1,0}) all-to-all(%a, %b), channel_id=4
  %a = bf16[2,16]{1,0} slice(%x)
  %b = bf16[2,16]{1,0} slice(%x)
  ROOT %next = (s32[], bf16[4,16]{1,0}) tuple(%i, %x)
}

%condition.1 (state: (s32[], bf16[4,16])) -> pred[] {
  %state = (s32[], bf16[4,16]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %constant.7 = s32[]{:T(128)} constant(48)
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.7), direction=LT
}

%inner (p: f32[10]) -> f32[10] {
  %p = f32[10]{0} parameter(0)
  ROOT %permuted = f32[10]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

ENTRY %main.2_spmd (x: bf16[4,16], g: bf16[64,8], p: f32[10]) -> (s32[], bf16[4,16]) {
  %x = bf16[4,16]{1,0} parameter(0)
  %g = bf16[64,8]{1,0} parameter(1)
  %p = f32[10]{0} parameter(2)
  %fused = bf16[8,8]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %start = (bf16[4,16]{1,0}, bf16[32,16]{1,0}) all-gather-start(%x), channel_id=9, dimensions={0}
  %done = bf16[32,16]{1,0} all-gather-done(%start)
  %reduced = (f32[10]{0}, /*index=1*/f32[10]{0}) all-reduce(%p, %p), channel_id=2, to_apply=%add
  %called = f32[10]{0} call(%p), to_apply=%inner
  ROOT %loop = (s32[], bf16[4,16]{1,0}) while(%tuple), condition=%condition.1, body=%body.1
}
"""


def test_a_program_by_hand():
    found = ahead_of_time.totals(TPU)
    # 48 times in the loop, each ending with [32, 16] bfloat16; and one outside, in two halves.
    assert found["all-gather"] == (49, 49 * 32 * 16 * 2)
    assert found["all-to-all"] == (48, 48 * 2 * 2 * 16 * 2)
    assert found["reduce-scatter"] == (1, 64 * 8 * 2)  # the fused one starts with [64, 8]
    assert found["all-reduce"] == (1, 2 * 10 * 4)
    assert found["collective-permute"] == (1, 40)
    assert ("all-gather", 48, 1024) in ahead_of_time.collectives(TPU)


def test_trip_counts():
    computations, entry = ahead_of_time.parse(TPU)
    loop = next(i for i in computations[entry] if i.operation == "while")
    assert entry == "main.2_spmd" and ahead_of_time.trip_count(computations, loop) == 48
    known = loop._replace(rest=loop.rest + ', backend_config={"known_trip_count":{"n":"12"}}')
    assert ahead_of_time.trip_count(computations, known) == 12


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[]", 4),
        ("bf16[8,1656,768]{2,1,0:T(8,128)(2,1)}", 8 * 1656 * 768 * 2),
        ("(s32[2]{0}, pred[3]{0})", 11),
        ("f8e4m3fn[16]{0}", 16),
        ("u8[0]{0}", 0),
    ],
)
def test_sizes_of_types(text, size):
    assert ahead_of_time.num_bytes(text) == size


LOOP_ON_EIGHT = """
m = mesh.make(data=8)
def scanned(x, w):  # four times: a matrix product whose result is added up between all devices
    def body(x, w):
        y = jnp.tanh(x @ w)
        return x + jax.lax.with_sharding_constraint(y.sum(axis=0, keepdims=True), NamedSharding(m, P())), None
    return jax.lax.scan(body, x, w)[0]
x = jax.device_put(jnp.ones((16, 32)), NamedSharding(m, P("data")))
text = jax.jit(scanned).lower(x, jnp.ones((4, 32, 32))).compile().as_text()
found["all-reduce"] = list(ahead_of_time.totals(text)["all-reduce"])
"""


@pytest.mark.slow
def test_a_compiled_loop_counts_as_often_as_it_runs():
    assert run_on_devices(LOOP_ON_EIGHT)["all-reduce"] == [4, 4 * 32 * 4]


# ---------------------------------------------------------------------------------------------------- the shortest step


CHIP = ahead_of_time.Chip(flops=100.0, hbm_gib=1.0, hbm_bandwidth=10.0, links_bandwidth=5.0)


@pytest.mark.parametrize(
    ("work", "seconds", "bound", "mfu"),
    [
        # Two chips of 100 FLOP/s: 800 FLOPs take 4 s, 600 of them are the model's: 600 / 200 / 4 = 0.75.
        (ahead_of_time.Work(600.0, 800.0, 10.0, 5.0), 4.0, "compute", 0.75),
        (ahead_of_time.Work(600.0, 800.0, 80.0, 5.0), 8.0, "memory", 600 / 200 / 8),
        (ahead_of_time.Work(600.0, 800.0, 80.0, 60.0), 12.0, "interconnect", 0.25),
    ],
)
def test_the_slowest_of_three_by_hand(work, seconds, bound, mfu):
    bounds = ahead_of_time.step_time(work, CHIP, chips=2)
    assert (bounds.seconds, bounds.bound) == (seconds, bound) and bounds.mfu == pytest.approx(mfu)


def test_an_all_reduce_arrives_twice():
    counts = {"all-reduce": (3, 10), "all-gather": (1, 7), "all-to-all": (0, 0)}
    volumes = {kind: ahead_of_time.Volume(*count) for kind, count in counts.items()}
    assert ahead_of_time.arriving_bytes(volumes) == 27
