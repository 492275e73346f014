"""Prior means: cheap surfaces that a Gaussian process corrects.

The published GP-dimer starts from a constant; a semiempirical energy explains two thirds of the force changes
along a search before the first electronic-structure call is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from saddleflow import sparrow
from saddleflow.errors import GeometryError, InputError, ScfError
from saddleflow.geometry import orthogonal_complement, rigid_motion_products
from saddleflow.method_settings import SPARROW_METHODS
from saddleflow.reaction import Reaction
from saddleflow.surrogate.prior_process import WeightPrior
from saddleflow.surrogate.surface_parameters import SurfaceParameters
from saddleflow.xtb import XTB

DISPLACEMENT = 0.005
"""Of forward differences along unit vectors, Angstrom."""
PRODUCT_DISPLACEMENT = 0.01
"""Along unit vectors that many atoms share, Angstrom."""
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
    shares : sequence of float, optional
        Their weights before anything is observed; equal by default.
    """

    def __init__(self, potentials: Sequence[Potential], shares: Sequence[float] | None = None):
        self.potentials = list(potentials)
        self._shares = np.ones(len(self.potentials)) if shares is None else np.array(shares, float)

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
        """Hessians by forward differences, but for rigid motion: good enough for steps.

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
        rigid, turned = rigid_motion_products(position.reshape(-1, 3), gradients)
        internal = orthogonal_complement(rigid)
        points = (position + DISPLACEMENT * internal.T).reshape(-1, position.size // 3, 3)
        changes = self._gradients(list(points)) - gradients[:, None]
        hessians = np.einsum("kma,bm->kab", changes / DISPLACEMENT, internal) + turned @ rigid.T
        return 0.5 * (hessians + hessians.transpose(0, 2, 1))

    def drop(self, number: int) -> None:
        """Go on without a surface."""
        del self.potentials[number]
        self._shares = np.delete(self._shares, number)

    def weight_prior(self, sigma: float) -> WeightPrior:
        """Distribution of the weights before anything is observed: their shares, give or take `sigma`."""
        shares = self._shares if self._shares.any() else np.ones(len(self._shares))  # all with one are gone
        return WeightPrior(shares / max(shares.sum(), 1e-12), sigma * np.eye(len(shares)))

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


class FittedMean(PriorMean):
    """Surfaces whose sum was fitted: their weights are surer than those of methods that know nothing of it.

    With half the deviation 35 Hartree-Fock searches took 8.5 calls in the mean, 9.1 with all of it.
    """

    def weight_prior(self, sigma: float) -> WeightPrior:
        """Distribution of the weights before anything is observed; see :class:`PriorMean`."""
        return super().weight_prior(0.5 * sigma)


def fitted_mean(
    reaction: Reaction, fitted: SurfaceParameters, published: PriorMean | None = None
) -> FittedMean | None:
    """Prior mean of fitted surfaces.

    Parameters
    ----------
    reaction : Reaction
        Elements, charge and multiplicity.
    fitted : SurfaceParameters
        Parameters and shares.
    published : PriorMean, optional
        Only its methods, in its order; those without parameters of their own are taken over as they are.

    Returns
    -------
    FittedMean or None
        None where a method of `published` is none of the fitted ones.

    Raises
    ------
    EngineUnavailable, InputError
        When a method can't be had, or there are no parameters for an element of the molecule.
    """
    fitted.require(reaction.numbers.tolist())
    known = {} if published is None else dict(zip(published.names, published.potentials, strict=True))
    names = list(fitted.shares if published is None else known)
    if not set(names) <= set(fitted.shares):
        return None
    potentials = [
        known[name]
        if name in known and fitted.parameters[name] is None
        else _potential(reaction, name, fitted.parameters[name])
        for name in names
    ]
    return FittedMean(potentials, [fitted.shares[name] for name in names])


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


def _potential(reaction: Reaction, name: str, parameters: dict | None = None) -> Potential:
    if name in SPARROW_METHODS:
        return sparrow.Sparrow(reaction.numbers, reaction.charge, reaction.multiplicity, name, parameters)
    return XTB(reaction.numbers, reaction.charge, reaction.multiplicity, name, XTB_ACCURACY, parameters)
