"""The layers of a Vision Transformer, of T5 and of BatchEnsemble: pure functions, called by thin Linen modules.

Read `vit_layers`, then `t5_layers`; `batch_ensemble` has the layout of ensembles in one model and the rank-one dense
layer; `initialize` draws parameters.
"""
