"""The reference tensors are the results of another library with the same weights: see reference/make_t5.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from flax.traverse_util import flatten_dict

from kitlib import configs
from kitlib.configs import MoEConfig
from kitlib.models import checkpoint, decode, t5
from kitlib.training import loop

TENSORS = np.load(zoo.REFERENCE / "t5.npz")

# One layer per stack compiles fast; the reference tensors check several layers.
SMALL = {"vocab_size": 30, "width": 16, "mlp_dim": 24, "num_heads": 2, "head_dim": 6}
DENSE = configs.t5("tiny", **SMALL, num_encoder_layers=1, num_decoder_layers=1)
# Capacity for all tokens: nothing is dropped, so that the experts of a token do not depend on the other tokens.
MOE = MoEConfig(num_experts=4, noise_std=0.0, load_weight=0.0, capacity_factor=2.0)
AMPLE = {"moe": MOE.replace(router="expert_choice", capacity_factor=4.0), "moe_layers": (0,)}
AMPLE |= {"decoder_moe": MOE.replace(num_selected=2, importance_weight=0.1), "decoder_moe_layers": (0,)}
SPARSE = DENSE.replace(**AMPLE)
BOTH = pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
INPUTS = np.random.default_rng(0).integers(2, 30, (3, 7))
TARGETS = np.random.default_rng(1).integers(2, 30, (3, 5))


wide_params = functools.partial(zoo.params, spread=0.4)  # so that positions, routers and every layer matter


def jitted(config, train=False):
    return zoo.applied(t5.T5(config), train=train)


def logits_of(config, inputs, decoder_inputs, **fields):
    inputs, decoder_inputs = jnp.asarray(inputs), jnp.asarray(decoder_inputs)
    return np.asarray(jitted(config)(wide_params(config), inputs, decoder_inputs, **fields)[0])


def test_shift_right_starts_every_example_with_0():
    targets = jnp.array([[5, 6, 1, 7, 1, 0]])
    np.testing.assert_array_equal(t5.shift_right(targets), [[0, 5, 6, 1, 7, 1]])
    segments = jnp.array([[1, 1, 1, 2, 2, 0]])
    np.testing.assert_array_equal(t5.shift_right(targets, segments), [[0, 5, 6, 0, 7, 0]])


def test_sparse_layers_have_experts_instead_of_the_mlp():
    both = (configs.sparse_t5("1.1-base"), configs.t5("1.1-base"))
    sparse, dense = (flatten_dict(checkpoint.expected_shapes(config), sep="/") for config in both)
    for block in (f"{stack}/layers_{i}" for stack in ("encoder", "decoder") for i in range(1, 12, 2)):
        assert sparse.pop(f"{block}/moe/Router/dense/kernel").shape == (768, 32)
        for name in ("wi_0", "wi_1", "wo"):
            one = dense.pop(f"{block}/mlp/{name}/kernel").shape
            assert sparse.pop(f"{block}/moe/Mlp/{name}/kernel").shape == (32, *one)
    assert sparse == dense


@pytest.mark.slow
def test_initial_values():
    """And `jax.eval_shape` of the initialiser, as for loading weights, leaves no tracer in its cache."""
    model = t5.T5(configs.t5("tiny", width=128, head_dim=64))  # no other test uses this configuration
    shapes, params = jax.eval_shape(lambda: t5.init_params(model)), t5.init_params(model)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    block, logits = params["encoder"]["layers_0"], params["decoder"]["logits_dense"]
    attention, table = block["attention"], {"kernel": params["token_embedder"]["embedding"]}
    # Fan-in: unit variance is preserved; the variance of the query is divided by d, instead of the scores by sqrt(d).
    for part, variance in (
        (table, 1), (attention["query"], 1 / (128 * 64)), (attention["key"], 1 / 128), (attention["out"], 1 / 256),
        (block["mlp"]["wo"], 1 / 128), (logits, 1 / 128),
    ):  # fmt: skip
        assert float(part["kernel"].std()) == pytest.approx(variance**0.5, rel=0.05)
    jax.tree.map(np.testing.assert_array_equal, params, t5.init_params(model))


def test_every_intermediate_has_its_name_and_shape():
    layers = {"num_encoder_layers": 2, "moe_layers": (1,), "num_decoder_layers": 2, "decoder_moe_layers": (0, 1)}
    config = SPARSE.replace(**layers)
    _, out = jax.eval_shape(jitted(config), checkpoint.expected_shapes(config), INPUTS, TARGETS)
    shapes = {name: jax.tree.map(lambda x: x.shape, value) for name, value in out.items()}
    assert shapes["block01"].pop("moe")["combine_weights"] == (3, 7, 4)
    assert shapes["block_decoder00"].pop("moe")["combine_weights"] == (3, 5, 4)
    assert shapes["block01"] == dict.fromkeys(("sa", "+sa", "mlp", "+mlp"), (3, 7, 16)) | {
        "keys_values": ((3, 2, 7, 6), (3, 2, 7, 6)), "attention": (3, 2, 7, 7)
    }  # fmt: skip
    assert shapes["block_decoder00"] == dict.fromkeys(("sa", "+sa", "ca", "+ca", "mlp", "+mlp"), (3, 5, 16)) | {
        "keys_values": ((3, 2, 5, 6), (3, 2, 5, 6)), "attention": (3, 2, 5, 5), "cross_attention": (3, 2, 5, 7)
    }  # fmt: skip
    rest = {name: shape for name, shape in shapes.items() if not name.startswith("block")}
    assert rest == {"encoded": (3, 7, 16), "decoded": (3, 5, 16), "logits": (3, 5, 30), "auxiliary_loss": ()}
    assert len(shapes) == len(rest) + 4


@pytest.mark.slow
@pytest.mark.parametrize("case", zoo.T5_CASES)
def test_reference(case):
    """Within 1e-5 of the largest number, the results of the reference in float64 with the same file."""
    model, params = zoo.reference_t5(case)
    inputs, targets = TENSORS[f"{case}/inputs"], jnp.asarray(TENSORS[f"{case}/targets"])

    @jax.jit
    def run(params):
        loss, _ = t5.seq2seq_loss(model)(params, {"inputs": inputs, "targets": targets}, jax.random.key(0))
        return *model.apply({"params": params}, inputs, t5.shift_right(targets)), loss

    logits, out, loss = run(params)
    expected = TENSORS[f"{case}/encoded"][inputs != 0]
    np.testing.assert_allclose(out["encoded"][inputs != 0], expected, atol=1e-5 * np.abs(expected).max())
    expected = TENSORS[f"{case}/logits"]  # causal: padding in the decoder comes after all tokens
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert float(loss) == pytest.approx(float(TENSORS[f"{case}/loss"]), rel=1e-5)


@pytest.mark.slow
@BOTH
def test_packed_examples_have_the_same_logits_as_alone(config):
    lengths = np.array([4, 3])[:, None], np.array([2, 3])[:, None]
    apart = [np.where(np.arange(x.shape[1]) < n, x[:2], 0) for x, n in zip((INPUTS, TARGETS), lengths, strict=True)]
    alone = logits_of(config, *(np.concatenate([x, x[:1]]) for x in apart))  # three rows, as in other tests
    inputs = np.concatenate([INPUTS[0, :4], INPUTS[1, :3], [9, 9]])[None]  # the last two: padding with some token
    targets = np.concatenate([TARGETS[0, :2], TARGETS[1, :3], [9]])[None]
    segments = {
        "encoder_segments": jnp.array([[1, 1, 1, 1, 2, 2, 2, 0, 0]]),
        "decoder_segments": jnp.array([[1, 1, 2, 2, 2, 0]]),
    }
    packed = logits_of(config, inputs, targets, **segments)
    np.testing.assert_allclose(packed[0, :2], alone[0, :2], atol=1e-4)
    np.testing.assert_allclose(packed[0, 2:5], alone[1, :3], atol=1e-4)
    one = {name: jnp.ones_like(x) for name, x in segments.items()}  # the control: one example
    assert np.abs(logits_of(config, inputs, targets, **one)[0, :2] - alone[0, :2]).max() > 0.01


@pytest.mark.slow
@BOTH
def test_neither_padding_nor_other_rows_matter(config):
    short = logits_of(config, INPUTS[:, :5], TARGETS)
    padded = logits_of(config, np.pad(INPUTS[:, :5], ((0, 0), (0, 2))), TARGETS)
    np.testing.assert_allclose(padded, short, atol=1e-4)
    np.testing.assert_allclose(logits_of(config, INPUTS[:1, :5], TARGETS[:1]), short[:1], atol=1e-4)


@pytest.mark.slow
def test_padding_takes_no_slot():
    # Expert choice with C slots: each expert takes its 1.0 * 9 / 4 -> 2 most probable tokens. The tokens in segment 0
    # must not change this choice.
    tight = SPARSE.replace(moe=AMPLE["moe"].replace(capacity_factor=1.0))
    segments = {"encoder_segments": jnp.asarray([[1] * 5 + [0] * 4]), "decoder_segments": jnp.ones((1, 5), jnp.int32)}
    one, other = (np.concatenate([INPUTS[:1, :5], np.full((1, 4), token)], axis=1) for token in (3, 17))
    reference = logits_of(tight, one, TARGETS[:1], **segments)
    np.testing.assert_allclose(logits_of(tight, other, TARGETS[:1], **segments), reference, atol=1e-5)
    _, out = jitted(tight)(wide_params(tight), one, TARGETS[:1], **segments)
    weights = out["block00"]["moe"]["combine_weights"][0]
    assert np.all(weights[5:] == 0)
    np.testing.assert_array_equal((weights > 0).sum(axis=0), 2)


@pytest.mark.slow
@BOTH
def test_the_decoder_is_causal_and_the_encoder_is_not(config):
    reference, later, inputs = logits_of(config, INPUTS, TARGETS), TARGETS.copy(), INPUTS.copy()
    later[:, 3] = later[:, 3] % 28 + 2
    changed = logits_of(config, INPUTS, later)
    np.testing.assert_array_equal(changed[:, :3], reference[:, :3])
    assert np.abs(changed[:, 3:] - reference[:, 3:]).max() > 0.01
    inputs[:, -1] = inputs[:, -1] % 28 + 2
    assert np.abs(logits_of(config, inputs, TARGETS)[:, 0] - reference[:, 0]).max() > 0.01


@pytest.mark.slow
def test_positions_matter():
    order = np.random.default_rng(2).permutation(7)
    reference = logits_of(DENSE, INPUTS, TARGETS)
    assert np.abs(logits_of(DENSE, INPUTS[:, order], TARGETS) - reference).max() > 0.01
    params = wide_params(DENSE)
    encoder = params["encoder"] | {"relpos_bias": {"rel_embedding": jnp.zeros((2, 32))}}
    params = params | {"encoder": encoder}  # without relative positions, the decoder sees a set of tokens
    one, other = (jitted(DENSE)(params, x, TARGETS)[0] for x in (INPUTS, INPUTS[:, order]))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_text_without_tokens_is_finite():
    inputs = INPUTS.copy()
    inputs[1] = 0
    assert np.isfinite(logits_of(DENSE, inputs, TARGETS)).all()


@pytest.mark.slow
@BOTH
def test_token_by_token_agrees_with_teacher_forcing(config):
    """The cache: decode_step at positions 0, 1, ... gives the logits of `decode`; the inputs have padding."""
    config, inputs = config.replace(num_decoder_layers=2), INPUTS.copy()
    inputs[1, 4:] = 0
    decoder_inputs = np.asarray(t5.shift_right(jnp.asarray(TARGETS)))
    model, params, got = t5.T5(config), {"params": wide_params(config)}, []
    cache = jax.jit(lambda x: model.apply(params, x, 6, method="init_cache"))(inputs)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {3}
    step = jax.jit(lambda *args: model.apply(params, *args, method="decode_step"))
    for i in range(5):
        logits, cache = step(decoder_inputs[:, i], i, cache)
        got.append(logits)
    np.testing.assert_allclose(np.stack(got, axis=1), logits_of(config, inputs, decoder_inputs), atol=1e-4)


@pytest.mark.slow
def test_what_is_written_does_not_depend_on_the_other_rows():
    """All texts start with the same token, whose choices are alike: of one slot per expert, as capacity would have it,
    the first row would take all. In the encoder, experts would choose 2 of all tokens. Rows alone have the
    log-probabilities and the texts that they have among 64."""
    tight = SPARSE.decoder_moe.replace(capacity=1, capacity_factor=None)
    config = SPARSE.replace(moe=SPARSE.moe.replace(capacity_factor=2.0), decoder_moe=tight)
    write = functools.partial(decode.greedy, t5.T5(config), wide_params(config), max_length=6, eos=-1)
    inputs = np.random.default_rng(2).integers(2, 30, (64, 7))
    together, log_probs = write(inputs)
    for row in range(0, 64, 9):
        alone, log_prob = write(inputs[row : row + 1])
        np.testing.assert_array_equal(alone[0], together[row])
        np.testing.assert_allclose(log_prob[0], log_probs[row], atol=1e-4)
    # Teacher forcing, with room for all choices of K = 2 experts in both stacks.
    top_2 = SPARSE.decoder_moe.replace(capacity_factor=2.0)
    forced = logits_of(config.replace(moe=top_2, decoder_moe=top_2), inputs, t5.shift_right(jnp.asarray(together)))
    np.testing.assert_array_equal(forced.argmax(-1), together)


def test_a_token_takes_as_many_experts_as_it_has_on_average():
    for factor, selected in ((2.0, 2), (0.25, 1), (1.6, 2), (9.0, 4)):
        written = SPARSE.replace(moe=SPARSE.moe.replace(capacity_factor=factor)).for_generation()
        assert (written.moe.router, written.moe.num_selected, written.moe.dispatch) == ("top_k", selected, "dropless")
        assert written.decoder_moe.num_selected == 2 and written.decoder_moe.capacity_factor is None
        assert DENSE.for_generation() == DENSE and written.for_generation() == written
    with pytest.raises(ValueError, match="capacity=3"):  # an unknown average
        SPARSE.replace(moe=SPARSE.moe.replace(capacity=3, capacity_factor=None)).for_generation()


@pytest.mark.slow
def test_dropout_acts_in_training_only():
    config = DENSE.replace(dropout=0.3)
    params = wide_params(config)
    keys = [{"dropout": jax.random.key(seed, impl="rbg")} for seed in (0, 0, 1)]  # compiles faster
    one, again, other = (jitted(config, train=True)(params, INPUTS, TARGETS, rngs=key)[0] for key in keys)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    jax.eval_shape(jitted(config), params, INPUTS, TARGETS)  # draws nothing: there is no rng


@pytest.mark.slow
def test_bfloat16_activations_keep_float32_logits():
    config = SPARSE.replace(dtype="bfloat16")
    logits, out = jax.eval_shape(jitted(config), wide_params(config), INPUTS, TARGETS)
    assert logits.dtype == out["block00"]["attention"].dtype == jnp.float32
    assert out["encoded"].dtype == out["decoded"].dtype == jnp.bfloat16
    half, single = (logits_of(DENSE.replace(dtype=name), INPUTS, TARGETS) for name in ("bfloat16", "float32"))
    assert (half - single).std() < 0.05 * single.std()  # 8 bits


def test_wrong_tokens_are_refused():
    good = jnp.ones((2, 7), jnp.int32)
    for wrong, error, message in (
        (good[0], ValueError, r"got shape \(7,\); for one text, add the axis"),
        (good * 1.0, TypeError, "must be integers.*got float32"),
    ):
        for pair in ((wrong, good), (good, wrong)):
            with pytest.raises(error, match=message):
                jax.eval_shape(t5.T5(DENSE).init, jax.random.key(0), *pair)
    for side in ("inputs", "targets"):
        with pytest.raises(ValueError, match="segments for inputs and for targets; got those of one side alone"):
            t5.seq2seq_loss(t5.T5(DENSE))({}, {"inputs": good, "targets": good, f"{side}_segments": good}, None)


def with_logits(config, bias):
    """Parameters for which every token has the logits `bias` float[V]: the first unit of the decoder's output is 1."""
    params = jax.tree.map(jnp.zeros_like, wide_params(config))
    table = jnp.zeros((30, 16)).at[:, 0].set(1.0)  # RMSNorm makes (1, 0, ..., 0) into (4, 0, ..., 0)
    norm, logits = {"scale": jnp.full(16, 0.25)}, {"kernel": jnp.zeros((16, 30)).at[0].set(bias)}
    decoder = params["decoder"] | {"decoder_norm": norm, "logits_dense": logits}
    return params | {"token_embedder": {"embedding": table}, "decoder": decoder}


