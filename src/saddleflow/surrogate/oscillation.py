"""Detection of hyperparameters that swing from fit to fit (optimal-transport GP-dimer, arXiv 2510.06030)."""

from __future__ import annotations

import numpy as np

SMALLEST_FLIP = 1e-9
"""Product of two successive changes above which (in magnitude) a change of sign counts."""


def flip_ratio(history: np.ndarray) -> float:
    """Part of the possible changes of direction that did occur.

    Parameters
    ----------
    history : ndarray, shape (fits, k)
        Log-parameters of successive fits, at least three.

    Returns
    -------
    float
        0 (every parameter moves one way) to 1 (every parameter turns round at every fit).
    """
    changes = np.diff(history, axis=0)
    flips = changes[1:] * changes[:-1] < -SMALLEST_FLIP
    return float(flips.mean())


class OscillationDetector:
    """Watches the last fits.

    Parameters
    ----------
    window : int
        Fits that are looked at together.
    limit : float
        Flip ratio above which the parameters oscillate.
    """

    def __init__(self, window: int, limit: float):
        self.window = window
        self.limit = limit
        self._history: list[np.ndarray] = []

    def oscillates(self, log_parameters: np.ndarray) -> bool:
        """Take up a fit (shape (k,)); True, with the history cleared, when the last ones oscillate."""
        self._history = [*self._history, log_parameters][-self.window :]
        if len(self._history) < self.window or flip_ratio(np.array(self._history)) <= self.limit:
            return False
        self._history = []
        return True
