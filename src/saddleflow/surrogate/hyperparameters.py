"""Maximum a posteriori hyperparameters of the published GP-dimer (arXiv 2505.12519).

Parameters are w = [ln s2, ln l_1, ..., ln l_T].  The priors' scales come from the ranges of all data and are
refreshed at every fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_solve
from scipy.linalg.blas import dsyr
from scipy.linalg.lapack import dpotri
from scipy.special import gammaln

from saddleflow.surrogate.gaussian_process import factorised
from saddleflow.surrogate.kernel import (
    Hyperparameters,
    TrainingFeatures,
    covariance,
    objective_gradient_terms,
    squared_distances,
)
from saddleflow.surrogate.scaled_conjugate_gradient import Evaluated, ScaledConjugateGradient

LARGEST_LOG_PARAMETER = 50.0
SET_BACK = 0.9
"""Of the wall, where a fit starts whose signal variance would lie beyond: there is no objective."""
INDEFINITE = Evaluated(np.inf, lambda: np.array([np.nan]))
NORMAL_QUANTILE = 0.674490
"""75 % quantile of the normal distribution, in the initial values."""


@dataclass(frozen=True)
class DataScales:
    """Ranges of the data and what follows from them.

    Parameters
    ----------
    energy_range : float
        Largest minus smallest energy, eV.
    feature_range : float
        Largest distance between two observations in feature space, 1/Angstrom.
    """

    energy_range: float
    feature_range: float

    @classmethod
    def of(cls, training: TrainingFeatures, energies: np.ndarray) -> DataScales:
        """Scales of all observations."""
        # Both orders of every pair count, hence the 2.
        largest = float(np.sqrt(2.0 * squared_distances(training.phi, training.phi).max()))
        return cls(float(energies.max() - energies.min()), largest)

    @property
    def energy_variance(self) -> float:
        """Squared scale of the Student-t prior of the signal standard deviation, eV^2."""
        return max(1.0, (self.energy_range / 3.0) ** 2)

    @property
    def feature_variance(self) -> float:
        """Variance of the Gaussian prior of each length scale, 1/Angstrom^2."""
        return max(1.0, (self.feature_range / 3.0) ** 2)

    def initial(self, kinds: int) -> Hyperparameters:
        """Start of a fit from the data alone, for `kinds` pair types."""
        signal = max((NORMAL_QUANTILE * self.energy_range / 3.0) ** 2, 1e-8)
        length = max(NORMAL_QUANTILE * self.feature_range / 3.0, 1e-4)
        return Hyperparameters(signal, np.full(kinds, length))


@dataclass(frozen=True)
class SignalBarrier:
    """Logarithmic wall that the signal variance can't pass (arXiv 2510.06030).

    Parameters
    ----------
    limit : float
        Signal variance of the wall, eV^2.
    strength : float
        Of the barrier without data (no unit).
    growth : float
        What each observed atom adds to it.
    strength_limit : float
        It grows no further.
    start_fraction : float
        Of the limit, where a fit starts at most.  1: where the one before has ended, as published, even if
        that is so close to the wall that its slope hides that of the length scales.
    """

    limit: float = 2.0
    strength: float = 1e-4
    growth: float = 1e-3
    strength_limit: float = 0.5
    start_fraction: float = 1.0

    def evaluate(self, log_signal: float, observed_atoms: int) -> tuple[float, float]:
        """B = -mu ln(ln limit - ln s2) and dB/d ln s2; infinite at the wall and beyond.

        Parameters
        ----------
        log_signal : float
            ln s2.
        observed_atoms : int
            Observations times atoms.
        """
        distance = np.log(self.limit) - log_signal
        if distance <= 1e-9:
            return np.inf, np.nan
        mu = min(self.strength + self.growth * observed_atoms, self.strength_limit)
        return float(-mu * np.log(distance)), float(mu / distance)

    def inside(self, signal_variance: float) -> float:
        """Where a fit starts: the signal variance, set back where it lies too close to the wall or beyond."""
        started = min(signal_variance, self.start_fraction * self.limit)
        return started if np.isfinite(self.evaluate(np.log(started), 0)[0]) else SET_BACK * self.limit


def constant_variance(energies: np.ndarray) -> float:
    """Variance c2 of the constant kernel, max(1 eV^2, mean(E)^2), refreshed at every fit, never optimised."""
    return max(1.0, float(energies.mean()) ** 2)


class Posterior:
    """Negative log posterior of the log-parameters.

    Parameters
    ----------
    training : TrainingFeatures
        Observations that are fitted.
    energies : ndarray, shape (n,)
        eV, relative to the first observation.
    gradients : ndarray, shape (n, D)
        eV/Angstrom.
    scales : DataScales
        Of all data.
    constant : float
        c2 in eV^2.
    noise_variance : float
        On every diagonal entry.
    degrees_of_freedom : float
        Of the Student-t prior.
    barrier : SignalBarrier, optional
        Wall for the signal variance.
    """

    def __init__(
        self,
        training: TrainingFeatures,
        energies: np.ndarray,
        gradients: np.ndarray,
        scales: DataScales,
        constant: float,
        noise_variance: float,
        degrees_of_freedom: float,
        barrier: SignalBarrier | None = None,
    ):
        self._training = training
        self._data = np.concatenate([energies, np.ravel(gradients)])
        self._scales = scales
        self._constant = constant
        self._noise = noise_variance
        self._nu = degrees_of_freedom
        self._barrier = barrier

    def evaluate(self, w: np.ndarray) -> Evaluated:
        """Value at `w` (shape (1 + T,)), with its gradient on demand; infinite where K is indefinite."""
        if not np.isfinite(w).all() or np.abs(w).max() > LARGEST_LOG_PARAMETER:
            return INDEFINITE
        wall, wall_slope = 0.0, 0.0
        if self._barrier is not None:
            atoms = len(self._training) * self._training.descriptor.atoms
            wall, wall_slope = self._barrier.evaluate(float(w[0]), atoms)
            if not np.isfinite(wall):
                return INDEFINITE
        parameters = Hyperparameters(float(np.exp(w[0])), np.exp(w[1:]))
        matrix, blocks = covariance(self._training, parameters, self._constant)
        matrix[np.diag_indices_from(matrix)] += self._noise
        try:
            factor = factorised(matrix, tries=0)  # a jitter would let the signal variance grow on
        except LinAlgError:
            return INDEFINITE
        alpha = cho_solve((factor, True), self._data, check_finite=False)
        value = 0.5 * len(self._data) * np.log(2.0 * np.pi)
        value += np.log(factor.diagonal()).sum() + 0.5 * self._data @ alpha
        prior, prior_gradient = self._log_prior(w)

        def gradient() -> np.ndarray:
            # K^-1 - alpha alpha^T in the lower triangle (the factor's upper one is zero), then mirrored.
            lower, _ = dpotri(factor, lower=1)
            lower = dsyr(-1.0, alpha, a=lower, lower=1, overwrite_a=1)
            lower[np.diag_indices_from(lower)] *= 0.5
            signal, lengths = objective_gradient_terms(self._training, blocks, lower + lower.T)
            slopes = 0.5 * np.concatenate([[signal], lengths]) - prior_gradient
            slopes[0] += wall_slope
            return slopes

        return Evaluated(float(value - prior + wall), gradient)

    def _log_prior(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        """Log prior of the log-parameters, Jacobians included, and its gradient."""
        s2, lengths = np.exp(w[0]), np.exp(w[1:])
        nu, se2, sx2 = self._nu, self._scales.energy_variance, self._scales.feature_variance
        value = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi * se2)
        value += -(nu + 1) / 2 * np.log1p(s2 / (nu * se2)) - np.log(2.0 * np.sqrt(s2)) + w[0]
        value += float((-0.5 * np.log(2.0 * np.pi * sx2) - lengths**2 / (2.0 * sx2) + w[1:]).sum())
        gradient = np.concatenate([[0.5 - (nu + 1) * s2 / (2.0 * (nu * se2 + s2))], 1.0 - lengths**2 / sx2])
        return float(value), gradient


def fit(
    posterior: Posterior, start: Hyperparameters, minimiser: ScaledConjugateGradient
) -> tuple[Hyperparameters, int]:
    """Maximise the posterior from `start`; a failed fit keeps its last parameters.

    Returns
    -------
    hyperparameters : Hyperparameters
        The optimum.
    evaluations : int
        Objective calls.
    """
    w, _, evaluations = minimiser.minimise(posterior.evaluate, start.logarithms)
    return Hyperparameters(float(np.exp(w[0])), np.exp(w[1:])), evaluations
