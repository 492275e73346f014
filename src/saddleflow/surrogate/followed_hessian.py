"""Hessian of a prior mean along a search: made once, followed, checked and corrected."""

from __future__ import annotations

import numpy as np

from saddleflow.curvilinear import Distances
from saddleflow.geometry import largest_displacement
from saddleflow.surrogate.prior_mean import PriorMean
from saddleflow.vibrations import internal_modes

SMALLEST_SECANT = 1e-6
"""Angstrom: shorter steps tell nothing about the curvature."""
CHECKED_MODES, FOLLOWED_ERROR = 3, 6.0
"""A followed Hessian is corrected where its product with one of so many of its softest modes is wrong by more
than this, eV/Angstrom^2."""
CORRECTIONS = 4
"""So often, each time by the products with the modes that are softest then; after that it is made anew.  On
14 molecules of 10 to 18 atoms (AM1 as the truth) 32 Hessians were made instead of 88, with 170 calls both
ways."""
KNOWN_MODE = 0.2
"""Length of a direction's part beyond those that were asked already, below which it is not asked."""
SOFTEST = 1.0
"""eV/Angstrom^2 added to the metric of the secant update."""


class FollowedHessian:
    """Hessian of a prior mean, followed with gradients and made anew where it no longer holds.

    A Hessian by differences costs 3N - 6 gradients, so between two of them it is carried along in terms of
    the distances and corrected by the gradients: on ten strained guesses the lowest mode 0.15 to 0.3 Angstrom
    away had an overlap with the true one of at least 0.88 in 90 % of cases, with Cartesian updates of 0.39.
    Where an atom has moved far its softest modes are checked, one gradient each, and corrected.  Each surface
    has a Hessian of its own, so that other weights make another mean at once: a stiff mode that was followed
    with earlier weights would be wrong by a quarter, and every step along it would miss.

    Parameters
    ----------
    mean : PriorMean
        The surfaces.
    numbers : ndarray, shape (N,)
        Atomic numbers.
    rebuild_distance : float
        Largest atomic displacement before it is checked, Angstrom.
    """

    def __init__(self, mean: PriorMean, numbers: np.ndarray, rebuild_distance: float):
        self._mean = mean
        self._numbers = numbers
        self._rebuild_distance = rebuild_distance
        self._centre: np.ndarray | None = None
        self._last: tuple[np.ndarray, Distances, np.ndarray] | None = None
        self._parts: np.ndarray | None = None  # Strain-free, shape (p, D, D).

    def replace(self, mean: PriorMean) -> None:
        """Follow another mean from now on."""
        self._mean = mean
        self._parts = None

    def exchange(self, mean: PriorMean) -> None:
        """Follow a mean of the same methods with other parameters, from the Hessians as they are.

        A Hessian made anew would cost 3N - 6 gradients of each; the next ones correct this one.

        Raises
        ------
        SurfaceFailed
            Where one of the methods has no answer where the Hessian was asked for last.
        """
        if self._last is not None:
            position, distances, _ = self._last
            self._last = (position, distances, mean.energies_gradients(position)[1])
        self._mean = mean

    def at(
        self,
        position: np.ndarray,
        gradients: np.ndarray,
        weights: np.ndarray,
        checked_within: float | None = None,
    ) -> np.ndarray:
        """Hessian, shape (D, D), at a flat position.

        Parameters
        ----------
        position : ndarray, shape (D,)
            Angstrom.
        gradients : ndarray, shape (k, D)
            Of the methods there, eV/Angstrom.
        weights : ndarray, shape (k,)
            Of the methods.
        checked_within : float, optional
            Instead of the rebuild distance, Angstrom.

        Raises
        ------
        SurfaceFailed
            Where one of the methods has no answer, or a curvature that no other one sees.
        """
        if not len(gradients):
            return np.zeros((position.size, position.size))
        distances = Distances(self._numbers, position)
        parts, shares = self._mean.parts(gradients, weights)
        strains = np.array([distances.curvature(distances.pulls(part)) for part in parts])
        if self._parts is not None and len(self._parts) != len(parts):
            self._parts = None  # a surface was dropped: where one fails the others are seldom well followed
        if self._parts is not None and np.abs(position - self._last[0]).max() > SMALLEST_SECANT:
            self._carry(distances, parts, shares)
        if self._parts is None or (
            self._moved(position) > (checked_within or self._rebuild_distance)
            and not self._holds(position, gradients, weights, strains, shares)
        ):
            self._parts = self._mean.part_hessians(position, gradients, weights) - strains
            self._centre = position.copy()
        self._last = (position.copy(), distances, parts)
        return np.tensordot(shares, self._parts + strains, 1)

    def _carry(self, distances: Distances, parts: np.ndarray, shares: np.ndarray) -> None:
        """Bring the Hessians to another geometry and let them obey the gradients (p, D) there."""
        _, origin, before = self._last
        carried = distances.carried(self._parts, origin)
        secants = [distances.secant(new, origin, old) for new, old in zip(parts, before, strict=True)]
        step = secants[0][0]
        metric = secant_metric(np.tensordot(shares, carried, 1), step)
        self._parts = np.array(
            [
                secant_update(part, step, change, metric)
                for part, (_, change) in zip(carried, secants, strict=True)
            ]
        )

    def _holds(
        self,
        position: np.ndarray,
        gradients: np.ndarray,
        weights: np.ndarray,
        strains: np.ndarray,
        shares: np.ndarray,
    ) -> bool:
        """Whether the softest modes could be corrected until they hold, as in Davidson's method."""
        known = np.zeros((position.size, 0))
        for _ in range(CORRECTIONS):
            mean = np.tensordot(shares, self._parts, 1)
            modes = internal_modes(mean, position).vectors[:, :CHECKED_MODES]
            vectors = _beyond(modes, known)
            if not vectors.size:
                break  # all that they consist of is known
            products = self._mean.part_products(position, gradients, weights, vectors)
            missing = products - (strains + self._parts) @ vectors
            # Least symmetric change after which the modes have these products.
            inner = vectors.T @ missing
            wings = (missing - vectors @ (0.25 * (inner + inner.transpose(0, 2, 1)))) @ vectors.T
            self._parts = self._parts + wings + wings.transpose(0, 2, 1)
            wrong = np.tensordot(shares, missing, 1) @ (vectors.T @ modes)
            if np.linalg.norm(wrong, axis=0).max() < FOLLOWED_ERROR:
                break
            known = np.hstack([known, vectors])
        else:
            return False
        self._centre = position.copy()
        return True

    def _moved(self, position: np.ndarray) -> float:
        return largest_displacement(position, self._centre)


