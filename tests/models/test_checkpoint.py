"""Files with exactly the names and shapes of public ones are made of random arrays. The reference is a forward pass in
plain numpy that reads those files with their own names and does not use the kit."""

import math
import pickle

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from scipy import ndimage, special

from kitlib import configs
from kitlib.models import checkpoint, checkpoint_files, checkpoint_names
from kitlib.models.vit import ViT

D, F, H, L, P, V = 12, 20, 3, 2, 4, 5  # width, hidden units, heads, blocks, patch size, classes
CONFIG = configs.ViTConfig(
    width=D, depth=L, mlp_dim=F, num_heads=H, patch_size=P, image_size=(12, 12), channels=3, num_classes=V
)
IMAGES = np.random.default_rng(7).uniform(-1, 1, (2, 12, 12, 3)).astype(np.float32)


class Draw:
    """A different random array at every call."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape, centre=0.0):
        return (centre + 0.3 * self.rng.normal(size=shape)).astype(np.float32)


def attention_leaves(draw, prefix):
    leaves = {}
    for name in ("query", "key", "value"):
        leaves |= {f"{prefix}/{name}/kernel": draw(D, H, D // H), f"{prefix}/{name}/bias": draw(H, D // H)}
    return leaves | {f"{prefix}/out/kernel": draw(H, D // H, D), f"{prefix}/out/bias": draw(D)}


def mlp_leaves(draw, prefix):
    return {
        f"{prefix}/Dense_0/kernel": draw(D, F), f"{prefix}/Dense_0/bias": draw(F),
        f"{prefix}/Dense_1/kernel": draw(F, D), f"{prefix}/Dense_1/bias": draw(D),
    }  # fmt: skip


def norm_leaves(draw, prefix):
    return {f"{prefix}/scale": draw(D, centre=1.0), f"{prefix}/bias": draw(D)}


def google_file(seed=0, pre_logits=False):
    """The leaves of a vision_transformer .npz, older than Linen: one counter numbers all submodules of a block."""
    draw = Draw(seed)
    leaves = {"cls": draw(1, 1, D), "embedding/kernel": draw(P, P, 3, D), "embedding/bias": draw(D)}
    leaves["Transformer/posembed_input/pos_embedding"] = draw(1, 10, D)
    for i in range(L):
        block = f"Transformer/encoderblock_{i}"
        leaves |= norm_leaves(draw, f"{block}/LayerNorm_0")
        leaves |= attention_leaves(draw, f"{block}/MultiHeadDotProductAttention_1")
        leaves |= norm_leaves(draw, f"{block}/LayerNorm_2")
        leaves |= mlp_leaves(draw, f"{block}/MlpBlock_3")
    leaves |= norm_leaves(draw, "Transformer/encoder_norm")
    if pre_logits:
        leaves |= {"pre_logits/kernel": draw(D, D), "pre_logits/bias": draw(D)}
    return leaves | {"head/kernel": draw(D, V), "head/bias": draw(V)}


def big_vision_file(seed=0):
    """The leaves of a big_vision .npz with attention pooling: prefix params/, no class token, one counter per class."""
    draw = Draw(seed)
    leaves = {"embedding/kernel": draw(P, P, 3, D), "embedding/bias": draw(D), "pos_embedding": draw(1, 9, D)}
    for i in range(L):
        block = f"Transformer/encoderblock_{i}"
        leaves |= norm_leaves(draw, f"{block}/LayerNorm_0")
        leaves |= attention_leaves(draw, f"{block}/MultiHeadDotProductAttention_0")
        leaves |= norm_leaves(draw, f"{block}/LayerNorm_1")
        leaves |= mlp_leaves(draw, f"{block}/MlpBlock_0")
    leaves |= norm_leaves(draw, "Transformer/encoder_norm")
    leaves |= {"MAPHead_0/probe": draw(1, 1, D)}
    leaves |= attention_leaves(draw, "MAPHead_0/MultiHeadDotProductAttention_0")
    leaves |= norm_leaves(draw, "MAPHead_0/LayerNorm_0")
    leaves |= mlp_leaves(draw, "MAPHead_0/MlpBlock_0")
    leaves |= {"head/kernel": draw(D, V), "head/bias": draw(V)}
    return {f"params/{name}": leaf for name, leaf in leaves.items()}


# ---------------------------------------------------------------------------------------------- a plain forward pass


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


def np_google(images, w):
    w = {name: leaf.astype(np.float64) for name, leaf in w.items()}
    x = np_patches(images, w)
    x = np.concatenate([np.repeat(w["cls"], len(x), axis=0), x], axis=1)
    x = x + w["Transformer/posembed_input/pos_embedding"]
    for i in range(L):
        block = f"Transformer/encoderblock_{i}"
        y = np_norm(x, w, f"{block}/LayerNorm_0")
        x = x + np_attention(y, y, w, f"{block}/MultiHeadDotProductAttention_1")
        x = x + np_mlp(np_norm(x, w, f"{block}/LayerNorm_2"), w, f"{block}/MlpBlock_3")
    x = np_norm(x, w, "Transformer/encoder_norm")[:, 0]
    if "pre_logits/kernel" in w:
        x = np.tanh(x @ w["pre_logits/kernel"] + w["pre_logits/bias"])
    return x @ w["head/kernel"] + w["head/bias"]


def np_big_vision(images, w):
    w = {name.removeprefix("params/"): leaf.astype(np.float64) for name, leaf in w.items()}
    x = np_patches(images, w) + w["pos_embedding"]
    for i in range(L):
        block = f"Transformer/encoderblock_{i}"
        y = np_norm(x, w, f"{block}/LayerNorm_0")
        x = x + np_attention(y, y, w, f"{block}/MultiHeadDotProductAttention_0")
        x = x + np_mlp(np_norm(x, w, f"{block}/LayerNorm_1"), w, f"{block}/MlpBlock_0")
    x = np_norm(x, w, "Transformer/encoder_norm")
    x = np_attention(np.repeat(w["MAPHead_0/probe"], len(x), axis=0), x, w, "MAPHead_0/MultiHeadDotProductAttention_0")
    x = (x + np_mlp(np_norm(x, w, "MAPHead_0/LayerNorm_0"), w, "MAPHead_0/MlpBlock_0"))[:, 0]
    return x @ w["head/kernel"] + w["head/bias"]


def saved(path, leaves):
    np.savez(path, **leaves)
    return path


def logits(config, params, images=IMAGES):
    return np.asarray(ViT(config).apply({"params": params}, images)[0])


# ---------------------------------------------------------------------------------------------- loading


@pytest.mark.slow
@pytest.mark.parametrize("pre_logits", [False, True])
@pytest.mark.parametrize("scan", [False, True])
def test_a_google_file_gives_its_logits(tmp_path, pre_logits, scan):
    leaves = google_file(pre_logits=pre_logits)
    config = CONFIG.replace(scan=scan, representation_size=D if pre_logits else 0)
    params = checkpoint.load_vit(saved(tmp_path / "google.npz", leaves), config)
    np.testing.assert_allclose(logits(config, params), np_google(IMAGES, leaves), atol=1e-5)


@pytest.mark.slow
def test_a_batch_ensemble_file_gives_the_logits_of_its_members(tmp_path):
    """In the names of uncertainty-baselines. Oracle: a dense model per member, with kernels W * alpha gamma^T."""
    dense, draw, m, block = google_file(), Draw(5), 2, L - 1
    layers = [*(f"Transformer/encoderblock_{block}/MlpBlock_3/Dense_{i}" for i in (0, 1)), "head"]
    ensemble = {name: leaf for name, leaf in dense.items() if not name.startswith("head/")}
    member_files = [dict(dense) for _ in range(m)]
    for layer in layers:
        kernel = dense[f"{layer}/kernel"]
        c, d = kernel.shape
        alpha, gamma, bias = draw(m, c, centre=1.0), draw(m, d, centre=1.0), draw(m, d)
        public = layer.replace("head", "batchensemble_head")
        ensemble |= {f"{public}/kernel": kernel, f"{public}/bias": bias}
        ensemble |= {f"{public}/fast_weight_alpha": alpha, f"{public}/fast_weight_gamma": gamma}
        for i, file in enumerate(member_files):
            file |= {f"{layer}/kernel": kernel * np.outer(alpha[i], gamma[i]), f"{layer}/bias": bias[i]}
    config = CONFIG.replace(batch_ensemble=configs.BatchEnsembleConfig((block,), num_members=m))
    params = checkpoint.load_vit(saved(tmp_path / "be.npz", ensemble), config)
    want = [np_google(IMAGES, file) for file in member_files]
    np.testing.assert_allclose(logits(config, params), want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_a_big_vision_file_gives_its_logits(tmp_path, scan):
    leaves = big_vision_file()
    config = CONFIG.replace(pool="map", scan=scan)
    params = checkpoint.load_vit(saved(tmp_path / "bv.npz", leaves), config)
    np.testing.assert_allclose(logits(config, params), np_big_vision(IMAGES, leaves), atol=1e-5)


def test_a_scanned_big_vision_file_is_unstacked(tmp_path):
    leaves = big_vision_file()
    stacked = {name.replace("params/", "params/img/"): leaf for name, leaf in leaves.items() if "block_" not in name}
    for name in [name for name in leaves if "/encoderblock_0/" in name]:
        blocks = [leaves[name.replace("encoderblock_0", f"encoderblock_{i}")] for i in range(L)]
        scanned = name.replace("encoderblock_0", "encoderblock").replace("params/", "params/img/")
        stacked[scanned] = np.stack(blocks)
    assert stacked["params/img/Transformer/encoderblock/LayerNorm_0/scale"].shape == (L, D)
    config = CONFIG.replace(pool="map")
    params = checkpoint.load_vit(saved(tmp_path / "bv.npz", stacked), config)
    np.testing.assert_allclose(logits(config, params), np_big_vision(IMAGES, leaves), atol=1e-5)


def test_the_class_token_of_big_vision_gets_a_row_of_zeros(tmp_path):
    # big_vision adds the class token after the positions: the same function as a row of zeros in Google's layout.
    google = google_file()
    google["Transformer/posembed_input/pos_embedding"][:, 0] = 0.0
    renamed = {f"params/{name}": leaf for name, leaf in checkpoint_names.kit_names(google).items()}
    renamed["params/pos_embedding"] = renamed["params/pos_embedding"][:, 1:]
    params = checkpoint.load_vit(saved(tmp_path / "bv.npz", renamed), CONFIG)
    np.testing.assert_allclose(logits(CONFIG, params), np_google(IMAGES, google), atol=1e-5)


def test_positions_are_resized(tmp_path):
    leaves = google_file()
    config = CONFIG.replace(image_size=(24, 16))
    params = checkpoint.load_vit(saved(tmp_path / "google.npz", leaves), config)
    table = leaves["Transformer/posembed_input/pos_embedding"]
    assert params["pos_embedding"].shape == (1, 6 * 4 + 1, D)
    np.testing.assert_array_equal(params["pos_embedding"][:, 0], table[:, 0])
    expected = ndimage.zoom(table[0, 1:].reshape(3, 3, D), (2, 4 / 3, 1), order=1)  # as in the reference codes
    np.testing.assert_allclose(params["pos_embedding"][0, 1:], expected.reshape(24, D), atol=1e-6)


def test_older_names_of_big_vision(tmp_path):
    leaves = big_vision_file()
    older = {name.replace("MAPHead_0/", ""): leaf for name, leaf in leaves.items()}
    older["params/Transformer/pos_embedding"] = older.pop("params/pos_embedding")
    config = CONFIG.replace(pool="map")
    params = checkpoint.load_vit(saved(tmp_path / "bv.npz", older), config)
    np.testing.assert_allclose(logits(config, params), np_big_vision(IMAGES, leaves), atol=1e-5)


def test_new_head(tmp_path):
    path = saved(tmp_path / "google.npz", google_file())
    params = checkpoint.load_vit(path, CONFIG.replace(num_classes=7), new_head=True)
    assert params["head"]["kernel"].shape == (D, 7)
    assert not np.any(params["head"]["kernel"])
    assert np.any(params["embedding"]["kernel"])


def test_a_head_that_is_replaced_anyway_may_hold_anything(tmp_path):
    whole = google_file()
    path = saved(tmp_path / "google.npz", whole | {"head/kernel": np.full((D, V), np.nan), "head/bias": np.arange(V)})
    params = checkpoint.load_vit(path, CONFIG, new_head=True)
    np.testing.assert_array_equal(params["embedding"]["kernel"], whole["embedding/kernel"])
    with pytest.raises(checkpoint.CheckpointError, match="head/kernel holds nan"):
        checkpoint.load_vit(path, CONFIG)
    with pytest.raises(ValueError, match="new_head is 'no'; expected True or False"):
        checkpoint.load_vit(path, CONFIG, new_head="no")


def test_a_new_head_of_a_batch_ensemble_learns(tmp_path):
    """y = ((x * alpha) W) * gamma: with W, alpha and gamma all zero, so would be all of their gradients."""
    config = CONFIG.replace(batch_ensemble=configs.BatchEnsembleConfig((L - 1,), num_members=2))
    shapes = flatten_dict(checkpoint.expected_shapes(config), sep="/")
    draw = Draw(3)
    path = saved(tmp_path / "be.npz", {name: draw(*leaf.shape) for name, leaf in shapes.items()})
    head = checkpoint.load_vit(path, config, new_head=True)["head"]
    assert {name: np.unique(leaf).tolist() for name, leaf in head.items()} == {
        "kernel": [0], "bias": [0], "fast_weight_alpha": [1], "fast_weight_gamma": [1],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- refusing


def test_missing_extra_and_misshapen_leaves_are_named(tmp_path):
    leaves = google_file()
    del leaves["Transformer/encoder_norm/bias"]
    leaves["surprise"] = np.zeros(3, np.float32)
    leaves["head/kernel"] = np.zeros((D, V + 1), np.float32)
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.load_vit(saved(tmp_path / "odd.npz", leaves), CONFIG)
    message = str(error.value)
    assert "odd.npz" in message
    assert "missing: Transformer/encoder_norm/bias" in message
    assert "extra: surprise" in message
    assert f"misshapen: head/kernel is ({D}, {V + 1}), expected ({D}, {V})" in message


def test_another_model_is_refused_in_one_sentence(tmp_path):
    path = saved(tmp_path / "google.npz", google_file())
    with pytest.raises(checkpoint.CheckpointError, match=r"missing: .* and \d+ more"):
        checkpoint.load_vit(path, CONFIG.replace(depth=4))
    with pytest.raises(checkpoint.CheckpointError, match="position for a class token"):
        checkpoint.load_vit(path, CONFIG.replace(pool="gap"))


def test_missing_file(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint file .*nowhere.npz"):
        checkpoint_files.read_npz(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("keep", [0, 10, 1000, -20])
def test_truncated_file(tmp_path, keep):
    path = saved(tmp_path / "google.npz", google_file())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(checkpoint.CheckpointError, match=r"google.npz"):
        checkpoint_files.read_npz(path)


def test_damaged_bytes_are_noticed(tmp_path):
    path = saved(tmp_path / "google.npz", google_file())
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - b for b in content[middle : middle + 8])
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="truncated or not"):
        checkpoint_files.read_npz(path)


class Bomb:
    """Unpickling this object would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickles_and_object_arrays_are_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Bomb(trace)))
    inside = tmp_path / "inside.npz"
    np.savez(inside, weights=np.array([Bomb(trace)], dtype=object))
    for path in (bare, inside):
        with pytest.raises(checkpoint.CheckpointError, match=r"refused|not an .npz"):
            checkpoint_files.read_npz(path)
    assert not trace.exists()


