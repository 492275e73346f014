"""Prior means: cheap surfaces that a Gaussian process corrects.

The published GP-dimer starts from a constant; a semiempirical energy explains two thirds of the force changes
along a search before the first electronic-structure call is made.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from saddleflow.geometry import largest_displacement
from saddleflow.reaction import Reaction
from saddleflow.xtb import XTB


class PriorMean(Protocol):
    """A cheap surface for one molecule."""

    name: str

    def energy_gradient(self, position: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy (eV) and gradient (shape (D,), eV/Angstrom) at a flat position (shape (D,), Angstrom).

        Raises
        ------
        ScfError, GeometryError
            Where the cheap method has no answer.
        """
        ...

    def hessian(self, position: np.ndarray) -> np.ndarray:
        """Hessian, shape (D, D), eV/Angstrom^2; errors as :meth:`energy_gradient`."""
        ...


class ConstantMean:
    """No knowledge: energy and gradient are zero everywhere."""

    name = "constant"

    def energy_gradient(self, position: np.ndarray) -> tuple[float, np.ndarray]:
        """Zero."""
        return 0.0, np.zeros(position.size)

    def hessian(self, position: np.ndarray) -> np.ndarray:
        """Zero."""
        return np.zeros((position.size, position.size))


class XTBMean:
    """GFN1-xTB or GFN2-xTB energy.

    Parameters
    ----------
    reaction : Reaction
        Elements, charge and multiplicity.
    method : str
        ``GFN1-xTB`` or ``GFN2-xTB``.
    """

    ACCURACY = 0.1
    """Of tblite: forces to some 1e-5 eV/Angstrom, well below the thresholds of a search."""

    def __init__(self, reaction: Reaction, method: str):
        self.name = method
        self._xtb = XTB(reaction.numbers, reaction.charge, reaction.multiplicity, method, self.ACCURACY)

    def energy_gradient(self, position: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and gradient."""
        energy, gradient = self._xtb.energy_gradient(position.reshape(-1, 3))
        return energy, np.ravel(gradient)

    def hessian(self, position: np.ndarray) -> np.ndarray:
        """Forward differences of gradients: good enough for steps, which the gradients then correct."""
        return self._xtb.hessian(position.reshape(-1, 3), one_sided=True)


class UpdatedHessian:
    """Hessian of a prior mean that is rebuilt rarely and updated in between.

    A Hessian by differences costs 3N cheap gradients, which would be most of a search's overhead if it were
    made at every inner step.  Between rebuilds it follows the gradients along the path (Bofill, J. Comput.
    Chem. 15, 1 (1994)).

    Parameters
    ----------
    mean : PriorMean
        The surface.
    rebuild_distance : float
        Largest atomic displacement from the last exact Hessian before a new one is made, Angstrom.
    """

    def __init__(self, mean: PriorMean, rebuild_distance: float):
        self._mean = mean
        self._rebuild_distance = rebuild_distance
        self._centre: np.ndarray | None = None
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._hessian: np.ndarray | None = None

    def at(self, position: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Hessian (shape (D, D)) at a flat position, whose gradient (shape (D,)) is known."""
        if self._centre is None or self._moved(position) > self._rebuild_distance:
            self._hessian = self._mean.hessian(position)
            self._centre = position.copy()
        else:
            last_position, last_gradient = self._last
            step = position - last_position
            self._hessian = bofill_update(self._hessian, step, gradient - last_gradient)
        self._last = (position.copy(), gradient)
        return self._hessian

    def _moved(self, position: np.ndarray) -> float:
        return largest_displacement(position.reshape(-1, 3), self._centre.reshape(-1, 3))


def bofill_update(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Bofill's mixture of the Murtagh-Sargent and Powell updates (J. Comput. Chem. 15, 1 (1994)).

    Parameters
    ----------
    hessian : ndarray, shape (D, D)
        eV/Angstrom^2.
    step, change : ndarray, shape (D,)
        Displacement (Angstrom) and change of the gradient (eV/Angstrom) along it.

    Returns
    -------
    ndarray, shape (D, D)
        Satisfies H step = change.
    """
    missing = change - hessian @ step
    square, missed = step @ step, missing @ missing
    if square < 1e-12 or missed < 1e-16:
        return hessian
    overlap = missing @ step
    share = overlap**2 / (square * missed)
    powell = (np.outer(missing, step) + np.outer(step, missing)) / square
    powell -= overlap * np.outer(step, step) / square**2
    if abs(overlap) < 1e-8 * np.sqrt(square * missed):
        return hessian + powell
    return hessian + share * np.outer(missing, missing) / overlap + (1.0 - share) * powell
