"""What the iterations need of one geometry: Fock matrices, and orbitals in a basis that can be carried on."""

# ruff: noqa: B905 - the interpreter may be older than zip(strict=)
from __future__ import annotations

import io

import numpy as np


class Field:
    """Fock matrices of one geometry; a program derives its own and gives :meth:`fock`.

    Parameters
    ----------
    overlap, core_hamiltonian : ndarray, shape (n, n)
        One-electron matrices.
    electrons : (int, int)
        Number of alpha and beta electrons.
    restricted : bool
        One set of orbitals for both spins.
    independent : int or None
        So many linearly independent functions are kept; None: those with overlap eigenvalues above 1e-7.
    """

    def __init__(self, overlap, core_hamiltonian, electrons, restricted, independent=None):
        self.restricted = restricted
        self.electrons = electrons
        self.overlap = overlap
        self.core_hamiltonian = core_hamiltonian
        values, vectors = np.linalg.eigh(overlap)
        dropped = int((values < 1e-7).sum()) if independent is None else len(values) - independent
        values, vectors = values[dropped:], vectors[:, dropped:]
        self.orthogonaliser = vectors / np.sqrt(values)
        self.root = (vectors * np.sqrt(values)) @ vectors.T
        self.inverse_root = self.orthogonaliser @ vectors.T
        self.builds = 0

    @property
    def spins(self):
        """Number of electrons of each independent set of orbitals."""
        return self.electrons[:1] if self.restricted else self.electrons

    def fock(self, occupied):
        """Energy and Fock matrices (one a spin set) of the determinant with these occupied orbitals."""
        raise NotImplementedError

    def orbitals(self, fock):
        """Orbital energies and coefficients of each Fock matrix."""
        answer = []
        for matrix in fock:
            values, vectors = np.linalg.eigh(self.orthogonaliser.T @ matrix @ self.orthogonaliser)
            answer.append((values, self.orthogonaliser @ vectors))
        return answer

    def occupied(self, orbitals):
        """Lowest orbitals of each spin."""
        return [coefficients[:, :n] for (_, coefficients), n in zip(orbitals, self.spins)]

    def mixed(self, orbitals, below, above):
        """Occupied orbitals with one occupied and one empty orbital turned by 45 degrees, spins oppositely.

        `below` counts down from the highest occupied orbital, `above` up from the lowest empty one.  Breaks
        the symmetry between the spins, and also moves a converged state out of its minimum.
        """
        answer = []
        for (_, coefficients), n, sign in zip(orbitals, self.spins, (1.0, -1.0)):
            chosen = coefficients[:, :n].copy()
            if n - 1 - below >= 0 and n + above < coefficients.shape[1]:
                empty = coefficients[:, n + above]
                chosen[:, n - 1 - below] = (chosen[:, n - 1 - below] + sign * empty) / np.sqrt(2.0)
            answer.append(chosen)
        return answer

    def swapped(self, orbitals, spin, below, above):
        """Occupied orbitals, one exchanged for an empty one, counted as in :meth:`mixed`; None if absent."""
        coefficients, n = orbitals[spin][1], self.spins[spin]
        if below >= n or n + above >= coefficients.shape[1]:
            return None
        answer = [each.copy() for each in self.occupied(orbitals)]
        answer[spin][:, n - 1 - below] = coefficients[:, n + above]
        return answer

    def gradient(self, fock, occupied):
        """Orbital gradients F D S - S D F in the orthogonal basis."""
        answer = []
        for matrix, orbitals in zip(fock, occupied):
            half = matrix @ (orbitals @ (orbitals.T @ self.overlap))
            answer.append(self.orthogonaliser.T @ (half - half.T) @ self.orthogonaliser)
        return answer

    def spin_square(self, occupied):
        """Expectation value of S^2 of a determinant (Szabo and Ostlund, eq. 2.271)."""
        n_alpha, n_beta = self.electrons
        z = 0.5 * (n_alpha - n_beta)
        if self.restricted:
            return z * (z + 1.0)
        cross = occupied[0].T @ self.overlap @ occupied[1]
        return z * (z + 1.0) + n_beta - float((cross**2).sum())

    def to_orthogonal(self, occupied):
        """Occupied orbitals in the symmetrically orthogonalised basis, S^1/2 C, for the next geometry."""
        return [self.root @ orbitals for orbitals in occupied]

    def from_orthogonal(self, orthogonal):
        """Occupied orbitals here from those of another geometry, C = S^-1/2 (S'^1/2 C')."""
        return [self.inverse_root @ orbitals for orbitals in orthogonal]


def pack(occupied):
    """Orbitals as the bytes of an uncompressed npz: exact, small, no pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, *occupied)
    return buffer.getvalue()


def unpack(state):
    """Inverse of :func:`pack`."""
    with np.load(io.BytesIO(state), allow_pickle=False) as archive:
        return [archive[name] for name in archive.files]
