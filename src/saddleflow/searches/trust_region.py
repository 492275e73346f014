"""How far a walk on a surrogate may go before the truth is asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from saddleflow.settings import PriorGPDimer

GOOD = 0.3
"""Error of the predicted gradient over the force before, below which a region that was halved grows again."""
GROWTH = 1.5
"""Factor of that growth."""
SMALL_FORCE = 0.3
"""Below this force (eV/Angstrom) an error is measured against it."""
TOLERATED_FORCE, TOLERATED_SHARE, TOLERATED_LEAST = 0.5, 3.0, 0.05
"""Expected errors up to the first (eV/Angstrom, times the trusted error) are no reason to stop: most of them
are in stiff modes, which the next evaluation mends, while a soft mode has to be followed far.  Small forces
tolerate less, this share of them plus the last (eV/Angstrom): a saddle that is nearly reached is not left for
its neighbour along a torsion."""
FIRST_ERROR, FIRST_COUNT = 3.0, 2.0
"""Largest error of an atom over the standard deviation of a component before anything was seen, and how many
evaluations that counts for.  Median of 757 steps of 60 Hartree-Fock searches: 2.9, quartiles 2.0 and 4.4."""
SAME_WAY, MORE, MOST = 0.5, 2.0, 4.0
"""Where phase after phase is cut short on the way in one direction (cosine of the changes of the distances
above the first), the errors to expect are in stiff modes, and each evaluation mends them: twice as much is
allowed each time, up to four times.  Not where forces are small: such steps leave saddles that are nearly
reached."""
REJECTED = 1.5
"""Error over the force before, above which no more is allowed; with a larger force besides, the search goes
back to where it came from."""
FORGETTING = 0.8
"""Weight of earlier evaluations at each new one."""


class TrustRegion:
    """Where predictions of the gradient are good enough to walk on.

    The expected error is the surrogate's own standard deviation times a factor that the search learns from
    its evaluations.  On 757 steps of 60 Hartree-Fock searches the logarithm of the error was correlated with
    that of the standard deviation by 0.94, with that of the distance by 0.68.

    Parameters
    ----------
    method : PriorGPDimer
        Trusted error and radii.
    scale : float
        Of the trusted error and the largest radius at the beginning.

    Attributes
    ----------
    allowance : float
        Factor of the trusted error for a walk that goes on in one direction.
    """

    def __init__(self, method: PriorGPDimer, scale: float = 1.0):
        self._method = method
        self.scale = scale
        self.allowance = 1.0
        self._way: np.ndarray | None = None
        self._logarithms, self._count = FIRST_COUNT * np.log(FIRST_ERROR), FIRST_COUNT

    @property
    def radius(self) -> float:
        """Largest motion of an atom, Angstrom."""
        return self.scale * self._method.max_trust_radius

    @property
    def error_per_sigma(self) -> float:
        """Expected largest error of an atom over the standard deviation of a gradient component."""
        return float(np.exp(self._logarithms / self._count))

    def use(self, moved: float, sigma: Callable[[], float], force: float) -> float:
        """Part of the trust region that is used up at a point; more than 1 is outside.

        Parameters
        ----------
        moved : float
            Largest motion of an atom since the last evaluation, Angstrom.
        sigma : callable
            Standard deviation of the gradient's components there, eV/Angstrom; asked only where it decides.
        force : float
            Largest atomic force at the last evaluation, eV/Angstrom.
        """
        far = moved / self.radius
        if far > 1.0 or moved < self._method.min_trust_radius:
            return far
        tolerated = min(TOLERATED_FORCE, TOLERATED_SHARE * force + TOLERATED_LEAST)
        allowance = self.allowance if force > SMALL_FORCE else 1.0
        limit = allowance * self.scale * self._method.trusted_error * max(force, tolerated)
        return max(far, self.error_per_sigma * sigma() / limit)

    def observe(self, error: float, sigma: float, force: float) -> float:
        """Learn from an evaluation; returns its error over the force before.

        Parameters
        ----------
        error : float
            Largest error of an atom's predicted force, eV/Angstrom.
        sigma : float
            Its predicted standard deviation, eV/Angstrom.
        force : float
            Largest atomic force before, eV/Angstrom.
        """
        ratio = error / max(force, SMALL_FORCE)
        if ratio < GOOD:
            self.scale = min(GROWTH * self.scale, 1.0)
        self._logarithms = FORGETTING * self._logarithms + np.log(max(error, 1e-6) / max(sigma, 1e-4))
        self._count = FORGETTING * self._count + 1.0
        return ratio

    def went(self, change: np.ndarray, cut_short: bool, ratio: float) -> None:
        """Learn from the way of a phase: allow more where the walk is cut short again in the same direction.

        Parameters
        ----------
        change : ndarray, shape (P,)
            Changes of the distances, of unit length.
        cut_short : bool
            The phase ended where the surrogate was not stationary.
        ratio : float
            Error of its end over the force before, as :meth:`observe` returns it.
        """
        onward = self._way is not None and change @ self._way > SAME_WAY
        goes_on = cut_short and onward and ratio < REJECTED
        self.allowance = min(MORE * self.allowance, MOST) if goes_on else 1.0
        self._way = change if cut_short else None

    def halve(self) -> None:
        """Trust half as much."""
        self.scale *= 0.5
