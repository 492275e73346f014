"""One step towards a first-order saddle on a surface with a Hessian.

Partitioned rational function optimisation (Banerjee et al., J. Phys. Chem. 89, 52 (1985)): up along one
mode, down along all others, rigid motion projected out.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from saddleflow.geometry import largest_motion
from saddleflow.vibrations import Modes

STIFFENINGS = np.geomspace(1e-3, 10.0, 13)
"""eV/Angstrom^2: tried, the largest first, for a step that leaves little enough."""


def saddle_step(
    gradient: np.ndarray,
    modes: Modes,
    uphill: int,
    longest: float | None = None,
    enough: float = 0.0,
) -> np.ndarray:
    """Step (shape (D,), Angstrom) up along mode number `uphill` and down along all others.

    Parameters
    ----------
    gradient : ndarray, shape (D,)
        eV/Angstrom.
    modes : Modes
        Of the Hessian there.
    uphill : int
        Mode to climb.
    longest : float, optional
        Largest motion of an atom, Angstrom.  A step that is too long is restricted by stiffening all modes
        alike, as a trust radius does: the soft ones give in, the stiff ones go on being relaxed.
    enough : float
        Largest atomic force that may be left, eV/Angstrom.  Of all steps that leave no more, by the
        curvatures, the shortest is taken: without it the softest modes, whose forces hardly count and whose
        curvatures are least known, would be followed far.
    """
    components = modes.vectors.T @ gradient
    b, f = modes.values[uphill], components[uphill]
    up = b - 0.5 * (b + np.sqrt(b * b + 4.0 * f * f))
    rest = np.arange(len(components)) != uphill
    values, forces = modes.values[rest], components[rest]
    square = forces**2
    top = min(values.min(initial=0.0), 0.0) - 1e-10  # a diatomic has no other modes
    bottom = top - np.sqrt(square.sum()) - 1.0

    def secular(shift: float) -> float:
        return shift + (square / (values - shift)).sum()

    shift = brentq(secular, bottom, top) if secular(bottom) < 0.0 < secular(top) else top

    def restricted(stiffening: float) -> np.ndarray:
        step = np.zeros(len(components))
        step[uphill] = -f / (up - stiffening) if up - stiffening < -1e-12 else 0.0
        step[rest] = -forces / (values - shift + stiffening)
        return modes.vectors @ step

    def left(stiffening: float) -> float:
        """Largest force after a step; soft modes count as bent upwards, whatever their sign."""
        step = modes.vectors.T @ restricted(stiffening)
        bent = np.abs(modes.values)
        bent[uphill] = b
        return largest_motion(modes.vectors @ (components + bent * step))

    stiffening = max((s for s in STIFFENINGS if left(s) <= enough), default=0.0) if enough > 0.0 else 0.0
    step = restricted(stiffening)
    if longest is None or largest_motion(step) <= longest:
        return step
    # The step shrinks at least like force over stiffening.
    most = np.linalg.norm(components) / longest + 1.0

    def excess(logarithm: float) -> float:
        return largest_motion(restricted(np.exp(logarithm))) - longest

    low = np.log(1e-9)
    if excess(low) <= 0.0:
        return step * (longest / largest_motion(step))
    return restricted(np.exp(brentq(excess, low, np.log(most), xtol=1e-3)))


def stiff_step(gradient: np.ndarray, modes: Modes, stiffness: float) -> np.ndarray:
    """Newton step (shape (D,), Angstrom) in the modes stiffer than `stiffness` (eV/Angstrom^2) only."""
    stiff = modes.values > stiffness
    vectors = modes.vectors[:, stiff]
    return -vectors @ ((vectors.T @ gradient) / modes.values[stiff])
