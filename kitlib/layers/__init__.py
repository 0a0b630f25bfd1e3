"""The layers of a Vision Transformer, of T5 and of BatchEnsemble: pure functions, called by thin Linen modules.

Read `vit_layers`, then `t5_layers`; `visual_positions` says where a visual token comes from; `members` has the layout
of ensembles in one model, `batch_ensemble` the rank-one dense layer; `initialize` draws parameters.
"""
