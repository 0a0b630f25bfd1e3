"""A small model learns in a short training run: the modes of UL2, and eight memorised images."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kitlib import configs
from kitlib.data import keyed_rng, tokenizer
from kitlib.data.denoise import Denoiser, ul2_example
from kitlib.metrics.detection import Truth, coco
from kitlib.models import decode, palix, t5
from kitlib.multimodal import batching, objectives, tasks
from kitlib.synthetic import scenes
from kitlib.training import loop, optim

pytestmark = pytest.mark.slow

LENGTH, STEPS, SENTINEL = 16, 300, 63
WORDS = SimpleNamespace(
    eos_id=1, sentinel_ids=np.arange(SENTINEL, 55, -1, dtype=np.int32), encode=lambda mode: [{"R": 3, "S": 5}[mode]]
)
# In both modes, the targets are the last 4 of 16 tokens, a quarter in one span.
DENOISERS = {"R": Denoiser("R", 0.25, 3), "S": Denoiser("S", 0.25, None)}


def pair(mode: str, rng) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets) of UL2: 16 consecutive numbers out of 24, where the first follows the last. S has a sentinel at
    the end of its input, as in UL2's model card: the modes must differ in nothing but their token."""
    text = 10 + (rng.integers(24) + np.arange(LENGTH)) % 24
    inputs, targets = ul2_example(text, DENOISERS[mode], rng, WORDS)
    return (np.insert(inputs, -1, SENTINEL) if mode == "S" else inputs), targets


def rows(pairs) -> dict[str, np.ndarray]:
    inputs, targets = zip(*pairs, strict=True)
    return {"inputs": np.stack(inputs), "targets": np.stack([np.pad(ids, (0, 6 - len(ids))) for ids in targets])}


def test_the_mode_token_selects_the_form_of_the_answer():
    """Claim 9: for inputs that differ only in the mode token, R answers with a sentinel and the span, and S continues
    the text."""
    shape = {"num_encoder_layers": 1, "num_decoder_layers": 1, "width": 32, "mlp_dim": 64, "num_heads": 2}
    model = t5.T5(configs.t5("tiny", vocab_size=64, **shape))
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(1e-2, STEPS, warmup=20), clip_norm=1.0)
    step = loop.make_step(t5.seq2seq_loss(model), tx)
    rng, state = np.random.default_rng(0), loop.init_state(t5.init_params(model), tx)
    for _ in range(STEPS):
        state, _ = step(state, rows([pair(str(mode), rng) for mode in rng.choice(["R", "S"], 32)]))
    tested = {mode: rows([pair(mode, keyed_rng(9, i)) for i in range(200)]) for mode in DENOISERS}
    np.testing.assert_array_equal(tested["R"]["inputs"][:, 1:], tested["S"]["inputs"][:, 1:])
    for mode, batch in tested.items():
        tokens = np.asarray(decode.greedy(model, state.params, jnp.asarray(batch["inputs"]), max_length=6)[0])
        assert np.mean((tokens >= SENTINEL).any(axis=1) == (mode == "R")) > 0.95
        assert np.mean((tokens == batch["targets"]).all(axis=1)) > 0.8  # and it is the right text, too


def test_eight_images_are_memorised():
    """Claim 17. AP is 1.0 at all thresholds up to IoU .95, against the true boxes: their sides are 20 / 64 or more, so
    rounding changes them by at most 2 * 64 / 20 / 999 = 0.6 %. All prompts are equal: only the image determines the
    boxes."""
    words, (cutouts, names) = tokenizer.multilingual(), scenes.objects("train")
    made = [scenes.compose(cutouts, [i % 2, 1], (20, 28), keyed_rng(5, i)) for i in range(8)]
    prompted = names[:2]
    examples = [
        objectives.detection(scene.image, scene.boxes, [names[k] for k in scene.indices], prompted, keyed_rng(6, i))
        for i, scene in enumerate(made)
    ]
    assert len({example.prompt for example in examples}) == 1
    batch = batching.to_arrays(examples, words, num_images=1, prompt_length=16, target_length=24)
    text = {"vocab_size": words.vocab_size, "num_encoder_layers": 1, "num_decoder_layers": 1}
    model = palix.PaLIX(configs.palix("XS", tower={"image_size": (64, 64), "depth": 1}, text=text))
    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(3e-3, 200, warmup=20), clip_norm=1.0)
    step, state = loop.make_step(palix.answer_loss(model), tx), loop.init_state(palix.init_params(model), tx)
    for _ in range(200):
        state, metrics = step(state, batch)

    def ap(images) -> float:
        inputs = {"images": images, "prompt_tokens": batch["prompt_tokens"]}
        tokens, _ = decode.greedy(model, state.params, inputs, max_length=24)
        number = {name: i for i, name in enumerate(prompted)}
        found = [tasks.read_detections(words.decode(row), number) for row in np.asarray(tokens)]
        return coco(found, [Truth(scene.boxes, scene.indices) for scene in made], 2).ap

    assert float(metrics["accuracy"]) == pytest.approx(1)
    assert ap(batch["images"]) == 1
    assert ap(np.zeros_like(batch["images"])) < 0.2  # the blind control: the same answer for all eight
