"""PaLI-X: visibility and positions, one path for images, frames and exemplars, loss, decoding, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs
from kitlib.models import decode, flops, palix
from kitlib.models.palix import PaLIX, VisualPositions, positions
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT
from kitlib.upcycling import surgery

XS = configs.palix("XS").replace(visual_positions=False)  # as published
K = XS.tower.num_tokens  # 16 patches of 8 x 8 in 32 x 32
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (2, 3, 32, 32, 3)).astype(np.float32)  # B = 2, n = 3
EXEMPLARS = jnp.asarray([[[5, 9], [7, 8], [3, 2]]] * 2)  # few-shot prompts, L = 2
PLACED = PaLIX(XS.replace(visual_positions=True))
PROMPTS = jnp.asarray([[5, 9, 7, 1], [6, 1, 0, 0]])
WRITTEN = jnp.asarray([[0, 8, 4], [0, 3, 1]])


@pytest.fixture(scope="module")
def params():
    """Random parameters, also where the initial values are zeros or ones."""
    leaves, treedef = jax.tree.flatten(palix.init_params(PaLIX(XS)))
    keys = jax.random.split(jax.random.key(7), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return treedef.unflatten(noisy)


@pytest.fixture(scope="module")
def placed(params):
    """The same, and the vectors of rows, columns and images for PLACED."""
    return params | {"positions": palix.init_params(PLACED)["positions"]}


@functools.partial(jax.jit, static_argnums=0)  # one program per model and shapes, for all tests
def apply(model, params, arguments, fields):
    return model.apply({"params": params}, *arguments, **fields)


def run(params, images, prompts=PROMPTS, written=WRITTEN, model=None, **fields):
    return apply(model or PaLIX(XS), params, (images, prompts, written), fields)


@pytest.mark.slow
def test_visual_tokens_are_the_projected_patches_of_the_tower(params):
    """Image by image, in their order."""
    logits, out = run(params, IMAGES)
    assert logits.shape == (2, 3, 512)
    assert out["visual"].shape == (2, 3 * K, 64)
    for b in range(2):
        for i in range(3):
            patches, _ = apply(ViT(XS.tower), params["tower"], (IMAGES[b, i][None],), {})
            projected = patches[0] @ params["projection"]["kernel"] + params["projection"]["bias"][None]
            np.testing.assert_allclose(out["visual"][b, i * K : (i + 1) * K], projected, atol=1e-5)


@pytest.mark.slow
def test_one_image_is_one_frame_and_one_exemplar(params):
    frame, _ = run(params, IMAGES[:, :1])
    np.testing.assert_array_equal(run(params, IMAGES[:, 0])[0], frame)
    np.testing.assert_array_equal(run(params, IMAGES[:, :1], PROMPTS[:, None])[0], frame)


@pytest.mark.slow
@pytest.mark.parametrize("positions", [False, True])
def test_features_of_the_tower_stand_for_images(params, placed, positions):
    """The tower's output, computed before, gives the same logits, gradients of all else, and texts."""
    model, tree = PaLIX(XS.replace(visual_positions=positions), frozen_tower=True), placed if positions else params
    patches, _ = apply(ViT(XS.tower), params["tower"], (IMAGES.reshape(6, 32, 32, 3),), {})
    seen = patches.reshape(2, 3, K, 64)
    with_images, _ = run(tree, IMAGES, model=model)
    np.testing.assert_allclose(run(tree, None, model=model, features=seen)[0], with_images, atol=1e-5)
    one, other = gradient(tree, model), gradient(tree, model, images=None, features=seen)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), one, other)
    both = {"images": IMAGES}, {"features": seen}
    texts = [decode.greedy(model, tree, {"prompt_tokens": PROMPTS} | inputs, max_length=5)[0] for inputs in both]
    np.testing.assert_array_equal(*texts)


@pytest.mark.slow
def test_positions_are_added_to_the_projected_patches(params, placed):
    """And they are all that differs; examples with padding images have the same positions as without."""
    plain, out = run(params, IMAGES)[1]["visual"], run(placed, IMAGES, model=PLACED)[1]["visual"]
    added = (out - plain).reshape(2, 3, *XS.tower.grid, 64)
    rows, columns, images = (placed["positions"][f"{name}_embedding"] for name in ("row", "column", "image"))
    np.testing.assert_allclose(added[0, 2, 1, 3], rows[1] + columns[3] + images[0], atol=1e-5)
    np.testing.assert_allclose(added[1, 0, 2, 0], rows[2] + columns[0] + images[2], atol=1e-5)
    np.testing.assert_allclose(run(placed, IMAGES[:, 1:], model=PLACED)[1]["visual"], out[:, K:], atol=1e-6)


