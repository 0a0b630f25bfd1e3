"""Training: one jitted step and one loop for every model, the optimisers, and the image classifier's recipe.

Read `loop` (with `checkpoints` and `loop`), `optim`, then `classification`; `optim` is the AdamW-cosine step of
most runs. `loop` makes the state of a run on many devices; `metric_writers` writes metrics to files and services;
`process` has the memory and compilation settings of a process.
"""
