"""Inverse interatomic distances as features of the kernel, with first and second derivatives."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols


class InverseDistances:
    """Features phi_p = 1/r_p over all atom pairs p (method: GP-dimer, arXiv 2505.12519).

    Parameters
    ----------
    numbers : ndarray, shape (N,)
        Atomic numbers.

    Attributes
    ----------
    first, second : ndarray, shape (P,)
        Atoms of each pair.
    pair_types : ndarray, shape (P,)
        Index of the unordered element pair of each pair.
    type_labels : tuple of str
        Such as ``"C-H"``; a type exists only if a pair of it does.
    """

    def __init__(self, numbers: np.ndarray):
        numbers = np.asarray(numbers)
        self.atoms = len(numbers)
        self.first, self.second = np.triu_indices(self.atoms, k=1)
        low = np.minimum(numbers[self.first], numbers[self.second])
        high = np.maximum(numbers[self.first], numbers[self.second])
        kinds = sorted(set(zip(low.tolist(), high.tolist(), strict=True)))
        index = {kind: i for i, kind in enumerate(kinds)}
        pairs = zip(low.tolist(), high.tolist(), strict=True)
        self.pair_types = np.array([index[pair] for pair in pairs], int)
        self.type_labels = tuple(f"{chemical_symbols[a]}-{chemical_symbols[b]}" for a, b in kinds)
        # Incidence matrix (N, P): +1 for the first atom of a pair, -1 for the second.
        self._incidence = np.zeros((self.atoms, len(self.first)))
        columns = np.arange(len(self.first))
        self._incidence[self.first, columns] = 1.0
        self._incidence[self.second, columns] = -1.0

    @property
    def pairs(self) -> int:
        """Number of pairs P."""
        return len(self.first)

    def _differences(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = positions.reshape(-1, 3)
        difference = x[self.first] - x[self.second]
        return difference, np.sqrt((difference**2).sum(axis=1))

    def features(self, positions: np.ndarray) -> np.ndarray:
        """1/r of all pairs, shape (P,), 1/Angstrom."""
        return 1.0 / self._differences(positions)[1]

    def distances(self, positions: np.ndarray) -> np.ndarray:
        """Distances of all pairs, shape (P,), Angstrom."""
        return self._differences(positions)[1]

    def jacobian(self, positions: np.ndarray) -> np.ndarray:
        """Derivatives of the features, shape (P, 3N), 1/Angstrom^2."""
        difference, r = self._differences(positions)
        block = -difference / r[:, None] ** 3
        jacobian = np.zeros((self.pairs, self.atoms, 3))
        rows = np.arange(self.pairs)
        jacobian[rows, self.first] = block
        jacobian[rows, self.second] = -block
        return jacobian.reshape(self.pairs, -1)

    def pull_back(self, positions: np.ndarray, feature_gradient: np.ndarray) -> np.ndarray:
        """Cartesian gradient J^T G (shape (3N,)) of a function with gradient G (shape (P,)) in features."""
        difference, r = self._differences(positions)
        return (self._incidence @ (-(feature_gradient / r**3)[:, None] * difference)).ravel()

    def curvature_term(self, positions: np.ndarray, feature_gradient: np.ndarray) -> np.ndarray:
        """Sum over pairs of G_p times the second derivatives of 1/r_p, shape (3N, 3N)."""
        difference, r = self._differences(positions)
        unit = difference / r[:, None]
        block = (3.0 * unit[:, :, None] * unit[:, None, :] - np.eye(3)) * (feature_gradient / r**3)[
            :, None, None
        ]
        hessian = np.einsum("ip,jp,pab->iajb", self._incidence, self._incidence, block, optimize=True)
        return hessian.reshape(3 * self.atoms, 3 * self.atoms)
