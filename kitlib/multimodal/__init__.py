"""PaLI-X's tasks: prompts and objectives, mixtures, batches, stages of training, evaluation.

Read `prompts` (the words, the type `Example`), `objectives` (one function per objective), `kit_data` and
`example_builders` (examples from the kit's own data), `example_builders` (the answer stands in the prompt), `held_out`
(names that no picture teaches), `tasks` (the one type of task), `tasks` and `kit_scores` (the tests of the released
model). Then `mixtures`, `batching` and `mixtures` (examples become arrays), `frozen_tower` (it sees every image
once), `mixtures` (training on what it saw), `generation` and `scores` (generated texts and their metrics), `probes`
(what the tower's output tells), `showcase` (all that a model says about one picture). `stages` trains the released
model, after `ocr_pretraining`; `stages` mixes the parameters of two stages. `boxes` and `visual_tokens` write
boxes and patches as text; `public_sets` (with `public_sets`) reads COCO, VQAv2, TextVQA, DocVQA and LVIS.
"""
