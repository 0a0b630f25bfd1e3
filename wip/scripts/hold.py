"""hold.py: leaves out what the studies "positions", "sizes" and "rare" would show, until they are run. Run in the checkout:
python wip/scripts/hold.py; the commit before it has everything."""
import re, sys
from pathlib import Path
sys.path.insert(0, "wip/scripts/nb")
from lib import Nb

p = Path("kitlib/studies/questions_palix.py"); s = p.read_text()
s = s.replace('MIDDLE = "tower 64, text 64"\n', "")
for table in ("positions", "sizes", "rare"):
    s = re.sub(rf'    \*_asked\(\s*"{table}".*?(?=    \*_asked\()', "", s, flags=re.S)
assert not re.search('"(positions|sizes|rare)"', s), s
p.write_text(s)
p = Path("kitlib/studies/registry_palix.py"); s = p.read_text()
s, k = re.subn(r'    Claim\(\n        "model",\n        "where a patch is can be told.*?\n    \),\n', "", s, flags=re.S); assert k == 1
s, k = re.subn(r'    Claim\("detection", "rare kinds are found.*?\n', "", s); assert k == 1
s, k = re.subn(r'(        "PaLI, figure 2: .*?",\n)        "13.10",\n        \("sizes",\),\n', r'\1        why_not="the study (`kit claims palix sizes`) has not been run yet",\n', s); assert k == 1
p.write_text(s)
n = Nb("13_pali_x")
for cell in [c.id for c in n.nb.cells if c.id.startswith(("study-positions", "study-sizes"))]: n.drop(cell)
n.replace("nb13-07", "(section 9 shows what they are worth; they are the kit's, not the paper's)", "(they are the kit's, not the paper's)")
n.replace("nb13-14", "(Section 6 measures how much of it comes out of a trained tower, section 9 what the added vectors change. 16", "(Section 6 measures how much of it comes out of a trained tower. 16")
n.save()
n = Nb("14_the_mixture")
for cell in [c.id for c in n.nb.cells if c.id.startswith("study-rare")]: n.drop(cell)
n.save()
