"""How many negative modes a Hessian has, proved from its products with a few directions.

Full knowledge of a Hessian costs 2(3N - 6) gradients; its index can be had from a handful, because a cheap
model of the Hessian says where negative or soft modes can hide, and what is measured there is exact.  All in
mass-weighted internal coordinates, so that bounds of eigenvalues are bounds of frequencies.

With the measured products A V = W of the true Hessian A:

* from above: the eigenvalues of V'W (Ritz values) lie above those of A, one by one (Cauchy), so negative ones
  prove as many negative modes, whatever the model is worth;
* from below: let A >= L for a deliberately soft version L of the model ("the floor").  Then A - L is positive
  semidefinite, its products with V are known (G = W - L V), and so A >= L + G (V'G)^-1 G' (the Nystroem
  completion is the smallest positive semidefinite matrix with these products).  The eigenvalues of the right
  side lie below those of A, one by one, and rise with every product.

The index is proved when both sides have equally many negative eigenvalues.  The next direction is the one
that the lower side still leaves in doubt (a Davidson step with the floor as its preconditioner).  V'G must be
positive semidefinite: a measured curvature below the floor lowers it, there as far as needed and everywhere
else as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saddleflow.geometry import project_out
from saddleflow.hessian_products import Change, HessianProducts
from saddleflow.vibrations import WAVE_NUMBER, mass_weighted_internal_basis, root_masses

# The floor: every mode at least this part as stiff as in the model (negative ones: the inverse), less
# SOFTNESS.
FLOOR_FRACTION = 0.3
SOFTNESS = 0.2  # eV/Angstrom^2
# A model that was found out so often that less than this is left proves nothing.
SMALLEST_FRACTION = 0.05
# Each product that finds a curvature below the floor lowers FLOOR_FRACTION by this factor.
PENALTY = 0.5
# Directions measured at least: the reaction coordinate, the second mode, and two more that test the floor.
FEWEST_PRODUCTS = 4
# The two lowest Ritz values count as converged when a correction by the model lowers them by less than these
# parts.
TOLERANCES = (0.02, 0.5)
# Only where it leaves less than this part of the error a mode is measured far away.
WORTHWHILE = 0.9


@dataclass(frozen=True)
class IndexProof:
    """What the products prove.

    Parameters
    ----------
    index : int or None
        Number of negative modes; None: not decided.
    likely : int
        Number of negative Ritz values: proved but for the errors of the differences, unless more follow.
    products, evaluations : int
        How many directions were measured, with how many gradients.
    bounds_cm1 : ndarray, shape (2, 2)
        Lower and upper bound of the two lowest frequencies in cm-1, imaginary ones as negative numbers, with
        the errors of the differences; the upper ones are measured, the lower ones hold if no direction is
        softer than the floor.
    frequency_cm1 : float
        Of `mode`: the Ritz value itself.
    mode : ndarray, shape (N, 3)
        Lowest normal mode within the measured space, Cartesian unit vector.
    second : ndarray, shape (N, 3), or None
        Second one; None where only one direction was measured.
    fraction : float
        Part of the model's stiffness that the floor took for granted at the end.
    reason : str
        Why it is not decided, one line.
    """

    index: int | None
    likely: int
    products: int
    evaluations: int
    bounds_cm1: np.ndarray
    frequency_cm1: float
    mode: np.ndarray
    fraction: float
    reason: str = ""
    second: np.ndarray | None = None


def prove_index(
    change: Change,
    positions: np.ndarray,
    symbols: tuple[str, ...],
    model: np.ndarray,
    max_evaluations: int,
    displacement: float,
    zero_cm1: float = 0.0,
) -> IndexProof:
    """Number of negative modes of a Hessian by few products.

    Parameters
    ----------
    change : callable
        Energy in eV and gradient (3N,) in eV/Angstrom at `positions` plus a displacement (3N,), minus those
        at `positions`.
    positions : ndarray, shape (N, 3)
        Angstrom.
    symbols : tuple of str
        Elements.
    model : ndarray, shape (3N, 3N)
        Cheap approximation of the Hessian, eV/Angstrom^2.
    max_evaluations : int
        After so many gradients it is given up.
    displacement : float
        Step of the differences, Angstrom.  They are one-sided; where only their error leaves a doubt, the
        mode in doubt is measured anew by central differences with a long step, by two evaluations.
    zero_cm1 : float
        Imaginary frequencies smaller than this don't count as negative.

    Returns
    -------
    IndexProof
        The proof, or why there is none.

    References
    ----------
    Davidson, J. Comput. Phys. 17, 87 (1975); Parlett, The Symmetric Eigenvalue Problem (1998), chapter 10;
    Nystroem completion: Horn and Johnson, Matrix Analysis (2013), section 7.7 (Schur complements).
    """
    basis = mass_weighted_internal_basis(positions, symbols)
    cartesian = basis / np.repeat(root_masses(symbols), 3)[:, None]
    model = cartesian.T @ (0.5 * (model + model.T)) @ cartesian
    zero = -((zero_cm1 / WAVE_NUMBER) ** 2)
    measured = HessianProducts(change, cartesian, displacement)
    floor = _Floor(model, cartesian.T @ cartesian)
    direction, reason = floor.shapes[:, 0], ""
    while True:
        if direction is not None:
            measured.add(_orthonormal(direction, measured.space, floor.shapes))
        known = _bounds(measured, floor, model, zero)
        if known.decided:
            break
        if floor.fraction < SMALLEST_FRACTION:
            reason = "the model Hessian is too far from the measured curvatures"
            break
        if (mode := _worth_measuring_far(known, measured, max_evaluations)) is not None:
            measured.measure_far(mode)
            direction = None
            continue
        if reason := _given_up(known, measured, max_evaluations):
            break
        direction = _next_direction(known)
    bounds = np.full((2, 2), np.nan)
    for i in range(min(2, known.count)):
        bounds[i] = _cm1(known.below[i]), _cm1(known.upper[i] + known.doubt[i])
    modes = cartesian @ known.ritz[:, :2]
    modes /= np.linalg.norm(modes, axis=0)
    return IndexProof(
        index=None if reason else known.negative,
        likely=int((known.upper < zero).sum()),
        products=known.count,
        evaluations=measured.evaluations,
        bounds_cm1=bounds,
        frequency_cm1=_cm1(known.upper[0]),
        mode=modes[:, 0].reshape(positions.shape),
        fraction=floor.fraction,
        reason=reason,
        second=modes[:, 1].reshape(positions.shape) if known.count > 1 else None,
    )


class _Floor:
    """Soft version of the model that the true Hessian is taken to exceed, mass-weighted."""

    def __init__(self, model: np.ndarray, metric: np.ndarray):
        self.levels, self.shapes = np.linalg.eigh(model)
        self.fraction, self._metric = FLOOR_FRACTION, metric
        self._lowered = np.zeros(model.shape)

    def matrix(self) -> np.ndarray:
        """The floor as it is now."""
        levels = np.where(self.levels > 0, self.fraction * self.levels, self.levels / self.fraction)
        return (self.shapes * levels) @ self.shapes.T - SOFTNESS * self._metric - self._lowered

    def below(self, space: np.ndarray, small: np.ndarray) -> np.ndarray:
        """The floor, lowered where the measured curvatures `small` in `space` lie below it."""
        floor = self.matrix()
        values, vectors = np.linalg.eigh(small - space.T @ floor @ space)
        if values[0] >= 0:
            return floor
        vectors = space @ vectors
        self.fraction *= PENALTY
        self._lowered = self._lowered + (vectors * np.where(values < 0, -2 * values, 0.0)) @ vectors.T
        return self.matrix()


@dataclass(frozen=True)
class _Bounds:
    """What the products say so far, mass-weighted; `size` directions of freedom, `count` of them measured.

    `upper` are the Ritz values of the modes `ritz`, with the errors `doubt`; `lower` and `lower_vectors` are
    eigenpairs of the smallest Hessian above the floor, and `below` the values less their errors;
    `completed_vectors` are modes of the model with what was measured.  `negative` modes are proved,
    `doubtful` ones may be negative, and `converged` says it of the two lowest Ritz values.
    """

    size: int
    count: int
    zero: float
    upper: np.ndarray
    ritz: np.ndarray
    doubt: np.ndarray
    lower: np.ndarray
    lower_vectors: np.ndarray
    below: np.ndarray
    completed_vectors: np.ndarray
    negative: int
    doubtful: int
    converged: list[bool]

    @property
    def decided(self) -> bool:
        """Whether the index is proved."""
        enough = self.count >= min(FEWEST_PRODUCTS, self.size)
        return self.negative == self.doubtful and all(self.converged) and enough

    @property
    def doubted(self) -> int:
        """The first mode in doubt; as errors differ, not always the lowest one not surely negative."""
        if self.negative >= self.doubtful:
            return self.size - 1
        return int(np.flatnonzero(self.below < self.zero)[self.negative])

    @property
    def measured_in_doubt(self) -> bool:
        """Whether that one lies within what was measured."""
        return self.negative != self.doubtful and self.doubted < self.count

    @property
    def distance(self) -> float:
        """How far its curvature is from the bound that negative ones are below."""
        return abs(self.upper[self.doubted] - self.zero)

    @property
    def met(self) -> bool:
        """Whether its bounds meet within its error, so that further directions don't help."""
        return self.upper[self.doubted] - self.lower[self.doubted] < self.doubt[self.doubted]


