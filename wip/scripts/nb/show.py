import sys, nbformat
f=sys.argv[1]; a=sys.argv[2] if len(sys.argv)>2 else None; b=sys.argv[3] if len(sys.argv)>3 else None
nb=nbformat.read(f,4); on=a is None
for c in nb.cells:
    if c.id==a: on=True
    if on:
        print("=====",c.id,c.cell_type); print(c.source)
        for o in c.get("outputs",[]):
            if o.output_type=="stream": print("--->",o.text[:6000])
            elif o.output_type=="error": print("---> ERROR",o.ename,o.evalue[:800])
            elif "text/html" in o.get("data",{}): print("---> HTML",len(o.data["text/html"]))
            elif "text/plain" in o.get("data",{}): print("--->",o.data["text/plain"][:500], "[PNG]" if "image/png" in o.data else "")
    if c.id==b: break
