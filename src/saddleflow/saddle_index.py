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


@dataclass(frozen=True)
class IndexProof:
    """What the products prove.

    Parameters
    ----------
    index : int or None
        Number of negative modes; None: not decided.
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
    products: int
    evaluations: int
    bounds_cm1: np.ndarray
    frequency_cm1: float
    mode: np.ndarray
    fraction: float
    reason: str = ""
    second: np.ndarray | None = None


def prove_index(
    gradient_change: Callable[[np.ndarray], np.ndarray],
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
    gradient_change : callable
        Gradient (3N,) in eV/Angstrom at `positions` plus a displacement (3N,), minus the one at `positions`.
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
        mirrored points are measured as well, which makes them central ones.
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
    noise = GRADIENT_NOISE / displacement
    fraction, lowered = FLOOR_FRACTION, np.zeros((size, size))
    space, images = np.zeros((size, 0)), np.zeros((size, 0))
    mirrored = False

    def one_sided(direction: np.ndarray, sign: int = 1) -> np.ndarray:
        vector = cartesian @ direction
        length = np.linalg.norm(vector)
        change = gradient_change(sign * displacement / length * vector)
        return cartesian.T @ change * (sign * length / displacement)

    direction, reason = shapes[:, 0], ""
    while True:
        if direction is not None:
            direction = _orthonormal(direction, space, shapes)
            image = one_sided(direction)
            if mirrored:
                image = 0.5 * (image + one_sided(direction, -1))
            space, images = np.column_stack([space, direction]), np.column_stack([images, image])
        count = space.shape[1]
        raw = space.T @ images
        small, error = 0.5 * (raw + raw.T), _error_bound(raw)
        floor = _floor(levels, shapes, fraction, metric)
        if (found := _lowering(floor - lowered, space, small)) is not None:
            fraction *= PENALTY
            lowered = lowered + found
            floor = _floor(levels, shapes, fraction, metric)
        upper, combinations = np.linalg.eigh(small)
        ritz = space @ combinations
        doubt = _uncertainty(ritz, combinations, error, metric, noise)
        negative = int((upper + doubt < zero).sum())
        if count == size:
            lower, lower_vectors, completed = upper, ritz, upper
        else:
            lower, lower_vectors = _completed(floor - lowered, space, images)
            completed, completed_vectors = _replaced(model, space, small, images)
        below = lower - _uncertainty(lower_vectors, space.T @ lower_vectors, error, metric, noise)
        doubtful = int((below < zero).sum())
        converged = [
            count == size or (i < count and upper[i] - completed[i] <= tolerance * abs(upper[i]))
            for i, tolerance in enumerate(TOLERANCES)
        ]
        evaluations = count * (1 + mirrored)
        if negative == doubtful and all(converged) and count >= min(FEWEST_PRODUCTS, size):
            break
        if fraction < SMALLEST_FRACTION:
            reason = "the model Hessian is too far from the measured curvatures"
            break
        # A measured curvature whose sign is within its error: further directions can't help.
        blurred = negative != doubtful and bool((np.abs(upper - zero) < doubt).any())
        if count == size or (blurred and count > FEWEST_PRODUCTS):
            if mirrored:
                softest = _cm1(upper[np.abs(upper - zero).argmin()])
                reason = f"a mode of {softest:.0f} cm-1 is too soft for differences of gradients"
                break
            if evaluations + count > max_evaluations:
                reason = f"{evaluations} evaluations leave a mode in doubt"
                break
            images = 0.5 * (images + np.column_stack([one_sided(column, -1) for column in space.T]))
            mirrored, direction = True, None
            continue
        if evaluations + 1 + mirrored > max_evaluations:
            threat = _cm1(lower[negative])
            reason = f"after {evaluations} evaluations a mode above {threat:.0f} cm-1 may still be negative"
            break
        if negative != doubtful:
            direction = lower_vectors[:, min(negative, size - 1)]
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
        products=count,
        evaluations=evaluations,
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


def _error_bound(raw: np.ndarray) -> np.ndarray:
    """Error of each element of V'AV: its two measurements differ; on the diagonal, the column's largest."""
    difference = np.abs(raw - raw.T)
    np.fill_diagonal(difference, difference.max(axis=0, initial=0.0))
    return difference


def _uncertainty(
    vectors: np.ndarray, shares: np.ndarray, error: np.ndarray, metric: np.ndarray, noise: float
) -> np.ndarray:
    """Error of the curvature along each column of `vectors`, of which `shares` lie in the measured space."""
    measured = np.einsum("ik,ij,jk->k", np.abs(shares), error, np.abs(shares))
    lengths = np.einsum("ik,ij,jk->k", vectors, metric, vectors)
    return measured + noise * lengths


def _cm1(eigenvalue: float) -> float:
    return float(np.sign(eigenvalue) * np.sqrt(np.abs(eigenvalue)) * WAVE_NUMBER)
