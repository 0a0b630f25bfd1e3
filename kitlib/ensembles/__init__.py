"""Ensembles of several training runs, several dropout masks or several inputs, and their evaluation.

`methods` has deep ensembles, MC dropout and MIMO, which all predict logits float32[M, B, V]; `uncertainty` evaluates
them. BatchEnsemble and E3 have all their members in one model: see `layers.batch_ensemble` and `moe.e3`.
"""

from kitlib.ensembles.methods import (
    Mimo,
    mc_dropout,
    mimo_batch,
    mimo_loss,
    predict_members,
    stack,
    train_deep_ensemble,
    unstack,
)
