"""kitlib: Sparse Upcycling, E3 and PaLI-X on one code base.

Packages, from the ground up; each imports only from packages above it in this list:

    configs     every model by name: frozen dataclasses and the published sizes
    metrics     what predictions, texts and boxes are judged by
    data        files, image sets, tokenizer, batches
    layers      the parts of a ViT and of a T5
    moe         routers, dispatch, the Mixture-of-Experts layer, E3
    synthetic   images, videos and texts whose truth is known
    models      ViT, T5, PaLI-X, decoding, checkpoints, FLOPs
    training    the loop, optimisers, the image classifier's recipe
    upcycling, ensembles, multimodal     one per paper
    studies, bench     the papers' claims and the speed, measured
    tools       notebooks, checks, plots, the `kit` command

One alphabet names every axis, in every shape comment, docstring and einsum of the kit:

    B batch    N tokens   D width     F hidden   H heads
    G groups   S group size   E experts   C capacity   K selected experts
    M members  L layers   V classes or vocabulary

Capital letters are axes; `float32[B, N, D]` is an array of that type and shape. `float[...]` is float32 or bfloat16.

`import kitlib` loads nothing else: import what you need, as in `from kitlib.models import vit`.
"""

__version__ = "0.1.0"