@pytest.mark.slow
def test_padding_images_change_nothing(params):
    """The content of a padding image does not matter. (Its positions do: they are relative, and the text follows.)"""
    other, valid = IMAGES.copy(), jnp.asarray([[True, True, False]] * 2)
    other[:, 2] = 0.3
    (logits, out), (again, _) = (run(params, images, images_valid=valid) for images in (IMAGES, other))
    np.testing.assert_array_equal(logits, again)
    for found, text in zip(out["segments"], ([1] * 4, [1, 1, 0, 0]), strict=True):
        np.testing.assert_array_equal(found, [1] * 2 * K + [0] * K + text)


@pytest.mark.slow
def test_without_images_it_is_the_text_model(params):
    logits, _ = run(params, None)
    text, _ = apply(T5(XS.text), params["text"], (PROMPTS, WRITTEN), {})
    np.testing.assert_allclose(logits, text, atol=1e-5, rtol=1e-5)


def test_order_of_images_and_texts_by_hand():
    """Two images of 2 patches and two texts of 2 tokens: p p | q q | a a | b b has the positions of p p a a q q b b.

    The first text takes 28 positions, from 2 on, so the second image starts at 30. Of two frames and one text of 3
    tokens, positions are those in the sequence, and the text is the last frame's.
    """
    episode, position = palix.sequence_order(2, 2, 2, few_shot=True)
    np.testing.assert_array_equal(episode, [0, 0, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(position, [0, 1, 30, 31, 2, 3, 32, 33])
    block, causal = (np.asarray(palix.visibility(f"{b}causal", episode, position))[0, 0] for b in ("block-", ""))
    assert block[2, 0] and not block[0, 2]  # the second image sees the first, but not the first the second
    assert block[0, 4]  # an image sees its own text
    assert causal[4, 0] and not causal[0, 4]
    assert causal.sum() == 8 * 9 / 2  # a total order
    assert palix.visibility("prefix", episode, position) is None
    with pytest.raises(ValueError, match=r"visibility 'all'.* Known: prefix, block-causal, causal"):
        palix.visibility("all", episode, position)
    np.testing.assert_array_equal(palix.sequence_order(2, 2, 3, few_shot=False), [[0, 0, 1, 1, 1, 1, 1], np.arange(7)])


@pytest.mark.slow
def test_it_matters_which_text_belongs_to_which_image(params):
    """If two texts are exchanged, the query sees the same tokens, only their distances to the images differ."""
    prompts = EXEMPLARS, EXEMPLARS[:, np.array([1, 0, 2])]
    one, other = (run(params, IMAGES, texts)[1]["encoded"] for texts in prompts)
    assert np.abs(one - other)[:, np.r_[2 * K : 3 * K, 3 * K + 4 : 3 * K + 6]].max() > 1e-3  # the query


@pytest.mark.slow
def test_every_text_of_a_few_shot_prompt_has_the_vector_of_its_image(params, placed):
    """With learned positions. The encoder is given the same sequence, put together by hand."""
    _, out = run(placed, IMAGES, EXEMPLARS, model=PLACED)
    tokens = params["text"]["token_embedder"]["embedding"][EXEMPLARS]  # [B, n, L, D]
    tokens = tokens + placed["positions"]["image_embedding"][jnp.array([2, 1, 0])][None, :, None]
    sequence = jnp.concatenate([out["visual"], tokens.reshape(2, 6, 64)], axis=1)
    _, position = palix.sequence_order(3, K, 2, few_shot=True)
    arguments = sequence, jnp.ones(sequence.shape[:2], int), None, position
    encoded, _ = T5(XS.text).apply({"params": params["text"]}, *arguments, method="encode_embedded")
    np.testing.assert_allclose(out["encoded"], encoded, atol=1e-4)


@pytest.mark.slow
def test_padding_of_few_shot_prompts_changes_nothing(params):
    """After texts it must not move the next image: in training, prompts may be padded to other lengths than in tests.
    Three images, the first of them padding without a text, give the same logits as the other two alone."""
    padded, _ = run(params, IMAGES, jnp.pad(EXEMPLARS, ((0, 0), (0, 0), (0, 6))))
    np.testing.assert_allclose(padded, run(params, IMAGES, EXEMPLARS)[0], atol=1e-4)
    valid = jnp.asarray([[False, True, True]] * 2)
    padded, _ = run(params, IMAGES, EXEMPLARS.at[:, 0].set(0), images_valid=valid)
    np.testing.assert_allclose(padded, run(params, IMAGES[:, 1:], EXEMPLARS[:, 1:])[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefix", "causal"])
def test_without_positions_a_prefix_has_no_order(params, kind):
    """Then only visibility distinguishes exemplars: with "prefix", all tokens see all and the order does not matter."""
    encoder = params["text"]["encoder"]
    none = jax.tree.map(jnp.zeros_like, encoder["relpos_bias"])
    flat = params | {"text": params["text"] | {"encoder": encoder | {"relpos_bias": none}}}
    orders = np.array([[0, 1, 2], [1, 0, 2]])
    one, other = (run(flat, IMAGES[:, i], EXEMPLARS[:, i], model=PaLIX(XS, visible=kind))[0] for i in orders)
    moved = np.abs(one - other).max()
    assert moved < 1e-4 if kind == "prefix" else moved > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefix", "block-causal", "causal"])
def test_later_exemplars_do_not_reach_earlier_ones(params, kind):
    """But with "prefix" they do."""
    changed = IMAGES.copy()
    changed[:, 2] = 0.1
    both = (IMAGES, EXEMPLARS), (changed, EXEMPLARS.at[:, 2].set(4))
    one, other = (run(params, *x, model=PaLIX(XS, visible=kind))[1]["encoded"] for x in both)
    early = np.r_[0 : 2 * K, 3 * K : 3 * K + 4]
    moved = np.abs(one[:, early] - other[:, early]).max()
    assert moved > 1e-3 if kind == "prefix" else moved < 2e-6
    assert np.abs(one - other).max() > 1e-2


def batch():
    return {"images": IMAGES, "prompt_tokens": PROMPTS, "targets": jnp.asarray([[8, 4, 1], [3, 1, 0]])}


def gradient(params, model, **more):
    loss = palix.answer_loss(model)
    return jax.jit(jax.grad(lambda p: loss(p, batch() | more, jax.random.key(0))[0]))(params)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_a_frozen_tower_gets_no_gradient_and_everything_else_the_same(params):
    free, frozen = gradient(params, PaLIX(XS)), gradient(params, PaLIX(XS, frozen_tower=True))
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(frozen.pop("tower")))
    assert any(jnp.any(leaf) for leaf in jax.tree.leaves(free.pop("tower")))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), free, frozen)


@pytest.mark.slow
def test_the_loss_is_the_mean_over_target_tokens_by_hand(params):
    log_probs = np.asarray(jax.nn.log_softmax(run(params, IMAGES, written=jnp.asarray([[0, 8, 4], [0, 3, 1]]))[0]))
    # Five targets: 8 4 1 and 3 1; the sixth is padding.
    five = [log_probs[0, 0, 8], log_probs[0, 1, 4], log_probs[0, 2, 1], log_probs[1, 0, 3], log_probs[1, 1, 1]]
    weights = jnp.asarray([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    loss_fn = jax.jit(palix.answer_loss(PaLIX(XS)))
    for more, mean in (({}, np.mean(five)), ({"weights": weights}, (five[0] + five[2]) / 2)):
        assert float(loss_fn(params, batch() | more, jax.random.key(0))[0]) == pytest.approx(-mean, abs=1e-5)


FEW_SHOT = jnp.asarray([[[5, 9, 1], [7, 1, 0], [8, 2, 1]], [[0, 0, 0], [6, 1, 0], [3, 4, 1]]])
MISSING = jnp.asarray([[True, True, True], [False, True, True]])
DECODE_INPUTS = {
    "video": {"images": IMAGES, "prompt_tokens": PROMPTS, "images_valid": MISSING},
    "few-shot": {"images": IMAGES, "prompt_tokens": FEW_SHOT, "images_valid": MISSING},
}


def teacher_forcing(params, inputs, tokens):
    """By the whole decoder, both [B, M]: the most probable token after every prefix of the targets `tokens`, and the
    log-probabilities of the targets; 0 after the end of sequence, which is token 1."""
    tokens = np.asarray(tokens)
    written = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    logits, _ = run(params, inputs["images"], inputs["prompt_tokens"], written, images_valid=inputs["images_valid"])
    table = np.asarray(jax.nn.log_softmax(logits))
    open_ = np.cumsum(tokens == 1, axis=-1) - (tokens == 1) == 0
    chosen = np.take_along_axis(table, tokens[..., None], -1)[..., 0]
    return np.where(open_, table.argmax(-1), 0), np.where(open_, chosen, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", DECODE_INPUTS.values(), ids=DECODE_INPUTS)
def test_decoding_agrees_with_teacher_forcing(params, inputs):
    """Greedily, with several beams, and for given answers."""
    tokens, log_probs = decode.greedy(PaLIX(XS), params, inputs, max_length=5)
    best, chosen = teacher_forcing(params, inputs, tokens)
    np.testing.assert_array_equal(best, tokens)
    np.testing.assert_allclose(chosen, log_probs, atol=1e-5)
    beams, scores = decode.beam_search(PaLIX(XS), params, inputs, max_length=5, num_beams=3, length_penalty=0.0)
    assert beams.shape == (2, 3, 5) and all(len({tuple(text) for text in row}) == 3 for row in beams.tolist())
    answers = np.array([[7, 3, 1], [9, 1, 0], [1, 0, 0]])
    found = decode.score(PaLIX(XS), params, inputs, answers)
    for texts, got in ((np.asarray(beams), scores), (np.tile(answers, (2, 1, 1)), found)):
        want = [teacher_forcing(params, inputs, texts[:, i])[1].sum(axis=-1) for i in range(3)]
        np.testing.assert_allclose(got, np.stack(want, axis=1), atol=1e-4)


@pytest.mark.slow
def test_experts_in_the_tower_and_in_both_stacks(params):
    """With copies of the dense MLPs, weights that sum to 1 and capacity for all tokens, it is the dense model; its loss
    has the auxiliary losses of three layers of experts."""
    fields = {"capacity_factor": None, "dispatch": "dropless", "renormalize": True}  # without noise there is no load
    moe = configs.MoEConfig(num_experts=4, num_selected=2, noise_std=0.0, load_weight=0.0, **fields)
    tower = XS.tower.replace(moe=moe, moe_blocks=(1,))
    text = XS.text.replace(moe=moe, moe_layers=(1,), decoder_moe=moe, decoder_moe_layers=(0,))
    sparse, grown = PaLIX(XS.replace(tower=tower, text=text)), dict(params)
    for half, config in (("tower", tower), ("text", text)):
        grown[half] = surgery.apply(surgery.plan(params[half], config), params[half], jax.random.key(0))
    logits, out = run(grown, IMAGES, model=sparse)
    np.testing.assert_allclose(logits, run(params, IMAGES)[0], atol=1e-4)
    blocks = [*out.values(), *out["tower"].values()]
    parts = [block["moe"]["auxiliary_loss"] for block in blocks if isinstance(block, dict) and "moe" in block]
    assert len(parts) == 3 and min(parts) > 0
    np.testing.assert_allclose(out["auxiliary_loss"], sum(parts), rtol=1e-6)

    def step(model, tree):
        loss = jax.value_and_grad(palix.answer_loss(model), has_aux=True)
        return jax.jit(loss)(tree, batch(), jax.random.key(0))

    (loss, metrics), slope = step(sparse, grown)
    np.testing.assert_allclose(loss - metrics["auxiliary_loss"], step(PaLIX(XS), params)[0][0], atol=1e-4)
    routers = [leaf for path, leaf in jax.tree.leaves_with_path(slope) if "outer" in jax.tree_util.keystr(path)]
    assert len(routers) == 3 and all(jnp.abs(leaf).max() > 0 for leaf in routers)
    _, slope = step(PaLIX(sparse.config, frozen_tower=True), grown)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(slope["tower"]))  # nor from its auxiliary loss


# Millions: towers of ViT-22B's blocks without pooling, text models of T5 1.1, both with the projection between them,
# and, but for the 55B, vectors of rows, columns and images.
LADDER = {
    "XS": (0.113, 0.263, 0.382), "S": (1.233, 3.740, 5.02), "M": (21.6, 77.0, 98.8), "L": (85.7, 247.6, 333.9),
    "XL": (412.3, 783.2, 1196.6), "55B": (21750.5, 32248.9, 54024.7),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LADDER)
def test_sizes_of_the_ladder(name):
    c = configs.palix(name)
    shapes = jax.eval_shape(lambda: palix.init_params(PaLIX(c)))
    count = {part: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes[part])) for part in shapes}
    assert count["tower"] == sum(flops.vit_parameters(c.tower).values())
    assert count["text"] == sum(flops.t5_parameters(c.text).values())
    assert count["projection"] == (c.tower.width + 1) * c.text.width
    for got, want in zip((count["tower"], count["text"], sum(count.values())), LADDER[name], strict=True):
        assert round(got / 1e6, len(str(want).partition(".")[2])) == want


@pytest.mark.parametrize(("name", "billions"), [("PaLI-3B", 3.07), ("PaLI-15B", 14.764), ("PaLI-17B", 16.73)])
def test_sizes_of_pali(name, billions):
    c = configs.palix(name)
    total = sum(flops.vit_parameters(c.tower).values()) + sum(flops.t5_parameters(c.text).values())
    assert total / 1e9 == pytest.approx(billions, abs=0.006)


def floats(*shape):
    return np.zeros(shape, np.float32)


TEXTS, PAIRS = jnp.ones((2, 3, 1), jnp.int32), {"images_valid": jnp.ones((2, 2), bool)}


@pytest.mark.parametrize(
    ("images", "prompts", "fields", "message"),
    [
        (IMAGES[0, 0], PROMPTS, {}, r"Images must be float\[B, n, height, width, C\].* got shape \(32, 32, 3\)"),
        (IMAGES[:1], PROMPTS, {}, "with B=2 as the prompts"),
        (floats(2, 0, 32, 32, 3), PROMPTS, {}, "got 0"),
        (IMAGES, PROMPTS, PAIRS, r"images_valid must be bool\[B, n\] = \(2, 3\)"),
        (IMAGES[:, :, :16], PROMPTS, {}, "the model expects"),
        (IMAGES.astype(np.uint8), PROMPTS, {}, "floats in"),
        (None, PROMPTS, {"features": floats(2, K, 64)}, r"float\[B=2, n, k=16, D_v=64\].* got shape \(2, 16, 64\)"),
        (None, PROMPTS, {"features": floats(2, 3, K, 32)}, r"got shape \(2, 3, 16, 32\)"),
        (None, PROMPTS, {"features": floats(2, 17, K, 64)}, r"1 to 16 images or frames \(max_images\), got 17"),
        (IMAGES[:, :2], TEXTS, {}, r"are few-shot, \[B, n, L\]: .* one image .*n=3.* got shape \(2, 2, 32"),
        (None, TEXTS, {}, "got none"),
        # With learned positions, whose vectors the texts get before the images are looked at.
        (floats(2, 17, 32, 32, 3), TEXTS.repeat(6, axis=1)[:, :17], {}, r"1 to 16 images or frames .*, got 17"),
        (IMAGES, TEXTS.repeat(29, axis=2), {}, r"at most 28 tokens, padding included; got prompts \(2, 3, 29\)"),
    ],
)
def test_what_does_not_fit(placed, images, prompts, fields, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PLACED.apply({"params": placed}, images, prompts, WRITTEN, **fields)
    with pytest.raises(ValueError, match="without a head: build it with pool='none'"):
        configs.palix("S", tower={"num_classes": 10})


# ----------------------------------------------------------------------------------------------------- visual positions


def test_positions_by_hand():
    """Two rows (10, 20), three columns (1, 2, 3), two images (100, 200), of width 1: patches are row by row."""
    found = positions(jnp.array([[10.0], [20.0]]), jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[100.0], [200.0]]))
    np.testing.assert_array_equal(found[..., 0], [[111, 112, 113, 121, 122, 123], [211, 212, 213, 221, 222, 223]])


def test_they_start_as_long_as_normalised_tokens():
    """Each vector is N(0, 1) per component: of 10,000 components the variance is 1 to 5 %."""
    module, tokens = VisualPositions((50, 50), 100, 100), jnp.zeros((1, 1, 2500, 100), jnp.bfloat16)
    params = module.init(jax.random.key(0), tokens)["params"]
    assert module.apply({"params": params}, tokens).dtype == jnp.bfloat16
    assert set(params) == {"row_embedding", "column_embedding", "image_embedding"}
    assert abs(float(jnp.var(params["image_embedding"])) - 1) < 0.05