def test_one_bare_array_is_refused(tmp_path):
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(checkpoint.CheckpointError, match="one bare array"):
        checkpoint_files.read_npz(tmp_path / "bare.npy")


def test_a_file_that_unpacks_to_far_more_than_the_model_is_refused(tmp_path, monkeypatch):
    """The limit is the model's own: twice its parameters and room for other resolutions, here none."""
    sizes = [math.prod(s.shape) for s in jax.tree.leaves(checkpoint.expected_shapes(CONFIG))]
    assert checkpoint.most_bytes(CONFIG) == 8 * sum(sizes) + 2**29
    monkeypatch.setattr(checkpoint, "most_bytes", lambda config: 8 * sum(sizes))
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **google_file(), zeros=np.zeros(3 * sum(sizes)))
    for load, config in ((checkpoint.load_vit, CONFIG), (checkpoint.load_t5, configs.t5("tiny"))):
        with pytest.raises(checkpoint.CheckpointError, match=r"bomb\.npz is refused: it unpacks to"):
            load(path, config)


@pytest.mark.parametrize("n", [1, 2, 8, 11])
def test_positions_that_are_no_grid(n):
    """Nor is one patch a grid for several: every patch would get the same position."""
    with pytest.raises(checkpoint.CheckpointError, match=f"{n} positions: no square grid"):
        checkpoint.fit_positions(np.zeros((1, n, D), np.float32), CONFIG)
    with pytest.raises(checkpoint.CheckpointError, match=r"one\.npz: pos_embedding has 7 positions"):
        checkpoint.fit_positions(np.zeros((1, 7, D), np.float32), CONFIG, "one.npz")


