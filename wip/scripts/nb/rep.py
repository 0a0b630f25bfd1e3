import json, sys
def load(n):
    import glob
    f=glob.glob(f"notebooks/{n}*.ipynb")[0]
    return f, json.load(open(f))
miss=[]
class NB:
    def __init__(s,n): s.f,s.nb=load(n)
    def r(s,cid,old,new,count=1):
        for c in s.nb["cells"]:
            if c["id"]==cid:
                t="".join(c["source"])
                if t.count(old)<1: miss.append((s.f[-22:],cid,old[:70])); return
                c["source"]=t.replace(old,new) .splitlines(keepends=True)
                return
        miss.append((s.f,cid,"NO CELL"))
    def all(s,old,new):
        n=0
        for c in s.nb["cells"]:
            t="".join(c["source"])
            if old in t: c["source"]=t.replace(old,new).splitlines(keepends=True); n+=1
        print(old[:40],n)
    def show(s,*ids):
        for c in s.nb["cells"]:
            if c["id"] in ids: print("=====",c["id"],c["cell_type"]); print("".join(c["source"]))
    def save(s):
        json.dump(s.nb,open(s.f,"w"),indent=1,ensure_ascii=False); open(s.f,"a").write("\n")
