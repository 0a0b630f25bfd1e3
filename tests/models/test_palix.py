"""PaLI-X: visibility and positions, one path for images, frames and exemplars, loss, decoding, sizes."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs
from kitlib.models import decode, flops, palix
from kitlib.models.palix import PaLIX
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT
from kitlib.upcycling import surgery

XS = configs.palix("XS").replace(visual_positions=False)  # as published
K = XS.tower.num_tokens  # 16 patches of 8 x 8 in 32 x 32
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (2, 3, 32, 32, 3)).astype(np.float32)  # B = 2, n = 3
PROMPTS = jnp.asarray([[5, 9, 7, 1], [6, 1, 0, 0]])
WRITTEN = jnp.asarray([[0, 8, 4], [0, 3, 1]])


@pytest.fixture(scope="module")
def params():
    """Random parameters, also where the initial values are zeros or ones."""
    tree = palix.init_params(PaLIX(XS))
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return treedef.unflatten(
        [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    )


@functools.partial(jax.jit, static_argnums=0)  # one program per model and shapes, for all tests
def apply(model, params, arguments, fields):
    return model.apply({"params": params}, *arguments, **fields)


def run(params, images, prompts=PROMPTS, written=WRITTEN, model=None, **fields):
    return apply(model or PaLIX(XS), params, (images, prompts, written), fields)


# ---------------------------------------------------------------------------------------------- images to tokens


@pytest.mark.slow
def test_visual_tokens_are_the_projected_patches_of_the_tower(params):
    logits, out = run(params, IMAGES)
    assert logits.shape == (2, 3, 512)
    assert out["visual"].shape == (2, 3 * K, 64)
    for b in range(2):
        for i in range(3):
            patches, _ = apply(ViT(XS.tower), params["tower"], (IMAGES[b, i][None],), {})
            projected = patches[0] @ params["projection"]["kernel"] + params["projection"]["bias"][None]
            np.testing.assert_allclose(out["visual"][b, i * K : (i + 1) * K], projected, atol=1e-5)


@pytest.mark.slow
def test_an_image_without_an_image_axis_is_one_frame(params):
    alone, _ = run(params, IMAGES[:, 0])
    frame, _ = run(params, IMAGES[:, :1])
    np.testing.assert_array_equal(alone, frame)


@pytest.mark.slow
def test_folding_frames_into_the_batch_is_exact(params):
    _, out = run(params, IMAGES)
    _, apart = run(params, IMAGES.reshape(6, 1, 32, 32, 3), jnp.ones((6, 1), int), jnp.zeros((6, 1), int))
    np.testing.assert_allclose(out["visual"].reshape(6, K, 64), apart["visual"], atol=1e-6)


@pytest.mark.slow
def test_visual_tokens_follow_the_order_of_the_frames(params):
    order = np.array([2, 0, 1])
    _, out = run(params, IMAGES)
    _, moved = run(params, IMAGES[:, order])
    np.testing.assert_allclose(
        moved["visual"].reshape(2, 3, K, 64), out["visual"].reshape(2, 3, K, 64)[:, order], atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("positions", [False, True])
def test_features_of_the_tower_stand_for_images(params, positions):
    """The tower's output, computed before, gives the same logits, gradients of all else, and texts."""
    model, tree = PaLIX(XS.replace(visual_positions=positions), frozen_tower=True), params
    if positions:
        tree = params | {"positions": palix.init_params(model)["positions"]}
    patches, _ = apply(ViT(XS.tower), params["tower"], (IMAGES.reshape(6, 32, 32, 3),), {})
    seen = patches.reshape(2, 3, K, 64)
    with_images, _ = run(tree, IMAGES, model=model)
    np.testing.assert_allclose(run(tree, None, model=model, features=seen)[0], with_images, atol=1e-5)
    one, other = gradient(tree, model), gradient(tree, model, images=None, features=seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, other)
    inputs = {"prompt_tokens": PROMPTS}
    of_images, _ = decode.greedy(model, tree, inputs | {"images": IMAGES}, max_length=5)
    of_features, _ = decode.greedy(model, tree, inputs | {"features": seen}, max_length=5)
    np.testing.assert_array_equal(of_images, of_features)


