"""One program on many devices: meshes, sharding rules, and what a compiler says about a step on real slices.

Read `mesh` (four axes, and `constrain` for activations), `rules` (which leaf is divided along which axis), `mesh`
(a divided table), then `processes` (several hosts). `ahead_of_time` reads collectives from a compiled program, `topologies` lists
TPU slices that exist, `ahead_of_time` compiles for them without having one, `topologies` says how long a step takes at
least.
"""
