import sys; sys.path.insert(0,".")
from lib import Nb
n=Nb("13_pali_x")
s=n.nb.cells[n.at("nb13-04c")].source
a,b=s.split("\n\n\nfig, axes",1)
n.set("nb13-04c",a); n.after("nb13-04c","nb13-04c2","code","fig, axes"+b)
s=n.nb.cells[n.at("nb13-08")].source
i=s.index("def palix_of_the_kit"); n.set("nb13-08",s[:i].rstrip())
t=n.nb.cells[n.at("nb13-09")].source
n.set("nb13-09",s[i:].rstrip()+"\n"+t)
n.save()
n=Nb("14_the_mixture")
for k in ("nb14-0b","nb14-12","nb14-languages-0"):
    print("--",k); print(n.nb.cells[n.at(k)].source)
