"""Tools around the library: checks and plots for notebooks, the execution of notebooks, and the `kit` command.

Notebooks import `checks` (with `rich` and `closeness`), `plots` and `html_table`. `cli` is the command; `notebooks`
executes notebooks (`notebook_files` finds, copies and stores them), `executed` reads what they show, `site` (with
`site_pages`) makes the web site. `show` asks the kit's PaLI-X about your own pictures. `doctor` checks an installation,
`complete` adds what one of Colab's lacks. `result_tables` fills the tables of results in README.md and docs.
Nothing in the library imports from here.
"""
