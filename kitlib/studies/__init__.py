"""Studies: the papers' claims, measured by training small models over seeds. `kit claims` runs them.

Read `study` (a question, its arms and how one is trained) and `runner` (every arm once per seed, into a table of
data/results); `tables` reads these, `statistics` says how two arms are compared, `claims` what the papers claim, what
is asked of it (data/claims) and what became of it. The studies themselves are in a package per paper: `upcycling`,
`ensembles`, `palix`. `pods` compiles the published sizes for TPU slices.
"""
