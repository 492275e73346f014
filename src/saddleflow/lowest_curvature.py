"""The lowest eigenpair of a Hessian that is only known by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from saddleflow.geometry import project_out, rigid_motion_basis

# Gap below which the preconditioner does not amplify a component further, eV/Angstrom^2.
SMALLEST_GAP = 0.5
# A start of which less than this part is left without rigid motion says nothing.
RIGID_START = 1e-6


def lowest_mode_by_products(
    product: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    positions: np.ndarray,
    max_products: int,
    model: np.ndarray | None = None,
    tolerance: float = 0.02,
) -> np.ndarray:
    """Direction of lowest curvature by Davidson's method, without rigid motion.

    Parameters
    ----------
    product : callable
        Hessian (eV/Angstrom^2) times a unit vector, both of shape (3N,).
    start : ndarray, shape (N, 3)
        First direction.
    positions : ndarray, shape (N, 3)
        Angstrom.
    max_products : int
        Limit of products.
    model : ndarray, shape (3N, 3N), optional
        Cheap approximation of the Hessian that steers the search (eV/Angstrom^2); without it the method is
        Lanczos'.  It has no influence on what is measured.
    tolerance : float
        Stop when the residual is below this part of the largest |curvature| met.

    Returns
    -------
    ndarray, shape (N, 3)
        Unit vector.

    References
    ----------
    Davidson, J. Comput. Phys. 17, 87 (1975).
    """
    rigid = rigid_motion_basis(positions)
    rigid = rigid if rigid.shape[1] < positions.size else rigid[:, :0]
    levels, shapes = (np.zeros(0), None) if model is None else np.linalg.eigh(0.5 * (model + model.T))
    direction = project_out(rigid, start.ravel())
    if np.linalg.norm(direction) < RIGID_START * np.linalg.norm(start):
        # The mode of a search can turn into a rotation of the molecule: any other direction begins then.
        direction = project_out(rigid, np.random.default_rng(0).standard_normal(positions.size))
    space = np.zeros((positions.size, 0))
    products = np.zeros((positions.size, 0))
    for _ in range(max_products):
        for _ in range(2):  # once is not enough when little is left of the vector
            direction = project_out(space, project_out(rigid, direction))
            length = np.linalg.norm(direction)
            if length < 1e-10:
                break
            direction = direction / length
        if length < 1e-10:
            break  # the space is exhausted
        space = np.column_stack([space, direction])
        products = np.column_stack([products, product(direction)])
        small = space.T @ products
        values, vectors = np.linalg.eigh(0.5 * (small + small.T))
        mode = space @ vectors[:, 0]
        residual = project_out(rigid, products @ vectors[:, 0]) - values[0] * mode
        if np.linalg.norm(residual) < tolerance * np.abs(values).max():
            break
        if shapes is None:
            direction = residual
        else:
            gaps = np.maximum(levels - values[0], SMALLEST_GAP)
            direction = shapes @ ((shapes.T @ residual) / gaps)
    return mode.reshape(positions.shape)
