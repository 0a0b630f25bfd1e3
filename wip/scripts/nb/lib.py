"""Edit a notebook by cell ids: nb = Nb("13_pali_x"); nb.set(id, text); nb.after(id, newid, "code", text); nb.drop(id); nb.save()"""
import nbformat, sys
from pathlib import Path
ROOT = Path("notebooks")
class Nb:
    def __init__(self, name):
        self.path = ROOT / f"{name}.ipynb"; self.nb = nbformat.read(self.path, 4)
    def at(self, id):
        found = [i for i, c in enumerate(self.nb.cells) if c.id == id]
        assert len(found) == 1, (id, found)
        return found[0]
    def set(self, id, text): self.nb.cells[self.at(id)].source = text.strip("\n")
    def replace(self, id, old, new, count=1):
        c = self.nb.cells[self.at(id)]
        assert c.source.count(old) >= 1, (id, old)
        c.source = c.source.replace(old, new)
    def after(self, id, new, kind, text):
        cell = (nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell)(text.strip("\n"))
        cell.id = new
        if new in [c.id for c in self.nb.cells]: self.drop(new)
        self.nb.cells.insert(self.at(id) + 1, cell)
    def drop(self, id): del self.nb.cells[self.at(id)]
    def save(self): nbformat.write(self.nb, self.path)
