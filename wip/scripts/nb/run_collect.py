import sys, nbformat, time
from nbclient import NotebookClient
name=sys.argv[1]
nb=nbformat.read(f"./notebooks/{name}.ipynb",4)
pre='''
import kitlib.tools.checks as _c
def _claim(tag, got, want=None, tol=None, *, why=""):
    v=float(got); ok = want is not None and abs(v-want)<=tol
    print(("ok  " if ok else "GOT ")+f"{tag}: {v:.6g}  (want {want} tol {tol})")
_c.claim=_claim
'''
nb.cells.insert(0,nbformat.v4.new_code_cell(pre))
t=time.time()
NotebookClient(nb,timeout=1500,allow_errors=True,kernel_name="python3",resources={"metadata":{"path":"./notebooks"}},coalesce_streams=True,skip_cells_with_tag="nbval-skip").execute()
nbformat.write(nb,f"build/out/{name}.ipynb")
print(name,time.time()-t)
