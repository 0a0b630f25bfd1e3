"""Studies: the papers' claims, measured by training small models over seeds. `kit claims` runs them.

Read `study` and `runner`, then one per paper: `upcycling` (with `upcycling_setups`, `upcycling_tasks`,
`upcycling_recipes`, `upcycling_runs`, `upcycling_tuning`, `upcycling_ablations`; `text_downstream` for fine-tuning;
`recall_memory` for what experts remember; `real_probes` and `real_parent` for a real ViT), `ensembles` (with
`ensemble_measures`; `naming`, `naming_sizes` and `naming_pictures` for a pre-trained V-MoE), `palix` (with
`palix_runs`, `palix_tasks`; `palix_sizes` for tower and text model at equal compute, `palix_rare` for rare kinds).
`gates` says on which tasks upcycling can be judged. `tables` reads the stored results, `statistics` says how two arms
are compared, `claims` what the papers claim, what is asked of it (data/claims) and what became of it. `pods` compiles
the published sizes for TPU slices (`pod_rows` lists them, `pod_formulas` says what to expect).
"""
