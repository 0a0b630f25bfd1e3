import sys; sys.path.insert(0,".")
from lib import Nb
n=Nb("14_the_mixture")
n.replace("nb14-0b","""from kitlib.tools import checks, html_table, plots
from kitlib.tools.checks import claim, exercise, family, same, summary
from kitlib.tools.html_table import Html

plots.style()
checks.environment()""","")
n.set("nb14-0b", n.nb.cells[n.at("nb14-0b")].source.rstrip())
n.after("nb14-0b","nb14-0c","code","""from kitlib.tools import checks, html_table, plots
from kitlib.tools.checks import claim, exercise, family, same, summary
from kitlib.tools.html_table import Html

plots.style()
checks.environment()""")
s=n.nb.cells[n.at("nb14-12")].source
a,b=s.split("bins = np.array",1)
n.set("nb14-12",a); n.after("nb14-12","nb14-12b","code","bins = np.array"+b)
s=n.nb.cells[n.at("nb14-languages-0")].source
a,b=s.split("def names_written",1)
n.set("nb14-languages-0",a); n.after("nb14-languages-0","nb14-languages-0b","code","def names_written"+b)
n.save()
