"""Benchmarks: measured speed, each figure next to the baseline that it is compared with. `kit bench` runs them.

`runner` is the command, and times imports. Read `timing` (calls timed one after the other), then one of the tables:
`vit`, `moe`, `e3`, `t5`, `palix`.
"""
