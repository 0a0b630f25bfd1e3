"""The studies of Sparse Upcycling (2212.05055): which arms answer which question.

Read `setups` (the tasks), `recipes` (what is tried and chosen for each kind of arm), `runs` (how an arm is trained) and
`tuning` (the trials), then the studies: `ablations` (the main figures, and one choice at a time), `recall_memory`,
`fine_tuning`, `real_parent` and `real_probes`. `gates` says on which tasks upcycling can be judged.
"""
