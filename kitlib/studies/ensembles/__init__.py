"""The studies of ensembles and E3 (2110.03360): which arms answer which question.

Read `measures`, then the studies: `from_scratch` (every kind of ensemble), `naming` (fine-tuned from a V-MoE).
"""
