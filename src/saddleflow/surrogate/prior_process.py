"""Gaussian process on top of a prior mean whose weight the data decide.

energy(x) = offset + sum_j c_j m_j(x) + residual(x): the m_j are k cheap surfaces with normally distributed
weights c, the residual has a squared-exponential kernel on features of the distances.  All are
integrated out together: the weights are linear features of the covariance, the signal variance has a
closed-form estimate under an inverse-gamma prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from saddleflow.surrogate.gaussian_process import KernelExpansion, factorised
from saddleflow.surrogate.kernel import Hyperparameters, TrainingFeatures, covariance, pair_weights

SIGNAL_SHAPE, SIGNAL_SCALE = 3.0, 0.09
"""Inverse-gamma prior of the signal variance: weight in pseudo-observations, and eV^2."""
CONSTANT_RATIO, CONSTANT_VARIANCE = 100.0, 1.0
"""Variance of the constant offset: so many signal variances plus so many eV^2."""


@dataclass(frozen=True)
class WeightPrior:
    """Normal distribution of the weights of k surfaces.

    Parameters
    ----------
    mean : ndarray, shape (k,)
        Mean.
    factor : ndarray, shape (k, r)
        B of the covariance B B^T.
    """

    mean: np.ndarray
    factor: np.ndarray

    def without(self, number: int) -> WeightPrior:
        """Distribution of the other weights, given that this one is zero."""
        mean, factor, row = self.mean, self.factor, self.factor[number]
        if (size := float(row @ row)) > 0:
            along = factor @ row / size
            mean = mean - along * mean[number]
            factor = factor - np.outer(along, row)
        return WeightPrior(np.delete(mean, number), np.delete(factor, number, axis=0))


@dataclass(frozen=True)
class Observations:
    """What was observed, and what the prior mean says there.

    Parameters
    ----------
    energies : ndarray, shape (n,)
        True energies, eV.
    gradients : ndarray, shape (n, D)
        True gradients, eV/Angstrom.
    prior_energies : ndarray, shape (n, k)
        Of the k cheap surfaces, eV.
    prior_gradients : ndarray, shape (n, k, D)
        Of the cheap surfaces, eV/Angstrom.
    """

    energies: np.ndarray
    gradients: np.ndarray
    prior_energies: np.ndarray
    prior_gradients: np.ndarray


class PriorProcess:
    """Surrogate conditioned on all observations.

    Parameters
    ----------
    training : TrainingFeatures
        Features of the n observations.
    observations : Observations
        Data; energies are taken relative to the last one.
    length_scale : float
        Of all pairs, 1/Angstrom: k = s2 exp(-|dphi|^2 / (2 l^2)).
    weight_prior : WeightPrior
        Of the k surfaces.
    energy_noise, gradient_noise : float
        Standard deviations, eV and eV/Angstrom.
    signal_variance : float or None
        Start of its estimate, eV^2.

    Attributes
    ----------
    weights : ndarray, shape (k,)
        Posterior weights of the cheap surfaces.
    signal_variance : float
        s2 in eV^2.
    log_evidence : float
        Log marginal likelihood up to a constant.

    Raises
    ------
    LinAlgError
        When the covariance matrix can't be factorised.
    """

    def __init__(
        self,
        training: TrainingFeatures,
        observations: Observations,
        length_scale: float,
        weight_prior: WeightPrior,
        energy_noise: float,
        gradient_noise: float,
        signal_variance: float | None = None,
    ):
        n, size = observations.gradients.shape
        descriptor = training.descriptor
        # The kernel counts every pair in both orders (w = 2 / l^2); here k has exp(-dphi^2 / (2 l^2)).
        lengths = np.full(len(descriptor.type_labels), np.sqrt(2.0) * length_scale)
        unit, _ = covariance(training, Hyperparameters(1.0, lengths), 0.0)
        self.reference_energy = float(observations.energies[-1])
        self._prior_reference = observations.prior_energies[-1]
        surfaces = observations.prior_energies.shape[1]
        relative = observations.energies - self.reference_energy
        feature = np.concatenate(
            [
                observations.prior_energies - self._prior_reference,
                observations.prior_gradients.transpose(0, 2, 1).reshape(n * size, surfaces),
            ]
        )
        data = np.concatenate([relative, observations.gradients.ravel()]) - feature @ weight_prior.mean
        noise = np.concatenate([np.full(n, energy_noise**2), np.full(n * size, gradient_noise**2)])
        feature = feature @ weight_prior.factor
        linear = feature @ feature.T
        s2 = signal_variance or SIGNAL_SCALE
        for _ in range(3):
            constant = CONSTANT_RATIO * s2 + CONSTANT_VARIANCE
            matrix = s2 * unit + linear
            matrix[:n, :n] += constant
            matrix[np.diag_indices_from(matrix)] += noise + 1e-10 * s2
            factor = factorised(matrix)
            alpha = cho_solve((factor, True), data, check_finite=False)
            misfit = s2 * float(alpha @ data) + 2.0 * SIGNAL_SHAPE * SIGNAL_SCALE
            estimate = misfit / (len(data) + 2.0 * SIGNAL_SHAPE)
            if abs(np.log(estimate / s2)) < 0.1:
                break
            s2, previous = estimate, s2
        else:
            s2 = previous  # what the factor was made with
        self.signal_variance = s2
        self.log_evidence = float(-0.5 * data @ alpha - np.log(factor.diagonal()).sum())
        self.weights = weight_prior.mean + weight_prior.factor @ (feature.T @ alpha)
        self._weight_factor, self._feature, self._factor = weight_prior.factor, feature, factor
        self._constant = constant
        self._training_phi, self._jacobians = training.phi, training.jacobians
        self._kernel_weights = pair_weights(descriptor, lengths)
        self.residual = KernelExpansion(
            descriptor,
            training.phi,
            self._kernel_weights,
            s2,
            alpha[:n],
            np.einsum("ipa,ia->ip", training.jacobians, alpha[n:].reshape(n, size)),
            constant * float(alpha[:n].sum()),
        )

    def energy_gradient(
        self, position: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
    ) -> tuple[float, np.ndarray]:
        """Mean energy (eV) and gradient (shape (D,)) where the cheap surfaces say `prior`.

        `prior` is energies (shape (k,)) and gradients (shape (k, D)).
        """
        energy, gradient = self.residual.energy_gradient(position)
        energy += self.reference_energy + float(self.weights @ (prior[0] - self._prior_reference))
        return energy, gradient + self.weights @ prior[1]

    def hessian(self, position: np.ndarray, prior_hessian: np.ndarray) -> np.ndarray:
        """Hessian of the mean, shape (D, D), eV/Angstrom^2, from that of the weighted cheap surfaces."""
        hessian = self.residual.hessian(position) + prior_hessian
        return 0.5 * (hessian + hessian.T)

    def standard_deviations(
        self, position: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
    ) -> tuple[float, float]:
        """Standard deviation of the energy (eV) and root mean square one of the gradient (eV/Angstrom)."""
        descriptor, s2, w = self.residual.descriptor, self.signal_variance, self._kernel_weights
        phi, jacobian = descriptor.features(position), descriptor.jacobian(position)
        n, _, size = self._jacobians.shape
        d = self._training_phi - phi
        kse = s2 * np.exp(-0.5 * np.einsum("ip,ip->i", d * w, d))
        u = np.einsum("ipa,ip->ia", self._jacobians, d * w)
        u_here = (d * w) @ jacobian
        m = np.einsum("ipa,pb->iab", self._jacobians, jacobian * w[:, None], optimize=True)
        here = self._weight_factor.T @ np.column_stack([prior[0] - self._prior_reference, prior[1]])
        cross = self._feature @ here
        cross[:n, 0] += kse + self._constant
        cross[n:, 0] -= (kse[:, None] * u).ravel()
        cross[:n, 1:] += kse[:, None] * u_here
        cross[n:, 1:] += (kse[:, None, None] * (m - u[:, :, None] * u_here[:, None, :])).reshape(-1, size)
        variance = (here**2).sum(axis=0)
        variance[0] += s2 + self._constant
        variance[1:] += s2 * np.einsum("pa,pa,p->a", jacobian, jacobian, w)
        explained = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        variance = np.maximum(variance - (explained**2).sum(axis=0), 0.0)
        return float(np.sqrt(variance[0])), float(np.sqrt(variance[1:].mean()))
