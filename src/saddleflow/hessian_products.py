"""Products of a Hessian with a few directions, by differences of gradients, and how wrong they may be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# From a displacement (3N,) in Angstrom to the changes of energy, eV, and gradient (3N,), eV/Angstrom.
Change = Callable[[np.ndarray], tuple[float, np.ndarray]]
# Largest error of a component of a gradient, eV/Angstrom: ten times what Psi4 at 1e-8 shows.
GRADIENT_NOISE = 2.5e-5
ENERGY_NOISE = 1e-7
# A soft mode that the errors of the differences leave in doubt is measured once more, this far to both sides,
# Angstrom.
FAR_DISPLACEMENT = 0.04
# What is left of the quartic part there, once corrected, as a part of the difference between the curvatures
# that gradients and energies show.
QUARTIC_ERROR = 0.5


class HessianProducts:
    """Measured products of a Hessian with orthonormal directions, mass-weighted, and their errors.

    Parameters
    ----------
    change : Change
        Of energy and gradient by a displacement.
    cartesian : ndarray, shape (3N, f)
        Cartesian displacements of the f mass-weighted internal directions, 1/sqrt(u).
    displacement : float
        Step of the one-sided differences, Angstrom.

    Attributes
    ----------
    space, images : ndarray, shape (f, products)
        Directions (no unit) and their products, eV/Angstrom^2/u.
    far : int
        So many of the first columns were measured at `FAR_DISPLACEMENT` on both sides.
    evaluations : int
        Gradients asked.
    """

    def __init__(self, change: Change, cartesian: np.ndarray, displacement: float):
        size = cartesian.shape[1]
        self.space, self.images = np.zeros((size, 0)), np.zeros((size, 0))
        self.evaluations = self.far = 0
        # Errors of the curvatures of the far columns, mass-weighted.
        self._far_errors: list[float] = []
        self._change, self._cartesian, self._displacement = change, cartesian, displacement

    def add(self, direction: np.ndarray) -> None:
        """Measure one more direction, orthonormal to those before."""
        self.space = np.column_stack([self.space, direction])
        self.images = np.column_stack([self.images, self._product(direction, self._displacement)[0]])

    def _product(self, direction: np.ndarray, step: float) -> tuple[np.ndarray, float, float]:
        """Product by one displacement, its energy over half of the square of the step, and |direction|."""
        self.evaluations += 1
        vector = self._cartesian @ direction
        length = np.linalg.norm(vector)
        energy, gradient = self._change(step / length * vector)
        return self._cartesian.T @ gradient * (length / step), 2 * energy * (length / step) ** 2, length

    def measure_far(self, vector: np.ndarray) -> None:
        """Measure the part of `vector` in the near columns anew, by central differences with a long step.

        From both ends of a step h, a quartic surface with curvature k and fourth derivative q shows
        k + q h^2 / 6 by gradients and k + q h^2 / 12 by energies.
        """
        near = slice(self.far, None)
        shares = self.space[:, near].T @ vector
        turn = np.linalg.qr(np.column_stack([shares, np.eye(len(shares))]))[0]
        self.space[:, near] = self.space[:, near] @ turn
        self.images[:, near] = self.images[:, near] @ turn
        direction = self.space[:, self.far]
        ahead, energy, length = self._product(direction, FAR_DISPLACEMENT)
        back, mirrored_energy, _ = self._product(direction, -FAR_DISPLACEMENT)
        image = 0.5 * (ahead + back)
        by_gradients, by_energies = direction @ image, 0.5 * (energy + mirrored_energy)
        quartic = by_gradients - by_energies
        if abs(quartic) > GRADIENT_NOISE / self._displacement * length**2:
            # So far away other elements are wrong by as much, but can't be corrected: those near stay.
            image = self.images[:, self.far]
        curvature = by_gradients - 2 * quartic
        self.images[:, self.far] = image + (curvature - direction @ image) * direction
        energy_error = 8 * ENERGY_NOISE * (length / FAR_DISPLACEMENT) ** 2
        self._far_errors.append(QUARTIC_ERROR * abs(quartic) + energy_error)
        self.far += 1

    def projected(self) -> np.ndarray:
        """Hessian within the measured directions; where one of two was measured far away, that one tells."""
        raw = self.space.T @ self.images
        small = 0.5 * (raw + raw.T)
        small[self.far :, : self.far] = raw[self.far :, : self.far]
        small[: self.far, self.far :] = raw[self.far :, : self.far].T
        return small

    def uncertainty(self, vectors: np.ndarray) -> np.ndarray:
        """Error of the curvature along each column of `vectors`."""
        raw = self.space.T @ self.images
        # The two measurements of an element differ; on the diagonal, the column's largest.
        error = np.abs(raw - raw.T)
        np.fill_diagonal(error, error.max(axis=0, initial=0.0))
        error[self.far :, : self.far] = error[: self.far, self.far :] = 0.0
        far = np.arange(self.far)
        error[far, far] = self._far_errors
        shares = self.space.T @ vectors
        known = np.einsum("ik,ij,jk->k", np.abs(shares), error, np.abs(shares))
        squares = ((self._cartesian @ vectors) ** 2).sum(axis=0)
        far_share = (shares[: self.far] ** 2).sum(axis=0)
        noise = GRADIENT_NOISE * (far_share / FAR_DISPLACEMENT + (1.0 - far_share) / self._displacement)
        return known + noise * squares

    def error_without_near(self, vector: np.ndarray) -> float:
        """What would be left of that error if the part of `vector` in the near columns were exact.

        Infinite where there are none: nothing can be measured anew.
        """
        if self.far == self.space.shape[1]:
            return np.inf
        far = self.space[:, : self.far]
        return float(self.uncertainty((far @ (far.T @ vector))[:, None])[0])