@pytest.mark.slow
def test_loss_by_hand():
    # The logit of token 7 is a with e^a = 3, all others are 0: its probability is 3 / 32, all others are 1 / 32.
    params = with_logits(DENSE, jnp.zeros(30).at[7].set(np.log(3.0)))
    batch = {"inputs": jnp.asarray(INPUTS[:2]), "targets": jnp.array([[7, 5, 1, 0], [7, 1, 0, 0]])}
    loss, metrics = jax.jit(t5.seq2seq_loss(t5.T5(DENSE), z_loss=0.01))(params, batch, jax.random.key(0))
    # Five targets, two of them 7; padding does not count. log Z is log 32 everywhere.
    assert float(loss) == pytest.approx(np.log(32) - 2 / 5 * np.log(3) + 0.01 * np.log(32) ** 2, rel=1e-5)
    assert {name: float(x) for name, x in metrics.items()} == {"accuracy": pytest.approx(2 / 5)}


@pytest.mark.slow
def test_the_loss_of_a_packed_batch_is_the_loss_of_its_examples():
    apart = {"inputs": jnp.array([[5, 6, 7, 0], [8, 9, 0, 0]]), "targets": jnp.array([[11, 1, 0], [12, 13, 1]])}
    packed = {
        "inputs": jnp.array([[5, 6, 7, 8, 9, 0]]), "inputs_segments": jnp.array([[1, 1, 1, 2, 2, 0]]),
        "targets": jnp.array([[11, 1, 12, 13, 1, 0]]), "targets_segments": jnp.array([[1, 1, 2, 2, 2, 0]]),
    }  # fmt: skip
    loss_fn = jax.jit(t5.seq2seq_loss(t5.T5(DENSE)))
    one, other = (loss_fn(wide_params(DENSE), batch, jax.random.key(0)) for batch in (apart, packed))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), one, other)


