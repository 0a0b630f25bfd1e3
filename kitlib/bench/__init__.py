"""Benchmarks: measured speed, each figure next to the baseline that it is compared with. `kit bench` runs them.

Read `timing` (calls timed one after the other), then the tables: `models` (ViT, T5, PaLI-X) and `moe` (routing, the
members of an E3). `runner` is the command and has the time of imports.
"""
