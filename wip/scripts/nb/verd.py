import sys
from kitlib.studies import tables, questions
for n in sys.argv[1:]:
    t=tables.read_table("palix",n)
    cols=[c for c in t.columns if c.split(":")[0] in("accuracy","patches","AP","loss")]
    print(t.groupby("arm",sort=False)[cols].mean().T.to_string(float_format="{:.3f}".format))
    r=questions.answers("palix",n)
    print(r[["claim","published","gain","low","high","verdict"]].to_string(index=False,float_format="{:.3f}".format))
