"""Iterations from one start, extrapolated."""

# ruff: noqa: B905 - the interpreter may be older than zip(strict=)
from __future__ import annotations

from collections import namedtuple

import numpy as np

LOOSE = (1e-6, 1e-5)
"""Energy and orbital-gradient thresholds (Hartree) of the starts that compete."""
TIGHT = (1e-8, 3e-8)
"""Thresholds of the accepted state."""


Solution = namedtuple("Solution", "energy orbitals occupied iterations converged lowest")
Solution.__doc__ = (
    "Where the iterations of one start ended; energy and orbitals of the lowest determinant seen."
)


class Diis:
    """Direct inversion in the iterative subspace (Pulay 1982, commutator form)."""

    def __init__(self, size=8):
        self.size = size
        self.focks, self.errors = [], []

    def extrapolate(self, fock, error):
        """Best combination of the Fock matrices so far."""
        self.focks.append(fock)
        self.errors.append(np.concatenate([part.ravel() for part in error]))
        if len(self.focks) > self.size:
            # The worst goes, not the oldest: keeps the subspace useful after a bad first iteration.
            worst = int(np.argmax([vector @ vector for vector in self.errors[:-1]]))
            del self.focks[worst], self.errors[worst]
        n = len(self.focks)
        if n < 2:
            return fock
        stacked = np.array(self.errors)
        matrix = np.zeros((n + 1, n + 1))
        matrix[:n, :n] = stacked @ stacked.T
        scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix)[:n], 1e-300))
        matrix[:n, :n] *= scale[:, None] * scale[None, :]
        matrix[:n, n] = matrix[n, :n] = scale
        right = np.zeros(n + 1)
        right[n] = 1.0
        weights = np.linalg.lstsq(matrix, right, rcond=1e-14)[0][:n] * scale
        return [sum(w * old[spin] for w, old in zip(weights, self.focks)) for spin in range(len(fock))]


def iterate(field, occupied, thresholds, limit, damping=0.0, damped=0, history=8):
    """Iterate from a set of occupied orbitals.

    Parameters
    ----------
    field : Field
        Fock builder.
    occupied : list of ndarray
        Occupied orbitals of each spin.
    thresholds : (float, float)
        Energy change and root mean square orbital gradient, Hartree.
    limit : int
        Iterations at most.
    damping, damped : float, int
        Share of the previous Fock matrix kept, without extrapolation, in the first `damped` iterations.
    history : int
        Fock matrices kept for the extrapolation.

    Returns
    -------
    Solution
    """
    diis = Diis(history)
    energy_before, fock_before, lowest = np.inf, None, (np.inf, None)
    for iteration in range(1, limit + 1):
        energy, fock = field.fock(occupied)
        field.builds += 1
        error = field.gradient(fock, occupied)
        size = float(np.sqrt(np.mean([np.mean(part**2) for part in error])))
        if not np.isfinite(energy):
            break
        if energy < lowest[0]:
            lowest = (energy, occupied)
        if abs(energy - energy_before) < thresholds[0] and size < thresholds[1]:
            # One more diagonalisation makes the orbitals canonical, and of an extrapolated matrix it is worth
            # one more iteration to the forces; the energy's error is of second order anyway.
            orbitals = field.orbitals(diis.extrapolate(fock, error))
            return Solution(energy, orbitals, field.occupied(orbitals), iteration, True, lowest)
        if iteration <= damped:
            if fock_before is not None:
                fock = [(1.0 - damping) * new + damping * old for new, old in zip(fock, fock_before)]
            mixed = fock_before = fock
        else:
            mixed = diis.extrapolate(fock, error)
        energy_before = energy
        orbitals = field.orbitals(mixed)
        occupied = field.occupied(orbitals)
    return Solution(energy, orbitals, occupied, limit, False, lowest)
