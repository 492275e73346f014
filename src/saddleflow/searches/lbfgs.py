"""Limited-memory BFGS directions (Nocedal, Math. Comp. 35, 773 (1980)) for rotation and translation."""

from __future__ import annotations

import numpy as np


class LimitedMemoryBFGS:
    """Two-loop recursion on pairs of steps and gradient changes.

    Parameters
    ----------
    memory : int
        Pairs kept.
    initial_inverse_curvature : float
        Scale of the first step, before there is a pair (Angstrom^2/eV for translations).
    """

    def __init__(self, memory: int, initial_inverse_curvature: float = 0.01):
        self.memory = memory
        self.initial_inverse_curvature = initial_inverse_curvature
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def clear(self) -> None:
        """Forget all pairs."""
        self._pairs.clear()

    def add(self, step: np.ndarray, gradient_change: np.ndarray) -> None:
        """Store a pair (both shape (D,)); the oldest one goes when the memory is full."""
        if step @ gradient_change == 0.0:
            return
        self._pairs.append((step, gradient_change))
        if len(self._pairs) > self.memory:
            self._pairs.pop(0)

    def apply(self, vector: np.ndarray, inverse_curvature: float | None = None) -> np.ndarray:
        """Approximate inverse Hessian times `vector` (shape (D,)).

        Parameters
        ----------
        vector : ndarray, shape (D,)
            Usually the force.
        inverse_curvature : float, optional
            Initial scale; without it s.y/y.y of the newest pair, or the initial one.
        """
        q = vector.copy()
        alphas = []
        for s, y in reversed(self._pairs):
            alpha = (s @ q) / (s @ y)
            alphas.append(alpha)
            q = q - alpha * y
        if inverse_curvature is None:
            if self._pairs:
                s, y = self._pairs[-1]
                inverse_curvature = (s @ y) / (y @ y)
            else:
                inverse_curvature = self.initial_inverse_curvature
        q = q * inverse_curvature
        for (s, y), alpha in zip(self._pairs, reversed(alphas), strict=True):
            q = q + s * (alpha - (y @ q) / (s @ y))
        return q
