"""Training: one jitted step and one loop for every model, the optimisers, and the image classifier's recipe.

Read `loop` (with `checkpoints`), on one device or many, and `optim`, with the recipe of most runs; then
`classification`. `metric_writers` writes metrics to files and services; `process` has the memory and compilation
settings of a process.
"""
