"""The lowest mode at the guess, measured on the true surface where the prior is not to be trusted."""

from __future__ import annotations

import numpy as np

from saddleflow.evaluation import Evaluate, Evaluation, Purpose
from saddleflow.lowest_curvature import lowest_mode_by_products
from saddleflow.searches.prior_model import PriorModel
from saddleflow.vibrations import internal_modes

PROBE = 0.02
"""Angstrom: length of a displacement (of all coordinates) whose gradient is asked."""
MOST_PROBES = 6
"""Evaluations at most; Davidson's method took 2 to 5 at the guesses of 20 open shells."""
TOLERANCE = 0.15
"""It ends where the residual is below this part of the largest |curvature| met: the surrogate then knows the
rest from the same gradients."""


def measure_lowest_mode(evaluate: Evaluate, model: PriorModel, first: Evaluation) -> None:
    """Give the model evaluations next to its first one, in the directions of lowest curvature.

    Parameters
    ----------
    evaluate : Evaluate
        The true surface; the evaluations are rotations.
    model : PriorModel
        Holds the first evaluation, and takes up the others.
    first : Evaluation
        Where the lowest mode is sought.

    Raises
    ------
    SearchStopped, ScfError, GeometryError
        What `evaluate` raises.
    """
    position, gradient = first.positions.ravel(), first.gradient.ravel()
    hessian = model.prior_gradient_hessian(position)[1]

    def product(direction: np.ndarray) -> np.ndarray:
        probe = evaluate((position + PROBE * direction).reshape(-1, 3), Purpose.ROTATION)
        model.add(probe)
        return (probe.gradient.ravel() - gradient) / PROBE

    start = internal_modes(hessian, position).vectors[:, 0].reshape(-1, 3)
    lowest_mode_by_products(product, start, first.positions, MOST_PROBES, hessian, TOLERANCE)
