"""Search one transition state with any ASE calculator, without Snakemake: HNC <-> HCN with GFN2-xTB."""

from ase import Atoms
from tblite.ase import TBLite

from saddleflow.run import search

guess = Atoms("CNH", [[0.0, 0.0, 0.0], [1.18, 0.0, 0.0], [0.3, 1.2, 0.0]])
run = search(guess, TBLite(method="GFN2-xTB", verbosity=0), method="prior-gp-dimer")
print(run.result.outcome, len(run.evaluations), "calls", f"{run.answer.max_atom_force:.4f} eV/A")
print(run.answer.positions)
