import re, sys
from pathlib import Path
sys.path.insert(0,"wip_tree/wip/scripts/nb")
import nbformat
from kitlib.data import files
W=Path("wip_tree")
p=Path("kitlib/studies/questions_palix.py"); s=p.read_text(); w=(W/p).read_text()
block=re.search(r'    \*_asked\(\s*"multitask".*?(?=    \*_asked\()',w,flags=re.S).group(0)
const=re.search(r"MULTITASK = .*?\n",w).group(0)
after=w[w.index(block)+len(block):].splitlines()[0:2]; anchor="\n".join(after); assert s.count(anchor)==1,(anchor,s.count(anchor))
s=s.replace(anchor,block+anchor)
prev=w[:w.index(const)].splitlines()[-1]+"\n"; print("const after:",prev)
if prev.strip(): assert s.count(prev)==1; s=s.replace(prev,prev+const)
p.write_text(s)
p=Path("kitlib/studies/registry_palix.py"); s=p.read_text()
again='        why_not="the study (`kit claims palix multitask`) is being run again with learned positions",\n'; assert again in s
s=s.replace(again,'        "14.11",\n        ("multitask",),\n'); p.write_text(s)
Path("data/results/palix_multitask.csv").write_text(Path("data/results/palix_multitask.csv").read_text())
files.note_checksum(Path("data/results/palix_multitask.csv").resolve())
a=nbformat.read("notebooks/14_the_mixture.ipynb",4); b=nbformat.read(W/"notebooks/14_the_mixture.ipynb",4)
A={c.id:c for c in a.cells}; B={c.id:c for c in b.cells}
A["study-06"].source=B["study-06"].source
i=[c.id for c in a.cells].index("study-06")+1
a.cells[i:i]=[B["study-07"],B["study-08"]]
def r(c,o,n): assert A[c].source.count(o)==1,(c,o); A[c].source=A[c].source.replace(o,n)
r("nb14-01","counting emerges ([2305","one model does as well as four, counting emerges ([2305")
r("study-00","(Two more studies, of what to learn first and of one model for four tasks, are being run again.)","(One more study, of what to learn first, is being run again.)")
r("study-10","number of 15 accuracy","number of 19 accuracy")
nbformat.write(a,"notebooks/14_the_mixture.ipynb")
