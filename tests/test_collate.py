"""kitlib.collate: what rows hold, token by token; weights; packing equals rows of one text each; resumable batches."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from kitlib import collate, configs, mixture, palix, pipeline, tasks, tokenizer
from kitlib.collate import Group, arrays, batches, group_batch, packed, prompt_ids, target_ids
from kitlib.data import keyed_rng
from kitlib.mixture import Mixture
from kitlib.tasks import Example

WORDS = tokenizer.multilingual()
RED = np.full((1, 64, 64, 3), (255, 0, 0), np.uint8)
ASKED = Example(RED, "what is it?", (("a dog", True),), "vqa")
OBJECTS = (("1 2 3 4", True), (" dog", True), (" ;", True), (" 5 6 7 8", False), (" noise", True))
BOXES = Example(RED, "detect dog", OBJECTS, "detection")
HIDDEN = (("<extra_id_0> cat", True),)
TEXT = Example(np.zeros((0, 64, 64, 3), np.uint8), "the <extra_id_0> sat", HIDDEN, "span_corruption")
SHAPE = {"images": 1, "inputs": 16, "targets": 24}


def texts(count: int, seed: int = 0) -> list[Example]:
    """Examples of two to nine words."""
    rng, vocabulary = np.random.default_rng(seed), ("red", "dog", "apple", "is", "the", "Haus", "кот", "本")
    return [tasks.span_corruption(" ".join(rng.choice(vocabulary, rng.integers(2, 10))), rng) for _ in range(count)]


def sample(names, seed=0, **weights) -> Mixture:
    """A mixture of some of the kit's makers."""
    makers = mixture.kit_makers("train")
    return Mixture({name: makers[name] for name in names}, weights or dict.fromkeys(names, 1), seed)


# --- one example ---


def test_texts_have_a_space_before_and_an_end_behind():
    assert prompt_ids(ASKED, WORDS) == [[*WORDS.encode(" what is it?"), WORDS.eos_id]]
    few = Example(np.repeat(RED, 2, 0), ("a b", "c"), (("d", True),), "episodic_vqa")
    assert prompt_ids(few, WORDS) == [[*WORDS.encode(" a b"), 1], [*WORDS.encode(" c"), 1]]
    assert prompt_ids(Example(RED, "", (("d", True),), "vqa"), WORDS) == [[*WORDS.encode(" "), 1]]  # not nothing
    ids, weights = target_ids(ASKED, WORDS)
    assert ids == [*WORDS.encode(" a dog"), 1] and weights == [True] * len(ids)


def test_pieces_of_a_target_keep_their_weights():
    """Numbers are one token each; those of the noise box carry no loss, its name and the end do."""
    ids, weights = target_ids(BOXES, WORDS)
    assert WORDS.decode(ids) == " 1 2 3 4 dog ; 5 6 7 8 noise" == f" {BOXES.answer}"
    silent = [piece for piece, weight in zip(WORDS.pieces(ids), weights, strict=True) if not weight]
    assert silent == ["▁5", "▁6", "▁7", "▁8"] and weights[-1]


# --- rows with pictures ---


def test_a_row_by_hand():
    batch = arrays([ASKED, BOXES], WORDS, **SHAPE)
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "images": ("float32", (2, 1, 64, 64, 3)),
        "images_valid": ("bool", (2, 1)),
        "inputs": ("int32", (2, 16)),
        "targets": ("int32", (2, 24)),
        "weights": ("float32", (2, 24)),
    }
    np.testing.assert_array_equal(batch["images"][0, 0, 0, 0], [1, -1, -1])
    assert batch["images_valid"].all()
    prompt = [*WORDS.encode(" what is it?"), 1]
    assert batch["inputs"][0].tolist() == prompt + [0] * (16 - len(prompt))
    n = len(target_ids(ASKED, WORDS)[0])
    assert batch["targets"][0, n:].tolist() == [0] * (24 - n) == batch["weights"][0, n:].tolist()


