"""Prior means: cheap surfaces that a Gaussian process corrects.

The published GP-dimer starts from a constant; a semiempirical energy explains two thirds of the force changes
along a search before the first electronic-structure call is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from saddleflow import sparrow
from saddleflow.curvilinear import Distances
from saddleflow.errors import GeometryError, InputError, ScfError
from saddleflow.geometry import largest_displacement
from saddleflow.method_settings import SPARROW_METHODS
from saddleflow.reaction import Reaction
from saddleflow.surrogate.prior_process import WeightPrior
from saddleflow.vibrations import internal_modes
from saddleflow.xtb import XTB

DISPLACEMENT = 0.005
"""Of forward differences along unit vectors, Angstrom."""
PRODUCT_DISPLACEMENT = 0.01
"""Along unit vectors that many atoms share, Angstrom."""
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
CUSP_FACTOR, CUSP_OFFSET = 3.0, -30.0
"""A lowest curvature (eV/Angstrom^2) below the median of all methods (or 0) times the factor plus the offset
is taken for a crossing of that method's states.  Large negative numbers alone say nothing: in strained
guesses with colliding atoms all methods agree on -90."""


class SurfaceFailed(ScfError):
    """One of the methods of a prior mean has no usable answer.

    Parameters
    ----------
    number : int
        Which one.
    reason : str
        Why.
    """

    def __init__(self, number: int, reason: str):
        super().__init__(reason)
        self.number = number


class Potential(Protocol):
    """A cheap method for one molecule."""

    method: str

    def energy_gradient(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy (eV) and gradient (shape (N, 3), eV/Angstrom); ScfError, GeometryError without an answer."""
        ...

    def gradients(self, points: list[np.ndarray]) -> np.ndarray:
        """Gradients near the point asked last, shape (points, N, 3); errors as :meth:`energy_gradient`."""
        ...


