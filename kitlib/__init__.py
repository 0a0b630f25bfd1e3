"""kitlib: Sparse Upcycling, E3 and PaLI-X on one code base.

One alphabet names every axis, in every shape comment, docstring and einsum of the kit:

    B batch    N tokens   D width     F hidden   H heads
    G groups   S group size   E experts   C capacity   K selected experts
    M members  L layers   V classes or vocabulary

Capital letters are axes; `float32[B, N, D]` is an array of that type and shape. `float[...]` is float32 or bfloat16.

`import kitlib` loads nothing heavy: a module is imported when it is first named (`kitlib.vit`, `kitlib.data`, ...).
"""

import importlib

__version__ = "0.1.0"

MODULES = (
    "answer_metrics", "average_precision", "batch_ensemble", "bench", "bench_e3", "bench_moe", "bench_palix",
    "bench_t5", "boxes", "builders", "caption_metrics", "checkpoint", "checks", "claims", "claims_answers",
    "claims_ensembles", "claims_makers", "claims_multimodal", "claims_palix", "claims_tasks",
    "claims_upcycling", "cli", "clips", "collate", "configs", "corruptions", "data", "decode", "denoise",
    "dispatch", "doctor", "e3", "ensembles", "episodes", "fewshot", "flops", "gallery", "layers", "metrics",
    "mixture", "moe", "ocr_tuning", "ood", "optim", "page", "palix", "palix_scores", "pictures", "pipeline",
    "plots", "public_sets", "rendered", "routing", "runner", "scenes", "stages", "t5", "t5_layers", "tasks",
    "text", "text_metrics", "tokenizer", "train", "uncertainty", "upcycle", "upcycle_optim", "visual_tokens",
    "vit", "weights",
)  # fmt: skip


def __getattr__(name: str):
    if name in MODULES:
        return importlib.import_module(f"kitlib.{name}")
    raise AttributeError(f"module 'kitlib' has no attribute {name!r}; its modules are {', '.join(MODULES)}")


def __dir__():
    return sorted([*globals(), *MODULES])