def test_one_patch_has_one_position():
    one = CONFIG.replace(image_size=(P, P))
    table = Draw(0)(1, 2, D)
    np.testing.assert_array_equal(checkpoint.fit_positions(table, one), table)


@pytest.mark.parametrize("value", [np.full((1, 10, D), np.nan), np.zeros((1, 10, D), int)], ids=["nan", "int"])
def test_positions_that_are_no_numbers(value):
    with pytest.raises(checkpoint.CheckpointError, match=r"pos_embedding holds (nan|int)"):
        checkpoint.fit_positions(value, CONFIG)


def test_a_table_without_positions_is_refused():
    with pytest.raises(checkpoint.CheckpointError, match=r"pos_embedding is \(1, 0, 12\), expected"):
        checkpoint.fit_positions(np.zeros((1, 0, D), np.float32), CONFIG)


@pytest.mark.parametrize("scan", [False, True])
def test_a_deeper_file_and_missing_leaves_are_refused(tmp_path, scan):
    """Whether or not the blocks are scanned: a file of four blocks is no model of two, and none may lack a leaf."""
    four = CONFIG.replace(depth=4, scan=scan)
    shapes = flatten_dict(checkpoint.expected_shapes(four.replace(scan=False)), sep="/")
    draw = Draw(0)
    whole = {name: draw(*shape.shape) for name, shape in shapes.items()}
    path = saved(tmp_path / "four.npz", whole)
    assert checkpoint.load_vit(path, four)
    with pytest.raises(checkpoint.CheckpointError, match="extra: Transformer/encoderblock_2/"):
        checkpoint.load_vit(path, four.replace(depth=2))
    for gone in ("encoderblock_0/LayerNorm_0/scale", "encoderblock_3/"):
        path = saved(tmp_path / "less.npz", {name: leaf for name, leaf in whole.items() if gone not in name})
        with pytest.raises(checkpoint.CheckpointError, match=f"less.npz .*missing: Transformer/{gone}"):
            checkpoint.load_vit(path, four)