def test_a_row_weighs_the_root_of_its_tokens():
    """n tokens of 1 / sqrt(n) add up to sqrt(n), whatever carries no loss beside them."""
    batch = arrays([ASKED, BOXES], WORDS, **SHAPE)
    counts = [sum(target_ids(example, WORDS)[1]) for example in (ASKED, BOXES)]
    np.testing.assert_allclose(batch["weights"].sum(axis=1), np.sqrt(counts), rtol=1e-6)
    assert (batch["weights"] > 0).sum(axis=1).tolist() == counts


FEW = Example(np.repeat(RED, 3, 0), ("a", "b c", "d?"), (("e", True),), "episodic_vqa")


def test_few_shot_prompts_have_a_row_each_and_what_is_missing_is_missing_in_front():
    batch = arrays([FEW], WORDS, images=4, inputs=6, targets=4)
    assert batch["images_valid"].tolist() == [[False, True, True, True]] and not batch["images"][0, 0].any()
    assert batch["inputs"].shape == (1, 4, 6) and not batch["inputs"][0, 0].any()
    for i, part in enumerate(FEW.prompt, 1):
        ids = [*WORDS.encode(f" {part}"), 1]
        assert batch["inputs"][0, i].tolist() == ids + [0] * (6 - len(ids))
    with pytest.raises(ValueError, match="batch of their own, got 1 of them among 2"):
        arrays([FEW, ASKED], WORDS, images=4, inputs=16, targets=24)


def test_other_sizes_are_resized():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    batch = arrays([Example(image, "a", (("b", True),), "vqa")], WORDS, **SHAPE, image_size=96)
    wanted = pipeline.to_float(pipeline.fit(image, 96, 96))
    np.testing.assert_array_equal(batch["images"][0], wanted)


def test_wide_pictures_are_stretched_and_not_cropped():
    """A box of the left quarter, in shares, is still about what it was about."""
    image = np.zeros((1, 64, 256, 3), np.uint8)
    image[:, :, :64] = 255
    batch = arrays([Example(image, "a", (("b", True),), "vqa")], WORDS, **SHAPE)
    np.testing.assert_array_equal(batch["images"][0, 0, :, :15], 1)  # bilinear: but for the pixels at the edge
    np.testing.assert_array_equal(batch["images"][0, 0, :, 17:], -1)


def test_an_example_without_pictures_among_others():
    batch = arrays([TEXT, ASKED], WORDS, **SHAPE)
    assert batch["images_valid"].tolist() == [[False], [True]] and not batch["images"][0].any()


@pytest.mark.parametrize(
    ("example", "shape", "message"),
    [
        (
            ASKED,
            {"inputs": 3},
            r"vqa has 1 pictures, 1 prompts of at most \d+ tokens .* room for 1 pictures, .* of 3 tokens, and 24",
        ),
        (BOXES, {"targets": 5}, "detection has 1 pictures, .* and 15 tokens of target; .* and 5"),
        (Example(np.repeat(RED, 2, 0), "a", (("b", True),), "vqa"), {}, "vqa has 2 pictures"),
        (Example(np.repeat(RED, 3, 0), ("a",) * 2, (("b", True),), "vqa"), {"images": 3}, "3 pictures, 2 prompts"),
        (ASKED, {"images": 0}, "room for a picture at least, got 1 and 0"),
    ],
)
def test_what_does_not_fit_is_refused(example, shape, message):
    with pytest.raises(ValueError, match=message):
        arrays([example], WORDS, **SHAPE | shape)


def test_no_example():
    with pytest.raises(ValueError, match="Expected examples"):
        arrays([], WORDS, **SHAPE)


# --- packed rows ---


def test_a_packed_row_by_hand():
    batch = packed([[TEXT, TEXT], [TEXT]], WORDS, inputs=24, targets=12)
    (prompt,), (ids, _) = prompt_ids(TEXT, WORDS), target_ids(TEXT, WORDS)
    n, m = len(prompt), len(ids)
    assert batch["inputs"][0].tolist() == prompt * 2 + [0] * (24 - 2 * n)
    assert batch["inputs_segments"][0].tolist() == [1] * n + [2] * n + [0] * (24 - 2 * n)
    assert batch["targets"][0].tolist() == ids * 2 + [0] * (12 - 2 * m)
    assert batch["targets_segments"][0].tolist() == [1] * m + [2] * m + [0] * (12 - 2 * m)
    np.testing.assert_allclose(batch["weights"].sum(axis=1), [2 * np.sqrt(m), np.sqrt(m)], rtol=1e-6)


