"""GP-dimer as published: dimer on a Gaussian-process surrogate, one true evaluation a relaxation phase.

Goswami, Masterov, Kamath, Pena-Torres and Jonsson, J. Chem. Theory Comput. 2025 (arXiv 2505.12519).  With the
settings of ot-gp-dimer the variant with optimal transport, Goswami and Jonsson, ChemPhysChem 2025
(arXiv 2510.06030).
docs/published_methods.md says where we deviate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from saddleflow.errors import GeometryError, ScfError
from saddleflow.evaluation import (
    Evaluate,
    Evaluation,
    Outcome,
    Purpose,
    SearchResult,
    SearchStopped,
    TracePoint,
)
from saddleflow.geometry import project_out, rigid_motion_basis
from saddleflow.reaction import Reaction
from saddleflow.searches.base import is_converged
from saddleflow.searches.start_direction import start_positions
from saddleflow.searches.surrogate_dimer import (
    RotationResult,
    Translator,
    rotate,
    rotation_angle,
    rotational_force,
)
from saddleflow.searches.surrogate_model import SurrogateModel
from saddleflow.settings import GPDimer

DUPLICATE_DISTANCE = 1e-4
"""Angstrom (2-norm): a point this close to an evaluated one teaches nothing."""
INITIAL_ROTATIONS_ON_SURROGATE = 200


@dataclass(frozen=True)
class Dimer:
    """Midpoint (shape (D,), Angstrom), unit mode (shape (D,)), curvature along it (eV/Angstrom^2)."""

    position: np.ndarray
    mode: np.ndarray
    curvature: float = float("nan")


@dataclass(frozen=True)
class Phase:
    """End of a relaxation phase on the surrogate."""

    dimer: Dimer
    converged: bool
    steps: int


def search(
    evaluate: Evaluate, reaction: Reaction, method: GPDimer, direction: np.ndarray, trace: list[TracePoint]
) -> SearchResult:
    """Search a first-order saddle with the GP-dimer; see :data:`saddleflow.searches.base.Search`."""
    mode = direction.ravel() / np.linalg.norm(direction)
    start = Dimer(start_positions(reaction, method.start, mode).ravel(), mode)
    model = SurrogateModel(reaction, method)
    latest = evaluate(start.position.reshape(-1, 3))
    model.add(latest)
    if is_converged(latest, method.convergence):
        trace.append(TracePoint(latest.index, mode.reshape(-1, 3), float("nan")))
        message = "the start is stationary already"
        return SearchResult(
            Outcome.CONVERGED, message, latest.index, mode.reshape(-1, 3), np.nan, tuple(trace)
        )
    start = _initial_rotations(evaluate, model, start, latest, method)
    trace.append(TracePoint(latest.index, start.mode.reshape(-1, 3), start.curvature))
    resting = start  # where a phase has last converged on its surrogate; early-stopped points don't count
    unfinished: Dimer | None = None
    for outer in range(method.max_outer_iterations):
        model.update(from_data_ranges=outer == 0)
        phase = _new_point(model, unfinished or resting, latest, method)
        dimer, latest = _evaluated(evaluate, model, phase.dimer, method.failure_retries)
        if phase.converged and dimer is phase.dimer:
            resting = dimer
        used_up = not phase.converged and phase.steps == method.max_inner_iterations
        unfinished = dimer if used_up and method.continue_unfinished_phases else None
        model.add(latest)
        trace.append(
            TracePoint(
                latest.index,
                dimer.mode.reshape(-1, 3),
                dimer.curvature,
                model.hyperparameters.as_dict(model.descriptor.type_labels),
                {
                    "inner_steps": phase.steps,
                    "surrogate_converged": phase.converged,
                    "fit_evaluations": model.fit_evaluations,
                    "fit_subset": model.fit_subset,
                },
            )
        )
        if is_converged(latest, method.convergence):
            return _converged(dimer, latest, model, trace)
    raise SearchStopped(
        Outcome.MAX_STEPS, f"not converged after {method.max_outer_iterations} outer iterations"
    )


def _converged(
    dimer: Dimer, latest: Evaluation, model: SurrogateModel, trace: list[TracePoint]
) -> SearchResult:
    mode = dimer.mode.reshape(-1, 3)
    if dimer.curvature > 0:
        message = (
            f"stationary, but the surrogate's curvature is positive ({dimer.curvature:.3f} eV/Angstrom^2)"
        )
        return SearchResult(Outcome.LOST_MODE, message, latest.index, mode, dimer.curvature, tuple(trace))
    hessian = model.process.hessian(dimer.position)
    return SearchResult(Outcome.CONVERGED, "", latest.index, mode, dimer.curvature, tuple(trace), hessian)


def _initial_rotations(
    evaluate: Evaluate, model: SurrogateModel, start: Dimer, midpoint: Evaluation, method: GPDimer
) -> Dimer:
    """Turn the first dimer on the true surface, the GP proposing each orientation."""
    separation = method.separation

    def observe(mode: np.ndarray) -> Evaluation:
        position = start.position + separation * mode
        prediction = model.predict(position) if model.process else None
        evaluation = evaluate(position.reshape(-1, 3), Purpose.ROTATION, prediction)
        model.add(evaluation)
        return evaluation

    rigid = _rigid(start.position, method)
    mode = start.mode
    image = observe(mode)
    curvature = float((image.gradient - midpoint.gradient) @ mode / separation)
    for count in range(method.max_initial_rotations):
        difference = image.gradient - midpoint.gradient
        curvature = float(difference @ mode / separation)
        force = rotational_force(difference, mode, separation)
        if rigid is not None:
            force = project_out(rigid, force)
        if rotation_angle(float(np.linalg.norm(force)), curvature) <= method.initial_rotation_angle:
            break
        process = model.update(from_data_ranges=True)
        tolerance = min(method.rotation_tolerance, method.initial_rotation_angle / 10.0)
        turned = rotate(
            process.gradient,
            start.position,
            process.gradient(start.position),
            start.mode,
            separation,
            tolerance,
            INITIAL_ROTATIONS_ON_SURROGATE,
            rigid,
            method.refuse_rising_rotations,
        )
        if turned.rotations == 0 or (turned.rotations == 1 and _angle(start.mode, turned.mode) < tolerance):
            # No call for a direction that the surrogate leaves at once.
            if not method.keep_evaluated_direction:
                mode, curvature = turned.mode, float(turned.curvature)
            break
        previous, mode = mode, turned.mode
        if count and _angle(previous, mode) < method.initial_rotation_angle:
            break
        image = observe(mode)
        curvature = float((image.gradient - midpoint.gradient) @ mode / separation)
    return Dimer(start.position, mode, curvature)


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Angle between two unit vectors (shape (D,)), rad."""
    return float(np.arccos(np.clip(first @ second, -1.0, 1.0)))