@pytest.mark.parametrize("axes", [0, 1, 2, 3, 4])
def test_positions_of_other_shapes_are_refused(tmp_path, axes):
    leaves = google_file() | {"Transformer/posembed_input/pos_embedding": np.zeros((2,) * axes, np.float32)}
    with pytest.raises(checkpoint.CheckpointError, match=r"pos_embedding is \(.*expected \(1, positions, 12\)"):
        checkpoint.load_vit(saved(tmp_path / "google.npz", leaves), CONFIG)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_none_are_refused(tmp_path, value):
    leaves = google_file()
    leaves["head/bias"] = leaves["head/bias"].astype(np.float64)
    leaves["head/bias"][1] = value
    with pytest.raises(checkpoint.CheckpointError, match=r"google\.npz is refused: head/bias holds"):
        checkpoint.load_vit(saved(tmp_path / "google.npz", leaves), CONFIG)


def test_blocks_that_are_stacked_and_single_are_refused(tmp_path):
    """Nobody could say which of the two counts."""
    leaves = {name.removeprefix("params/"): leaf for name, leaf in big_vision_file().items()}
    scale = "Transformer/encoderblock/LayerNorm_0/scale"
    path = saved(tmp_path / "both.npz", leaves | {scale: np.zeros((L, D), np.float32)})
    with pytest.raises(checkpoint.CheckpointError, match=r"both\.npz has stacked blocks .* and single ones"):
        checkpoint.load_vit(path, CONFIG.replace(pool="map"))


def test_other_kinds_of_files_and_configurations_say_what_reads_them(tmp_path):
    path, t5 = tmp_path / "model.npz", configs.t5("tiny")
    safetensors.numpy.save_file({"head.weight": np.zeros((3, 3), np.float32)}, path)
    for load, target, config, error, reason in (
        (
            checkpoint.load_vit,
            path,
            CONFIG,
            checkpoint.CheckpointError,
            r"model\.npz is a \.safetensors .*hugging_face",
        ),
        (
            checkpoint.load_vit,
            tmp_path,
            CONFIG,
            checkpoint.CheckpointError,
            r"no checkpoint file .*hugging_face\.load reads folders",
        ),
        (checkpoint.load_vit, path, t5, ValueError, "Got a T5Config, expected a ViTConfig; only load_t5"),
        (checkpoint.load_t5, path, CONFIG, ValueError, "Got a ViTConfig, expected a T5Config"),
        (checkpoint.load_t5, path, None, ValueError, "Got a NoneType, expected a T5Config"),
    ):
        with pytest.raises(error, match=reason):
            load(target, config)