def _beyond(modes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Orthonormal directions of modes (D, m) beyond those known (D, n), the insignificant ones left out."""
    left, sizes, _ = np.linalg.svd(modes - known @ (known.T @ modes), full_matrices=False)
    return left[:, sizes > KNOWN_MODE]


def secant_metric(hessian: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Direction M s / (s M s), shape (D,), of the metric M = |H| + `SOFTEST` for a step s (shape (D,))."""
    values, vectors = np.linalg.eigh(hessian)
    direction = vectors @ ((np.abs(values) + SOFTEST) * (vectors.T @ step))
    return direction / (direction @ step)


def secant_update(
    hessian: np.ndarray, step: np.ndarray, change: np.ndarray, metric: np.ndarray
) -> np.ndarray:
    """Symmetric Hessian that maps `step` to `change`, updated most where it is stiff.

    The least change in a metric, as in TS-BFGS (Bofill, Int. J. Quantum Chem. 94, 324 (2003); Hermes et al.,
    J. Chem. Theory Comput. 15, 6536 (2019)), here with |H| plus `SOFTEST`: what is missing in stiff
    directions does not leak into the soft ones, and no step can blow it up.

    Parameters
    ----------
    hessian : ndarray, shape (D, D)
        eV/Angstrom^2.
    step, change : ndarray, shape (D,)
        Displacement (Angstrom) and change of the gradient (eV/Angstrom) along it.
    metric : ndarray, shape (D,)
        :func:`secant_metric` of the step.
    """
    missing = change - hessian @ step
    wing = np.outer(missing - 0.5 * (missing @ step) * metric, metric)
    return hessian + wing + wing.T
