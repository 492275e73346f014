"""Geometry of molecules: rigid motion, distances, alignment.  Angstrom throughout."""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree


def rigid_motion_basis(
    positions: np.ndarray, weights: np.ndarray | None = None, linear_tolerance: float = 1e-3
) -> np.ndarray:
    """Orthonormal basis of infinitesimal translations and rotations.

    Parameters
    ----------
    positions : ndarray, shape (N, 3)
        Angstrom.
    weights : ndarray, shape (N,), optional
        Square roots of the masses for mass-weighted coordinates; ones for Cartesian ones.
    linear_tolerance : float
        A rotation whose root moment of inertia is smaller than this times the largest one is no rotation.

    Returns
    -------
    ndarray, shape (3N, k)
        k = 6, 5 for linear molecules, 3 for a single atom.
    """
    n = len(positions)
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    centre = (w[:, None] ** 2 * positions).sum(axis=0) / (w**2).sum()
    x = positions - centre
    vectors = np.zeros((3 * n, 6))
    for axis in range(3):
        unit = np.eye(3)[axis]
        vectors[:, axis] = (w[:, None] * unit).ravel()
        vectors[:, 3 + axis] = (w[:, None] * np.cross(unit, x)).ravel()
    vectors[:, :3] /= np.linalg.norm(vectors[:, :3], axis=0)
    # A linear molecule has no rotation about its axis: its singular value vanishes with the bend, so the
    # threshold (relative to the largest rotation) is what "linear" means here.
    rotations = vectors[:, 3:]
    u, s, _ = np.linalg.svd(rotations, full_matrices=False)
    keep = s > linear_tolerance * max(s.max(initial=0.0), 1e-12)
    if s.max(initial=0.0) < 1e-8:
        keep[:] = False
    return np.hstack([vectors[:, :3], u[:, keep]])


def rigid_motion_products(positions: np.ndarray, gradients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Basis of rigid motion, and what any Hessian makes of it: known without a calculation.

    Energies do not change when the molecule moves, so a Hessian maps translations to nothing, and a rotation
    of the atoms to the same rotation of the gradient: H (w x r) = w x g.

    Parameters
    ----------
    positions : ndarray, shape (N, 3)
        Angstrom.
    gradients : ndarray, shape (k, 3N)
        Of k surfaces there, eV/Angstrom.

    Returns
    -------
    basis : ndarray, shape (3N, r)
        As :func:`rigid_motion_basis`.
    products : ndarray, shape (k, 3N, r)
        Hessians times the basis, eV/Angstrom^2.
    """
    axes = np.eye(3)
    moved = np.cross(axes[:, None], positions - positions.mean(axis=0)).reshape(3, -1)
    turned = np.cross(axes[:, None, None], gradients.reshape(len(gradients), -1, 3))
    turned = turned.reshape(3, *gradients.shape)
    basis = rigid_motion_basis(positions)
    shares = np.linalg.pinv(moved.T) @ basis  # translations are orthogonal to rotations about the centre
    return basis, np.einsum("ekd,er->kdr", turned, shares)


def orthogonal_complement(basis: np.ndarray) -> np.ndarray:
    """Orthonormal basis, shape (D, D - k), of what is orthogonal to `basis` (shape (D, k), orthonormal)."""
    return np.linalg.qr(basis, mode="complete")[0][:, basis.shape[1] :]


def project_out(basis: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Remove the span of `basis` (shape (3N, k), orthonormal) from `vector` (shape (3N,) or (N, 3))."""
    flat = vector.ravel()
    return (flat - basis @ (basis.T @ flat)).reshape(vector.shape)


def distance_matrix(positions: np.ndarray) -> np.ndarray:
    """Interatomic distances, shape (N, N), Angstrom, with infinity on the diagonal."""
    difference = positions[:, None, :] - positions[None, :, :]
    distances = np.sqrt((difference**2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    return distances


def best_rotation(positions: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotation R, shape (3, 3), by which ``positions @ R`` lies on `reference` best (Kabsch, least squares).

    Vectors of the atoms, such as modes, turn with it: ``mode @ R``.
    """
    u, _, vt = np.linalg.svd((positions - positions.mean(axis=0)).T @ (reference - reference.mean(axis=0)))
    sign = np.sign(np.linalg.det(u @ vt))
    return u @ np.diag([1.0, 1.0, sign if sign else 1.0]) @ vt


def aligned(positions: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotate and translate `positions` onto `reference` (both shape (N, 3)) by least squares (Kabsch)."""
    rotation = best_rotation(positions, reference)
    return (positions - positions.mean(axis=0)) @ rotation + reference.mean(axis=0)


def largest_motion(vector: np.ndarray) -> float:
    """Largest length of an atom's part of a vector of shape (3N,) or (N, 3)."""
    return float(np.sqrt((vector.reshape(-1, 3) ** 2).sum(axis=1)).max())


def capped_motion(step: np.ndarray, limit: float, force_maximum: bool = False) -> np.ndarray:
    """Scale a whole step (shape (3N,) or (N, 3), Angstrom) so that no atom moves further than `limit`.

    With `force_maximum` the fastest atom moves exactly so far.
    """
    largest = largest_motion(step)
    if largest == 0.0 or (largest <= limit and not force_maximum):
        return step
    return step * (limit / largest)


def largest_displacement(positions: np.ndarray, reference: np.ndarray) -> float:
    """Largest motion of an atom between two structures (shape (N, 3) or flat) after alignment, Angstrom."""
    positions, reference = positions.reshape(-1, 3), reference.reshape(-1, 3)
    return largest_motion(aligned(positions, reference) - reference)


def longest_gap(positions: np.ndarray) -> float:
    """Longest edge of the minimum spanning tree over the atoms, Angstrom: how far apart the parts are."""
    if len(positions) < 2:
        return 0.0
    distances = distance_matrix(positions)
    np.fill_diagonal(distances, 0.0)
    return float(minimum_spanning_tree(distances).max())
