"""Tools around the library: checks and plots for notebooks, the execution of notebooks, and the `kit` command.

Notebooks import `checks` (with `rich` and `closeness`), `plots` and `html_table`. `cli` is the command; `notebooks`
executes notebooks (`notebook_files` finds, copies and stores them), `page` makes the page that shows them, `doctor`
checks an installation. Nothing in the library imports from here.
"""