@pytest.mark.slow
def test_positions_are_added_to_the_projected_patches(params):
    """And they are all that differs; examples with padding images have the same positions as without."""
    model = PaLIX(XS.replace(visual_positions=True))
    tree = params | {"positions": palix.init_params(model)["positions"]}
    _, plain = run(params, IMAGES)
    _, placed = run(tree, IMAGES, model=model)
    added = (placed["visual"] - plain["visual"]).reshape(2, 3, *XS.tower.grid, 64)
    rows, columns, images = (tree["positions"][f"{name}_embedding"] for name in ("row", "column", "image"))
    np.testing.assert_allclose(added[0, 2, 1, 3], rows[1] + columns[3] + images[0], atol=1e-5)
    np.testing.assert_allclose(added[1, 0, 2, 0], rows[2] + columns[0] + images[2], atol=1e-5)
    _, last = run(tree, IMAGES[:, 1:], model=model)
    np.testing.assert_allclose(last["visual"], placed["visual"][:, K:], atol=1e-6)


@pytest.mark.slow
def test_padding_images_change_nothing(params):
    """The content of a padding image does not matter. (Its positions do: they are relative, and the text follows.)"""
    valid = jnp.asarray([[True, True, False]] * 2)
    logits, out = run(params, IMAGES, images_valid=valid)
    other = IMAGES.copy()
    other[:, 2] = 0.3
    again, _ = run(params, other, images_valid=valid)
    np.testing.assert_array_equal(logits, again)
    np.testing.assert_array_equal(out["segments"][0], [1] * 2 * K + [0] * K + [1] * 4)
    np.testing.assert_array_equal(out["segments"][1], [1] * 2 * K + [0] * K + [1, 1, 0, 0])