def test_packing_changes_no_number():
    """Loss and gradients of a packed row are those of its texts in rows of their own: they do not see each other."""
    model = palix.PaLIX(configs.palix("XS", text={"vocab_size": 4096}))
    params, several = palix.init_params(model), texts(4)
    loss = jax.jit(jax.value_and_grad(lambda p, batch: palix.answer_loss(model)(p, batch, jax.random.key(0))[0]))
    together = loss(params, packed([several], WORDS, inputs=128, targets=64))
    apart = loss(params, packed([[text] for text in several], WORDS, inputs=128, targets=64))
    np.testing.assert_allclose(together[0], apart[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), together[1], apart[1])


def test_packing_needs_room_and_no_pictures():
    with pytest.raises(ValueError, match=r"The inputs of row 0 have \d+ tokens or more, of 8"):
        packed([[TEXT, TEXT]], WORDS, inputs=8, targets=24)
    with pytest.raises(ValueError, match="an example of vqa has pictures"):
        packed([[ASKED]], WORDS, inputs=24, targets=24)


# --- endless batches ---


def test_a_batch_is_a_function_of_its_position():
    groups = {
        "one": Group(sample(("captioning", "vqa")), 3, images=1, inputs=64, targets=40),
        "text": Group(sample(("span_corruption",)), 2, images=0, inputs=160, targets=80),
    }
    first = batches(groups, WORDS)
    ahead = [next(first) for _ in range(3)]
    state = first.get_state()
    wanted = next(first)
    again = batches(groups, WORDS)
    again.set_state(state)
    for got in (next(again), {name: group_batch(group, WORDS, 3) for name, group in groups.items()}):
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert (ahead[0]["one"]["inputs"] != ahead[1]["one"]["inputs"]).any()
    assert set(wanted) == {"one", "text"} and wanted["text"]["inputs_segments"].max() >= 2


def counted(lengths) -> Callable:
    """A maker whose answers have as many words as `lengths` say, in turn by the generator."""
    return lambda rng: Example(RED, "a", ((" ".join(["dog"] * int(rng.choice(lengths))), True),), "vqa")


def test_what_does_not_fit_is_drawn_again():
    """One in two has 30 words; the rows hold the others, and as many as there should be."""
    group = Group(Mixture({"vqa": counted([1, 30])}, {"vqa": 1}), 16, images=1, inputs=8, targets=8)
    batch = group_batch(group, WORDS, 0)
    n = len(target_ids(Example(RED, "a", (("dog", True),), "vqa"), WORDS)[0])
    assert ((batch["targets"] > 0).sum(axis=1) == n).all() and len(batch["targets"]) == 16


def test_rows_of_one_batch_and_of_the_next_are_different_draws():
    group = Group(sample(("captioning",)), 8, images=1, inputs=32, targets=40)
    rows = np.concatenate([group_batch(group, WORDS, position)["images"] for position in range(2)])
    assert len({row.tobytes() for row in rows}) == 16


def test_what_never_fits_is_an_error():
    group = Group(Mixture({"vqa": counted([30])}, {"vqa": 1}), 1, images=1, inputs=8, targets=8)
    with pytest.raises(ValueError, match="An example of vqa has 1 pictures"):
        group_batch(group, WORDS, 0)
    with pytest.raises(ValueError, match="There is no group"):
        batches({}, WORDS)


