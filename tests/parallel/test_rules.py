import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from jax.sharding import PartitionSpec as P

from kitlib import configs
from kitlib.models import checkpoint, palix, stacking
from kitlib.parallel import mesh, rules
from kitlib.training import optim

MESH = types.SimpleNamespace(shape={"data": 1, "fsdp": 2, "tensor": 2, "expert": 2})
MOE = configs.MoEConfig(num_experts=4)
BLOCK = "Transformer/encoderblock_3"
SPARSE_T5 = {"moe": MOE.replace(router="expert_choice"), "moe_layers": (1,)}
MODELS = zoo.VITS | {
    "T5": configs.t5("tiny"),
    "T5, tied": configs.t5("tiny", tied=True),
    "T5-MoE": configs.t5("tiny", **SPARSE_T5, decoder_moe=MOE, decoder_moe_layers=(1,)),
    "T5, scanned": configs.t5("tiny", scan=True),
    "PaLI-X": configs.palix("XS"),
}


def shapes(config):
    if isinstance(config, configs.PaLIXConfig):
        return jax.eval_shape(lambda: palix.init_params(palix.PaLIX(config)))
    return checkpoint.expected_shapes(config)


@pytest.mark.parametrize("name", MODELS)
def test_every_leaf_of_every_model_has_exactly_one_rule(name):
    params = shapes(MODELS[name])
    specs = rules.specs(params, MESH)
    flat = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P))
    assert len(flat) == len(jax.tree.leaves(params))
    # All matrices are divided but the routers' and BatchEnsemble's vectors, positions and class tokens.
    whole = {
        row["leaf"].split("/")[-2 if row["leaf"].endswith("kernel") else -1]
        for row in rules.describe(params, MESH)
        if not any(row["spec"]) and np.prod(row["shape"]) > 512
    }
    positions = {"pos_embedding", "image_embedding"}  # of patches, of the pictures of a prompt
    assert whole <= positions | {"dense", "mu", "fast_weight_alpha", "fast_weight_gamma", "bias"}


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        (f"{BLOCK}/MultiHeadDotProductAttention_0/query/kernel", (64, 4, 16), P("fsdp", "tensor")),
        (f"{BLOCK}/MultiHeadDotProductAttention_0/out/kernel", (4, 16, 64), P("tensor", None, "fsdp")),
        (f"{BLOCK}/MlpBlock_0/Dense_1/kernel", (256, 64), P("tensor", "fsdp")),
        (f"{BLOCK}/Moe/Mlp/Dense_0/kernel", (8, 64, 256), P("expert", "fsdp", "tensor")),
        (f"{BLOCK}/Moe/Mlp/Dense_0/bias", (8, 256), P("expert")),
        (f"{BLOCK}/MlpBlock_0/Dense_0/bias", (256,), P()),
        # Scanned: the leading axis counts blocks and is whole.
        ("Transformer/encoderblock_0_to_5/encoderblock_1/Moe/Mlp/Dense_0/bias", (3, 8, 256), P(None, "expert")),
        ("encoder/layers_0_to_3/layers_0/mlp/wo/kernel", (4, 128, 64), P(None, "tensor", "fsdp")),
        ("text/decoder/layers_1/encoder_decoder_attention/out/kernel", (64, 64), P("tensor", "fsdp")),
        ("token_embedder/embedding", (2048, 64), P("tensor", "fsdp")),
        ("head/kernel", (64, 10), P("fsdp")),
    ],
)
def test_rules_by_hand(name, shape, spec):
    assert rules.spec_of(name, shape, MESH) == spec


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("new/weights", (4, 4), "exactly one rule.*no rule does: new/weights"),
        ("mlp/wo/kernel", (5, 4), r"mlp/wo/kernel has shape \(5, 4\): dimension 0, of size 5, .* tensor=2"),
        ("head/kernel", (), "is for 1 axes or more, but head/kernel has shape"),
    ],
)
def test_leaves_that_no_rule_fits_or_two(name, shape, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        rules.spec_of(name, shape, MESH)
    monkeypatch.setattr(rules, "RULES", (*rules.RULES, ("head/.*", ())))
    with pytest.raises(ValueError, match=r"2 rules match it \(.*head.*head/\.\*\): head/kernel"):
        rules.spec_of("head/kernel", (4, 4), MESH)


def test_bytes_per_device_and_placed_arrays_by_hand():
    params = {"head": {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}}
    rows = {row["leaf"]: row["bytes per device"] for row in rules.describe(params, MESH)}
    assert rows == {"head/kernel": 64 * 10 * 4 // 2, "head/bias": 40}
    assert rules.bytes_per_device(params, rules.specs(params, MESH), MESH) == 1280 + 40
    one = mesh.make()
    placed = jax.device_put(params, rules.shardings(rules.specs(params, one), one))
    assert placed["head"]["kernel"].sharding.spec == P("fsdp")


OPTIMIZERS = {
    "AdamW": optim.assemble(optax.scale_by_adam(), 1e-3, weight_decay=0.1, clip_norm=1.0),
    "SGD": optim.assemble(optax.trace(0.9), optim.cosine(1e-3, 10)),
    "Adafactor": optim.assemble(optim.scale_by_adafactor(), optim.rsqrt(1e-2, 10)),
    "Adafactor with momentum": optim.assemble(optim.scale_by_big_vision_adafactor(), 1e-3),
    "optax's Adafactor": optax.adafactor(1e-3),
    "a frozen part": optim.assemble(optax.scale_by_adam(), 1e-3, freeze=("encoder/",)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_leaf_of_the_state_is_divided_like_its_parameter(name):
    """The oracle: dimensions of size 2 on every axis divide, so a spec's shape can be computed by division."""
    tx, params = OPTIMIZERS[name], shapes(configs.t5("tiny", width=256, num_encoder_layers=1, num_decoder_layers=1))
    specs = rules.specs(params, MESH)
    state = jax.eval_shape(tx.init, params)
    found = rules.state_specs(tx, params, specs)
    pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, P)), strict=True))
    assert all(len(spec) <= leaf.ndim for leaf, spec in pairs)
    divided = [leaf.size for leaf, spec in pairs if any(spec)]
    if name != "a frozen part":
        assert sum(divided) > 0.98 * sum(leaf.size for leaf, _ in pairs)