@pytest.mark.parametrize("target", [-1, -100, 3, 99])
def test_the_loss_of_a_token_that_there_is_not_is_nan(target):
    """V = 3. Left to itself, it would be that of a token with a logit of 0."""
    loss = jax.jit(t5.token_loss)(jnp.zeros((1, 2, 3)), jnp.array([[2, target]]), jnp.ones((1, 2)))[0]
    assert np.isnan(loss)


@pytest.mark.slow
@BOTH
def test_gradients_reach_every_parameter_and_are_finite(config):
    batch = {"inputs": jnp.asarray(INPUTS).at[0, 3:].set(0), "targets": jnp.asarray(TARGETS).at[1, 2:].set(0)}
    loss_fn = t5.seq2seq_loss(t5.T5(config), z_loss=1e-4)
    grads, _ = jax.jit(jax.grad(loss_fn, has_aux=True))(wide_params(config), batch, jax.random.key(0))
    for name, grad in flatten_dict(grads, sep="/").items():
        assert np.isfinite(grad).all(), name
        assert np.any(grad != 0), name


@pytest.mark.slow
def test_a_sparse_model_trains_and_reports_its_routers():
    tx, losses = optax.adam(1e-2), []
    step, state = loop.make_step(t5.seq2seq_loss(t5.T5(SPARSE)), tx), loop.init_state(wide_params(SPARSE), tx)
    for _ in range(30):
        state, metrics = step(state, {"inputs": jnp.asarray(INPUTS), "targets": jnp.asarray(TARGETS)})
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    # First the router of the encoder, where each of 4 experts chooses all tokens; then the router of the decoder.
    assert metrics["load"].shape == (2, 4)
    np.testing.assert_allclose(metrics["load"][0], 0.25, rtol=1e-5)
    np.testing.assert_allclose(metrics["load"].sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(metrics["dropped"], 0.0)
    assert float(metrics["auxiliary_loss"]) > 0


# --------------------------------------------------------------------------------------------------------------- stacks


STACKS = configs.t5("tiny", vocab_size=32, num_encoder_layers=3, num_decoder_layers=2)


def test_layers_are_named_by_number_and_loops_by_their_first_and_last():
    assert list(t5.stack_layers(STACKS, decoder=False)) == ["0", "1", "2"]
    moe = configs.T5_ENCODER_MOE.replace(num_experts=2)
    sparse = STACKS.replace(num_encoder_layers=5, moe=moe, moe_layers=(1, 3), scan=True)
    # A dense layer of its own, then two times (MoE, dense).
    assert list(t5.stack_layers(sparse, decoder=False)) == ["0", "1_to_4"]
    assert list(t5.stack_layers(sparse, decoder=True)) == ["0_to_1"]
