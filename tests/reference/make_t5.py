"""Makes t5_*.safetensors and t5.npz beside it: what `transformers` computes with three tiny random T5s.

    python tests/reference/make_t5.py

Needs torch and transformers (made with 2.13 and 5.24), which the kit does not depend on: use an environment of its own.
The files are the reference of tests/models/test_t5.py, test_decode.py and test_checkpoint_names.py; nothing but this
script knows how they came about, and running it again gives the same numbers up to rounding.
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import T5Config, T5ForConditionalGeneration

FOLDER = pathlib.Path(__file__).parent
torch.set_num_threads(1)
SIZES = {"vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_heads": 2}
SIZES |= {"num_layers": 3, "num_decoder_layers": 2}
CASES = {  # feed_forward_proj, tied, seed
    "gelu": ("gated-gelu", False, 19),
    "silu": ("gated-silu", False, 19),
    "tied": ("gated-gelu", True, 9),
}
MAX_LENGTH = 12
BEAMS = ((1, 1.0), (3, 1.0), (4, 0.0), (4, 2.0), (2, -1.0))  # num_beams, length_penalty


def model_of(feed_forward: str, tied: bool, seed: int) -> T5ForConditionalGeneration:
    config = T5Config(
        **SIZES, feed_forward_proj=feed_forward, tie_word_embeddings=tied, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_norm.weight"):
                parameter.copy_(1.0 + 0.2 * torch.randn_like(parameter))
            elif "relative_attention_bias" in name:
                parameter.copy_(1.5 * torch.randn_like(parameter))
            elif name == "shared.weight":
                parameter.copy_(torch.randn_like(parameter))
            else:  # wider than the initial values, so that texts vary
                parameter.copy_(1.5 * torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    if not tied:  # this release ties the two whatever the configuration says
        model.lm_head.weight = torch.nn.Parameter(0.8 * torch.randn(SIZES["vocab_size"], SIZES["d_model"]))
    return model


def main() -> None:
    arrays = {}
    for case, (feed_forward, tied, seed) in CASES.items():
        model = model_of(feed_forward, tied, seed)
        aliases = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *(["lm_head.weight"] if tied else []))
        weights = {name: w.numpy().copy() for name, w in model.state_dict().items() if name not in aliases}
        save_file(weights, FOLDER / f"t5_{case}.safetensors")
        model.double()  # so that only the kit rounds
        rng = np.random.default_rng(seed)
        inputs, targets = rng.integers(2, 40, (3, 9)), rng.integers(2, 40, (3, 7))
        for i, (n, m) in enumerate(((9, 4), (5, 7), (2, 6))):
            inputs[i, n:], targets[i, m:] = 0, 0
            targets[i, m - 1] = 1
        ids, mask = torch.tensor(inputs), torch.tensor(inputs != 0)
        labels = torch.tensor(np.where(targets == 0, -100, targets))
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=mask, labels=labels)
        arrays |= {f"{case}/inputs": inputs.astype(np.int32), f"{case}/targets": targets.astype(np.int32)}
        arrays |= {f"{case}/encoded": out.encoder_last_hidden_state, f"{case}/logits": out.logits}
        arrays[f"{case}/loss"] = out.loss

        def generate(ids=ids, mask=mask, model=model, **options):
            result = model.generate(
                ids, attention_mask=mask, max_new_tokens=MAX_LENGTH, return_dict_in_generate=True, output_scores=True,
                do_sample=False, **options,
            )  # fmt: skip
            tokens = np.zeros((*result.sequences.shape[:-1], MAX_LENGTH), np.int32)
            tokens[:, : result.sequences.shape[1] - 1] = result.sequences[:, 1:]
            ended = np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0
            tokens[ended] = 0  # what is behind the end is 0 here; beam search of this release fills up with eos
            return tokens, result

        arrays[f"{case}/greedy"], _ = generate(num_beams=1)
        for beams, penalty in BEAMS:
            if beams > 1:
                name = f"{case}/beams_{beams}_{penalty:g}"
                tokens, result = generate(
                    num_beams=beams, length_penalty=penalty, early_stopping=False, num_return_sequences=beams
                )
                arrays[name] = tokens.reshape(3, beams, MAX_LENGTH)
                arrays[f"{name}/scores"] = result.sequences_scores.reshape(3, beams)
        for name, array in arrays.items():
            if name.startswith(case) and array.ndim and array.shape[-1] == MAX_LENGTH:
                print(name, *array.reshape(-1, MAX_LENGTH).tolist(), sep="\n  ")
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    single = {name: a.astype(np.int32 if a.dtype.kind == "i" else np.float32) for name, a in arrays.items()}
    np.savez_compressed(FOLDER / "t5.npz", **single)


if __name__ == "__main__":
    main()
