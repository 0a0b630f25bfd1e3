"""A ViT by PyTorch's conventions, in plain numpy and slowly: a Linear is x W^T + b, a Conv2d takes channels first."""

import math

import numpy as np


def encoded(arrays, images, heads: int, depth: int, exact: bool = True):
    """images [B, height, width, C] -> the tokens after the last norm [B, N, D]; arrays by the names of transformers.

    exact: GELU by the error function, not by tanh. LayerScale multiplies the branches of layers that have it.
    """

    def linear(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays.get(f"{name}.bias", 0.0)

    def norm(x, name):
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return normal * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def gelu(x):
        if exact:
            return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    kernel, bias = (arrays[f"vit.embeddings.patch_embeddings.projection.{part}"] for part in ("weight", "bias"))
    p, tokens = kernel.shape[-1], [arrays["vit.embeddings.cls_token"][:, 0].repeat(len(images), 0)]
    for r in range(0, images.shape[1], p):
        for c in range(0, images.shape[2], p):
            tokens.append(np.einsum("dcij,bijc->bd", kernel, images[:, r : r + p, c : c + p]) + bias)
    x = np.stack(tokens, axis=1) + arrays["vit.embeddings.position_embeddings"]
    d = x.shape[-1] // heads
    for layer in (f"vit.encoder.layer.{i}" for i in range(depth)):
        y = norm(x, f"{layer}.layernorm_before")
        q, k, v = (linear(y, f"{layer}.attention.attention.{part}") for part in ("query", "key", "value"))
        context = np.zeros_like(x)
        for head in (slice(h * d, (h + 1) * d) for h in range(heads)):
            weights = np.exp(q[..., head] @ k[..., head].transpose(0, 2, 1) / math.sqrt(d))
            context[..., head] = weights / weights.sum(-1, keepdims=True) @ v[..., head]
        scale = [arrays.get(f"{layer}.layer_scale{i}.lambda1", 1.0) for i in (1, 2)]
        x = x + scale[0] * linear(context, f"{layer}.attention.output.dense")
        y = gelu(linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        x = x + scale[1] * linear(y, f"{layer}.output.dense")
    return norm(x, "vit.layernorm")