@pytest.mark.slow
def test_without_images_it_is_the_text_model(params):
    logits, _ = run(params, None)
    text, _ = apply(T5(XS.text), params["text"], (PROMPTS, WRITTEN), {})
    np.testing.assert_allclose(logits, text, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_image_changes_the_logits(params):
    logits, _ = run(params, IMAGES)
    other, _ = run(params, IMAGES[::-1])
    assert np.abs(logits - other).max() > 1e-2


# ---------------------------------------------------------------------------------------------- which token sees which


def test_order_of_a_few_shot_prompt_by_hand():
    """Two images of 2 patches and two texts of 2 tokens: p p | q q | a a | b b has the positions of p p a a q q b b.

    The first text takes 28 positions, from 2 on, so the second image starts at 30.
    """
    episode, position = palix.sequence_order(2, 2, 2, few_shot=True)
    np.testing.assert_array_equal(episode, [0, 0, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(position, [0, 1, 30, 31, 2, 3, 32, 33])
    block = np.asarray(palix.visibility("block-causal", episode, position))[0, 0]
    assert block[2, 0] and not block[0, 2]  # the second image sees the first, but not the first the second
    assert block[0, 4]  # an image sees its own text
    causal = np.asarray(palix.visibility("causal", episode, position))[0, 0]
    assert causal[4, 0] and not causal[0, 4]
    assert causal.sum() == 8 * 9 / 2  # a total order
    assert palix.visibility("prefix", episode, position) is None


def test_order_of_a_video_and_its_text_by_hand():
    """Two frames of 2 patches, one text of 3 tokens: positions as in the sequence; the text is the last frame's."""
    episode, position = palix.sequence_order(2, 2, 3, few_shot=False)
    np.testing.assert_array_equal(episode, [0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(position, np.arange(7))


@pytest.mark.slow
def test_a_few_shot_prompt_of_one_image_is_a_prompt(params):
    logits, _ = run(params, IMAGES[:, :1])
    few, _ = run(params, IMAGES[:, :1], PROMPTS[:, None])
    np.testing.assert_array_equal(few, logits)


@pytest.mark.slow
def test_it_matters_which_text_belongs_to_which_image(params):
    """If two texts are exchanged, the query sees the same tokens, only their distances to the images differ."""
    prompts = jnp.asarray([[[5, 9], [7, 8], [3, 2]]] * 2)
    _, out = run(params, IMAGES, prompts)
    _, exchanged = run(params, IMAGES, prompts[:, jnp.asarray([1, 0, 2])])
    query = np.r_[2 * K : 3 * K, 3 * K + 4 : 3 * K + 6]
    assert np.abs(out["encoded"][:, query] - exchanged["encoded"][:, query]).max() > 1e-3


@pytest.mark.slow
def test_every_text_of_a_few_shot_prompt_has_the_vector_of_its_image(params):
    """With learned positions. The encoder is given the same sequence, put together by hand; of a plain prompt, or
    without positions, the text is as it was."""
    model = PaLIX(XS.replace(visual_positions=True))
    tree = params | {"positions": palix.init_params(model)["positions"]}
    prompts = jnp.asarray([[[5, 9], [7, 8], [3, 2]]] * 2)
    _, out = run(tree, IMAGES, prompts, model=model)
    tokens = params["text"]["token_embedder"]["embedding"][prompts]  # [B, n, L, D]
    tokens = tokens + tree["positions"]["image_embedding"][jnp.array([2, 1, 0])][None, :, None]
    sequence = jnp.concatenate([out["visual"], tokens.reshape(2, 6, 64)], axis=1)
    _, position = palix.sequence_order(3, K, 2, few_shot=True)
    encoded, _ = T5(XS.text).apply(
        {"params": params["text"]},
        sequence,
        jnp.ones(sequence.shape[:2], int),
        None,
        position,
        method="encode_embedded",
    )
    np.testing.assert_allclose(out["encoded"], encoded, atol=1e-4)


@pytest.mark.slow
def test_padding_after_few_shot_texts_changes_nothing(params):
    """It must not move the next image: prompts may be padded to other lengths in training than at test time."""
    prompts = jnp.asarray([[[5, 9], [7, 8], [3, 2]]] * 2)
    padded, _ = run(params, IMAGES, jnp.pad(prompts, ((0, 0), (0, 0), (0, 6))))
    alone, _ = run(params, IMAGES, prompts)
    np.testing.assert_allclose(padded, alone, atol=1e-4)


@pytest.mark.slow
def test_the_first_exemplars_may_be_missing(params):
    """Three images, the first of them padding without a text, give the same logits as the other two alone."""
    prompts = jnp.asarray([[[0, 0], [7, 8], [3, 2]]] * 2)
    valid = jnp.asarray([[False, True, True]] * 2)
    padded, _ = run(params, IMAGES, prompts, images_valid=valid)
    alone, _ = run(params, IMAGES[:, 1:], prompts[:, 1:])
    np.testing.assert_allclose(padded, alone, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefix", "causal"])
def test_without_positions_a_prefix_has_no_order(params, kind):
    """Then only visibility distinguishes exemplars: with "prefix", all tokens see all and the order does not matter."""
    encoder = params["text"]["encoder"]
    none = jax.tree.map(jnp.zeros_like, encoder["relpos_bias"])
    flat = params | {"text": params["text"] | {"encoder": encoder | {"relpos_bias": none}}}
    prompts, order = jnp.asarray([[[5, 9], [7, 8], [3, 2]]] * 2), np.array([1, 0, 2])
    one, _ = run(flat, IMAGES, prompts, model=PaLIX(XS, visible=kind))
    other, _ = run(flat, IMAGES[:, order], prompts[:, order], model=PaLIX(XS, visible=kind))
    moved = np.abs(one - other).max()
    assert moved < 1e-4 if kind == "prefix" else moved > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["block-causal", "causal"])
def test_later_exemplars_do_not_reach_earlier_ones(params, kind):
    model = PaLIX(XS, visible=kind)
    prompts = jnp.asarray([[[5, 9], [7, 8], [3, 2]]] * 2)
    _, out = run(params, IMAGES, prompts, model=model)
    other = IMAGES.copy()
    other[:, 2] = 0.1
    _, changed = run(params, other, prompts.at[:, 2].set(4), model=model)
    early = np.r_[0 : 2 * K, 3 * K : 3 * K + 4]
    np.testing.assert_allclose(out["encoded"][:, early], changed["encoded"][:, early], atol=1e-6)
    assert np.abs(out["encoded"] - changed["encoded"]).max() > 1e-2
    _, prefix = run(params, IMAGES, prompts)
    _, prefix_changed = run(params, other, prompts.at[:, 2].set(4))
    assert np.abs(prefix["encoded"][:, early] - prefix_changed["encoded"][:, early]).max() > 1e-3


# ---------------------------------------------------------------------------------------------- stages, loss, decoding


def batch():
    return {"images": IMAGES, "prompt_tokens": PROMPTS, "targets": jnp.asarray([[8, 4, 1], [3, 1, 0]])}


def gradient(params, model, **more):
    loss = palix.answer_loss(model)
    return jax.jit(jax.grad(lambda p: loss(p, batch() | more, jax.random.key(0))[0]))(params)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_a_frozen_tower_gets_no_gradient_and_everything_else_the_same(params):
    free, frozen = gradient(params, PaLIX(XS)), gradient(params, PaLIX(XS, frozen_tower=True))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(frozen["tower"])) == 0.0
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(free["tower"])) > 0.0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        {k: free[k] for k in ("projection", "text")},
        {k: frozen[k] for k in ("projection", "text")},
    )


@pytest.mark.slow
def test_the_loss_is_the_mean_over_target_tokens_by_hand(params):
    logits, _ = run(params, IMAGES, written=jnp.asarray([[0, 8, 4], [0, 3, 1]]))
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    # Five targets: 8 4 1 and 3 1; the sixth is padding.
    five = [log_probs[0, 0, 8], log_probs[0, 1, 4], log_probs[0, 2, 1], log_probs[1, 0, 3], log_probs[1, 1, 1]]
    loss_fn = jax.jit(palix.answer_loss(PaLIX(XS)))
    loss, _ = loss_fn(params, batch(), jax.random.key(0))
    assert float(loss) == pytest.approx(-np.mean(five), abs=1e-5)
    weights = jnp.asarray([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    loss, _ = loss_fn(params, batch() | {"weights": weights}, jax.random.key(0))
    assert float(loss) == pytest.approx(-(five[0] + five[2]) / 2, abs=1e-5)


FEW_SHOT = jnp.asarray([[[5, 9, 1], [7, 1, 0], [8, 2, 1]], [[0, 0, 0], [6, 1, 0], [3, 4, 1]]])
MISSING = jnp.asarray([[True, True, True], [False, True, True]])
DECODE_INPUTS = {
    "video": {"images": IMAGES, "prompt_tokens": PROMPTS, "images_valid": MISSING},
    "few-shot": {"images": IMAGES, "prompt_tokens": FEW_SHOT, "images_valid": MISSING},
}


def teacher_forcing(params, inputs, tokens):
    """Log-probabilities float[B, M, V] of the decoder for all positions of the targets `tokens`."""
    written = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    logits, _ = run(params, inputs["images"], inputs["prompt_tokens"], written, images_valid=inputs["images_valid"])
    return np.asarray(jax.nn.log_softmax(logits))


def ended(tokens):
    """bool[B, M]: True after the end of sequence, which is token 1."""
    return np.cumsum(np.asarray(tokens) == 1, axis=-1) - (np.asarray(tokens) == 1) > 0


@pytest.mark.slow
@pytest.mark.parametrize("inputs", DECODE_INPUTS.values(), ids=DECODE_INPUTS)
def test_cached_decoding_agrees_with_teacher_forcing(params, inputs):
    tokens, log_probs = decode.greedy(PaLIX(XS), params, inputs, max_length=5)
    table = teacher_forcing(params, inputs, tokens)
    np.testing.assert_array_equal(np.where(ended(tokens), 0, table.argmax(-1)), tokens)
    chosen = np.take_along_axis(table, np.asarray(tokens)[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.where(ended(tokens), 0.0, chosen), log_probs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", DECODE_INPUTS.values(), ids=DECODE_INPUTS)
def test_one_beam_is_greedy(params, inputs):
    tokens, _ = decode.greedy(PaLIX(XS), params, inputs, max_length=5)
    beams, _ = decode.beam_search(PaLIX(XS), params, inputs, max_length=5, num_beams=1)
    np.testing.assert_array_equal(beams[:, 0], tokens)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", DECODE_INPUTS.values(), ids=DECODE_INPUTS)
def test_several_beams_have_the_scores_of_their_texts(params, inputs):
    beams, scores = decode.beam_search(PaLIX(XS), params, inputs, max_length=5, num_beams=3, length_penalty=0.0)
    assert beams.shape == (2, 3, 5)
    assert all(len({tuple(text) for text in row}) == 3 for row in beams.tolist())
    for i in range(3):
        tokens = np.asarray(beams[:, i])
        chosen = np.take_along_axis(teacher_forcing(params, inputs, beams[:, i]), tokens[..., None], -1)[..., 0]
        np.testing.assert_allclose(np.where(ended(tokens), 0.0, chosen).sum(axis=-1), scores[:, i], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", DECODE_INPUTS.values(), ids=DECODE_INPUTS)
def test_scores_of_given_answers_agree_with_teacher_forcing(params, inputs):
    answers = np.array([[7, 3, 1], [9, 1, 0], [1, 0, 0]])
    scores = decode.score(PaLIX(XS), params, inputs, answers)
    assert scores.shape == (2, 3)
    for i, answer in enumerate(answers):
        table = teacher_forcing(params, inputs, jnp.tile(answer, (2, 1)))
        want = [sum(table[b, t, token] for t, token in enumerate(answer) if token) for b in range(2)]
        np.testing.assert_allclose(scores[:, i], want, atol=1e-4)


@pytest.mark.slow
def test_experts_in_the_tower_and_in_both_stacks(params):
    """With copies of the dense MLPs, weights that sum to 1 and capacity for all tokens, it is the dense model; its loss
    has the auxiliary losses of three layers of experts."""
    moe = configs.MoEConfig(
        num_experts=4,
        num_selected=2,
        capacity_factor=None,
        dispatch="dropless",
        renormalize=True,
        noise_std=0.0,
        load_weight=0.0,  # without noise there is no load
    )
    tower = XS.tower.replace(moe=moe, moe_blocks=(1,))
    text = XS.text.replace(moe=moe, moe_layers=(1,), decoder_moe=moe, decoder_moe_layers=(0,))
    sparse = PaLIX(XS.replace(tower=tower, text=text))
    halves = {"tower": tower, "text": text}
    plans = {half: surgery.plan(params[half], config) for half, config in halves.items()}
    grown = {half: surgery.apply(plan, params[half], jax.random.key(0)) for half, plan in plans.items()}
    logits, out = run(params | grown, IMAGES, model=sparse)
    np.testing.assert_allclose(logits, run(params, IMAGES)[0], atol=1e-4)
    blocks = [*out.values(), *out["tower"].values()]
    parts = [block["moe"]["auxiliary_loss"] for block in blocks if isinstance(block, dict) and "moe" in block]
    assert len(parts) == 3 and min(parts) > 0
    np.testing.assert_allclose(out["auxiliary_loss"], sum(parts), rtol=1e-6)

    step = jax.jit(jax.value_and_grad(palix.answer_loss(sparse), has_aux=True))
    (loss, metrics), slope = step(params | grown, batch(), jax.random.key(0))
    dense, _ = jax.jit(palix.answer_loss(PaLIX(XS)))(params, batch(), jax.random.key(0))
    np.testing.assert_allclose(loss - metrics["auxiliary_loss"], dense, atol=1e-4)
    routers = [leaf for path, leaf in jax.tree.leaves_with_path(slope) if "outer" in jax.tree_util.keystr(path)]
    assert len(routers) == 3 and all(jnp.abs(leaf).max() > 0 for leaf in routers)
    frozen = PaLIX(sparse.config, frozen_tower=True)
    slope = jax.jit(jax.grad(palix.answer_loss(frozen), has_aux=True))(params | grown, batch(), jax.random.key(0))[0]
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(slope["tower"]))  # nor from its auxiliary loss


SHARDED = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from kitlib import configs
from kitlib.models import palix
one_block = {"tower": {"depth": 1}, "text": {"num_encoder_layers": 1, "num_decoder_layers": 1}}
model = palix.PaLIX(configs.palix("XS", **one_block))
rng = np.random.default_rng(0)
shapes = jax.eval_shape(lambda: palix.init_params(model))
params = jax.tree.map(lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32), shapes)
images = rng.uniform(-1, 1, (4, 3, 32, 32, 3)).astype(np.float32)  # B = 4, n = 3
texts, written = rng.integers(1, 512, (4, 6)), rng.integers(1, 512, (4, 5))

def step(params, images, texts, written):
    def loss(params):
        logits, _ = model.apply({"params": params}, images, texts, written)
        return jnp.square(logits).mean(), logits
    (_, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return logits, grads

def spec(path, leaf):  # columns of the first kernels of a sub-layer, rows of the last; all else is on every device
    names = [part.key for part in path]
    if names[-1] != "kernel" or leaf.ndim != 2:
        return P()
    return P("model", None) if {"out", "wo"} & set(names) else P(None, "model")

plain, plain_grads = jax.jit(step)(params, images, texts, written)
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
specs = jax.tree_util.tree_map_with_path(spec, params)
assert sum(len(one) > 0 for one in jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P))) > 15
put = lambda tree, specs: jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), tree, specs)
batch = [put(x, P("data")) for x in (images, texts, written)]
compiled = jax.jit(step).lower(put(params, specs), *batch).compile()
logits, grads = compiled(put(params, specs), *batch)
assert "all-reduce" in compiled.as_text(), "nothing is sharded"
np.testing.assert_allclose(logits, plain, atol=1e-5 * np.abs(plain).max())
for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(plain_grads), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max() + 1e-9)
print("sharded ok")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_on_eight_devices_it_is_the_same_model():
    """The batch in four parts, every kernel in two: logits and gradients are those of one device (to 1e-5)."""
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "sharded ok" in run.stdout


# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tower", "text", "total"),
    [
        # Millions: towers of ViT-22B's blocks without pooling, text models of T5 1.1, the projection between them,
        # and, but for the 55B, vectors of rows, columns and images.
        ("XS", 0.113, 0.263, 0.382),
        ("S", 1.233, 3.740, 5.02),
        ("M", 21.6, 77.0, 98.8),
        ("L", 85.7, 247.6, 333.9),
        ("XL", 412.3, 783.2, 1196.6),
        ("55B", 21750.5, 32248.9, 54024.7),
    ],
)
def test_sizes_of_the_ladder(name, tower, text, total):
    c = configs.palix(name)
    shapes = jax.eval_shape(lambda: palix.init_params(PaLIX(c)))
    count = {part: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes[part])) for part in shapes}
    assert count["tower"] == sum(flops.vit_parameters(c.tower).values())
    assert count["text"] == sum(flops.t5_parameters(c.text).values())
    assert count["projection"] == (c.tower.width + 1) * c.text.width
    for got, want in zip((count["tower"], count["text"], sum(count.values())), (tower, text, total), strict=True):
        digits = len(str(want).partition(".")[2])
        assert round(got / 1e6, digits) == want


