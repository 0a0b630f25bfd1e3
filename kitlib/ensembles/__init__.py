"""Ensembles of several training runs, several dropout masks or several inputs, and their evaluation.

`deep_ensemble`, `monte_carlo_dropout` and `mimo` all predict logits float32[M, B, V]; `uncertainty` evaluates them.
BatchEnsemble and E3 have all their members in one model: see `layers.batch_ensemble` and `moe.e3`.
"""

from kitlib.ensembles.deep_ensemble import predict_members, stack, train_deep_ensemble, unstack
from kitlib.ensembles.mimo import Mimo, mimo_batch, mimo_loss
from kitlib.ensembles.monte_carlo_dropout import mc_dropout

__all__ = [
    "Mimo",
    "mc_dropout",
    "mimo_batch",
    "mimo_loss",
    "predict_members",
    "stack",
    "train_deep_ensemble",
    "unstack",
]
