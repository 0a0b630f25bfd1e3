"""Training: one jitted step and one loop for every model, the optimisers, and the image classifier's recipe.

Read `loop`, `optim`, then `classification`; `recipe` is the AdamW-cosine step that most runs share; `process` has the
memory and compilation settings of a process.
"""
