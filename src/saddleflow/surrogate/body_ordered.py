"""Body-ordered features of a molecule: sums over pairs, and over pairs of neighbours of each atom.

The atomic density of the neighbours of atom i in channel c = (element, radial function n) is expanded in
Cartesian harmonics up to the second order, A_icm = sum_j f_n(r_ij) Y_m(u_ij), and contracted to the
invariants sum_m A_icm A_idm of each order l (power spectrum; Bartok, Kondor, Csanyi, Phys. Rev. B 87, 184115
(2013)).  Radial functions depend on r minus the sum of the covalent radii, so that one set fits all bonds.
"""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii

CUTOFF = 4.5
"""Angstrom."""
PAIR_CENTRES, PAIR_WIDTH = np.linspace(-0.3, 2.7, 11), 0.3
"""Gaussians of the pair terms, Angstrom beyond the sum of the covalent radii."""
DENSITY_CENTRES, DENSITY_WIDTH = np.array([0.0, 0.6, 1.2, 2.0]), 0.45
"""Gaussians of the atomic densities, the same way."""
ORDERS = (slice(0, 1), slice(1, 4), slice(4, 13))
"""Components of the harmonics of l = 0, 1, 2: 1, u, u u - 1/3."""


class BodyOrdered:
    """Features of a molecule, summed over its atoms, with first derivatives.

    Parameters
    ----------
    elements : sequence of int
        Atomic numbers that the features tell apart, in ascending order; those of the molecule are among them.
    numbers : ndarray, shape (N,)
        Atomic numbers of the molecule.

    Attributes
    ----------
    size : int
        Number of features, F.
    """

    def __init__(self, elements: list[int], numbers: np.ndarray):
        kinds = np.searchsorted(elements, numbers)
        self._kinds, self._count, radial = kinds, len(elements), len(DENSITY_CENTRES)
        radii = covalent_radii[np.asarray(numbers)]
        self._bonds = radii[:, None] + radii[None, :]
        self._channels = self._count * radial
        first, second = np.triu_indices(self._channels)
        self._entry = np.zeros((self._channels, self._channels), int)
        self._entry[first, second] = self._entry[second, first] = np.arange(len(first))
        self._entries = len(first)
        pair = np.zeros((self._count, self._count), int)
        above, below = np.triu_indices(self._count)
        pair[above, below] = pair[below, above] = np.arange(len(above))
        self._pair_kind = pair[kinds[:, None], kinds[None, :]]
        self._pair_features = len(above) * len(PAIR_CENTRES)
        self.size = self._pair_features + self._count * self._entries * len(ORDERS)

    def values_jacobian(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (shape (F,)) and their derivatives (shape (F, 3N), 1/Angstrom) at positions (N, 3)."""
        first, second, unit, pair, density, densities = self._terms(positions)
        atoms, kinds, radial = len(positions), self._kinds, len(DENSITY_CENTRES)
        jacobian = np.zeros((self.size, atoms, 3))
        values = np.zeros(self.size)

        rows = (self._pair_kind[first, second] * len(PAIR_CENTRES))[:, None] + np.arange(len(PAIR_CENTRES))
        np.add.at(values, rows, pair[0])
        slope = pair[1][:, :, None] * unit[:, None, :]
        np.add.at(jacobian, (rows, first[:, None]), slope)
        np.add.at(jacobian, (rows, second[:, None]), -slope)

        upper = np.triu_indices(self._channels)
        own = kinds[second][:, None] * radial + np.arange(radial)  # channels that a pair belongs to
        entry = self._entry[own]  # (P, n, channels)
        twice = 1.0 + (own[:, :, None] == np.arange(self._channels))
        base = self._pair_features
        block = self._entries
        for order, components in enumerate(ORDERS):
            a = densities[:, :, components]
            power = np.einsum("icm,idm->icd", a, a)[:, upper[0], upper[1]]
            change = np.einsum("pnmb,pdm->pndb", density[1][:, :, components], a[first], optimize=True)
            change *= twice[..., None]
            start = base + (kinds * len(ORDERS) + order) * block  # of each central atom
            np.add.at(values, start[:, None] + np.arange(block), power)
            rows = start[first][:, None, None] + entry
            np.add.at(jacobian, (rows, first[:, None, None]), change)
            np.add.at(jacobian, (rows, second[:, None, None]), -change)
        return values, jacobian.reshape(self.size, -1)

    def gradient(self, positions: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Derivative of coefficients @ features, shape (3N,): the fast way where only that is wanted."""
        first, second, unit, pair, density, densities = self._terms(positions)
        of_pairs = coefficients[: self._pair_features].reshape(-1, len(PAIR_CENTRES))
        slope = (of_pairs[self._pair_kind[first, second]] * pair[1]).sum(axis=1)
        force = slope[:, None] * unit
        radial = len(DENSITY_CENTRES)
        matrices = coefficients[self._pair_features :].reshape(self._count, len(ORDERS), self._entries)
        matrices = matrices[:, :, self._entry] * (1.0 + np.eye(self._channels))
        sensitivity = np.empty_like(densities)
        for order, components in enumerate(ORDERS):
            sensitivity[:, :, components] = matrices[self._kinds, order] @ densities[:, :, components]
        blocks = sensitivity.reshape(len(positions), self._count, radial, -1)
        chosen = blocks[first, self._kinds[second]]
        force = force + np.einsum("pnm,pnmb->pb", chosen, density[1], optimize=True)
        gradient = np.zeros((len(positions), 3))
        np.add.at(gradient, first, force)
        np.add.at(gradient, second, -force)
        return gradient.ravel()

    def _terms(self, positions: np.ndarray):
        """Neighbour pairs, their unit vectors, and radial terms and densities with derivatives.

        The derivatives are by the position of the first atom of each pair.
        """
        difference = positions[:, None] - positions[None, :]
        distance = np.sqrt((difference**2).sum(axis=-1))
        first, second = np.nonzero((distance < CUTOFF) & ~np.eye(len(positions), dtype=bool))
        r = distance[first, second]
        unit = difference[first, second] / r[:, None]
        beyond = r - self._bonds[first, second]
        angle = 0.5 * np.pi * r / CUTOFF
        cut, cut_slope = np.cos(angle) ** 4, -2.0 * np.pi / CUTOFF * np.cos(angle) ** 3 * np.sin(angle)
        pair = _gaussians(beyond, PAIR_CENTRES, PAIR_WIDTH, cut, cut_slope)
        radial, slope = _gaussians(beyond, DENSITY_CENTRES, DENSITY_WIDTH, cut, cut_slope)

        eye = np.eye(3)
        turn = (eye - unit[:, :, None] * unit[:, None, :]) / r[:, None, None]  # d u_a / d x_b
        product = np.einsum("pab,pc->pacb", turn, unit)
        count = len(r)
        harmonics = np.concatenate(
            [
                np.ones((count, 1)),
                unit,
                (unit[:, :, None] * unit[:, None, :] - eye / 3.0).reshape(count, 9),
            ],
            axis=1,
        )
        turning = np.concatenate(
            [
                np.zeros((count, 1, 3)),
                turn,
                (product + product.transpose(0, 2, 1, 3)).reshape(count, 9, 3),
            ],
            axis=1,
        )
        density = radial[:, :, None] * harmonics[:, None, :]
        change = (slope[:, :, None] * harmonics[:, None, :])[..., None] * unit[:, None, None, :]
        change += radial[:, :, None, None] * turning[:, None, :, :]
        densities = np.zeros((len(positions), self._count, *density.shape[1:]))
        np.add.at(densities, (first, self._kinds[second]), density)
        densities = densities.reshape(len(positions), self._channels, -1)
        return first, second, unit, pair, (density, change), densities


def _gaussians(
    beyond: np.ndarray, centres: np.ndarray, width: float, cut: np.ndarray, cut_slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Radial functions and their derivatives, both of shape (P, functions)."""
    away = beyond[:, None] - centres
    bell = np.exp(-0.5 * (away / width) ** 2)
    return bell * cut[:, None], bell * (cut_slope[:, None] - away / width**2 * cut[:, None])
