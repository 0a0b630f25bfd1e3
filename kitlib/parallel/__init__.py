"""One program on many devices: meshes, sharding rules, and what a compiler says about a step on real slices.

Read `mesh` (four axes, and `constrain` for activations), `rules` (which leaf is divided along which axis), then
`processes` (several hosts). `ahead_of_time` lists TPU slices that exist, compiles for one without having it, reads
collectives from the compiled program, and says how long a step takes at least.
"""
