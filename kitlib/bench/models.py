"""`kit bench vit`, `kit bench t5` and `kit bench palix`: the models next to other people's code, and a long training.

The training step of the kit's ViT stands next to one of Flax's own layers, and to the floor (`timing`).

Generation and the training step of T5 1.1 Small stand next to `transformers` on PyTorch, if installed. Both sides have
the same sizes (untied, float32), decode greedily with a cache, and are timed alternately, each in a process of its own:
in one process, sharing threads slows the peer down. Compilation is printed apart: PyTorch does not compile, so our
first call is slower than theirs. Random weights give denormal gradients, on which PyTorch is four times slower unless
it flushes them to zero, as XLA does: here it is set to.

Of `kit train palix_s`, every stage is timed: seconds per step, examples included, times steps. The examples of a stage
with a frozen tower come in shards, whose images the tower has seen: the time of one is divided among its steps.
"""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib import configs
from kitlib.bench import timing
from kitlib.models import decode, flops, palix, t5
from kitlib.models.vit import ViT
from kitlib.multimodal import mixtures, ocr_pretraining, stages
from kitlib.training import loop, optim

# ---------------------------------------------------------------------------------------------- a ViT


class StockViT(nn.Module):
    """A ViT from Flax's own layers, as in public Linen code: convolution, MultiHeadDotProductAttention, MLP."""

    config: configs.ViTConfig

    @nn.compact
    def __call__(self, images, train: bool = False):
        c = self.config
        x = nn.Conv(c.width, (c.patch_size,) * 2, strides=(c.patch_size,) * 2, padding="VALID")(images)
        x = x.reshape(x.shape[0], -1, c.width)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, c.width))
        x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, c.num_tokens, c.width))
        for _ in range(c.depth):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(c.num_heads)(y, y)
            y = nn.LayerNorm()(x)
            x = x + nn.Dense(c.width)(nn.gelu(nn.Dense(c.mlp_dim)(y)))
        return nn.Dense(c.num_classes, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x)[:, 0]), {}


VIT_ROWS = (
    ("tiny/7 28 px, batch 128", configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10), 128),
    ("Ti/16 224 px, batch 8", configs.vit("Ti/16"), 8),
    ("S/16 224 px, batch 8", configs.vit("S/16"), 8),
)


def vit_table() -> None:
    """Training step (forward, backward, AdamW) of our ViT, ours scanned, and a stock Flax ViT; the matmul floor."""
    n = 2048
    square = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)), jnp.float32)
    matmul = jax.jit(jnp.matmul)
    heads = ("ms", "images/s", "GFLOP/s", "of floor", "vs stock", "compile s")
    print(f"\n{'model':26}{'variant':10}" + "".join(f"{head:>11}" for head in heads))
    for name, config, batch_size in VIT_ROWS:
        scanned = ViT(config.replace(scan=True, remat="full"))
        models = {"kitlib": ViT(config), "scanned": scanned, "stock": StockViT(config)}
        batch = timing.random_batch(config, batch_size)
        calls, compile_seconds = {"matmul": functools.partial(matmul, square, square)}, {}
        for variant, model in models.items():
            start = time.perf_counter()
            calls[variant] = timing.stepper(*timing.step_and_state(model, config), repeat(batch))
            jax.block_until_ready(calls[variant]())
            compile_seconds[variant] = time.perf_counter() - start
        seconds = timing.medians(calls)
        floor = 2 * n**3 / seconds["matmul"]  # FLOP/s
        work = 3 * batch_size * sum(flops.vit_forward_flops(config).values())
        print(f"{name:26}{'matmul':10}{seconds['matmul'] * 1e3:11.1f}{'':11}{floor / 1e9:11.0f}")
        for variant in models:
            s = seconds[variant]
            shares = f"{work / s / 1e9:11.0f}{work / s / floor:11.2f}{s / seconds['stock']:11.2f}"
            print(f"{name:26}{variant:10}{s * 1e3:11.1f}{batch_size / s:11.1f}{shares}{compile_seconds[variant]:11.1f}")


# ---------------------------------------------------------------------------------------------- a T5

CONFIG = configs.t5("1.1-small")
BATCHES = (1, 8)
INPUTS, WRITTEN, TARGETS = 128, 64, 64  # tokens
LONGER = 256


def t5_tables() -> None:
    """`kit bench t5`."""
    with contextlib.ExitStack() as stack:
        try:
            peer = stack.enter_context(timing.OtherProcess(transformers_calls))
        except ImportError as error:
            peer = None
            print(f"\ntransformers with torch is not installed with the kit ({error.name}): no column for it.")
        writing_table(peer)
        step_table(peer)


def writing_table(peer) -> None:
    """Tokens per second of greedy decoding, encoder included; ms per token, the same for texts of any length."""
    model, params = t5.T5(CONFIG), t5.init_params(t5.T5(CONFIG))
    print(f"\nwriting {WRITTEN} tokens from {INPUTS}, tokens/s; compilation excluded")
    head = f"ms per token, {WRITTEN} and {LONGER}"
    print(f"{'batch':8}{'kitlib':>10}{'transformers':>14}{'ratio':>8}{head:>25}{'compile s':>11}")
    for b in BATCHES:
        inputs = jnp.asarray(random_tokens(b, INPUTS))
        # No token ends a text, so that all texts have the same length.
        write = functools.partial(decode.greedy, model, params, inputs, eos=-1)
        calls = {name: functools.partial(write, max_length=m) for name, m in (("kitlib", WRITTEN), ("long", LONGER))}
        compile_seconds = first_call(calls["kitlib"])
        first_call(calls["long"])
        if peer:
            calls["transformers"] = peer.call(f"write {b}")
        seconds = timing.medians(calls)
        rate = {name: b * WRITTEN / s for name, s in seconds.items()}
        ms = f"{1e3 * seconds['kitlib'] / WRITTEN:.1f}, {1e3 * seconds['long'] / LONGER:.1f}"
        print(f"{b:<8}{rate['kitlib']:10.0f}{versus(rate)}{ms:>25}{compile_seconds:11.1f}")