def test_factored_moments_by_hand():
    # A [V, D] table divided along (tensor, fsdp), V = 512 > D = 256. Adafactor keeps the means of its two largest
    # dimensions: v_row lacks the largest, V, and is divided as D, v_col lacks D.
    params = {"token_embedder": {"embedding": jax.ShapeDtypeStruct((512, 256), jnp.float32)}}
    specs = rules.specs(params, MESH)
    factored = rules.state_specs(optim.scale_by_adafactor(), params, specs)[0]
    assert factored.v_row["token_embedder"]["embedding"] == P("fsdp")
    assert factored.v_col["token_embedder"]["embedding"] == P("tensor")
    assert factored.v["token_embedder"]["embedding"] == P()  # a placeholder of one number


def test_factored_moments_of_square_matrices():
    # D = H * d: the shapes of v_row and v_col are equal, but they are means over different dimensions.
    x, tx = jnp.arange(256.0 * 256).reshape(256, 256), optim.scale_by_adafactor()
    params = {"attention": {"query": {"kernel": x}}}
    factored = rules.state_specs(tx, params, rules.specs(params, MESH))[0]
    kernel = [tree["attention"]["query"]["kernel"] for tree in (factored.v_row, factored.v_col)]
    row = tx.update(params, tx.init(params), params)[1][0].v_row["attention"]["query"]["kernel"]
    # v_row is the mean over one dimension of x^2: over the last, its entries grow 256 times faster than over the first.
    over_last = np.allclose(row / row[-1], (x**2).mean(axis=1) / (x[-1] ** 2).mean(), rtol=1e-3)
    assert kernel == ([P("fsdp"), P("tensor")] if over_last else [P("tensor"), P("fsdp")])


def test_stacked_moments_are_divided_like_stacked_parameters():
    config = configs.t5("tiny", width=128, mlp_dim=256, scan=True)
    params = shapes(config)
    found = rules.state_specs(optim.scale_by_adafactor(), params, rules.specs(params, MESH))[0]
    layer = found.v_row["encoder"]["layers_0_to_1"]["layers_0"]["mlp"]["wi_0"]["kernel"]  # [L, D, F] without F
    assert layer == P(None, "fsdp")
    assert stacking.stacks(config)["encoder/layers"] == [(0, 1, 2)]


def test_a_state_of_another_shape_is_refused():
    params = {"head": {"kernel": jax.ShapeDtypeStruct((4, 6), jnp.float32)}}
    tx = optax.GradientTransformation(lambda p: jax.tree.map(lambda x: jnp.zeros((3, 3, 3)), p), None)
    with pytest.raises(ValueError, match=r"head.*of shape \(3, 3, 3\), which is neither"):
        rules.state_specs(tx, params, rules.specs(params, MESH))
