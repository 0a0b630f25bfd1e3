"""hold2.py: leaves out "mixture" and "multitask" until they are run again. Run in the checkout, after hold.py."""
import re, sys
from pathlib import Path
sys.path.insert(0, "wip/scripts/nb")
from lib import Nb
p = Path("kitlib/studies/questions_palix.py"); s = p.read_text()
for table in ("mixture", "multitask"):
    s, k = re.subn(rf'    \*_asked\(\s*"{table}".*?(?=    \*_asked\()', "", s, flags=re.S); assert k == 1
s = re.sub(r"MULTITASK = .*?\n", "", s); p.write_text(s)
p = Path("kitlib/studies/registry_palix.py"); s = p.read_text()
again = 'why_not="the study (`kit claims palix {}`) is being run again with learned positions"'
s, k = re.subn(r'"", "14.11", \("mixture",\)\)', '"", ' + again.format("mixture") + ")", s); assert k == 1
s, k = re.subn(r'        "14.11",\n        \("multitask",\),\n', "        " + again.format("multitask") + ",\n", s); assert k == 1
p.write_text(s)
for t in ("mixture", "multitask"): Path(f"data/results/palix_{t}.csv").unlink()
p = Path("data/results/checksums.txt"); p.write_text("".join(x for x in p.read_text().splitlines(True) if "palix_mixture" not in x and "palix_multitask" not in x))
n = Nb("14_the_mixture")
def cut(cell, first, last, new=""):
    c = n.nb.cells[n.at(cell)]; a = c.source.index(first); b = c.source.index(last, a) + len(last)
    c.source = c.source[:a] + new + c.source[b:]
cut("study-00", "**What should be learned first?**", "1,000 steps of six mixed. ")
n.replace("study-01", 'rows = [judged("mixture", "counting"), judged("counting", "counting", "counted boxes")]', 'rows = [judged("counting", "counting", "counted boxes")]')
n.set("study-02", 'fig, ax = plt.subplots(figsize=(5.5, 2.4))\nstudy_panel(ax, "counting", "accuracy: counting", "200 examples", "counting")\nplt.show()')
cut("study-03", "Does any training before", "12 to 23 seeds. Nor does counting emerge.", "Counting does not emerge here.")
n.replace("study-03", "at least prepare for the 200 questions is undecided, too", "at least prepare for learning it from 200 questions is undecided")
cut("study-06", "\n\n**One model or four?**", "single-task ones on average.", "\n\n" + "@@")
c8 = n.nb.cells[n.at("study-08")].source; prompt = c8[c8.index("**What is the prompt worth?**"):]
n.replace("study-06", "@@", prompt)
n.drop("study-07"); n.drop("study-08")
n.replace("study-10", "number of 23 accuracy", "number of 15 accuracy")
n.replace("nb14-01", "a mixture beats single objectives, stage 0 and more pixels help reading, one model does as well as four (", "stage 0 and more pixels help reading, counting emerges (")
n.replace("nb14-40", " Whether four tasks fit into one model without loss, and whether any earlier objective helps it to count, five seeds do not decide.", "")
n.save()
n = Nb("14_the_mixture")
n.replace("study-10", "decided\", sum(~rows[\"verdict\"].str.match(\"undecided|floor\")), want=10, tol=0)", "decided\", sum(~rows[\"verdict\"].str.match(\"undecided|floor\")), want=9, tol=0)")
n.replace("study-11", "But 12 of 23 questions are undecided", "But 6 of 15 questions are undecided")
n.replace("study-00", "boxes that it writes.", "boxes that it writes. (Two more studies, of what to learn first and of one model for four tasks, are being run again.)")
n.save()
