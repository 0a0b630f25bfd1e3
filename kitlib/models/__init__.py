"""Models: from images or text to logits; and decoding, checkpoints and FLOPs.

Read `vit`, `t5`, then `palix`, which is made of both. `decode` generates text; `flops` counts parameters and FLOPs in
closed form; `checkpoint` (with `checkpoint_names`) reads public weights, `weights` the kit's own.
"""
