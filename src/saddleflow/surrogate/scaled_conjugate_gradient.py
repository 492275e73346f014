"""Scaled conjugate gradients (Moller, Neural Networks 6, 525 (1993)), as the published GP-dimer uses them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALLEST = 2.2e-16
CURVATURE_STEP = 1e-4
"""Length of the step along the direction over which gradients are differenced.  Differences of values are
cheaper, but so rough that the signal variance ran away in searches that are harmless with gradients."""
CURVATURE_TRIES = 20
"""The step is doubled as often where the objective is not allowed after it."""


@dataclass(frozen=True)
class Evaluated:
    """Objective at a point: its value, and a function that works out the gradient there."""

    value: float
    gradient: Callable[[], np.ndarray]


Objective = Callable[[np.ndarray], Evaluated]


@dataclass(frozen=True)
class ScaledConjugateGradient:
    """Settings of the minimiser.

    Parameters
    ----------
    max_iterations : int
        At most as many.
    step_tolerance : float
        Stop when no parameter moves further in an accepted step.
    objective_tolerance : float
        Stop when an accepted step changes the objective less.
    initial_scale, scale_limit : float
        Of lambda, the scale of the trust region; beyond the limit the fit has failed.
    """

    max_iterations: int = 400
    step_tolerance: float = 1e-2
    objective_tolerance: float = 1e-4
    initial_scale: float = 100.0
    scale_limit: float = 1e16

    def minimise(self, objective: Objective, start: np.ndarray) -> tuple[np.ndarray, bool, int]:
        """Minimise from `start`.

        Parameters
        ----------
        objective : callable
            Returns :class:`Evaluated`; a value that is not finite means: not allowed there.
        start : ndarray, shape (k,)
            First parameters.

        Returns
        -------
        parameters : ndarray, shape (k,)
            Best accepted ones.
        success : bool
            False if the scale limit was met.
        evaluations : int
            Calls of the objective.
        """
        w = start.copy()
        first = objective(w)
        value, evaluations = first.value, 1
        if not np.isfinite(value):
            return w, False, evaluations
        gradient = first.gradient()
        direction = -gradient
        scale, succeeded, successes = self.initial_scale, True, 0
        mu = kappa = gamma = 0.0
        for _ in range(self.max_iterations):
            if succeeded:
                mu = direction @ gradient
                if mu >= 0:
                    direction = -gradient
                    mu = direction @ gradient
                kappa = direction @ direction
                if kappa < SMALLEST:
                    return w, True, evaluations
                sigma = CURVATURE_STEP / np.sqrt(kappa)
                for _ in range(CURVATURE_TRIES):
                    ahead = objective(w + sigma * direction)
                    evaluations += 1
                    if np.isfinite(ahead.value):
                        break
                    sigma *= 2.0
                    kappa /= 4.0
                else:
                    return w, False, evaluations
                gamma = direction @ (ahead.gradient() - gradient) / sigma
            delta = gamma + scale * kappa
            if delta <= 0:
                delta = scale * kappa
                scale -= gamma / kappa
            step = -mu / delta
            new = w + step * direction
            trial = objective(new)
            new_value = trial.value
            evaluations += 1
            if not np.isfinite(new_value):
                scale = min(4.0 * scale, 1e100)
                succeeded = False
                if scale >= self.scale_limit:
                    return w, False, evaluations
                continue
            ratio = 2.0 * (new_value - value) / (step * mu)
            succeeded = ratio >= 0
            if succeeded:
                successes += 1
                moved, change = np.abs(step * direction).max(), abs(new_value - value)
                w, old_gradient = new, gradient
                value, gradient = new_value, trial.gradient()
                small = moved < self.step_tolerance or change < self.objective_tolerance
                if small or gradient @ gradient < SMALLEST:
                    return w, True, evaluations
            if ratio < 0.25:
                scale = min(4.0 * scale, 1e100)
            elif ratio > 0.75:
                scale = max(0.5 * scale, 1e-15)
            if scale >= self.scale_limit:
                return w, False, evaluations
            if successes == len(w):
                direction = -gradient
                successes = 0
            elif succeeded:
                beta = (old_gradient - gradient) @ gradient / mu
                direction = beta * direction - gradient
        return w, True, evaluations
