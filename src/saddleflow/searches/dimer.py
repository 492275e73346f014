"""Improved dimer on the true surface, without surrogate.

Forward-difference dimer (Henkelman and Jonsson, J. Chem. Phys. 111, 7010 (1999); Olsen et al., J. Chem.
Phys. 121, 9776 (2004)) with conjugate-gradient rotation, one trial rotation and an interpolated image
gradient (Heyden et al., J. Chem. Phys. 123, 224101 (2005)), and L-BFGS translation (Kaestner and Sherwood,
J. Chem. Phys. 128, 014106 (2008)).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from saddleflow.evaluation import (
    Evaluate,
    Evaluation,
    Outcome,
    Purpose,
    SearchResult,
    SearchStopped,
    TracePoint,
)
from saddleflow.geometry import capped_motion, largest_motion
from saddleflow.reaction import Reaction
from saddleflow.searches.base import guard_rise, is_converged
from saddleflow.searches.lbfgs import LimitedMemoryBFGS
from saddleflow.searches.start_direction import start_positions
from saddleflow.settings import Dimer

FINITE_DIFFERENCE_STEP = 0.01
"""Angstrom; the extra force call that scales the first L-BFGS step."""
NO_FORCE = 1e-10
"""eV/Angstrom; below this there is no direction to go."""


@dataclass
class _Rotation:
    """Conjugate-gradient state; it survives between translation steps."""

    force: np.ndarray | None = None
    direction: np.ndarray | None = None


@dataclass
class _Translation:
    """L-BFGS state of the translation."""

    lbfgs: LimitedMemoryBFGS
    position: np.ndarray | None = None
    force: np.ndarray | None = None
    inverse_curvature: float | None = None
    notes: dict = field(default_factory=dict)


def search(
    evaluate: Evaluate, reaction: Reaction, method: Dimer, direction: np.ndarray, trace: list[TracePoint]
) -> SearchResult:
    """Search a first-order saddle with the improved dimer; see :data:`saddleflow.searches.base.Search`."""
    evaluate = guard_rise(evaluate, method.energy_limit)
    mode = direction.ravel() / np.linalg.norm(direction)
    position = start_positions(reaction, method.start, mode).ravel()
    rotation = _Rotation()
    translation = _Translation(LimitedMemoryBFGS(method.memory))
    midpoint = evaluate(position.reshape(-1, 3))
    for _ in range(method.max_steps):
        if is_converged(midpoint, method.convergence):
            return _result(Outcome.CONVERGED, "", midpoint, mode, trace)
        mode, curvature, rotations = _rotate(evaluate, midpoint, mode, rotation, method)
        trace.append(
            TracePoint(midpoint.index, mode.reshape(-1, 3), curvature, notes={"rotations": rotations})
        )
        step = _translate(evaluate, midpoint, mode, curvature, translation, method)
        position = midpoint.positions.ravel() + step
        midpoint = evaluate(position.reshape(-1, 3))
    if is_converged(midpoint, method.convergence):
        return _result(Outcome.CONVERGED, "", midpoint, mode, trace)
    raise SearchStopped(Outcome.MAX_STEPS, f"not converged after max_steps = {method.max_steps} translations")


def _result(
    outcome: Outcome, message: str, midpoint: Evaluation, mode: np.ndarray, trace: list[TracePoint]
) -> SearchResult:
    # No rotation at the converged point: the curvature is the one of the step before.
    curvature = trace[-1].curvature if trace else float("nan")
    if not trace or trace[-1].evaluation != midpoint.index:
        trace.append(TracePoint(midpoint.index, mode.reshape(-1, 3), curvature))
    return SearchResult(outcome, message, midpoint.index, mode.reshape(-1, 3), curvature, tuple(trace))


def _rotate(
    evaluate: Evaluate, midpoint: Evaluation, mode: np.ndarray, state: _Rotation, method: Dimer
) -> tuple[np.ndarray, float, int]:
    """Turn the dimer towards the minimum mode; returns mode (D,), curvature and number of rotations."""
    separation = method.separation
    g0 = midpoint.gradient
    centre = midpoint.positions.ravel()

    def image_gradient(o: np.ndarray) -> np.ndarray:
        return evaluate((centre + separation * o).reshape(-1, 3), Purpose.ROTATION).gradient

    g1 = image_gradient(mode)
    curvature = (g1 - g0) @ mode / separation
    rotations = 0
    while rotations < method.max_rotations:
        difference = g1 - g0
        force = -2.0 * (difference - (difference @ mode) * mode)
        theta = _conjugate_direction(force, mode, state)
        if theta is None:
            break
        slope = 2.0 * difference @ theta / separation
        trial = -0.5 * np.arctan2(slope, 2.0 * abs(curvature))
        if abs(trial) <= method.rotation_tolerance:
            break
        mode_trial = _unit(mode * np.cos(trial) + theta * np.sin(trial))
        g1_trial = image_gradient(mode_trial)
        rotations += 1
        curvature_trial = (g1_trial - g0) @ mode_trial / separation
        # Fourier expansion of the curvature in the rotation angle (Heyden 2005, eqs. 5-8).
        b1 = 0.5 * slope
        a1 = (curvature - curvature_trial + b1 * np.sin(2 * trial)) / (1 - np.cos(2 * trial))
        a0 = 2.0 * (curvature - a1)
        angle = 0.5 * np.arctan(b1 / a1)
        if a0 / 2 + a1 * np.cos(2 * angle) + b1 * np.sin(2 * angle) > curvature:
            angle += 0.5 * np.pi
        if angle > 0.5 * np.pi:
            angle -= np.pi
        g1 = interpolated_gradient(g0, g1, g1_trial, trial, angle)
        curvature = a0 / 2 + a1 * np.cos(2 * angle) + b1 * np.sin(2 * angle)
        mode = _unit(mode * np.cos(angle) + theta * np.sin(angle))
        if abs(angle) <= method.rotation_tolerance:
            break
    return mode, float(curvature), rotations


def _conjugate_direction(force: np.ndarray, mode: np.ndarray, state: _Rotation) -> np.ndarray | None:
    """Next rotation direction, a unit vector perpendicular to the mode (Polak-Ribiere with reset)."""
    gamma = 0.0
    if state.force is not None:
        old = state.force @ state.force
        if old > 0 and abs(force @ state.force) < 0.5 * old:
            gamma = force @ (force - state.force) / old
    raw = force if gamma == 0.0 or state.direction is None else force + gamma * state.direction
    raw = raw - (raw @ mode) * mode
    state.force, state.direction = force, raw
    norm = np.linalg.norm(raw)
    return raw / norm if norm > 1e-12 else None


def interpolated_gradient(
    g0: np.ndarray, g1: np.ndarray, g1_trial: np.ndarray, trial: float, angle: float
) -> np.ndarray:
    """Gradient at image 1 after a turn by `angle`, from those before and at the trial angle.

    Parameters
    ----------
    g0, g1, g1_trial : ndarray, shape (D,)
        Gradients at the midpoint and at image 1 before and after the trial turn, eV/Angstrom.
    trial, angle : float
        Angles in rad.

    Returns
    -------
    ndarray, shape (D,)
        Exact for a quadratic surface (Kaestner and Sherwood 2008, eq. 11).
    """
    return (
        g1 * np.sin(trial - angle) / np.sin(trial)
        + g1_trial * np.sin(angle) / np.sin(trial)
        + g0 * (1.0 - np.cos(angle) - np.sin(angle) * np.tan(0.5 * trial))
    )


def effective_force(force: np.ndarray, mode: np.ndarray, curvature: float) -> np.ndarray:
    """Force with its component along the mode inverted, or that component alone where it is convex."""
    along = (force @ mode) * mode
    return force - 2.0 * along if curvature < 0 else -along


def _translate(
    evaluate: Evaluate,
    midpoint: Evaluation,
    mode: np.ndarray,
    curvature: float,
    state: _Translation,
    method: Dimer,
) -> np.ndarray:
    """Translation step (shape (D,), Angstrom), no atom moving further than max_step."""
    force = effective_force(-midpoint.gradient, mode, curvature)
    position = midpoint.positions.ravel()
    if state.position is None:
        if np.linalg.norm(force) < NO_FORCE:
            message = (
                "by symmetry no force acts along the mode, so the dimer can't move; "
                "set start.displacement or start.direction: random"
            )
            raise SearchStopped(Outcome.STALLED, message)
        # One extra force along the effective force scales the first step (Kaestner and Sherwood 2008).
        unit = _unit(force)
        there = evaluate((position + FINITE_DIFFERENCE_STEP * unit).reshape(-1, 3), Purpose.ROTATION)
        change = force - effective_force(-there.gradient, mode, curvature)
        along = change @ unit / FINITE_DIFFERENCE_STEP
        state.inverse_curvature = 1.0 / along if along > 0 else None
    else:
        moved = position - state.position
        change = state.force - force
        scale = change @ change / (moved @ change)
        if scale < 0:
            state.lbfgs.clear()
            state.inverse_curvature = None
        else:
            state.lbfgs.add(moved, change)
            state.inverse_curvature = 1.0 / scale
    state.position, state.force = position, force
    if state.inverse_curvature is None:
        return capped_motion(force, method.max_step, force_maximum=True)
    step = state.lbfgs.apply(force, state.inverse_curvature)
    if largest_motion(step) >= method.max_step or step @ force < 0:
        state.lbfgs.clear()
        step = state.inverse_curvature * force
    return capped_motion(step, method.max_step)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