def step_table(peer) -> None:
    """The time of a training step with AdamW."""
    b = BATCHES[-1]
    batch = {"inputs": random_tokens(b, INPUTS), "targets": random_tokens(b, TARGETS, seed=1)}
    batch = {name: jnp.asarray(tokens) for name, tokens in batch.items()}
    tx = optim.assemble(optax.scale_by_adam(), 1e-4, weight_decay=0.01)
    step = loop.make_step(t5.seq2seq_loss(t5.T5(CONFIG)), tx)
    calls = {"kitlib": timing.stepper(step, loop.init_state(t5.init_params(t5.T5(CONFIG)), tx), repeat(batch))}
    compile_seconds = first_call(calls["kitlib"])
    if peer:
        calls["transformers"] = peer.call("step")
    ms = {name: 1e3 * s for name, s in timing.medians(calls).items()}
    print(f"\ntraining step, batch {b}, {INPUTS} inputs, {TARGETS} targets, ms; compilation excluded")
    print(f"{'kitlib':>10}{'transformers':>14}{'ratio':>8}{'compile s':>11}")
    print(f"{ms['kitlib']:10.0f}{versus(ms)}{compile_seconds:11.1f}")


def versus(numbers: dict[str, float]) -> str:
    """The peer's number and the ratio of ours to it, or two dashes."""
    if "transformers" not in numbers:
        return f"{'-':>14}{'-':>8}"
    return f"{numbers['transformers']:14.0f}{numbers['kitlib'] / numbers['transformers']:8.2f}"


def first_call(call: Callable) -> float:
    """Seconds of the first call, which compiles."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def random_tokens(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, CONFIG.vocab_size, (batch, length)).astype(np.int32)


def transformers_calls() -> dict[str, Callable]:
    """The peer's side, made in its own process. Raises ImportError if transformers or torch is missing."""
    import torch
    import transformers

    torch.set_flush_denormal(True)
    c = CONFIG
    config = transformers.T5Config(
        vocab_size=c.vocab_size, d_model=c.width, d_kv=c.head_dim, d_ff=c.mlp_dim, num_heads=c.num_heads,
        num_layers=c.num_encoder_layers, num_decoder_layers=c.num_decoder_layers, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    # Some releases tie the two tables whatever the configuration says.
    model.lm_head.weight = torch.nn.Parameter(torch.randn(c.vocab_size, c.width) * c.width**-0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    labels = torch.tensor(random_tokens(BATCHES[-1], TARGETS, seed=1), dtype=torch.long)
    ids = {b: torch.tensor(random_tokens(b, INPUTS), dtype=torch.long) for b in BATCHES}

    def write(b):
        model.eval()
        options = {"min_new_tokens": WRITTEN, "max_new_tokens": WRITTEN, "do_sample": False, "num_beams": 1}
        return model.generate(ids[b], attention_mask=torch.ones_like(ids[b]), **options).numpy()

    def step():
        model.train()
        optimizer.zero_grad()
        inputs = ids[BATCHES[-1]]
        loss = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=labels).loss
        loss.backward()
        optimizer.step()
        return float(loss)

    return {f"write {b}": functools.partial(write, b) for b in BATCHES} | {"step": step}


# ---------------------------------------------------------------------------------------------- PaLI-X, stage by stage


def palix_table() -> None:
    """Per stage: seconds per step, number of steps, and minutes for all steps; compilation excluded."""
    with tempfile.TemporaryDirectory() as folder:
        calls, examples = trainings(Path(folder))
        seconds = timing.medians(calls)
    steps = {"ocr": stages.OCR["steps"]} | {name: stage.steps for name, stage in stages.STAGES.items()}
    print(f"\n{'stage':24}{'s per step':>12}{'steps':>8}{'minutes':>10}")
    seconds = {name: value + examples.get(name, 0.0) for name, value in seconds.items()}
    minutes = {name: seconds[name] * steps[name] / 60 for name in calls}
    for name in calls:
        print(f"{name:24}{seconds[name]:12.2f}{steps[name]:8}{minutes[name]:10.1f}")
    print(f"{'all stages':24}{'':12}{sum(steps.values()):8}{sum(minutes.values()):10.1f}")


def trainings(folder: Path) -> tuple[dict[str, Callable], dict[str, float]]:
    """(calls, examples): per stage, a call that takes the next batch and makes one training step; and for stages whose
    examples come in shards, the seconds of making a shard, per step. folder: for the shards."""
    config = stages.released_config()
    params = palix.init_params(palix.PaLIX(config))
    builder = ocr_pretraining.labelled_builder("train", stages.SHOWN)
    state, step, batches = ocr_pretraining.start_pretraining(config.tower, builder, **stages.OCR)
    calls = {"ocr": timing.stepper(step, state, batches)}
    examples = {}
    for name, stage in stages.STAGES.items():
        state, step, batches = stages.start_stage(stage, params, config, folder / name)
        batches.tower.features(np.zeros((1, *config.tower.image_size, config.tower.channels), np.uint8))  # compiles
        start = time.perf_counter()
        next(batches)  # makes the shard
        examples[name] = (time.perf_counter() - start) / mixtures.STEPS
        calls[name] = timing.stepper(step, state, batches)
    return calls, examples
