import re, sys
from pathlib import Path
import nbformat
from kitlib.data import files
W=Path("wip_tree")
p=Path("kitlib/studies/questions_palix.py"); s=p.read_text(); w=(W/p).read_text()
block=re.search(r'    \*_asked\(\s*"sizes".*?(?=    \*_asked\()',w,flags=re.S).group(0)
anchor='    *_asked(\n        "counting", "14.11",'; assert s.count(anchor)==1
s=s.replace(anchor,block+anchor)
prev=re.search(r"PREFIXES = .*?\n",s).group(0); s=s.replace(prev,prev+'MIDDLE = "tower 64, text 64"\n'); p.write_text(s)
p=Path("kitlib/studies/registry_palix.py"); s=p.read_text()
again='        why_not="the study (`kit claims palix sizes`) has not been run yet",\n'; assert s.count(again)==1
p.write_text(s.replace(again,'        "13.10",\n        ("sizes",),\n'))
for n in ("sizes","sizes_tuning","sizes_towers_tuning"):
    t=Path(f"data/results/palix_{n}.csv"); t.write_text(Path(f"data/results/palix_{n}.csv").read_text()); files.note_checksum(t.resolve())
name="notebooks/13_pali_x.ipynb"
a=nbformat.read(name,4); b=nbformat.read(W/name,4)
A={c.id:c for c in a.cells}; B={c.id:c for c in b.cells}
i=[c.id for c in a.cells].index("study-positions-02")+1
a.cells[i:i]=[B[f"study-sizes-0{k}"] for k in range(3)]
def r(c,o,n): assert A[c].source.count(o)==1,(c,o); A[c].source=A[c].source.replace(o,n)
r("nb13-01","PaLI's three models ([2209.06794](https://arxiv.org/abs/2209.06794)).","PaLI's three models ([2209.06794](https://arxiv.org/abs/2209.06794)). Both halves should grow ([2209.06794](https://arxiv.org/abs/2209.06794)).")
nbformat.write(a,name)
