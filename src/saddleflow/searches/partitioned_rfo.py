"""One step towards a first-order saddle on a surface with a Hessian.

Partitioned rational function optimisation (Banerjee et al., J. Phys. Chem. 89, 52 (1985)): up along one
mode, down along all others, rigid motion projected out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from saddleflow.geometry import rigid_motion_basis


@dataclass(frozen=True)
class Modes:
    """Eigenvalues (ascending, eV/Angstrom^2) and eigenvectors (shape (D, k)) without rigid motion."""

    values: np.ndarray
    vectors: np.ndarray

    @property
    def index(self) -> int:
        """Number of negative eigenvalues."""
        return int((self.values < 0).sum())


def internal_modes(hessian: np.ndarray, position: np.ndarray) -> Modes:
    """Modes of a Hessian (shape (D, D)) with translations and rotations projected out."""
    rigid = rigid_motion_basis(position.reshape(-1, 3))
    # An orthonormal basis of the complement: no artificial eigenvalues that could mix with real ones.
    complement = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
    values, vectors = np.linalg.eigh(complement.T @ hessian @ complement)
    return Modes(values, complement @ vectors)


def saddle_step(gradient: np.ndarray, modes: Modes, uphill: int) -> np.ndarray:
    """Step (shape (D,), Angstrom) up along mode number `uphill` and down along all others.

    Parameters
    ----------
    gradient : ndarray, shape (D,)
        eV/Angstrom.
    modes : Modes
        Of the Hessian there.
    uphill : int
        Mode to climb.
    """
    components = modes.vectors.T @ gradient
    step = np.zeros(len(components))
    b, f = modes.values[uphill], components[uphill]
    shift = 0.5 * (b + np.sqrt(b * b + 4.0 * f * f))
    step[uphill] = -f / (b - shift) if abs(b - shift) > 1e-12 else 0.0
    rest = np.arange(len(components)) != uphill
    values, forces = modes.values[rest], components[rest]
    square = forces**2
    top = min(values.min(initial=0.0), 0.0) - 1e-10  # a diatomic has no other modes
    bottom = top - np.sqrt(square.sum()) - 1.0

    def secular(shift: float) -> float:
        return shift + (square / (values - shift)).sum()

    shift = brentq(secular, bottom, top) if secular(bottom) < 0.0 < secular(top) else top
    step[rest] = -forces / (values - shift)
    return modes.vectors @ step


def stiff_step(gradient: np.ndarray, modes: Modes, stiffness: float) -> np.ndarray:
    """Newton step (shape (D,), Angstrom) in the modes stiffer than `stiffness` (eV/Angstrom^2) only."""
    stiff = modes.values > stiffness
    vectors = modes.vectors[:, stiff]
    return -vectors @ ((vectors.T @ gradient) / modes.values[stiff])
