"""Hessians from gradients, normal modes and frequencies, and what a mode does to the bonds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import units
from ase.data import atomic_masses, atomic_numbers, covalent_radii

from saddleflow.geometry import distance_matrix, orthogonal_complement, rigid_motion_basis

# A saddle converged to 0.01 eV/A may deviate from a linear structure by some hundredths of an Angstrom.
# Taking that for a bent one would project a bend out as if it were the rotation about the axis.
LINEAR_TOLERANCE = 0.02
# Wave number in cm-1 of an eigenvalue of 1 eV/A^2/u: hbar omega = sqrt(eigenvalue).
WAVE_NUMBER = float(units._hbar * units.m / np.sqrt(units._e * units._amu) / units.invcm)
# Largest motion of an atom in Angstrom up to which a mode is followed when bonds are compared.
AMPLITUDES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# A bond counts as changed when its relative rate of change is at least this part of the largest one.
RELEVANT_RATE = 0.25


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
    # Within the complement: no artificial eigenvalues that could mix with real ones.
    complement = orthogonal_complement(rigid_motion_basis(position.reshape(-1, 3)))
    values, vectors = np.linalg.eigh(complement.T @ hessian @ complement)
    return Modes(values, complement @ vectors)


@dataclass(frozen=True)
class Vibrations:
    """Harmonic normal modes without rigid motion.

    Parameters
    ----------
    frequencies_cm1 : ndarray, shape (k,)
        Ascending wave numbers in cm-1, imaginary ones as negative numbers; k = 3N - 6, 3N - 5 if linear.
    modes : ndarray, shape (k, N, 3)
        Cartesian displacements, each a unit vector.
    negative_count : int
        Number of imaginary frequencies.
    linear : bool
        Whether the molecule was taken as linear.
    """

    frequencies_cm1: np.ndarray
    modes: np.ndarray
    negative_count: int
    linear: bool


def internal_directions(positions: np.ndarray, symbols: tuple[str, ...]) -> np.ndarray:
    """Displacements without rigid motion in Eckart's sense, mostly of single atoms.

    Parameters
    ----------
    positions : ndarray, shape (N, 3)
        Angstrom.
    symbols : tuple of str
        Elements.

    Returns
    -------
    ndarray, shape (3N, k)
        Unit columns (not orthogonal to each other); k = 3N - 6, 3N - 5 if linear.
    """
    basis = mass_weighted_internal_basis(positions, symbols)
    directions = basis / np.repeat(root_masses(symbols), 3)[:, None]
    return directions / np.linalg.norm(directions, axis=0)


def difference_products(
    gradient_function: Callable[[np.ndarray], np.ndarray],
    positions: np.ndarray,
    directions: np.ndarray,
    displacement: float,
) -> np.ndarray:
    """Products of the Hessian with directions, by central differences of gradients.

    Parameters
    ----------
    gradient_function : callable
        Gradient in eV/Angstrom (3N numbers in any shape) at positions of shape (N, 3).
    positions : ndarray, shape (N, 3)
        Angstrom.
    directions : ndarray, shape (3N, k)
        Unit vectors; 2k gradients are taken.
    displacement : float
        Length of the step along a direction, Angstrom.

    Returns
    -------
    ndarray, shape (3N, k)
        eV/Angstrom^2.
    """
    products = np.empty_like(directions, dtype=float)
    for column, direction in enumerate(directions.T):
        step = displacement * direction.reshape(positions.shape)
        plus = np.ravel(gradient_function(positions + step))
        minus = np.ravel(gradient_function(positions - step))
        products[:, column] = (plus - minus) / (2 * displacement)
    return products


def assemble_hessian(
    directions: np.ndarray, products: np.ndarray, symbols: tuple[str, ...]
) -> tuple[np.ndarray, float]:
    """Hessian from its products with all internal directions.

    Parameters
    ----------
    directions : ndarray, shape (3N, k)
        As from :func:`internal_directions`.
    products : ndarray, shape (3N, k)
        Hessian times directions, eV/Angstrom^2.
    symbols : tuple of str
        Elements.

    Returns
    -------
    hessian : ndarray, shape (3N, 3N)
        Symmetric, eV/Angstrom^2.  Its rigid part, which a vibrational analysis projects out, is zero.
    asymmetry : float
        Largest difference between two measurements of one element, eV/Angstrom^2: the noise of the gradients,
        or much more where they belong to different electronic states.
    """
    inner = directions.T @ products
    asymmetry = float(np.abs(inner - inner.T).max(initial=0.0))
    weighted = np.repeat(root_masses(symbols) ** 2, 3)[:, None] * directions
    dual = weighted @ np.linalg.inv(directions.T @ weighted)
    hessian = dual @ (0.5 * (inner + inner.T)) @ dual.T
    return 0.5 * (hessian + hessian.T), asymmetry


def finite_difference_hessian(
    gradient_function: Callable[[np.ndarray], np.ndarray],
    positions: np.ndarray,
    symbols: tuple[str, ...],
    displacement: float = 0.005,
) -> np.ndarray:
    """Hessian for a vibrational analysis by central differences of 2(3N - 6) gradients (3N - 5 if linear).

    The usual 6N gradients also measure the response to rigid motion, which the analysis then projects out.
    Displacing along Eckart's internal directions only gives the same frequencies for 12 gradients less.

    Parameters
    ----------
    gradient_function, positions, displacement
        As for :func:`difference_products`.
    symbols : tuple of str
        Elements, whose masses define the internal directions.

    Returns
    -------
    ndarray, shape (3N, 3N)
        eV/Angstrom^2, symmetric, without rigid part.
    """
    directions = internal_directions(positions, symbols)
    products = difference_products(gradient_function, positions, directions, displacement)
    return assemble_hessian(directions, products, symbols)[0]


def vibrational_analysis(hessian: np.ndarray, positions: np.ndarray, symbols: tuple[str, ...]) -> Vibrations:
    """Normal modes of the mass-weighted Hessian with translations and rotations projected out.

    Parameters
    ----------
    hessian : ndarray, shape (3N, 3N)
        eV/Angstrom^2.
    positions : ndarray, shape (N, 3)
        Angstrom.
    symbols : tuple of str
        Elements; masses are ASE's standard atomic masses.

    Returns
    -------
    Vibrations
        Modes by ascending frequency.

    References
    ----------
    Wilson, Decius, Cross, Molecular Vibrations (1955), chapter 2; projection as in Miller, Handy, Adams,
    J. Chem. Phys. 72, 99 (1980).
    """
    inverse_roots = np.repeat(1.0 / root_masses(symbols), 3)
    weighted = 0.5 * (hessian + hessian.T) * np.outer(inverse_roots, inverse_roots)
    internal = mass_weighted_internal_basis(positions, symbols)
    values, vectors = np.linalg.eigh(internal.T @ weighted @ internal)
    modes = (internal @ vectors) * inverse_roots[:, None]
    modes /= np.linalg.norm(modes, axis=0)
    return Vibrations(
        frequencies_cm1=np.sign(values) * np.sqrt(np.abs(values)) * WAVE_NUMBER,
        modes=modes.T.reshape(-1, len(positions), 3),
        negative_count=int((values < 0).sum()),
        linear=len(positions) > 1 and internal.shape[1] == internal.shape[0] - 5,
    )


def root_masses(symbols: tuple[str, ...]) -> np.ndarray:
    """Square roots of ASE's standard atomic masses, shape (N,), in u^(1/2)."""
    return np.sqrt(atomic_masses[[atomic_numbers[symbol] for symbol in symbols]])


