"""Compiling with libtpu is tested where it is installed; the stored table and all else everywhere."""

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest

from kitlib import configs
from kitlib.data import files
from kitlib.parallel import ahead_of_time, mesh
from kitlib.studies import pods
from kitlib.studies.pods import Pod

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
MOE = configs.MoEConfig(num_experts=4, transport="bfloat16")
TINY = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=8, pool="gap", moe=MOE, moe_blocks=(1,))
T5 = configs.t5("tiny", vocab_size=64)


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(files.data_folder() / "results" / "pods.csv")


def test_the_table_has_every_row_and_column(table):
    assert tuple(table.columns) == pods.COLUMNS
    wanted = [(pod.name, pod.topology) for pod in (*pods.ROWS, *pods.LADDER)]
    assert list(zip(table.config, table.topology, strict=True)) == wanted
    for row, pod in zip(table.itertuples(), pods.ROWS, strict=False):
        assert (row.batch, row.optimizer) == (pod.batch, pod.optimizer)
        assert row.mesh == ",".join(f"{axis}={size}" for axis, size in pod.axes.items())
        assert row.flops == pytest.approx(pods.step_flops(pod)[0], rel=1e-9)
        assert row.chips == ahead_of_time.find(pod.topology).chips


def test_every_row_fits_and_was_compiled_within_a_minute_and_6_gib(table):
    assert table.fits.all() and (table.peak_gib < table.hbm_gib).all()
    assert table.compile_seconds.max() <= 60 and table.host_gib.max() <= 6
    assert table.mesh.str.contains("expert").sum() >= 13
    # All other all-to-alls are those of embedding tables.
    np.testing.assert_allclose(table.all_to_all_mib, table.all_to_all_minimum_mib, atol=0.002)
    peak = np.array([ahead_of_time.CHIPS[name.split(":")[0]].flops for name in table.topology])
    np.testing.assert_allclose(table.mfu, table.flops / (table.chips * peak * table.step_seconds), atol=0.002)
    assert set(table.bound) <= {"compute", "memory", "interconnect"}


def test_fsdp_gathers_what_theory_says(table):
    dense = table[table.config.str.startswith("ViT-22B")]
    assert len(dense) == 6
    for row, pod in zip(dense.itertuples(), (p for p in pods.ROWS if p.name.startswith("ViT-22B")), strict=True):
        predicted = pods.fsdp_and_tensor_traffic(pod)
        assert row.all_gather_mib == pytest.approx(predicted["all-gather"].bytes / 2**20, rel=0.05)
        reduced = (predicted["reduce-scatter"].bytes + predicted["all-reduce"].bytes) / 2**20
        assert row.reduce_mib == pytest.approx(reduced, rel=0.05)


def compiled_by(monkeypatch, compile_step):
    """The compiler is replaced."""
    monkeypatch.setattr(ahead_of_time, "mesh_of", lambda topology, **axes: mesh.make())
    monkeypatch.setattr(ahead_of_time, "versions", lambda: "jax, libtpu")
    monkeypatch.setattr(ahead_of_time, "compile_step", compile_step)


@pytest.mark.parametrize(
    "pod",
    [
        Pod("image", TINY, "v5e:2x2", {"data": 1, "expert": 4}, 8, "adamw"),
        Pod("text", T5, "v5e:2x2", {"fsdp": 4}, 8, "adafactor", (12, 6)),
        Pod("both", configs.palix("XS"), "v5e:2x2", {"fsdp": 4}, 8, "adafactor", (7, 5), ("tower/",)),
    ],
    ids=lambda pod: pod.name,
)
def test_a_row_of_each_kind(pod, monkeypatch):
    """With the compiler replaced by the shapes that it would get."""
    seen = []

    def compiled(step, arguments, device_mesh, *, fast):
        seen.append((step.eval_shape(*arguments), arguments))
        zero = {kind: ahead_of_time.Volume() for kind in ahead_of_time.KINDS}
        return ahead_of_time.Report(1.0, 2.0, zero | {"all-gather": ahead_of_time.Volume(1, 2**20)})

    compiled_by(monkeypatch, compiled)
    row = pods.compile_pod(pod)
    assert set(row) == set(pods.COLUMNS) - {"host_gib"} and row["fits"] and row["all_gather_mib"] == 1.0
    (state, metrics), (given, batch) = seen[0]
    assert metrics["loss"].shape == () and state.params.keys() == given.params.keys()
    assert all(leaf.shape[0] == 8 for leaf in batch.values())


