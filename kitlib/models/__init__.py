"""Models: from images or text to logits; and decoding, checkpoints and FLOPs.

Read `vit`, `t5`, then `palix`, which is made of both. `stacking` makes loops of the equal blocks of deep models;
`decode` generates text; `flops` counts parameters and FLOPs in closed form. `checkpoint_files` reads named arrays that
somebody else made, `checkpoint` makes parameters of them, and has the kit's own files; `dinov2` reads a real vision
tower, `hugging_face` ViTs and T5s of transformers, and writes ViTs.
"""