def _bounds(measured: HessianProducts, floor: _Floor, model: np.ndarray, zero: float) -> _Bounds:
    """Bounds of the eigenvalues from both sides; lowers the floor where it was found out."""
    space, images, small = measured.space, measured.images, measured.projected()
    size, count = space.shape
    lowest = floor.below(space, small)
    upper, combinations = np.linalg.eigh(small)
    ritz = space @ combinations
    doubt = measured.uncertainty(ritz)
    if count == size:
        lower, lower_vectors, completed, completed_vectors = upper, ritz, upper, ritz
    else:
        lower, lower_vectors = _completed(lowest, space, images)
        completed, completed_vectors = _replaced(model, space, small, images)
    below = lower - measured.uncertainty(lower_vectors)
    converged = [
        count == size or (i < count and upper[i] - completed[i] <= tolerance * abs(upper[i]))
        for i, tolerance in enumerate(TOLERANCES)
    ]
    return _Bounds(
        size=size,
        count=count,
        zero=zero,
        upper=upper,
        ritz=ritz,
        doubt=doubt,
        lower=lower,
        lower_vectors=lower_vectors,
        below=below,
        completed_vectors=completed_vectors,
        negative=int((upper + doubt < zero).sum()),
        doubtful=int((below < zero).sum()),
        converged=converged,
    )


