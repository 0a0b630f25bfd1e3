"""Models: from images or text to logits; and decoding, checkpoints and FLOPs.

Read `vit`, `t5` (with `t5`), then `palix`, which is made of both. `vit` trains the upper blocks of a ViT
alone. `stacking` makes loops of the equal blocks of deep models; `decode` generates text; `flops` counts parameters
and FLOPs in closed form; `checkpoint` (with `checkpoint_files` and `checkpoint`) reads public weights, `dinov2`
a real vision tower, `checkpoint` the kit's own; `hugging_face` reads ViTs and T5s of transformers, and writes ViTs.
"""
