"""Files with exactly the names and shapes of public ones are made of random arrays. The reference is a forward pass in
plain numpy that reads those files with their own names and does not use the kit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import zoo
from flax.traverse_util import flatten_dict
from scipy import ndimage, special

from kitlib import configs
from kitlib.models import checkpoint
from kitlib.models.checkpoint import CheckpointError
from kitlib.models.vit import ViT

D, F, H, L, P, V = 12, 20, 3, 2, 4, 5  # width, hidden units, heads, blocks, patch size, classes
CONFIG = configs.ViTConfig(
    width=D, depth=L, mlp_dim=F, num_heads=H, patch_size=P, image_size=(12, 12), channels=3, num_classes=V
)
IMAGES = np.random.default_rng(7).uniform(-1, 1, (2, 12, 12, 3)).astype(np.float32)

# The submodules of a block: vision_transformer, older than Linen, has one counter for all, big_vision one per class.
GOOGLE = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
BIG_VISION = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
NORM = {"scale": (D,), "bias": (D,)}
MLP = {"Dense_0/kernel": (D, F), "Dense_0/bias": (F,), "Dense_1/kernel": (F, D), "Dense_1/bias": (D,)}
ATTENTION = {f"{name}/kernel": (D, H, D // H) for name in ("query", "key", "value")}
ATTENTION |= {f"{name}/bias": (H, D // H) for name in ("query", "key", "value")}
ATTENTION |= {"out/kernel": (H, D // H, D), "out/bias": (D,)}


def under(prefix, shapes):
    return {f"{prefix}/{name}": shape for name, shape in shapes.items()}


def shapes_around(numbering):
    """What both conventions have: patch embedding, blocks, last norm and head."""
    shapes = {"embedding/kernel": (P, P, 3, D), "embedding/bias": (D,), "head/kernel": (D, V), "head/bias": (V,)}
    for i in range(L):
        for name, part in zip(numbering, (NORM, ATTENTION, NORM, MLP), strict=True):
            shapes |= under(f"Transformer/encoderblock_{i}/{name}", part)
    return shapes | under("Transformer/encoder_norm", NORM)


def drawn(shapes, seed=0):
    """A different random array for every leaf, around 1 for scales and fast weights, else around 0."""
    rng = np.random.default_rng(seed)
    centre = {name: float("scale" in name or "fast_weight" in name) for name in shapes}
    return {n: (centre[n] + 0.3 * rng.normal(size=shape)).astype(np.float32) for n, shape in shapes.items()}


def google_file(pre_logits=False):
    """The leaves of a vision_transformer .npz."""
    shapes = shapes_around(GOOGLE) | {"cls": (1, 1, D), "Transformer/posembed_input/pos_embedding": (1, 10, D)}
    return drawn(shapes | ({"pre_logits/kernel": (D, D), "pre_logits/bias": (D,)} if pre_logits else {}))


def big_vision_file():
    """The leaves of a big_vision .npz with attention pooling: prefix params/, no class token."""
    shapes = shapes_around(BIG_VISION) | {"pos_embedding": (1, 9, D), "MAPHead_0/probe": (1, 1, D)}
    for name, part in zip(BIG_VISION[1:], (ATTENTION, NORM, MLP), strict=True):
        shapes |= under(f"MAPHead_0/{name.replace('LayerNorm_1', 'LayerNorm_0')}", part)
    return drawn(under("params", shapes))


def np_norm(x, w, prefix):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * w[f"{prefix}/scale"] + w[f"{prefix}/bias"]


def np_attention(q_in, kv_in, w, prefix):
    q, k, v = (
        np.einsum("bnd,dhe->bhne", x, w[f"{prefix}/{name}/kernel"]) + w[f"{prefix}/{name}/bias"][:, None]
        for name, x in (("query", q_in), ("key", kv_in), ("value", kv_in))
    )
    weights = special.softmax(np.einsum("bhne,bhme->bhnm", q, k) / np.sqrt(D // H), axis=-1)
    mixed = np.einsum("bhnm,bhme->bnhe", weights, v)
    return np.einsum("bnhe,hed->bnd", mixed, w[f"{prefix}/out/kernel"]) + w[f"{prefix}/out/bias"]


def np_mlp(x, w, prefix):
    x = x @ w[f"{prefix}/Dense_0/kernel"] + w[f"{prefix}/Dense_0/bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ w[f"{prefix}/Dense_1/kernel"] + w[f"{prefix}/Dense_1/bias"]


def np_patches(images, w):
    """A strided convolution, one patch after the other."""
    rows = []
    for y in range(0, images.shape[1], P):
        for x in range(0, images.shape[2], P):
            patch = images[:, y : y + P, x : x + P]
            rows.append(np.einsum("byxc,yxcd->bd", patch, w["embedding/kernel"]) + w["embedding/bias"])
    return np.stack(rows, axis=1)


def np_encoder(x, w, numbering):
    for i in range(L):
        norm_0, attention, norm_1, mlp = (f"Transformer/encoderblock_{i}/{name}" for name in numbering)
        y = np_norm(x, w, norm_0)
        x = x + np_attention(y, y, w, attention)
        x = x + np_mlp(np_norm(x, w, norm_1), w, mlp)
    return np_norm(x, w, "Transformer/encoder_norm")


def np_google(images, w):
    w = {name: leaf.astype(np.float64) for name, leaf in w.items()}
    x = np_patches(images, w)
    x = np.concatenate([np.repeat(w["cls"], len(x), axis=0), x], axis=1)
    x = np_encoder(x + w["Transformer/posembed_input/pos_embedding"], w, GOOGLE)[:, 0]
    if "pre_logits/kernel" in w:
        x = np.tanh(x @ w["pre_logits/kernel"] + w["pre_logits/bias"])
    return x @ w["head/kernel"] + w["head/bias"]


def np_big_vision(images, w):
    w = {name.removeprefix("params/"): leaf.astype(np.float64) for name, leaf in w.items()}
    x = np_encoder(np_patches(images, w) + w["pos_embedding"], w, BIG_VISION)
    x = np_attention(np.repeat(w["MAPHead_0/probe"], len(x), axis=0), x, w, "MAPHead_0/MultiHeadDotProductAttention_0")
    x = (x + np_mlp(np_norm(x, w, "MAPHead_0/LayerNorm_0"), w, "MAPHead_0/MlpBlock_0"))[:, 0]
    return x @ w["head/kernel"] + w["head/bias"]


@pytest.fixture
def load(tmp_path):
    """(leaves, configuration, ...) -> parameters, by way of the file model.npz."""

    def load(leaves, config=CONFIG, **more):
        np.savez(tmp_path / "model.npz", **leaves)
        return checkpoint.load_vit(tmp_path / "model.npz", config, **more)

    return load


def assert_logits(params, config, want):
    np.testing.assert_allclose(zoo.applied(ViT(config))(params, IMAGES)[0], want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("pre_logits", [False, True])
@pytest.mark.parametrize("scan", [False, True])
def test_a_google_file_gives_its_logits(load, pre_logits, scan):
    leaves = google_file(pre_logits=pre_logits)
    config = CONFIG.replace(scan=scan, representation_size=D if pre_logits else 0)
    assert_logits(load(leaves, config), config, np_google(IMAGES, leaves))


@pytest.mark.slow
def test_a_batch_ensemble_file_gives_the_logits_of_its_members(load):
    """In the names of uncertainty-baselines. Oracle: a dense model per member, with kernels W * alpha gamma^T."""
    dense, m, block = google_file(), 2, L - 1
    layers = [*(f"Transformer/encoderblock_{block}/MlpBlock_3/Dense_{i}" for i in (0, 1)), "head"]
    ensemble = {name: leaf for name, leaf in dense.items() if not name.startswith("head/")}
    member_files = [dict(dense) for _ in range(m)]
    for seed, layer in enumerate(layers, 5):
        kernel = dense[f"{layer}/kernel"]
        c, d = kernel.shape
        own = drawn({"fast_weight_alpha": (m, c), "fast_weight_gamma": (m, d), "bias": (m, d)}, seed)
        ensemble |= under(layer.replace("head", "batchensemble_head"), {"kernel": kernel} | own)
        for file, alpha, gamma, bias in zip(member_files, *own.values(), strict=True):
            file |= {f"{layer}/kernel": kernel * np.outer(alpha, gamma), f"{layer}/bias": bias}
    config = CONFIG.replace(batch_ensemble=configs.BatchEnsembleConfig((block,), num_members=m))
    assert_logits(load(ensemble, config), config, [np_google(IMAGES, file) for file in member_files])


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_a_big_vision_file_gives_its_logits(load, scan):
    leaves, config = big_vision_file(), CONFIG.replace(pool="map", scan=scan)
    assert_logits(load(leaves, config), config, np_big_vision(IMAGES, leaves))


def test_other_forms_of_a_big_vision_file(load):
    """Scanned blocks in the image half of two towers, names from before 2022, and a class token."""
    leaves, config = big_vision_file(), CONFIG.replace(pool="map")
    stacked = {name.replace("params/", "params/img/"): leaf for name, leaf in leaves.items() if "block_" not in name}
    for name in [name for name in leaves if "/encoderblock_0/" in name]:
        blocks = [leaves[name.replace("encoderblock_0", f"encoderblock_{i}")] for i in range(L)]
        stacked[name.replace("encoderblock_0", "encoderblock").replace("params/", "params/img/")] = np.stack(blocks)
    older = {name.replace("MAPHead_0/", ""): leaf for name, leaf in leaves.items()}
    older["params/Transformer/pos_embedding"] = older.pop("params/pos_embedding")
    for form in (stacked, older):
        assert_logits(load(form, config), config, np_big_vision(IMAGES, leaves))
    # big_vision adds the class token after the positions: the same function as a row of zeros in Google's layout.
    google = google_file()
    google["Transformer/posembed_input/pos_embedding"][:, 0] = 0.0
    renamed = under("params", checkpoint.kit_names(google))
    renamed["params/pos_embedding"] = renamed["params/pos_embedding"][:, 1:]
    assert_logits(load(renamed), CONFIG, np_google(IMAGES, google))


def test_positions_are_resized(load):
    leaves = google_file()
    found = load(leaves, CONFIG.replace(image_size=(24, 16)))["pos_embedding"]
    table = leaves["Transformer/posembed_input/pos_embedding"]
    assert found.shape == (1, 6 * 4 + 1, D)
    np.testing.assert_array_equal(found[:, 0], table[:, 0])
    expected = ndimage.zoom(table[0, 1:].reshape(3, 3, D), (2, 4 / 3, 1), order=1)  # as in the reference codes
    np.testing.assert_allclose(found[0, 1:], expected.reshape(24, D), atol=1e-6)
    one = drawn({"table": (1, 2, D)})["table"]
    np.testing.assert_array_equal(checkpoint.fit_positions(one, CONFIG.replace(image_size=(P, P))), one)


def test_a_head_that_is_replaced_anyway_may_hold_anything(load):
    whole = google_file()
    odd = whole | {"head/kernel": np.full((D, V), np.nan), "head/bias": np.arange(V)}
    params = load(odd, CONFIG.replace(num_classes=7), new_head=True)
    np.testing.assert_array_equal(params["embedding"]["kernel"], whole["embedding/kernel"])
    np.testing.assert_array_equal(params["head"]["kernel"], np.zeros((D, 7)))
    with pytest.raises(CheckpointError, match="head/kernel holds nan"):
        load(odd)
    with pytest.raises(ValueError, match="new_head is 'no'; expected True or False"):
        load(odd, new_head="no")


def test_a_new_head_of_a_batch_ensemble_learns(load):
    """y = ((x * alpha) W) * gamma: with W, alpha and gamma all zero, so would be all of their gradients."""
    config = CONFIG.replace(batch_ensemble=configs.BatchEnsembleConfig((L - 1,), num_members=2))
    shapes = flatten_dict(checkpoint.expected_shapes(config), sep="/")
    head = load(drawn({name: leaf.shape for name, leaf in shapes.items()}), config, new_head=True)["head"]
    assert {name: np.unique(leaf).tolist() for name, leaf in head.items()} == {
        "kernel": [0], "bias": [0], "fast_weight_alpha": [1], "fast_weight_gamma": [1],
    }  # fmt: skip


def test_another_model_is_refused_in_one_sentence(load):
    odd = google_file() | {"surprise": np.zeros(3, np.float32), "head/kernel": np.zeros((D, V + 1), np.float32)}
    del odd["Transformer/encoder_norm/bias"]
    both = {name.removeprefix("params/"): leaf for name, leaf in big_vision_file().items()}
    both["Transformer/encoderblock/LayerNorm_0/scale"] = np.zeros((L, D), np.float32)  # nobody could say which counts
    for leaves, fields, reason in (
        (odd, {}, r"missing: Transf.*_norm/bias; extra: surprise; misshapen: head/kernel is \(12, 6\), .*\(12, 5\)\.$"),
        (google_file(), {"depth": 4}, r"missing: .* and \d+ more"),
        (google_file(), {"pool": "gap"}, "position for a class token"),
        (both, {"pool": "map"}, "has stacked blocks .* and single ones"),
    ):
        with pytest.raises(CheckpointError, match=rf"model\.npz .*{reason}"):
            load(leaves, CONFIG.replace(**fields))


@pytest.mark.parametrize("scan", [False, True])
def test_a_deeper_file_and_missing_leaves_are_refused(load, scan):
    """Whether or not the blocks are scanned: a file of four blocks is no model of two, and none may lack a leaf."""
    four = CONFIG.replace(depth=4, scan=scan)
    shapes = flatten_dict(checkpoint.expected_shapes(four.replace(scan=False)), sep="/")
    whole = drawn({name: leaf.shape for name, leaf in shapes.items()})
    assert load(whole, four)
    with pytest.raises(CheckpointError, match="extra: Transformer/encoderblock_2/"):
        load(whole, four.replace(depth=2))
    for gone in ("encoderblock_0/LayerNorm_0/scale", "encoderblock_3/"):
        with pytest.raises(CheckpointError, match=f"model.npz .*missing: Transformer/{gone}"):
            load({name: leaf for name, leaf in whole.items() if gone not in name}, four)


def test_a_file_that_unpacks_to_far_more_than_the_model_is_refused(tmp_path, monkeypatch):
    """The limit is the model's own: twice its parameters and room for other resolutions, here none."""
    size = sum(math.prod(s.shape) for s in jax.tree.leaves(checkpoint.expected_shapes(CONFIG)))
    assert checkpoint.most_bytes(CONFIG) == 8 * size + 2**29
    monkeypatch.setattr(checkpoint, "most_bytes", lambda config: 8 * size)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **google_file(), zeros=np.zeros(3 * size))
    for load, config in ((checkpoint.load_vit, CONFIG), (checkpoint.load_t5, configs.t5("tiny"))):
        with pytest.raises(CheckpointError, match=r"bomb\.npz is refused: it unpacks to"):
            load(path, config)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        # Nor is one patch a grid for several: every patch would get the same position.
        *[(np.zeros((1, n, D)), f"has {n} positions: no square grid") for n in (1, 2, 7, 8, 11)],
        *[(np.zeros((2,) * axes), r"is \(.*expected \(1, positions, 12\)") for axes in range(5)],
        (np.zeros((1, 0, D)), r"is \(1, 0, 12\), expected"),
        (np.full((1, 10, D), np.nan), "holds nan"),
        (np.zeros((1, 10, D), int), "holds int"),
    ],
)
def test_positions_that_do_not_fit(table, reason):
    with pytest.raises(CheckpointError, match=rf"one\.npz.* pos_embedding {reason}"):
        checkpoint.fit_positions(table, CONFIG, "one.npz")