@pytest.mark.parametrize(("name", "billions"), [("PaLI-3B", 3.07), ("PaLI-15B", 14.764), ("PaLI-17B", 16.73)])
def test_sizes_of_pali(name, billions):
    c = configs.palix(name)
    total = sum(flops.vit_parameters(c.tower).values()) + sum(flops.t5_parameters(c.text).values())
    assert total / 1e9 == pytest.approx(billions, abs=0.006)


def test_the_tower_of_the_55b_is_published_to_the_digit():
    c = configs.palix("55B").tower
    assert sum(flops.vit_parameters(c).values()) == 21_750_546_432
    assert 12 * c.width**2 * c.depth == 21_743_271_936  # the matrices of its blocks, "21,743 M" in the paper's table


@pytest.mark.slow
def test_shapes_first_and_parameters_later():
    """`jax.eval_shape` of the initialiser, as for loading weights, leaves no tracer in its cache."""
    model = PaLIX(configs.palix("XS", text={"vocab_size": 320}))  # no other test uses this configuration
    shapes = jax.eval_shape(lambda: palix.init_params(model))
    assert jax.tree.map(jnp.shape, palix.init_params(model)) == jax.tree.map(lambda leaf: leaf.shape, shapes)


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("images", "fields", "message"),
    [
        (IMAGES[0, 0], {}, r"Images must be float\[B, n, height, width, C\].* got shape \(32, 32, 3\)"),
        (IMAGES[:1], {}, "with B=2 as the prompts"),
        (np.zeros((2, 17, 32, 32, 3), np.float32), {}, r"1 to 16 images or frames \(max_images\), got 17"),
        (np.zeros((2, 0, 32, 32, 3), np.float32), {}, "got 0"),
        (IMAGES, {"images_valid": jnp.ones((2, 2), bool)}, r"images_valid must be bool\[B, n\] = \(2, 3\)"),
        (IMAGES[:, :, :16], {}, "the model expects"),
    ],
)
def test_images_that_do_not_fit(params, images, fields, message):
    with pytest.raises(ValueError, match=message):
        PaLIX(XS).apply({"params": params}, images, PROMPTS, WRITTEN, **fields)


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((2, K, 64), {}, r"Features must be float\[B=2, n, k=16, D_v=64\].* got shape \(2, 16, 64\)"),
        ((2, 3, K, 32), {}, r"got shape \(2, 3, 16, 32\)"),
        ((1, 3, K, 64), {}, r"B=2"),
        ((2, 17, K, 64), {}, r"1 to 16 images or frames \(max_images\), got 17"),
        ((2, 3, K, 64), {"images_valid": jnp.ones((2, 2), bool)}, r"images_valid must be bool\[B, n\] = \(2, 3\)"),
    ],
)
def test_features_that_do_not_fit(params, shape, fields, message):
    with pytest.raises(ValueError, match=message):
        PaLIX(XS).apply({"params": params}, None, PROMPTS, WRITTEN, features=np.zeros(shape, np.float32), **fields)


