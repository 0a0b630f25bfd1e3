import sys; sys.path.insert(0, "wip/scripts/nb")
from nbsub import NB
n=NB('notebooks/14_the_mixture.ipynb')
n.sub('nb14-29',("they get no right name, count or box, and no better answer to a direct question about their motion or their made-up word. The other two are receipts (0.03 of 1) and made-up words that are asked for at once; by way of English it is 0.84 (notebook [15](15_shots_and_frames.ipynb) looks closer).","they get no right name, count or box, and no better answer to a direct question about their motion. The other two are made-up words that are asked for at once, of known objects and of others; by way of English the known ones have 0.84 (notebook [15](15_shots_and_frames.ipynb) looks closer). Receipts are barely above (0.03 of 1)."))
n.sub('nb14-40',("for objects that were never shown, for receipts, and for made-up words","for objects that were never shown, and for made-up words"))
n.save()