def test_other_kinds_of_files_and_configurations_say_what_reads_them(tmp_path):
    path, t5 = tmp_path / "model.npz", configs.t5("tiny")
    safetensors.numpy.save_file({"head.weight": np.zeros((3, 3), np.float32)}, path)
    for load, target, config, reason in (
        (checkpoint.load_vit, path, CONFIG, r"model\.npz is a \.safetensors .*hugging_face"),
        (checkpoint.load_vit, tmp_path, CONFIG, r"no checkpoint file .*hugging_face\.load reads folders"),
        (checkpoint.load_vit, path, t5, "Got a T5Config, expected a ViTConfig; only load_t5"),
        (checkpoint.load_t5, path, CONFIG, "Got a ViTConfig, expected a T5Config"),
    ):
        with pytest.raises(ValueError, match=reason):
            load(target, config)


# -------------------------------------------------------------------------------------------------- the kit's own files


PARAMS = {"a": {"kernel": jnp.linspace(-3.0, 3.0, 12).reshape(3, 4), "bias": jnp.zeros(4)}, "b": jnp.array([6e4, 1e-3])}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "model.safetensors", PARAMS)
    return tmp_path / "model.safetensors"


def test_loaded_parameters_are_those_that_were_saved(path):
    """And those that are found by name by any reader of the format; saving and loading them again changes nothing."""
    loaded = checkpoint.load(path, PARAMS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2**-11), loaded, PARAMS)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    found = safetensors.numpy.load_file(path)
    assert {name: array.shape for name, array in found.items()} == {"a/bias": (4,), "a/kernel": (3, 4), "b": (2,)}
    assert {array.dtype for array in found.values()} == {np.dtype(np.float16)}
    before = path.read_bytes()
    checkpoint.save(path, loaded)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [7e4, np.inf, np.nan])
def test_numbers_that_float16_cannot_hold_are_refused_and_the_old_file_stays(path, value):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"a/bias holds .*, which float16 cannot"):
        checkpoint.save(path, {**PARAMS, "a": {**PARAMS["a"], "bias": jnp.array([1.0, value])}})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_leaves_that_do_not_fit_are_named(path):
    for expected, reason in (
        ({"a": PARAMS["a"], "c": PARAMS["b"]}, "missing: c; extra: b"),
        ({**PARAMS, "b": jnp.zeros(3)}, r"misshapen: b is \(2,\), expected \(3,\)"),
    ):
        with pytest.raises(CheckpointError, match=rf"model\.safetensors does not fit .*{reason}"):
            checkpoint.load(path, expected)


def test_a_changed_number_is_noticed(path):
    """The last byte of the file is in the last array; the format itself would not notice."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    safetensors.numpy.load_file(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not hold the numbers that were saved"):
        checkpoint.load(path, PARAMS)
