"""Squared-exponential kernel on inverse distances, with all derivative blocks, assembled by GEMM.

k(x, x') = s2 exp(-Q/2) + c2 with Q = sum_p w_p (phi_p(x) - phi_p(x'))^2 and w_p = 2 / l_t(p)^2
(GP-dimer, arXiv 2505.12519; every pair counts in both orders, hence the 2).  Data are ordered as all n
energies, then the gradients sample by sample: n (1 + D) rows with D = 3N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saddleflow.surrogate.inverse_distances import InverseDistances


@dataclass(frozen=True)
class Hyperparameters:
    """Of the kernel.

    Parameters
    ----------
    signal_variance : float
        s2 in eV^2.
    length_scales : ndarray, shape (T,)
        One per pair type, 1/Angstrom.
    """

    signal_variance: float
    length_scales: np.ndarray

    @property
    def logarithms(self) -> np.ndarray:
        """[ln s2, ln l_1, ..., ln l_T], shape (1 + T,)."""
        return np.log(np.concatenate([[self.signal_variance], self.length_scales]))

    def as_dict(self, labels: tuple[str, ...]) -> dict[str, float]:
        """For run files: names with units to values."""
        scales = {f"length_scale_{k}": float(v) for k, v in zip(labels, self.length_scales, strict=True)}
        return {"signal_variance": float(self.signal_variance)} | scales


class TrainingFeatures:
    """Features and Jacobians of the observations; they do not depend on hyperparameters.

    Parameters
    ----------
    descriptor : InverseDistances
        The features.
    """

    def __init__(self, descriptor: InverseDistances):
        self.descriptor = descriptor
        self.phi = np.zeros((0, descriptor.pairs))
        self.jacobians = np.zeros((0, descriptor.pairs, 3 * descriptor.atoms))

    def __len__(self) -> int:
        return len(self.phi)

    def add(self, positions: np.ndarray) -> None:
        """Append the observation at `positions` (shape (N, 3) or (3N,))."""
        self.phi = np.vstack([self.phi, self.descriptor.features(positions)])
        self.jacobians = np.concatenate([self.jacobians, self.descriptor.jacobian(positions)[None]])

    def subset(self, indices: list[int]) -> TrainingFeatures:
        """Only the observations at `indices`."""
        part = TrainingFeatures(self.descriptor)
        part.phi, part.jacobians = self.phi[indices], self.jacobians[indices]
        return part


@dataclass(frozen=True)
class Blocks:
    """Intermediates of a covariance matrix that the hyperparameter gradient needs again.

    Parameters
    ----------
    kse : ndarray, shape (n, n)
        s2 exp(-Q/2).
    scaled : ndarray, shape (P, n D)
        sqrt(w_p) times the Jacobians of all samples side by side.
    u : ndarray, shape (n, D, n)
        u[i, :, j] = J_i^T W (phi_i - phi_j).
    m : ndarray, shape (n, D, n, D)
        J_i^T W J_j.
    root_weights : ndarray, shape (P,)
        sqrt(w_p).
    """

    kse: np.ndarray
    scaled: np.ndarray
    u: np.ndarray
    m: np.ndarray
    root_weights: np.ndarray


def pair_weights(descriptor: InverseDistances, length_scales: np.ndarray) -> np.ndarray:
    """Weights w_p = 2 / l_t(p)^2, shape (P,), Angstrom^2."""
    return 2.0 / np.asarray(length_scales)[descriptor.pair_types] ** 2


def covariance(
    training: TrainingFeatures, hyperparameters: Hyperparameters, constant: float
) -> tuple[np.ndarray, Blocks]:
    """Noise-free covariance matrix of energies and gradients.

    Parameters
    ----------
    training : TrainingFeatures
        n observations.
    hyperparameters : Hyperparameters
        s2 and length scales.
    constant : float
        c2 in eV^2, on energy-energy entries only.

    Returns
    -------
    matrix : ndarray, shape (n (1 + D), n (1 + D))
        eV^2, eV^2/Angstrom and eV^2/Angstrom^2 by block.
    blocks : Blocks
        For :func:`objective_gradient_terms`.
    """
    n, pairs = training.phi.shape
    size = training.jacobians.shape[2]
    root = np.sqrt(pair_weights(training.descriptor, hyperparameters.length_scales))
    scaled_phi = training.phi * root
    scaled = (training.jacobians * root[None, :, None]).transpose(1, 0, 2).reshape(pairs, n * size)
    kse = hyperparameters.signal_variance * np.exp(-0.5 * squared_distances(scaled_phi, scaled_phi))
    projected = (scaled.T @ scaled_phi.T).reshape(n, size, n)
    own = projected[np.arange(n), :, np.arange(n)]
    u = own[:, :, None] - projected
    m = (scaled.T @ scaled).reshape(n, size, n, size)
    matrix = np.empty((n * (1 + size), n * (1 + size)))
    matrix[:n, :n] = kse + constant
    gradient_energy = (-kse[:, None, :] * u).reshape(n * size, n)
    matrix[n:, :n] = gradient_energy
    matrix[:n, n:] = gradient_energy.T
    other = u.transpose(2, 0, 1)  # [i, j, b] = u[j, b, i]
    block = matrix[n:, n:].reshape(n, size, n, size)
    np.multiply(u[:, :, :, None], other[:, None, :, :], out=block)
    block += m
    block *= kse[:, None, :, None]
    return matrix, Blocks(kse, scaled, u, m, root)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances between the rows of `a` (n, P) and `b` (k, P), shape (n, k)."""
    difference = a[:, None, :] - b[None, :, :]
    return np.einsum("ijp,ijp->ij", difference, difference)


