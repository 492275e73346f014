"""What a set of finished searches says about the next one: a normal distribution of coefficients.

In each reaction the change of the true gradient from one evaluation to another is that of a weighted sum of
cheap surfaces and body-ordered features, gradient = X w + noise, with weights w of its own drawn from one
normal distribution.  Its mean and covariance, and the noise, are found by expectation maximisation (Laird and
Ware, Biometrics 38, 963 (1982)).  Changes, since a search soon knows the force where it is; and changes that
are far off their fellows count little, since crossings of states make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saddleflow.geometry import largest_motion
from saddleflow.surrogate.body_ordered import BodyOrdered

LONGEST_STEP, BEFORE = 0.8, 3
"""Changes are taken over at most so many Angstrom (fastest atom), against so many evaluations before."""
STEP_OFFSET = 0.1
"""Angstrom: a change counts per (step + this)."""
OUTLIER = 2.0
"""eV/Angstrom^2: scale beyond which a change counts less, half the median of stored searches of all kinds."""
STRONGEST = 20.0, 30.0
"""eV/Angstrom: true and cheap forces above these teach nothing about saddles."""
OVERLAP, MOST = 3.0, 60
"""Each evaluation enters some three changes; and no reaction counts for more changes than this."""
SPREAD, SURFACE_SPREAD = 0.2, 0.1
"""Standard deviations at the start: of features in their root mean square, and of the surfaces' weights."""
NOISE = 0.05
"""Variance of the noise at the start, (eV/Angstrom^2)^2."""
ITERATIONS = 4
"""More fit the changes better and held-out predictions no better."""
START_WEIGHT, START_SHARE = 10.0, 0.1
"""The covariance is shrunk towards this share of the start, which counts for so many reactions."""
RANK = 200
"""Directions of the covariance that are kept; at 60 held-out errors were 1 % larger."""
CAUTION = 0.5
"""The covariance is that of changes along searches; a search is better off with half of it."""


@dataclass(frozen=True)
class Changes:
    """Normal equations of the changes of one reaction.

    Parameters
    ----------
    matrix : ndarray, shape (S, S)
        X^T X over all changes.
    vector : ndarray, shape (S,)
        X^T y.
    square : float
        y^T y.
    count, components : int
        Changes, and their components.
    """

    matrix: np.ndarray
    vector: np.ndarray
    square: float
    count: int
    components: int

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.matrix + other.matrix,
            self.vector + other.vector,
            self.square + other.square,
            self.count + other.count,
            self.components + other.components,
        )


def changes(
    features: BodyOrdered, positions: np.ndarray, gradients: np.ndarray, surfaces: np.ndarray
) -> Changes | None:
    """Normal equations of one search; None where nothing can be learned from it.

    Parameters
    ----------
    features : BodyOrdered
        Of the molecule.
    positions : ndarray, shape (n, N, 3)
        Evaluations in their order, Angstrom.
    gradients : ndarray, shape (n, 3N)
        True ones, eV/Angstrom.
    surfaces : ndarray, shape (n, k, 3N)
        Gradients of the cheap surfaces, NaN where one has no answer.
    """
    usable = [
        i
        for i in range(len(positions))
        if np.isfinite(surfaces[i]).all()
        and largest_motion(gradients[i]) < STRONGEST[0]
        and max(largest_motion(gradient) for gradient in surfaces[i]) < STRONGEST[1]
    ]
    columns = {
        i: np.vstack([surfaces[i], features.values_jacobian(positions[i])[1]]).astype(np.float32)
        for i in usable
    }
    mean = surfaces.mean(axis=1)
    total = None
    for later in usable:
        for earlier in usable:
            step = largest_motion(positions[later] - positions[earlier])
            if not (later - BEFORE <= earlier < later and 1e-4 < step < LONGEST_STEP):
                continue
            y = (gradients[later] - mean[later]) - (gradients[earlier] - mean[earlier])
            weight = 1.0 / (step + STEP_OFFSET)
            weight /= np.hypot(1.0, np.linalg.norm(y) * weight / OUTLIER)
            x = (columns[later] - columns[earlier]).astype(float) * weight
            y = y * weight
            one = Changes(x @ x.T, x @ y, float(y @ y), 1, len(y))
            total = one if total is None else total + one
    return total


def learn(reactions: Sequence[Changes], surfaces: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and factor of the covariance of the weights.

    Parameters
    ----------
    reactions : sequence of Changes
        Of different reactions, relative to the plain mean of the surfaces.
    surfaces : int
        The first so many weights are those of cheap surfaces, k.

    Returns
    -------
    mean : ndarray, shape (S,)
        Of the weights, the plain mean of the surfaces included.
    factor : ndarray, shape (S, r)
        B of the covariance B B^T.
    """
    size = len(reactions[0].vector)
    shares = [1.0 / (OVERLAP * max(1.0, one.count / MOST)) for one in reactions]
    matrices = [share * one.matrix for share, one in zip(shares, reactions, strict=True)]
    scale = np.sqrt(np.diag(sum(matrices)) / len(matrices) * OVERLAP + 1e-8)
    live = scale > 1e-2
    live[:surfaces] = True
    matrices = [matrix[np.ix_(live, live)] for matrix in matrices]
    vectors = [share * one.vector[live] for share, one in zip(shares, reactions, strict=True)]
    start = np.where(np.arange(size) < surfaces, SURFACE_SPREAD, SPREAD / scale)[live] ** 2
    covariance, mean, noise = np.diag(start), np.zeros(live.sum()), NOISE
    for _ in range(ITERATIONS):
        precision = np.linalg.inv(covariance)
        spread, found = np.zeros_like(covariance), []
        residual = components = 0.0
        for share, one, matrix, vector in zip(shares, reactions, matrices, vectors, strict=True):
            posterior = np.linalg.inv(precision + matrix / noise)
            weights = posterior @ (precision @ mean + vector / noise)
            spread += posterior
            found.append(weights)
            residual += share * one.square - 2.0 * weights @ vector + weights @ matrix @ weights
            residual += float((posterior * matrix).sum())
            components += share * one.components
        mean = np.mean(found, axis=0)
        away = np.array(found) - mean
        prior = START_WEIGHT * START_SHARE * np.diag(start)
        covariance = (spread + away.T @ away + prior) / (len(found) + START_WEIGHT)
        covariance = 0.5 * (covariance + covariance.T)
        noise = residual / components
    metric = np.zeros_like(covariance)
    for share, one, matrix in zip(shares, reactions, matrices, strict=True):
        metric += matrix / (share * one.count * len(reactions))
    full_mean, full_factor = np.zeros(size), np.zeros((size, min(RANK, int(live.sum()))))
    full_mean[live] = mean
    full_mean[:surfaces] += 1.0 / max(surfaces, 1)
    full_factor[live] = np.sqrt(CAUTION) * _factor(covariance, metric)
    return full_mean, full_factor


def _factor(covariance: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """Factor of rank `RANK` that keeps what the covariance means for forces."""
    lower = np.linalg.cholesky(metric + np.diag(1e-8 * np.diag(metric) + 1e-10))
    values, vectors = np.linalg.eigh(lower.T @ covariance @ lower)
    values, vectors = values[::-1][:RANK], vectors[:, ::-1][:, :RANK]
    return np.linalg.solve(lower.T, vectors * np.sqrt(np.maximum(values, 0.0)))
