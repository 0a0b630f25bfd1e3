"""Tools around the library: checks and plots for notebooks, the execution of notebooks, and the `kit` command.

Notebooks import `checks`, `plots` and `html_table`. `cli` is the command; `notebooks` executes notebooks and compares
them with what is stored (`notebook_files` finds, copies, stores and reads them), `site` makes the web site. `doctor`
checks an installation, and completes one of Colab's. Nothing in the library imports from here.
"""
