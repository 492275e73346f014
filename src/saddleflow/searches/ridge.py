"""The ridge on which a guess lies: which modes of a surrogate go on along it, and where it ends."""

from __future__ import annotations

import numpy as np

from saddleflow.curvilinear import Distances
from saddleflow.vibrations import Modes, internal_modes

CLEARLY_NEGATIVE = -0.3
"""eV/Angstrom^2: the lowest mode is climbed below this, the one climbed before above it."""
RIDGE_SHARE, RIDGE_CURVATURE = 0.15, -1.5
"""A ridge goes on as long as its curvature is below this part of the guess's, or below the second
(eV/Angstrom^2).  Of 49 saddles that all published programs agree on the weakest had -2.3."""
SAME_MODE = 0.4
"""A ridge is another one where the rates at which its mode changes the distances overlap less with those of
the guess's lowest mode.  Of 89 first walks without this rule 67 stayed above it: 60 of them converged, 57 at
a saddle that a published program finds.  Of the 22 others 8 did, 2 of them at such a saddle."""


class Ridge:
    """The ridge of one guess, known by the rates at which its mode changes the distances.

    Parameters
    ----------
    numbers : ndarray, shape (N,)
        Atomic numbers.

    Attributes
    ----------
    rates : ndarray, shape (P,), or None
        Of the guess's lowest mode; None where the guess is on no ridge, or is not known: then any clearly
        negative mode will do.
    curvature : float
        A mode above this is no ridge, eV/Angstrom^2.
    """

    def __init__(self, numbers: np.ndarray):
        self._numbers = numbers
        self.rates: np.ndarray | None = None
        self.curvature = CLEARLY_NEGATIVE
        self._start = 0.0

    def begin(self, distances: Distances, modes: Modes) -> None:
        """Take the lowest mode at the guess for its ridge, if it is clearly negative."""
        self._start = float(modes.values[0])
        if self._start < CLEARLY_NEGATIVE:
            self.rates = distances.rates(modes.vectors[:, :1])[:, 0]
            self.curvature = min(max(RIDGE_SHARE * self._start, RIDGE_CURVATURE), CLEARLY_NEGATIVE)

    def curvilinear(
        self, position: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
    ) -> tuple[Distances, Modes]:
        """Distances at a position (shape (D,)) and the modes that they leave of a Hessian (shape (D, D))."""
        distances = Distances(self._numbers, position)
        return distances, internal_modes(distances.strain_free(gradient, hessian), position)

    def change(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Changes of the distances between two positions (shape (D,)), shape (P,), of unit length."""
        return Distances(self._numbers, start).change(Distances(self._numbers, end))

    def number(self, distances: Distances, modes: Modes) -> int | None:
        """Number of the lowest clearly negative mode that is like the guess's lowest one; None: none is."""
        alike = self.likeness(distances, modes) > SAME_MODE
        return int(alike.argmax()) if alike.any() else None

    def likeness(self, distances: Distances, modes: Modes) -> np.ndarray:
        """Overlap of the rates of each clearly negative mode with those of the lowest of the guess.

        Shape (m,); 1 for each where the guess has no ridge.
        """
        rates = distances.rates(modes.vectors[:, modes.values < self.curvature])
        if self.rates is None:
            return np.ones(rates.shape[1])
        return np.abs(self.rates @ rates)

    def left(self, distances: Distances, modes: Modes, overlap: float, share: float) -> bool:
        """Whether no mode is as like the guess's as `overlap`, or too little of its curvature is left."""
        if self.rates is None:
            return False
        likeness = self.likeness(distances, modes).max(initial=0.0)
        return likeness < overlap or modes.values[0] > share * self._start
