"""PaLI-X's tasks: prompts and objectives, mixtures, batches, stages of training, evaluation.

Read `prompts` (the words, the type `Example`), `boxes` and `visual_tokens` (boxes and patches as text), `objectives`
(one function per objective), `kit_data` (the kit's own data, names that no picture teaches) and `example_builders`
(examples from it). Then `batching` (examples become arrays, with images or a frozen tower's features), `generation`
(what a model writes), `tasks` (the table of tasks, metrics, controls), `mixtures` (training batches) and `kit_scores`
(the tests of the released model). `ocr_pretraining` trains the tower, `stages` the whole model; `probes` says what the
tower's output tells, `showcase` all that a model says about one picture. `public_sets` reads COCO, VQAv2, TextVQA,
DocVQA and LVIS.
"""