def test_images_of_bytes_are_refused(params):
    with pytest.raises(TypeError, match="floats in"):
        PaLIX(XS).apply({"params": params}, np.zeros((2, 32, 32, 3), np.uint8), PROMPTS, WRITTEN)


@pytest.mark.parametrize(("images", "got"), [(IMAGES[:, :2], r"got shape \(2, 2, 32"), (None, "got none")])
def test_few_shot_texts_without_their_images(params, images, got):
    with pytest.raises(ValueError, match=r"\(2, 3, 1\) are few-shot, \[B, n, L\]: they need one image .*n=3.*" + got):
        PaLIX(XS).apply({"params": params}, images, jnp.ones((2, 3, 1), jnp.int32), WRITTEN)


def test_few_shot_prompts_of_too_many_images():
    """With learned positions, whose vectors the texts get before the images are looked at."""
    model = PaLIX(XS.replace(visual_positions=True))
    params = palix.init_params(model)
    images, texts = np.zeros((2, 17, 32, 32, 3), np.float32), jnp.ones((2, 17, 1), jnp.int32)
    with pytest.raises(ValueError, match=r"1 to 16 images or frames \(max_images\), got 17"):
        model.apply({"params": params}, images, texts, WRITTEN)


def test_few_shot_texts_that_are_too_long(params):
    with pytest.raises(ValueError, match=r"at most 28 tokens, padding included; got prompts \(2, 3, 29\)"):
        PaLIX(XS).apply({"params": params}, IMAGES, jnp.ones((2, 3, 29), jnp.int32), WRITTEN)


def test_an_unknown_visibility():
    with pytest.raises(ValueError, match=r"Unknown visibility 'all'.* Known: prefix, block-causal, causal"):
        palix.visibility("all", *palix.sequence_order(2, 1, 2, False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: configs.palix("S2"), "Unknown PaLI 'S2'; did you mean 'S'"),
        (lambda: configs.palix("S", max_image=2), "did you mean 'max_images'"),
        (lambda: configs.palix("S", max_images=0), "max_images is 0; .*1 or more"),
        (lambda: configs.palix("S", tower={"num_classes": 10}), "without a head: build it with pool='none'"),
        (lambda: configs.palix("S", tower={"pool": "gap"}), "got pool='gap'"),
    ],
)
def test_impossible_configurations_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