class PriorMean:
    """Cheap surfaces whose weighted sum is the mean of the surrogate.

    Methods of different families err in different places: on 402 steps of 48 stored searches of singlets the
    three of `MIXTURE` left 0.31 of the force unexplained, like GFN1-xTB with PM3, PM6 and DFTB3, which take
    half as much time again; of doublets (249 steps) 4 % more.

    Parameters
    ----------
    potentials : sequence of Potential
        Methods; none at all means a constant mean.
    """

    def __init__(self, potentials: Sequence[Potential]):
        self.potentials = list(potentials)

    @property
    def names(self) -> list[str]:
        """Names of the methods."""
        return [potential.method for potential in self.potentials]

    def energies_gradients(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (shape (k,), eV) and gradients (shape (k, D), eV/Angstrom) at a position (shape (D,)).

        Raises
        ------
        SurfaceFailed
            Where one of the methods has no answer.
        GeometryError
            Where atoms coincide.
        """
        answers = []
        for number, potential in enumerate(self.potentials):
            try:
                answers.append(potential.energy_gradient(position.reshape(-1, 3)))
            except ScfError as error:
                raise SurfaceFailed(number, str(error)) from error
        energies = np.array([energy for energy, _ in answers])
        return energies, np.array([np.ravel(gradient) for _, gradient in answers]).reshape(-1, position.size)

    def hessians(self, position: np.ndarray, gradients: np.ndarray) -> np.ndarray:
        """Hessians by forward differences: good enough for steps.

        Parameters
        ----------
        position : ndarray, shape (D,)
            Angstrom.
        gradients : ndarray, shape (k, D)
            There, eV/Angstrom.

        Returns
        -------
        ndarray, shape (k, D, D)
            eV/Angstrom^2.

        Raises
        ------
        SurfaceFailed
            Where one of the methods has no answer.
        """
        size = position.size
        points = list(position.reshape(-1, 3) + DISPLACEMENT * np.eye(size).reshape(size, -1, 3))
        hessians = (self._gradients(points) - gradients[:, None]) / DISPLACEMENT
        return 0.5 * (hessians + hessians.transpose(0, 2, 1))

    def drop(self, number: int) -> None:
        """Go on without a surface."""
        del self.potentials[number]

    def weight_prior(self, sigma: float) -> WeightPrior:
        """Distribution of the weights before anything is observed: equal shares, give or take `sigma`."""
        count = len(self.potentials)
        return WeightPrior(np.full(count, 1.0 / max(count, 1)), sigma * np.eye(count))

    def parts(self, gradients: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients (p, D) of the parts whose Hessians are known apart, and their weights (p,).

        Parameters
        ----------
        gradients : ndarray, shape (k, D)
            Of all that the mean consists of, eV/Angstrom.
        weights : ndarray, shape (k,)
            Their weights.
        """
        return gradients, weights

    def part_hessians(self, position: np.ndarray, gradients: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Hessians of the parts, shape (p, D, D), from the gradients there (k, D).

        Raises
        ------
        SurfaceFailed
            Where one of the methods has no answer, or a curvature that no other one sees.
        """
        hessians = self.hessians(position, gradients)
        _refuse_cusps(hessians)
        return hessians

    def part_products(
        self, position: np.ndarray, gradients: np.ndarray, weights: np.ndarray, vectors: np.ndarray
    ) -> np.ndarray:
        """Hessians of the parts times unit vectors, shape (p, D, m), by forward differences.

        Parameters
        ----------
        position : ndarray, shape (D,)
            Angstrom; the surfaces were asked there last.
        gradients : ndarray, shape (k, D)
            There, eV/Angstrom.
        weights : ndarray, shape (k,)
            Of the methods.
        vectors : ndarray, shape (D, m)
            Directions.

        Raises
        ------
        SurfaceFailed
            Where one of the methods has no answer, or a curvature that no other one sees.
        """
        points = list((position + PRODUCT_DISPLACEMENT * vectors.T).reshape(vectors.shape[1], -1, 3))
        changes = self._gradients(points) - gradients[:, None]
        products = changes.transpose(0, 2, 1) / PRODUCT_DISPLACEMENT
        _refuse_cusps(vectors.T @ products)
        return products

    def _gradients(self, points: list[np.ndarray]) -> np.ndarray:
        """Gradients of each surface near the point asked last, shape (k, points, D)."""
        gradients = np.empty((len(self.potentials), len(points), points[0].size))
        for number, potential in enumerate(self.potentials):
            try:
                gradients[number] = potential.gradients(points).reshape(len(points), -1)
            except ScfError as error:
                raise SurfaceFailed(number, str(error)) from error
        return gradients


def _refuse_cusps(hessians: np.ndarray) -> None:
    """Raise SurfaceFailed where states of one method cross, which only that method sees."""
    lowest = np.linalg.eigvalsh(0.5 * (hessians + hessians.transpose(0, 2, 1)))[:, 0]
    if len(lowest) > 2 and lowest.min() < CUSP_FACTOR * min(np.median(lowest), 0.0) + CUSP_OFFSET:
        raise SurfaceFailed(int(lowest.argmin()), "a curvature that no other method sees")


MIXTURE, WITHOUT_SPARROW = ("GFN2-xTB", "PM6", "DFTB3"), ("GFN1-xTB", "GFN2-xTB")
"""What the prior ``auto`` mixes where Sparrow is installed, and where it is not."""
XTB_ACCURACY = 0.1
"""Of tblite: forces to some 1e-5 eV/Angstrom, well below the thresholds of a search."""


def prior_mean(reaction: Reaction, prior: str) -> PriorMean:
    """Prior mean of a molecule.

    Parameters
    ----------
    reaction : Reaction
        Elements, charge and multiplicity.
    prior : str
        Names of methods joined by ``+``, ``constant``, or ``auto``: `MIXTURE` without the methods that this
        machine or the elements of the molecule do not allow.

    Raises
    ------
    EngineUnavailable, InputError
        When a method that was named (not chosen by ``auto``) can't be had.
    """
    if prior == "constant":
        return PriorMean(())
    if prior != "auto":
        return PriorMean([_potential(reaction, name) for name in prior.split("+")])
    potentials = []
    for name in MIXTURE if sparrow.available() else WITHOUT_SPARROW:
        try:
            potential = _potential(reaction, name)
            potential.energy_gradient(reaction.positions)
        except (InputError, ScfError, GeometryError):
            continue
        potentials.append(potential)
    return PriorMean(potentials)


def _potential(reaction: Reaction, name: str) -> Potential:
    if name in SPARROW_METHODS:
        return sparrow.Sparrow(reaction.numbers, reaction.charge, reaction.multiplicity, name)
    return XTB(reaction.numbers, reaction.charge, reaction.multiplicity, name, XTB_ACCURACY)


class FollowedHessian:
    """Hessian of a prior mean, followed with gradients and made anew where it no longer holds.

    A Hessian by differences costs 3N gradients, so between two of them it is carried along in terms of the
    distances and corrected by the gradients: on ten strained guesses the lowest mode 0.15 to 0.3 Angstrom
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
            and not self._holds(position, gradients, weights, strains)
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
        self, position: np.ndarray, gradients: np.ndarray, weights: np.ndarray, strains: np.ndarray
    ) -> bool:
        """Whether the softest modes could be corrected until they hold, as in Davidson's method."""
        known = np.zeros((position.size, 0))
        _, shares = self._mean.parts(gradients, weights)
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