def test_a_maker_that_never_fits_is_named_before_training():
    """The others would hide it: all its draws would be left out."""
    film = Example(FEW.images, "a", (("dog", True),), "vqa")
    makers = {"short": counted([1]), "long": counted([30]), "film": lambda rng: film}
    for name, weights in {"long": {"short": 9, "long": 1}, "film": {"short": 1, "film": 1}}.items():
        group = Group(Mixture(makers, weights), 4, images=1, inputs=8, targets=8)
        with pytest.raises(
            ValueError, match=f"No example of {name} fits into the group 'one': all of 256 have more than 1 pictures, 8"
        ):
            batches({"one": group}, WORDS)
    fine = Group(Mixture(makers, {"short": 1, "long": 0}), 4, images=1, inputs=8, targets=8)
    assert next(batches({"one": fine}, WORDS))["one"]["images"].shape == (4, 1, 64, 64, 3)


def test_shares_that_fit_are_those_of_the_draws():
    """One in four has 30 words: of 400 examples 100 +- 9 (standard deviation of a binomial)."""
    makers = {"some": counted([1, 1, 1, 30]), "all": counted([1]), "none": counted([30])}
    group = Group(Mixture(makers, {"some": 1, "all": 2, "none": 1}, seed=3), 4, images=1, inputs=8, targets=8)
    shares = collate.shares_that_fit(group, WORDS, 400)
    assert list(shares) == ["some", "all", "none"] and (shares["all"], shares["none"]) == (1, 0)
    assert abs(shares["some"] - 0.75) < 4 * 9 / 400


def test_packed_rows_are_full():
    """The next text of the draw would not fit: counted here from the tokens alone."""
    group = Group(sample(("span_corruption",)), 4, images=0, inputs=128, targets=64)
    batch = group_batch(group, WORDS, 5)
    for row in range(4):
        count = batch["inputs_segments"][row].max()
        follows = group.mixture.draw((5 * 4 + row) * collate.TRIES + int(count))
        used = [(batch[name][row] > 0).sum() for name in ("inputs", "targets")]
        more = len(prompt_ids(follows, WORDS)[0]), len(target_ids(follows, WORDS)[0])
        assert used[0] + more[0] > 128 or used[1] + more[1] > 64


def test_the_loss_of_groups_is_their_weighted_mean():
    model = palix.PaLIX(configs.palix("XS", tower={"image_size": (64, 64)}, text={"vocab_size": 4096}))
    params, loss = palix.init_params(model), palix.answer_loss(model)
    groups = {"one": arrays([ASKED], WORDS, **SHAPE), "text": packed([texts(2)], WORDS, inputs=64, targets=40)}
    shares, key = {"one": 3.0, "text": 1.0}, jax.random.key(0)
    got, metrics = palix.loss_of_groups(loss, shares)(params, groups, key)
    parts = {name: loss(params, groups[name], key) for name in groups}  # no dropout: the key does not matter
    np.testing.assert_allclose(got, 0.75 * parts["one"][0] + 0.25 * parts["text"][0], rtol=1e-6)
    for name in groups:
        np.testing.assert_allclose(metrics[f"{name}/loss"], parts[name][0], rtol=1e-6)
        np.testing.assert_allclose(metrics[f"{name}/accuracy"], parts[name][1]["accuracy"], rtol=1e-6)
    with pytest.raises(ValueError, match=r"groups \['one'\], the loss has shares for \['one', 'text'\]"):
        palix.loss_of_groups(loss, shares)(params, {"one": groups["one"]}, key)


def test_pictures_are_not_packed():
    model = palix.PaLIX(configs.palix("XS"))
    params, tokens = palix.init_params(model), np.ones((1, 4), np.int32)
    images = np.zeros((1, 1, 32, 32, 3), np.float32)
    with pytest.raises(ValueError, match="Examples with pictures are not packed"):
        model.apply({"params": params}, images, tokens, tokens, segments=tokens)


def test_every_maker_fits_somewhere():
    """Of 20 examples of each objective; the lengths that stages use."""
    makers = mixture.kit_makers("train")
    for name, make in makers.items():
        examples = [make(keyed_rng(9, i)) for i in range(20)]
        parts = max(len(ids) for example in examples for ids in prompt_ids(example, WORDS))
        longest = max(len(target_ids(example, WORDS)[0]) for example in examples)
        assert parts <= 96 and longest <= 128, name
