"""The layers of a Vision Transformer, of T5 and of BatchEnsemble: pure functions, called by thin Linen modules.

Read `vit_layers`, then `t5_layers`; `palix` says where a visual token comes from; `batch_ensemble` has the layout
of ensembles in one model, `batch_ensemble` the rank-one dense layer; `initialize` draws parameters.
"""
