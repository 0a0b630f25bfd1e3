"""claims of an executed notebook: text of HTML outputs"""
import sys,re,html,nbformat
nb=nbformat.read(sys.argv[1],4)
sel=sys.argv[2:] 
for c in nb.cells:
    if c.cell_type!="code": continue
    if sel and not any(c.id.startswith(s) for s in sel): continue
    first=True
    for o in c.get("outputs",[]):
        t=None
        if o.output_type=="stream": t=o.text[:5000]
        elif o.output_type=="error": t="ERROR "+o.ename+" "+o.evalue[:600]
        elif "text/plain" in o.get("data",{}) and not o.data["text/plain"].startswith("<Figure"): t=o.data["text/plain"][:900]
        if t is None and "text/html" in o.get("data",{}):
            t=re.sub(r"\s+"," ",re.sub("<[^>]+>"," ",html.unescape(o.data["text/html"])))[:400]
        if t:
            if first: print("==",c.id); first=False
            print(t.rstrip())