def _worth_measuring_far(known: _Bounds, measured: HessianProducts, most: int) -> np.ndarray | None:
    """The mode in doubt, if two evaluations far away would make its error small enough to tell."""
    if not known.measured_in_doubt or not (known.met or measured.evaluations + 3 > most):
        return None
    mode = known.ritz[:, known.doubted]
    useful = min(known.distance, WORTHWHILE * known.doubt[known.doubted])
    if measured.error_without_near(mode) < useful and measured.evaluations + 2 <= most:
        return mode
    return None


def _given_up(known: _Bounds, measured: HessianProducts, most: int) -> str:
    """Why one more direction can't be measured or would not help, one line; "": it is worth it."""
    within = known.measured_in_doubt and known.met and known.distance < known.doubt[known.doubted]
    if known.count == known.size or within:
        softest = _cm1(known.upper[min(known.doubted, known.count - 1)])
        return f"a mode of {softest:.0f} cm-1 is too soft for differences of gradients"
    if measured.evaluations + 1 > most:
        asked = f"after {measured.evaluations} evaluations"
        return f"{asked} a mode above {_cm1(known.lower[known.doubted]):.0f} cm-1 may still be negative"
    return ""


def _next_direction(known: _Bounds) -> np.ndarray:
    """What to measure next: the mode in doubt, one that is not converged, or one that tests the floor."""
    if known.negative != known.doubtful:
        return known.lower_vectors[:, known.doubted]
    if not all(known.converged):
        return known.completed_vectors[:, known.converged.index(False)]
    return known.lower_vectors[:, min(known.doubtful, known.size - 1)]


def _orthonormal(direction: np.ndarray, space: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """`direction` made orthonormal to `space`; where nothing is left of it, a mode of the model instead."""
    for candidate in (direction, *shapes.T):
        rest = candidate
        for _ in range(2):  # once is not enough when little is left of the vector
            rest = project_out(space, rest)
            length = np.linalg.norm(rest)
            if length < 1e-6:
                break
            rest = rest / length
        else:
            return rest
    raise AssertionError("the space is exhausted")  # pragma: no cover - the caller counts


def _completed(floor: np.ndarray, space: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of the smallest matrix above `floor` that has the measured products."""
    excess = images - floor @ space
    inner = space.T @ excess
    lowest = floor + excess @ np.linalg.pinv(0.5 * (inner + inner.T), hermitian=True) @ excess.T
    return np.linalg.eigh(0.5 * (lowest + lowest.T))


def _replaced(
    model: np.ndarray, space: np.ndarray, small: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of the measured Hessian where it was measured, and of the model elsewhere."""
    outside = np.eye(len(model)) - space @ space.T
    coupling = outside @ images @ space.T
    return np.linalg.eigh(space @ small @ space.T + coupling + coupling.T + outside @ model @ outside)


def _cm1(eigenvalue: float) -> float:
    return float(np.sign(eigenvalue) * np.sqrt(np.abs(eigenvalue)) * WAVE_NUMBER)