def test_a_row_that_does_not_fit(monkeypatch, capsys):
    def refuse(*_, **__):
        raise ahead_of_time.DoesNotFit("The step does not fit.")

    compiled_by(monkeypatch, refuse)
    row = pods.compile_pod(Pod("image", TINY, "v5e:2x2", {"expert": 4}, 8, "adamw"))
    assert row["fits"] is False and "peak_gib" not in row
    assert "image on v5e:2x2: The step does not fit." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("room", "really", "largest"),
    [(3, 3, 2), (100, 100, 64), (1024, 1024, 1024), (8, 8, 8), (13, 13, 8), (100, 40, 32), (100, 10, 8)],
)
def test_the_largest_batch_is_found(monkeypatch, room, really, largest):
    """A step that needs 1 GiB and 0.01 GiB per example and part fits as long as there is room for so many examples;
    the compiler's default effort may find room for fewer."""
    tried = []

    def compile_pod(pod, *, fast):
        tried.append((pod.batch // 4, fast))
        peak = 1 + 0.01 * pod.batch / 4 + (not fast)
        fits = pod.batch / 4 <= (room if fast else really)
        return {"fits": fits, "batch": pod.batch, "hbm_gib": 1 + 0.01 * room} | ({"peak_gib": peak} if fits else {})

    monkeypatch.setattr(pods, "compile_pod", compile_pod)
    row = pods.largest_batch(Pod("x", TINY, "v5e:2x2", {"data": 4}, 0, "adamw"))
    assert row["batch"] == 4 * largest and len(tried) == len(set(tried)) <= 8
    assert row["peak_gib"] == pytest.approx(2 + 0.01 * largest)


def test_the_command_lists_rows_and_refuses_others(capsys):
    assert pods.main() == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "ViT-22B on v5p:4x8x8" and "data/results/pods.csv" in out
    with pytest.raises(SystemExit, match=r"There is no row 't5' .*; known are:\nupcycled T5-XL on v5e:16x16\n"):
        pods.main("t5")


@pytest.mark.parametrize(
    ("title", "kind", "optimizer", "lengths"),
    [
        ("V-MoE H/14", configs.ViTConfig, "adamw", (0, 0)),  # a row has its own optimiser and lengths
        ("PaLI-X 55B, stage 1", configs.PaLIXConfig, "adafactor", (512, 512)),
        ("1.1-xl", configs.T5Config, "adafactor", (512, 114)),
    ],
)
def test_any_model_on_any_slice(monkeypatch, capsys, title, kind, optimizer, lengths):
    seen = []
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name in ("compile_pod", "largest_batch"):
        monkeypatch.setattr(pods, name, lambda pod, name=name: seen.append((name, pod)) or {"config": pod.name})
    assert pods.main(title, topology="v5e:4x4", axes="data=4,fsdp=4", batch=32) == 0
    assert pods.main(title, topology="v5e:2x4") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["config"] == title
    (first, pod), (second, other) = seen
    assert (first, pod.axes, pod.batch, pod.topology) == ("compile_pod", {"data": 4, "fsdp": 4}, 32, "v5e:4x4")
    assert (second, other.axes, other.batch) == ("largest_batch", {"fsdp": 8}, 0)
    assert isinstance(pod.config, kind) and (pod.optimizer, pod.lengths) == (optimizer, lengths)
    assert getattr(pod.config, "text", pod.config).scan


@pytest.mark.parametrize(
    ("title", "options", "message"),
    [
        ("V-MoE", {"topology": "v5e:4x4"}, "Unknown model 'V-MoE'; did you mean"),
        ("L/16", {"topology": "v5e:4x5"}, "Unknown TPU slice 'v5e:4x5'; did you mean 'v5e:4x"),
        ("L/16", {"topology": "v5e:4x4", "axes": "data=3"}, "mesh data=3 has 3 devices, here are 16"),
        ("L/16", {"topology": "v5e:4x4", "axes": "data:16"}, "A mesh is written like"),
        ("L/16", {"topology": "v5e:4x4", "batch": 40}, "A batch of 40 does not divide among 16 parts"),
        ("L/16", {"topology": "v5e:4x4", "batch": -16}, "The batch is -16; expected a whole number, 0 or more"),
        ("ViT-22B on v5p:4x8x8", {"batch": 16}, "--batch a slice, as in: kit pods L/16 --slice v5e:4x4"),
        ("ViT-22B on v5p:4x8x8", {"axes": "data=4"}, "--slice needs a model"),
    ],
)
def test_models_slices_and_meshes_that_do_not_go_together(monkeypatch, title, options, message):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(SystemExit, match=message) as ended:
        pods.main(title, **options)
    assert "\n" not in str(ended.value)


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(SystemExit, match=r"pip install 'kitlib\[pods\]'"):
        pods.main("ViT-22B on v5p:4x8x8")


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (the extra `pods`)")
def test_a_row_is_compiled_and_printed(capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    pods.main("ViT-22B on v5p:4x8x8")
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["fits"] and row["host_gib"] < 6 and row["bound"] == "compute"
