"""Steps and curvatures in terms of interatomic distances instead of Cartesian coordinates.

A guessed transition state is strained.  Its Cartesian Hessian has several negative eigenvalues that only say
that compressed bonds would like to turn aside, and a straight step along a rotation stretches bonds.  Both
vanish in internal coordinates; all distances, weighted by how near the atoms are, serve as such.
"""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii
from scipy.linalg import cho_factor, cho_solve

DECAY = 0.5
"""Angstrom: a distance beyond the sum of the covalent radii counts exp(-(r - b) / DECAY) in squares."""
REGULARISATION = 1e-3
"""Part of the largest eigenvalue of the metric below which motions have no distances of their own."""


class Distances:
    """All distances of a molecule at one geometry.

    Parameters
    ----------
    numbers : ndarray, shape (N,)
        Atomic numbers.
    position : ndarray, shape (D,)
        Flat Cartesian coordinates, Angstrom; D = 3N.

    Attributes
    ----------
    lengths : ndarray, shape (P,)
        All P = N (N - 1) / 2 distances, Angstrom.
    """

    def __init__(self, numbers: np.ndarray, position: np.ndarray):
        self._first, self._second = np.triu_indices(len(numbers), 1)
        radii = covalent_radii[numbers]
        self._position = position
        self.lengths, self._jacobian = self._measured(position)
        contact = radii[self._first] + radii[self._second]
        self._weights = np.exp(-np.maximum(self.lengths - contact, -DECAY) / DECAY)
        metric = self._jacobian.T @ (self._weights[:, None] * self._jacobian)
        self._floor = REGULARISATION * np.linalg.norm(metric, 2)
        self._metric = metric
        self._factor = cho_factor(metric + self._floor * np.eye(len(metric)), check_finite=False)

    def _measured(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lengths (shape (P,)) and their derivatives (shape (P, D))."""
        x = position.reshape(-1, 3)
        difference = x[self._first] - x[self._second]
        lengths = np.sqrt((difference**2).sum(axis=1))
        unit = difference / lengths[:, None]
        rows = np.arange(len(lengths))
        jacobian = np.zeros((len(lengths), len(x), 3))
        jacobian[rows, self._first] = unit
        jacobian[rows, self._second] = -unit
        return lengths, jacobian.reshape(len(lengths), -1)

    def pulls(self, gradient: np.ndarray) -> np.ndarray:
        """Derivatives gamma_p of the energy by the distances, shape (P,), eV/Angstrom.

        Of all that make g = sum_p gamma_p grad r_p up to the regularisation, those that are smallest where
        atoms are far apart.

        Parameters
        ----------
        gradient : ndarray, shape (D,)
            eV/Angstrom.
        """
        return self._weights * (self._jacobian @ self._solved(gradient))

    def rates(self, modes: np.ndarray) -> np.ndarray:
        """Relative changes of the distances along modes, shape (P, m), columns of unit length.

        Those of near atoms count most, so that a mode is known again where the molecule has turned or its
        substituents have moved.

        Parameters
        ----------
        modes : ndarray, shape (D, m)
            Cartesian directions.
        """
        return self._relative(self._jacobian @ modes)

    def change(self, other: Distances) -> np.ndarray:
        """Changes of the distances to another geometry, those of near atoms most; shape (P,), of unit length.

        Parameters
        ----------
        other : Distances
            The other geometry of the same atoms.
        """
        return self._relative((other.lengths - self.lengths)[:, None])[:, 0]

    def _relative(self, changes: np.ndarray) -> np.ndarray:
        """Columns of changes of the distances, shape (P, m), weighted by nearness and made of unit length."""
        weighted = np.sqrt(self._weights)[:, None] * changes
        return weighted / np.maximum(np.linalg.norm(weighted, axis=0), 1e-12)

    def curvature(self, pulls: np.ndarray) -> np.ndarray:
        """Cartesian curvature (shape (D, D)) sum_p gamma_p grad grad r_p that `pulls` (shape (P,)) make."""
        size = self._jacobian.shape[1]
        unit = self._jacobian.reshape(len(pulls), -1, 3)[np.arange(len(pulls)), self._first]
        across = np.eye(3) - unit[:, :, None] * unit[:, None, :]
        blocks = (pulls / self.lengths)[:, None, None] * across
        strain = np.zeros((size // 3, size // 3, 3, 3))
        np.add.at(strain, (self._first, self._first), blocks)
        np.add.at(strain, (self._second, self._second), blocks)
        strain[self._first, self._second] -= blocks
        strain[self._second, self._first] -= blocks
        return strain.transpose(0, 2, 1, 3).reshape(size, size)

    def strain_free(self, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
        """Hessian without what the forces along the distances add when the atoms move straight.

        H - sum_p gamma_p grad grad r_p is the curvature along curvilinear paths; equal to H where g vanishes.

        Parameters
        ----------
        gradient : ndarray, shape (D,)
            eV/Angstrom.
        hessian : ndarray, shape (D, D)
            eV/Angstrom^2.
        """
        return hessian - self.curvature(self.pulls(gradient))

    def carried(self, hessian: np.ndarray, origin: Distances) -> np.ndarray:
        """Strain-free Hessian of a neighbouring geometry as it is here if nothing but the geometry changes.

        Displacements here are taken for those there that change the distances alike, so that stiff bonds
        turn with the molecule.

        Parameters
        ----------
        hessian : ndarray, shape (..., D, D)
            Strain-free, at `origin`; one or several.
        origin : Distances
            The other geometry.
        """
        alike = origin._solved(origin._jacobian.T @ (origin._weights[:, None] * self._jacobian))
        alike += np.eye(len(alike)) - self._solved(self._metric)
        return alike.T @ hessian @ alike

    def secant(
        self, gradient: np.ndarray, origin: Distances, origin_gradient: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Displacement and change of the gradient (shape (D,) both) between two geometries, strain left out.

        Parameters
        ----------
        gradient : ndarray, shape (D,)
            Here, eV/Angstrom.
        origin : Distances
            The other geometry.
        origin_gradient : ndarray, shape (D,)
            There, eV/Angstrom.
        """
        straight = self._position - origin._position
        # What the distances leave open, rotations of far groups, moves straight.
        curved = self.lengths - origin.lengths - self._jacobian @ straight
        step = straight + self._solved(self._jacobian.T @ (self._weights * curved))
        turned = (self._jacobian - origin._jacobian).T @ origin.pulls(origin_gradient)
        return step, gradient - origin_gradient - turned

    def _solved(self, right: np.ndarray) -> np.ndarray:
        return cho_solve(self._factor, right, check_finite=False)

    def moved(self, step: np.ndarray) -> np.ndarray:
        """Position (shape (D,)) after a step (shape (D,)), the distances changing as its start says.

        Solved by Gauss and Newton's method for the weighted distances; what they leave open is as in the
        straight step.
        """
        target = self.lengths + self._jacobian @ step
        straight = self._position + step
        position = straight
        for _ in range(4):
            lengths, jacobian = self._measured(position)
            weighted = self._weights[:, None] * jacobian
            slope = weighted.T @ (target - lengths) + self._floor * (straight - position)
            position = position + np.linalg.solve(
                jacobian.T @ weighted + self._floor * np.eye(len(step)), slope
            )
        return position
