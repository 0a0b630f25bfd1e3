import re, sys
from pathlib import Path
import nbformat
from kitlib.data import files
W=Path("wip_tree")
p=Path("kitlib/studies/questions_palix.py"); s=p.read_text(); w=(W/p).read_text()
i=w.index('    *_asked("masks", "15.5"'); block=w[i:w.index('    *_asked(\n        "frames", "15.6",')]
anchor='    *_asked(\n        "frames", "15.6",'; assert s.count(anchor)==1
s=s.replace(anchor,block+anchor)
for prev,const in (("ONE_OF_67 = 1 / 67  # words to read, equally often\n",re.search(r"COPIED = .*?\n",w).group(0)),(re.search(r"PREFIXES = .*?\n",s).group(0),re.search(r"MASKS = .*?\n",w).group(0))):
    assert s.count(prev)==1; s=s.replace(prev,prev+const)
p.write_text(s)
p=Path("kitlib/studies/registry_palix.py"); s=p.read_text(); r=(W/p).read_text()
again='        why_not="the study (`kit claims palix masks`) is being run again with learned positions",\n    ),\n'; assert s.count(again)==1
second=re.search(r'    Claim\("masks \(2308.06912, table 9\)", "the same with made-up.*?\n',r).group(0)
s=s.replace(again,'        "15.5",\n        ("masks", "names: "),\n    ),\n'+second); p.write_text(s)
Path("data/results/palix_masks.csv").write_text(Path("data/results/palix_masks.csv").read_text())
files.note_checksum(Path("data/results/palix_masks.csv").resolve())
name="notebooks/15_shots_and_frames.ipynb"
a=nbformat.read(name,4); b=nbformat.read(W/name,4)
A={c.id:c for c in a.cells}; B={c.id:c for c in b.cells}
i=[c.id for c in a.cells].index("nb15-masks-2")+1
a.cells[i:i]=[B[f"nb15-masks-{k}"] for k in (3,4,5)]
A["nb15-masks-2"].source=B["nb15-masks-2"].source
nbformat.write(a,name)
