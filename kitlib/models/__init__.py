"""Models: from images or text to logits; and decoding, checkpoints and FLOPs.

Read `vit` (whole, or in two parts of which the upper one is trained), `t5`, then `palix`, which is made of both.
`stacking` makes loops of the equal blocks of deep models; `decode` generates text; `flops` counts parameters and FLOPs
in closed form; `checkpoint` (with `checkpoint_files`) reads public weights and the kit's own, `dinov2` a real vision
tower; `hugging_face` reads ViTs and T5s of transformers, and writes ViTs.
"""
