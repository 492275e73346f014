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


def factorised(matrix: np.ndarray, tries: int = JITTER_TRIES) -> np.ndarray:
    """Lower Cholesky factor; jitter relative to the largest diagonal entry is added only where needed.

    Parameters
    ----------
    matrix : ndarray, shape (m, m)
        Symmetric.
    tries : int
        Jitters at most; 0: the matrix as it is.

    Raises
    ------
    LinAlgError
        When the matrix is indefinite, beyond jitter.
    """
    scale = float(matrix.diagonal().max())
    for attempt in range(tries + 1):
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
    previous : GaussianProcess, optional
        On the first n - k of the observations: where it has the same kernel and noise, its factor is extended
        by bordering, O(k m^2 D) instead of O(m^3) for m = n (1 + D).

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
        previous: GaussianProcess | None = None,
    ):
        self.hyperparameters = hyperparameters
        self.constant = constant
        self.noise_variance = noise_variance
        n = len(training)
        # Arrays of this moment: observations that are added later belong to the next process.
        self._jacobians = training.jacobians
        if previous is not None and previous._begins(self, training):
            self._factor, self._order = previous._bordered(training)
        else:
            matrix, _ = covariance(training, hyperparameters, constant)
            matrix[np.diag_indices_from(matrix)] += noise_variance
            self._factor, self._order = factorised(matrix), np.arange(len(matrix))
        data = np.concatenate([energies, np.ravel(gradients)])
        alpha = np.empty_like(data)
        alpha[self._order] = cho_solve((self._factor, True), data[self._order], check_finite=False)
        super().__init__(
            training.descriptor,
            training.phi,
            pair_weights(training.descriptor, hyperparameters.length_scales),
            hyperparameters.signal_variance,
            alpha[:n],
            np.einsum("ipa,ia->ip", training.jacobians, alpha[n:].reshape(n, -1)),
            constant * float(alpha[:n].sum()),
        )

    def _begins(self, other: GaussianProcess, training: TrainingFeatures) -> bool:
        """Whether this process has the kernel of another one and the first of its observations."""
        n = len(self._phi)
        return (
            n <= len(training)
            and self.constant == other.constant
            and self.noise_variance == other.noise_variance
            and np.array_equal(self.hyperparameters.logarithms, other.hyperparameters.logarithms)
            and np.array_equal(self._phi, training.phi[:n])
        )

    def _bordered(self, training: TrainingFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Factor of the covariance of more observations, and which row of the data each of its rows is.

        New rows come last in the factor, while in the data all energies go before all gradients.
        """
        n, size = len(self._phi), self._jacobians.shape[2]
        factor, order = self._factor, self._order
        for k in range(n, len(training)):
            phi, jacobian = training.phi[k], training.jacobians[k]
            known = (training.phi[:k], training.jacobians[:k])
            cross = self._cross_covariance(*known, phi, jacobian)
            own = self._own_covariance(jacobian)
            own[np.diag_indices_from(own)] += self.noise_variance
            border = solve_triangular(factor, cross[order], lower=True, check_finite=False).T
            corner = factorised(own - border @ border.T)
            factor = np.block([[factor, np.zeros((len(factor), 1 + size))], [border, corner]])
            gradients = k + 1 + k * size + np.arange(size)
            order = np.concatenate([np.where(order < k, order, order + 1), [k], gradients])
        return factor, order

    def _cross_covariance(
        self, phis: np.ndarray, jacobians: np.ndarray, phi: np.ndarray, jacobian: np.ndarray
    ) -> np.ndarray:
        """Covariance of n observations with energy and gradient at one point, (n (1 + D), 1 + D)."""
        n, _, size = jacobians.shape
        root = np.sqrt(self._weights)
        q = squared_distances((phis * root), (phi * root)[None])[:, 0]
        kse = self.hyperparameters.signal_variance * np.exp(-0.5 * q)
        d = phis - phi
        u = np.einsum("ipa,ip->ia", jacobians, d * self._weights)
        u_here = d * self._weights @ jacobian
        m = np.einsum("ipa,pb->iab", jacobians, jacobian * self._weights[:, None], optimize=True)
        cross = np.empty((n * (1 + size), 1 + size))
        cross[:n, 0] = kse + self.constant
        cross[n:, 0] = -(kse[:, None] * u).ravel()
        cross[:n, 1:] = kse[:, None] * u_here
        cross[n:, 1:] = (kse[:, None, None] * (m - u[:, :, None] * u_here[:, None, :])).reshape(-1, size)
        return cross

    def _own_covariance(self, jacobian: np.ndarray) -> np.ndarray:
        """Noise-free covariance of energy and gradient at one point with themselves, (1 + D, 1 + D)."""
        own = np.zeros((1 + jacobian.shape[1],) * 2)
        own[0, 0] = self.hyperparameters.signal_variance + self.constant
        own[1:, 1:] = self.hyperparameters.signal_variance * (jacobian.T * self._weights) @ jacobian
        return own

    def standard_deviations(self, positions: np.ndarray) -> tuple[float, float]:
        """Standard deviation of the energy (eV) and root mean square one of the gradient (eV/Angstrom)."""
        phi, jacobian = self.descriptor.features(positions), self.descriptor.jacobian(positions)
        cross = self._cross_covariance(self._phi, self._jacobians, phi, jacobian)
        explained = solve_triangular(self._factor, cross[self._order], lower=True, check_finite=False)
        prior = self._own_covariance(jacobian).diagonal()
        variance = np.maximum(prior - (explained**2).sum(axis=0), 0.0)
        return float(np.sqrt(variance[0])), float(np.sqrt(variance[1:].mean()))
