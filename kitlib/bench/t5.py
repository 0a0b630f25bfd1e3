"""`kit bench t5`: generation and the training step of T5 1.1 Small, next to `transformers` on PyTorch if installed.

Both sides have the same sizes (untied, float32), decode greedily with a cache, and are timed alternately, each in a
process of its own: in one process, sharing threads slows the peer down. Compilation is excluded from the times and
printed next to them: PyTorch does not compile, so our first call is slower than theirs. Random weights give denormal
gradients, on which PyTorch is four times slower unless it flushes them to zero, as XLA does: here it is set to.
"""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib import configs
from kitlib.bench import timing
from kitlib.models import decode, t5
from kitlib.training import loop, optim

CONFIG = configs.t5("1.1-small")
BATCHES = (1, 8)
INPUTS, WRITTEN, TARGETS = 128, 64, 64  # tokens
LONGER = 256


def main() -> None:
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
        inputs = random_tokens(b, INPUTS)
        # No token ends a text, so that all texts have the same length.
        write = functools.partial(decode.greedy, model, params, inputs, eos=-1)
        calls = {name: functools.partial(write, max_length=m) for name, m in (("kitlib", WRITTEN), ("long", LONGER))}
        compile_seconds = first_call(calls["kitlib"])
        first_call(calls["long"])
        if peer:
            calls["transformers"] = peer.call(f"write {b}")
        seconds = {name: statistics.median(s) for name, s in timing.interleaved(calls).items()}
        rate = {name: b * WRITTEN / s for name, s in seconds.items()}
        ms = f"{1e3 * seconds['kitlib'] / WRITTEN:.1f}, {1e3 * seconds['long'] / LONGER:.1f}"
        print(f"{b:<8}{rate['kitlib']:10.0f}{versus(rate)}{ms:>25}{compile_seconds:11.1f}")


def step_table(peer) -> None:
    """The time of a training step with AdamW."""
    b = BATCHES[-1]
    batch = random_batch()
    tx = optim.assemble(optax.scale_by_adam(), 1e-4, weight_decay=0.01)
    step = loop.make_step(t5.seq2seq_loss(t5.T5(CONFIG)), tx)
    calls = {"kitlib": timing.stepper(step, loop.init_state(t5.init_params(t5.T5(CONFIG)), tx), batch)}
    compile_seconds = first_call(calls["kitlib"])
    if peer:
        calls["transformers"] = peer.call("step")
    ms = {name: 1e3 * statistics.median(s) for name, s in timing.interleaved(calls).items()}
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


def transformers_calls() -> dict[str, Callable]:
    """The peer's side, made in its own process."""
    peer = Transformers()
    calls = {f"write {b}": peer.writer(np.asarray(random_tokens(b, INPUTS))) for b in BATCHES}
    return calls | {"step": peer.stepper({name: np.asarray(x) for name, x in random_batch().items()})}


def random_batch() -> dict[str, jax.Array]:
    b = BATCHES[-1]
    return {"inputs": random_tokens(b, INPUTS), "targets": random_tokens(b, TARGETS, seed=1)}


def random_tokens(batch: int, length: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(2, CONFIG.vocab_size, (batch, length)), jnp.int32)


class Transformers:
    """The same model in `transformers`. Raises ImportError if transformers or torch is missing."""

    def __init__(self):
        import torch
        import transformers

        torch.set_flush_denormal(True)
        c = CONFIG
        config = transformers.T5Config(
            vocab_size=c.vocab_size, d_model=c.width, d_kv=c.head_dim, d_ff=c.mlp_dim, num_heads=c.num_heads,
            num_layers=c.num_encoder_layers, num_decoder_layers=c.num_decoder_layers, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False, dropout_rate=0.0, decoder_start_token_id=0,
        )  # fmt: skip
        self.torch, self.model = torch, transformers.T5ForConditionalGeneration(config)
        # Some releases tie the two tables whatever the configuration says.
        self.model.lm_head.weight = torch.nn.Parameter(torch.randn(c.vocab_size, c.width) * c.width**-0.5)

    def writer(self, inputs: np.ndarray) -> Callable:
        ids = self.torch.tensor(inputs, dtype=self.torch.long)
        lengths = {"min_new_tokens": WRITTEN, "max_new_tokens": WRITTEN}

        def call():
            self.model.eval()
            mask = self.torch.ones_like(ids)
            return self.model.generate(ids, attention_mask=mask, do_sample=False, num_beams=1, **lengths).numpy()

        return call

    def stepper(self, batch: dict[str, np.ndarray]) -> Callable:
        ids, labels = (self.torch.tensor(batch[name], dtype=self.torch.long) for name in ("inputs", "targets"))
        optimizer = self.torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01)

        def call():
            self.model.train()
            optimizer.zero_grad()
            loss = self.model(input_ids=ids, attention_mask=self.torch.ones_like(ids), labels=labels).loss
            loss.backward()
            optimizer.step()
            return float(loss)

        return call
