import sys,re,html,nbformat
nb=nbformat.read(sys.argv[1],4)
for c in nb.cells:
    for o in c.get("outputs",[]):
        h=o.get("data",{}).get("text/html","") if "data" in o else ""
        if h and ("seen]" in o["data"].get("text/plain","") or "undecided" in o["data"].get("text/plain","") or "decided" in h or "not seen" in h):
            print(c.id, re.sub(r"\s+"," ",re.sub("<[^>]+>"," ",html.unescape(h)))[:700])