def mass_weighted_internal_basis(positions: np.ndarray, symbols: tuple[str, ...]) -> np.ndarray:
    """Orthonormal basis of the mass-weighted internal space, shape (3N, k), close to unit vectors."""
    rigid = rigid_motion_basis(positions, root_masses(symbols), LINEAR_TOLERANCE)
    size = 3 * len(positions)
    q, _ = np.linalg.qr(np.hstack([rigid, np.eye(size)]))
    return q[:, rigid.shape[1] : size]


def changed_bonds(
    symbols: tuple[str, ...], positions: np.ndarray, mode: np.ndarray, scale: float = 1.3
) -> str:
    """Which bonds a mode breaks and forms, followed both ways from a saddle.

    Parameters
    ----------
    symbols : tuple of str
        Elements.
    positions : ndarray, shape (N, 3)
        Angstrom.
    mode : ndarray, shape (N, 3)
        Displacement; its sign only swaps "breaks" and "forms", so it is fixed (largest component positive).
    scale : float
        Atoms closer than this times the sum of their covalent radii count as bonded.

    Returns
    -------
    str
        Such as ``breaks C1-H5, forms O2-H5`` (atoms count from 1); where the bonds stay, the three distances
        (atoms with a bond to a common neighbour or nearer) that change most.
    """
    if len(positions) < 2:
        return "no bonds"
    mode = mode * np.sign(mode.ravel()[np.abs(mode).argmax()]) / np.sqrt((mode**2).sum(axis=1)).max()
    radii = covalent_radii[[atomic_numbers[symbol] for symbol in symbols]]
    bonded_below = scale * (radii[:, None] + radii[None, :])
    distances = distance_matrix(positions)
    separations = positions[:, None, :] - positions[None, :, :]
    rates = (separations * (mode[:, None, :] - mode[None, :, :])).sum(axis=2) / distances**2
    near = distances < 1.6 * bonded_below
    pairs = [(i, j) for i, j in zip(*np.nonzero(np.triu(near)), strict=True)]
    if not pairs:
        return "no bonds"
    largest = max(abs(rates[pair]) for pair in pairs)
    changing = {pair for pair in pairs if abs(rates[pair]) >= RELEVANT_RATE * largest}
    broken, formed = [], []
    for pair in sorted(changing, key=lambda pair: -abs(rates[pair])):
        for amplitude in AMPLITUDES:
            behind, ahead = (
                distance_matrix(positions + sign * amplitude * mode)[pair] < bonded_below[pair]
                for sign in (-1, 1)
            )
            if behind != ahead:
                (broken if behind else formed).append(_label(symbols, pair))
                break
    if broken or formed:
        parts = [("breaks", broken), ("forms", formed)]
        return ", ".join(f"{verb} {', '.join(names)}" for verb, names in parts if names)
    most = sorted(pairs, key=lambda pair: -abs(rates[pair]))[:3]
    changes = [f"{_label(symbols, pair)} {'longer' if rates[pair] > 0 else 'shorter'}" for pair in most]
    return "no bond changes; " + ", ".join(changes)


def _label(symbols: tuple[str, ...], pair: tuple[int, int]) -> str:
    return "-".join(f"{symbols[i]}{i + 1}" for i in pair)
