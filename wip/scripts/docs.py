"""docs.py: the table of docs/palix.md and the rows of README from palix_s.csv."""
import re, pandas as pd
from pathlib import Path
card = pd.read_csv("data/checkpoints/palix_s.csv", comment="#").set_index("task")
rows = [f"| {n} | {r.unit} | {r.score:.2f} [{r.low:.2f}, {r.high:.2f}] | {r.blind:.2f} | {r.shuffled:.2f} |" for n, r in card.iterrows()]
p = Path("docs/palix.md"); s = p.read_text()
head, _, _ = s.partition("|---|---|---|---|---|\n")
p.write_text(head + "|---|---|---|---|---|\n" + "\n".join(rows) + "\n")
p = Path("README.md"); s = p.read_text()
for words, name in (("name the emoji, English", "captions, en"), ("answer a question about shapes (easy-VQA)", "easy-VQA, test set"), ("how many are there?", "counting"), ("learn a new word from 4 pictures, naming them first", "4-shot, new words, by way of English"), ("read a word it has not seen", "reading a word, unseen words")):
    r = card.loc[name]
    s, k = re.subn(rf"^\| {re.escape(words)} \|.*$", f"| {words} | {r.score:.2f} [{r.low:.2f}, {r.high:.2f}] | {r.blind:.2f} |", s, flags=re.M)
    assert k == 1, words
p.write_text(s)
