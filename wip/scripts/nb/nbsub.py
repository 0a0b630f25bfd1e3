import nbformat
class NB:
    def __init__(s,p): s.p=p; s.nb=nbformat.read(p,4); s.by={c.id:c for c in s.nb.cells}
    def sub(s,i,*pairs):
        for a,b in pairs:
            n=s.by[i].source.count(a)
            assert n==1,(i,a,n)
            s.by[i].source=s.by[i].source.replace(a,b)
    def save(s): nbformat.write(s.nb,s.p)
