"""`kit train`: any model of the kit on any data set of the kit, from the command line, on one device or many.

Read `recipes` (what a run is, and those that have a name), `data_sets` (data by name), `train` (the run itself), then
`command` (the command line).
"""