def objective_gradient_terms(
    training: TrainingFeatures, blocks: Blocks, a: np.ndarray
) -> tuple[float, np.ndarray]:
    """Contract a symmetric matrix A with the derivatives of the covariance by the log-parameters.

    Parameters
    ----------
    training : TrainingFeatures
        As for :func:`covariance`.
    blocks : Blocks
        From :func:`covariance` at the same hyperparameters.
    a : ndarray, shape (n (1 + D), n (1 + D))
        For the likelihood K^-1 - alpha alpha^T.

    Returns
    -------
    signal : float
        sum(A * dK / d ln s2).
    lengths : ndarray, shape (T,)
        sum(A * dK / d ln l_t).
    """
    n, pairs = training.phi.shape
    size = training.jacobians.shape[2]
    types = training.descriptor.pair_types
    kinds = len(training.descriptor.type_labels)
    kse, u = blocks.kse, blocks.u
    other = u.transpose(2, 0, 1)
    a_ee = a[:n, :n] * kse
    a_ge = a[n:, :n].reshape(n, size, n) * kse[:, None, :]
    a_gg = a[n:, n:].reshape(n, size, n, size) * kse[:, None, :, None]

    # GG = kse (M - u u'^T) with u'_b = -u[j, b, i]; r contracts the second index with u'.
    r = np.einsum("iajb,ijb->iaj", a_gg, -other, optimize=True)
    gg = np.einsum("iajb,iajb->ij", a_gg, blocks.m, optimize=True) - np.einsum("iaj,iaj->ij", r, u)
    ge = -np.einsum("iaj,iaj->ij", a_ge, u)
    signal = float(a_ee.sum() + 2.0 * ge.sum() + gg.sum())

    # By ln l_t every block gains q_t, and loses what its derivatives carry of type t.
    per_sample = (training.phi * blocks.root_weights)[:, None, :]
    d = per_sample - per_sample.transpose(1, 0, 2)  # (n, n, P), scaled by sqrt(w)
    q_part = np.einsum("ij,ijp->p", a_ee + 2.0 * ge + gg, d**2, optimize=True)
    s = blocks.scaled.reshape(pairs, n, size)
    # u of one pair is s[p, i, a] d[i, j, p]; it stands in GE and EG (2 u(t)) and twice in GG (2 u(t) r).
    w = np.einsum("pia,iaj->pij", s, 4.0 * a_ge + 4.0 * r, optimize=True)
    u_part = np.einsum("pij,ijp->p", w, d, optimize=True)
    contracted = blocks.scaled @ a_gg.reshape(n * size, n * size)
    m_part = -2.0 * np.einsum("px,px->p", contracted, blocks.scaled)
    lengths = np.bincount(types, weights=q_part + u_part + m_part, minlength=kinds)
    return signal, lengths
