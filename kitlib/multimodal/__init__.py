"""PaLI-X's tasks: prompts and objectives, mixtures, batches, stages of training, evaluation.

Read `prompts` (the words, the type `Example`), `objectives` (one function per objective), `kit_data` and
`example_builders` (examples from the kit's own data), `held_out` (names that no picture teaches), `tasks` (the one type
of task, and the kit's), `kit_scores` (the tests of the released model). Then `batching` and `mixtures` (examples become
training batches, with pictures or with what a frozen tower saw), `frozen_tower` (it sees every image once),
`generation` and `scores` (generated texts and their metrics), `probes` (what the tower's output tells), `showcase` (all
that a model says about one picture). `stages` trains the released model, after `ocr_pretraining`. `boxes` and
`visual_tokens` write boxes and patches as text; `public_sets` reads COCO, VQAv2, TextVQA, DocVQA and LVIS.
"""
