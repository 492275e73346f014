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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saddleflow.geometry import project_out
from saddleflow.vibrations import WAVE_NUMBER, mass_weighted_internal_basis, root_masses

# From a displacement (3N,) in Angstrom to the changes of energy, eV, and gradient (3N,), eV/Angstrom.
Change = Callable[[np.ndarray], tuple[float, np.ndarray]]
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
# Largest error of a component of a gradient, eV/Angstrom: ten times what Psi4 at 1e-8 shows.
GRADIENT_NOISE = 2.5e-5
ENERGY_NOISE = 1e-7
# A soft mode that the errors of the differences leave in doubt is measured once more, this far to both sides,
# Angstrom.
FAR_DISPLACEMENT = 0.04
# What is left of the quartic part there, once corrected, as a part of the difference between the curvatures
# that gradients and energies show.
QUARTIC_ERROR = 0.5
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


class _Products:
    """Measured products of the Hessian with orthonormal directions, mass-weighted, and their errors.

    `space` and `images`, both (directions of freedom, products), are the directions and their products.  The
    first `far` columns were measured at FAR_DISPLACEMENT on both sides, the others are one-sided differences.
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
    size = basis.shape[1]
    metric = cartesian.T @ cartesian
    model = cartesian.T @ (0.5 * (model + model.T)) @ cartesian
    levels, shapes = np.linalg.eigh(model)
    zero = -((zero_cm1 / WAVE_NUMBER) ** 2)
    fraction, lowered = FLOOR_FRACTION, np.zeros((size, size))
    measured = _Products(change, cartesian, displacement)
    direction, reason = shapes[:, 0], ""
    while True:
        if direction is not None:
            measured.add(_orthonormal(direction, measured.space, shapes))
        space, images, count = measured.space, measured.images, measured.space.shape[1]
        small = measured.projected()
        floor = _floor(levels, shapes, fraction, metric)
        if (found := _lowering(floor - lowered, space, small)) is not None:
            fraction *= PENALTY
            lowered = lowered + found
            floor = _floor(levels, shapes, fraction, metric)
        upper, combinations = np.linalg.eigh(small)
        ritz = space @ combinations
        doubt = measured.uncertainty(ritz)
        negative = int((upper + doubt < zero).sum())
        if count == size:
            lower, lower_vectors, completed = upper, ritz, upper
        else:
            lower, lower_vectors = _completed(floor - lowered, space, images)
            completed, completed_vectors = _replaced(model, space, small, images)
        below = lower - measured.uncertainty(lower_vectors)
        doubtful = int((below < zero).sum())
        converged = [
            count == size or (i < count and upper[i] - completed[i] <= tolerance * abs(upper[i]))
            for i, tolerance in enumerate(TOLERANCES)
        ]
        if negative == doubtful and all(converged) and count >= min(FEWEST_PRODUCTS, size):
            break
        if fraction < SMALLEST_FRACTION:
            reason = "the model Hessian is too far from the measured curvatures"
            break
        # The first mode in doubt; as errors differ, not always the lowest one that is not surely negative.
        doubted = int(np.flatnonzero(below < zero)[negative]) if negative < doubtful else size - 1
        direction, too_soft = None, count == size
        if negative != doubtful and doubted < count:
            mode, distance, error = ritz[:, doubted], abs(upper[doubted] - zero), doubt[doubted]
            # Where its bounds meet within its error, further directions don't help.
            met = upper[doubted] - lower[doubted] < error
            if met or measured.evaluations + 3 > max_evaluations:
                left = measured.error_without_near(mode)
                if left < min(distance, WORTHWHILE * error) and measured.evaluations + 2 <= max_evaluations:
                    measured.measure_far(mode)
                    continue
            too_soft = too_soft or (met and distance < error)
        if too_soft:
            softest = _cm1(upper[min(doubted, count - 1)])
            reason = f"a mode of {softest:.0f} cm-1 is too soft for differences of gradients"
            break
        if measured.evaluations + 1 > max_evaluations:
            asked = f"after {measured.evaluations} evaluations"
            reason = f"{asked} a mode above {_cm1(lower[doubted]):.0f} cm-1 may still be negative"
            break
        if negative != doubtful:
            direction = lower_vectors[:, doubted]
        elif not all(converged):
            direction = completed_vectors[:, converged.index(False)]
        else:
            direction = lower_vectors[:, min(doubtful, size - 1)]
    bounds = np.full((2, 2), np.nan)
    for i in range(min(2, count)):
        bounds[i] = _cm1(below[i]), _cm1(upper[i] + doubt[i])
    modes = cartesian @ ritz[:, :2]
    modes /= np.linalg.norm(modes, axis=0)
    return IndexProof(
        index=None if reason else negative,
        likely=int((upper < zero).sum()),
        products=count,
        evaluations=measured.evaluations,
        bounds_cm1=bounds,
        frequency_cm1=_cm1(upper[0]),
        mode=modes[:, 0].reshape(positions.shape),
        fraction=fraction,
        reason=reason,
        second=modes[:, 1].reshape(positions.shape) if count > 1 else None,
    )


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


def _floor(levels: np.ndarray, shapes: np.ndarray, fraction: float, metric: np.ndarray) -> np.ndarray:
    """Soft version of the model that the true Hessian is taken to exceed, mass-weighted."""
    lowered = np.where(levels > 0, fraction * levels, levels / fraction)
    return (shapes * lowered) @ shapes.T - SOFTNESS * metric


def _lowering(floor: np.ndarray, space: np.ndarray, small: np.ndarray) -> np.ndarray | None:
    """What to take off the floor where measured curvatures lie below it; None if none does."""
    values, vectors = np.linalg.eigh(small - space.T @ floor @ space)
    if values[0] >= 0:
        return None
    vectors = space @ vectors
    return (vectors * np.where(values < 0, -2 * values, 0.0)) @ vectors.T


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
