"""Tools around the library: checks and plots for notebooks, the execution of notebooks, and the `kit` command.

Notebooks import `checks` (with `rich`), `plots` and `html_table`. `cli` is the command; `notebooks` executes notebooks,
`notebook_files` finds, copies and stores them and reads what they show, `site` makes the web site, `result_tables` the
tables of results in README.md and docs. `show` asks the kit's PaLI-X about your own pictures. `doctor` checks an
installation, `complete` adds what one of Colab's lacks. Nothing in the library imports from here.
"""
