"""Distance between structures by optimal transport of like atoms, and farthest-point subsets with it.

The measure of the optimal-transport GP-dimer (Goswami and Jonsson, ChemPhysChem 2025, arXiv 2510.06030).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

Combination = Literal["maximum", "sum"]


class TransportDistance:
    """Wasserstein-1 distance per element, by exact assignment, combined over the elements.

    It does not change when like atoms trade places; it does change with rigid motion.

    Parameters
    ----------
    numbers : ndarray, shape (N,)
        Atomic numbers.
    combination : str
        ``maximum`` over the elements of their mean displacements (the published program), or their ``sum``
        (the published abstract).
    """

    def __init__(self, numbers: np.ndarray, combination: Combination = "maximum"):
        numbers = np.asarray(numbers)
        self._groups = [np.flatnonzero(numbers == z) for z in np.unique(numbers)]
        self._combine = max if combination == "maximum" else sum

    def per_element(self, first: np.ndarray, second: np.ndarray) -> list[float]:
        """Mean displacement of each element's atoms at the cheapest assignment, Angstrom.

        Parameters
        ----------
        first, second : ndarray, shape (N, 3) or (3N,)
            Angstrom; no alignment is made.

        Returns
        -------
        list of float
            In the order of atomic numbers.
        """
        a, b = first.reshape(-1, 3), second.reshape(-1, 3)
        means = []
        for group in self._groups:
            costs = np.sqrt(((a[group, None] - b[None, group]) ** 2).sum(axis=2))
            rows, columns = linear_sum_assignment(costs)
            means.append(float(costs[rows, columns].mean()))
        return means

    def __call__(self, first: np.ndarray, second: np.ndarray) -> float:
        """Distance between two structures (shape (N, 3) or (3N,)), Angstrom."""
        return float(self._combine(self.per_element(first, second)))

    def upper_bound(self, first: np.ndarray, second: np.ndarray) -> float:
        """Distance with every atom assigned to itself, Angstrom: never below the exact one, and cheap."""
        motion = np.sqrt(((first.reshape(-1, 3) - second.reshape(-1, 3)) ** 2).sum(axis=1))
        return float(self._combine([motion[group].mean() for group in self._groups]))

    def any_within(self, position: np.ndarray, observed: Sequence[np.ndarray], limit: float) -> bool:
        """Whether a structure lies within `limit` (Angstrom) of at least one of the observed ones."""
        # The newest is the likeliest, and the bound alone settles most cases without an assignment.
        newest_first = observed[::-1]
        if any(self.upper_bound(position, other) <= limit for other in newest_first):
            return True
        return any(self(position, other) <= limit for other in newest_first)


def farthest_points(distances: np.ndarray, count: int, latest: int) -> list[int]:
    """Spread-out subset: the latest observations, then always the one farthest from those chosen.

    Parameters
    ----------
    distances : ndarray, shape (n, n)
        Between the observations, in the order in which they were made.
    count : int
        Size of the subset; all if there are no more.
    latest : int
        So many of the newest observations always belong to it.

    Returns
    -------
    list of int
        Indices, ascending.
    """
    n = len(distances)
    if n <= count:
        return list(range(n))
    chosen = list(range(n - min(latest, count), n)) or [n - 1]
    nearest = distances[:, chosen].min(axis=1)
    while len(chosen) < count:
        nearest[chosen] = -np.inf
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, distances[:, chosen[-1]])
    return sorted(chosen)
