"""The layers of a Vision Transformer, of T5 and of BatchEnsemble: pure functions, called by thin Linen modules.

Read `vit_layers`, then `t5_layers`; `batch_ensemble` has the rank-one dense layer and the layout of ensembles in one
model; `initialize` draws parameters.
"""
