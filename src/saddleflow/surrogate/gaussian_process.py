"""Gaussian process on energies and gradients with mean prediction, gradient, Hessian and uncertainty."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular

from saddleflow.surrogate.inverse_distances import InverseDistances
from saddleflow.surrogate.kernel import (
    Hyperparameters,
    TrainingFeatures,
    covariance,
    pair_weights,
    squared_distances,
)

JITTER_TRIES = 6
"""Relative jitter 1e-12, 1e-11, ... is added as often before a matrix counts as indefinite."""


def factorised(matrix: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor; jitter relative to the largest diagonal entry is added only where needed.

    Raises
    ------
    LinAlgError
        When the matrix is indefinite beyond jitter.
    """
    scale = float(matrix.diagonal().max())
    for attempt in range(JITTER_TRIES + 1):
        try:
            jittered = matrix
            if attempt:
                jittered = matrix + scale * 10.0 ** (attempt - 13) * np.eye(len(matrix))
            return cholesky(jittered, lower=True, check_finite=False)
        except LinAlgError:
            continue
    raise LinAlgError("covariance matrix is not positive definite")


class KernelExpansion:
    """Mean of a conditioned process as a sum over observations, with gradient and Hessian.

    Parameters
    ----------
    descriptor : InverseDistances
        The features.
    phi : ndarray, shape (n, P)
        Features of the observations.
    weights : ndarray, shape (P,)
        w_p of the kernel, Angstrom^2.
    signal_variance : float
        s2 in eV^2.
    energy_weights : ndarray, shape (n,)
        What the solved system gives each observed energy, 1/eV.
    directions : ndarray, shape (n, P)
        J_i alpha_i: in feature space an observed gradient acts through one direction.
    offset : float
        Constant part of the mean, eV.
    """

    def __init__(
        self,
        descriptor: InverseDistances,
        phi: np.ndarray,
        weights: np.ndarray,
        signal_variance: float,
        energy_weights: np.ndarray,
        directions: np.ndarray,
        offset: float,
    ):
        self.descriptor = descriptor
        self._phi = phi
        self._weights = weights
        self._signal_variance = signal_variance
        self._energy_weights = energy_weights
        self._directions = directions
        self._offset = offset

    def _feature_terms(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Differences d (n, P), kse (n,), kse (a + s) (n,), and weighted differences (n, P)."""
        d = self.descriptor.features(positions) - self._phi
        weighted = d * self._weights
        kse = self._signal_variance * np.exp(-0.5 * np.einsum("ip,ip->i", d, weighted))
        s = np.einsum("ip,ip->i", weighted, self._directions)
        return d, kse, kse * (self._energy_weights + s), weighted

    def energy_gradient(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean energy (eV) and gradient (shape (D,), eV/Angstrom) at `positions` (any shape of D numbers)."""
        d, kse, mixed, _ = self._feature_terms(positions)
        energy = float(mixed.sum()) + self._offset
        feature_gradient = self._weights * (kse @ self._directions - mixed @ d)
        return energy, self.descriptor.pull_back(positions, feature_gradient)

    def gradient(self, positions: np.ndarray) -> np.ndarray:
        """Mean gradient, shape (D,), eV/Angstrom."""
        return self.energy_gradient(positions)[1]

    def hessian(self, positions: np.ndarray) -> np.ndarray:
        """Analytic Hessian of the mean, shape (D, D), eV/Angstrom^2."""
        d, kse, mixed, weighted = self._feature_terms(positions)
        v = self._directions * self._weights
        cross = (weighted * kse[:, None]).T @ v
        feature_hessian = (weighted * mixed[:, None]).T @ weighted - cross - cross.T
        feature_hessian[np.diag_indices_from(feature_hessian)] -= mixed.sum() * self._weights
        feature_gradient = self._weights * (kse @ self._directions - mixed @ d)
        jacobian = self.descriptor.jacobian(positions)
        return jacobian.T @ feature_hessian @ jacobian + self.descriptor.curvature_term(
            positions, feature_gradient
        )


class GaussianProcess(KernelExpansion):
    """Surrogate surface conditioned on energies and gradients.

    Parameters
    ----------
    training : TrainingFeatures
        Features of the n observations.
    energies : ndarray, shape (n,)
        eV, relative to a reference that the caller chose.
    gradients : ndarray, shape (n, D)
        eV/Angstrom.
    hyperparameters : Hyperparameters
        Kernel parameters.
    constant : float
        Variance c2 of the constant kernel, eV^2.
    noise_variance : float
        Of energies (eV^2) and gradient components (eV^2/Angstrom^2).

    Raises
    ------
    LinAlgError
        When the covariance matrix can't be factorised.
    """

    def __init__(
        self,
        training: TrainingFeatures,
        energies: np.ndarray,
        gradients: np.ndarray,
        hyperparameters: Hyperparameters,
        constant: float,
        noise_variance: float,
    ):
        self.hyperparameters = hyperparameters
        self.constant = constant
        n = len(training)
        matrix, _ = covariance(training, hyperparameters, constant)
        matrix[np.diag_indices_from(matrix)] += noise_variance
        self._factor = factorised(matrix)
        data = np.concatenate([energies, np.ravel(gradients)])
        alpha = cho_solve((self._factor, True), data, check_finite=False)
        # Arrays of this moment: observations that are added later belong to the next process.
        self._jacobians = training.jacobians
        super().__init__(
            training.descriptor,
            training.phi,
            pair_weights(training.descriptor, hyperparameters.length_scales),
            hyperparameters.signal_variance,
            alpha[:n],
            np.einsum("ipa,ia->ip", training.jacobians, alpha[n:].reshape(n, -1)),
            constant * float(alpha[:n].sum()),
        )

    def standard_deviations(self, positions: np.ndarray) -> tuple[float, float]:
        """Standard deviation of the energy (eV) and root mean square one of the gradient (eV/Angstrom)."""
        descriptor, phis, jacobians = self.descriptor, self._phi, self._jacobians
        n, _, size = jacobians.shape
        root = np.sqrt(self._weights)
        phi, jacobian = descriptor.features(positions), descriptor.jacobian(positions)
        s2 = self.hyperparameters.signal_variance
        q = squared_distances((phis * root), (phi * root)[None])[:, 0]
        kse = s2 * np.exp(-0.5 * q)
        d = phis - phi
        u = np.einsum("ipa,ip->ia", jacobians, d * self._weights)
        u_here = d * self._weights @ jacobian
        m = np.einsum("ipa,pb->iab", jacobians, jacobian * self._weights[:, None], optimize=True)
        cross = np.empty((n * (1 + size), 1 + size))
        cross[:n, 0] = kse + self.constant
        cross[n:, 0] = -(kse[:, None] * u).ravel()
        cross[:n, 1:] = kse[:, None] * u_here
        cross[n:, 1:] = (kse[:, None, None] * (m - u[:, :, None] * u_here[:, None, :])).reshape(-1, size)
        prior = np.empty(1 + size)
        prior[0] = s2 + self.constant
        prior[1:] = s2 * np.einsum("pa,pa,p->a", jacobian, jacobian, self._weights)
        explained = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        variance = np.maximum(prior - (explained**2).sum(axis=0), 0.0)
        return float(np.sqrt(variance[0])), float(np.sqrt(variance[1:].mean()))
