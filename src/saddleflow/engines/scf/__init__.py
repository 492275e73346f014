"""Self-consistent field from many starts on one set of integrals: the lowest state wins.

The program (Psi4 or PySCF) builds Fock matrices; the iterations are done here, so both programs find the
same states and nothing is carried from one geometry to the next except what the caller passes in.  Also
runs inside Psi4's own interpreter (see psi4_worker.py), which knows this package by another name: imports are
relative, or of the standard library and numpy.  Atomic units.
"""

from .contest import solve
from .field import Field, pack, unpack
from .iterations import TIGHT, Solution

__all__ = ["TIGHT", "Field", "Solution", "pack", "solve", "unpack"]
