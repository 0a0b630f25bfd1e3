"""One program on many devices: meshes, sharding rules, and what a compiler says about a step on real slices.

Read `mesh` (four axes, and `constrain` for activations), `rules` (which leaf is divided along which axis), then
`processes` (several hosts). `topologies` lists TPU slices that exist and says how long a step takes on one at least;
`ahead_of_time` compiles for a slice without having one, and reads collectives from the compiled program.
"""