def _evaluated(
    evaluate: Evaluate, model: SurrogateModel, dimer: Dimer, retries: int
) -> tuple[Dimer, Evaluation]:
    """Evaluate the end of a phase; where that has no solution, half-way to the nearest observation."""
    while True:
        position = dimer.position
        try:
            prediction = model.predict(position)
            return dimer, evaluate(position.reshape(-1, 3), Purpose.SEARCH, prediction)
        except (ScfError, GeometryError):
            if retries == 0:
                raise
            retries -= 1
            nearest = min(model.positions, key=lambda x: float(np.linalg.norm(x - position)))
            dimer = replace(dimer, position=0.5 * (position + nearest))


def _rigid(position: np.ndarray, method: GPDimer) -> np.ndarray | None:
    """Rigid motions that the mode is kept free of, None where it may turn into them as in the publication."""
    return rigid_motion_basis(position.reshape(-1, 3)) if method.internal_mode else None


def _new_point(model: SurrogateModel, resting: Dimer, latest: Evaluation, method: GPDimer) -> Phase:
    """Relaxation phase; with `refuse_repeated_points` one whose end was not evaluated before."""
    largest = np.abs(latest.gradient).max()
    divisor = method.surrogate_threshold_divisor
    threshold = max(largest / divisor, method.convergence.threshold / divisor)
    for _ in range(4):
        phase = _relax(model, resting, threshold, method)
        if not method.refuse_repeated_points or model.nearest(phase.dimer.position) > DUPLICATE_DISTANCE:
            return phase
        threshold /= divisor
    raise SearchStopped(Outcome.STALLED, "the surrogate proposes only points that were evaluated before")


def _relax(model: SurrogateModel, start: Dimer, threshold: float, method: GPDimer) -> Phase:
    """Relax the dimer on the surrogate until it converges or leaves the region that the data cover."""
    process, separation = model.process, method.separation
    translator = Translator(
        method.max_step,
        method.convex_step,
        method.distance_ratio_limit,
        method.remove_rigid_motion,
        method.memory_after_limited_step,
    )
    position, mode, curvature = start.position, start.mode, start.curvature
    for step_number in range(method.max_inner_iterations):
        g0 = process.gradient(position)
        if np.abs(g0).max() < threshold:
            if not np.isfinite(curvature):
                curvature = float((process.gradient(position + separation * mode) - g0) @ mode / separation)
            return Phase(Dimer(position, mode, curvature), True, step_number)
        turned: RotationResult = rotate(
            process.gradient,
            position,
            g0,
            mode,
            separation,
            method.rotation_tolerance,
            method.max_rotations,
            _rigid(position, method),
            method.refuse_rising_rotations,
        )
        mode, curvature = turned.mode, float(turned.curvature)
        if step_number == method.max_inner_iterations - 1:
            break
        new = position + translator.step(position, g0, mode, curvature)
        if step_number > 0 and not model.trusts(new):
            return Phase(Dimer(position, mode, curvature), False, step_number)
        position = new
    return Phase(Dimer(position, mode, curvature), False, method.max_inner_iterations)
