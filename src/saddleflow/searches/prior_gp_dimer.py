"""Saddle search on a Gaussian process that corrects an xTB surface.

One evaluation a phase.  Before the first one the strain of the guess relaxes on the prior surface, in stiff
modes only.  Each phase walks on the surrogate, up its lowest mode and down all others, until the surrogate is
stationary or an atom has moved by the trust radius; the radius follows the errors of the predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saddleflow.errors import GeometryError, ScfError
from saddleflow.evaluation import Evaluate, Evaluation, Outcome, Purpose, SearchResult, TracePoint
from saddleflow.geometry import largest_displacement
from saddleflow.reaction import Reaction
from saddleflow.searches.base import is_converged
from saddleflow.searches.partitioned_rfo import Modes, internal_modes, saddle_step, stiff_step
from saddleflow.searches.prior_model import PriorModel
from saddleflow.settings import PriorGPDimer

GOOD, BAD = 0.3, 0.8
"""Error of the predicted gradient over the force before: below GOOD the radius grows, above BAD it shrinks."""
DUPLICATE_DISTANCE = 1e-3
CLEARLY_NEGATIVE = -0.3
"""eV/Angstrom^2: a mode with less curvature is taken for the reaction coordinate."""
WORSE = 3.0
"""A point whose force is so many times that of the best one is not continued from."""


@dataclass(frozen=True)
class Phase:
    """End of a walk on the surrogate."""

    position: np.ndarray
    modes: Modes
    uphill: int
    stationary: bool
    steps: int

    @property
    def mode(self) -> np.ndarray:
        """Mode that was climbed, shape (D,)."""
        return self.modes.vectors[:, self.uphill]


def search(
    evaluate: Evaluate,
    reaction: Reaction,
    method: PriorGPDimer,
    direction: np.ndarray,
    trace: list[TracePoint],
) -> SearchResult:
    """Search a first-order saddle; see :data:`saddleflow.searches.base.Search`."""
    walk = _Walk(evaluate, reaction, method, direction, trace)
    return walk.run()


class _Walk:
    """State of one search."""

    def __init__(self, evaluate, reaction, method, direction, trace):
        self.evaluate: Evaluate = evaluate
        self.method: PriorGPDimer = method
        self.trace: list[TracePoint] = trace
        self.model = PriorModel(reaction, method)
        self.reactive = direction.ravel() / np.linalg.norm(direction)
        self.radius = method.trust_radius
        self.guess = reaction.positions.ravel() + method.start.displacement * self.reactive
        self.proofs = 0

    def run(self) -> SearchResult:
        latest = self._first()
        while True:
            if is_converged(latest, self.method.convergence):
                result = self._proved(latest)
                if result is not None:
                    return result
            self.model.update()
            base = self._base(latest)
            phase = self._phase(base)
            latest = self._next(base, phase)

    def _first(self) -> Evaluation:
        """Evaluate the guess after its strain has relaxed; the bare guess where that has no SCF solution."""
        relaxed = self._relaxed(self.guess)
        try:
            evaluation = self.evaluate(relaxed.reshape(-1, 3))
        except (ScfError, GeometryError):
            if np.array_equal(relaxed, self.guess):
                raise
            evaluation = self.evaluate(self.guess.reshape(-1, 3))
        self.model.add(evaluation)
        modes = internal_modes(self.model.prior_hessian(self.model.latest), self.model.latest)
        self._record(evaluation, modes, 0, {})
        return evaluation

    def _relaxed(self, guess: np.ndarray) -> np.ndarray:
        """Guess after the stiff modes of the prior surface have relaxed."""
        method, model = self.method, self.model
        position = guess
        try:
            for _ in range(method.max_inner_steps):
                _, gradient = model.prior(position)
                modes = internal_modes(model.prior_hessian(position), position)
                step = _capped(stiff_step(gradient, modes, method.relaxation_stiffness), method.max_atom_step)
                new = position + step
                if _moved(new, guess) > method.relaxation_distance or _longest(step) < 0.005:
                    break
                position = new
        except (ScfError, GeometryError):
            return guess
        return position

    def _base(self, latest: Evaluation) -> int:
        """Number of the observation to walk on from: the latest, or the best where that has become bad."""
        forces = [e.max_atom_force for e in self.model.evaluations]
        best = int(np.argmin(forces))
        if latest.max_atom_force > WORSE * forces[best]:
            return best
        return len(forces) - 1

    def _phase(self, base: int) -> Phase:
        """Walk on the surrogate from an observed point."""
        method, model = self.method, self.model
        start = model.positions[base]
        force = model.evaluations[base].max_atom_force
        tolerance = min(0.3 * method.convergence.threshold, 0.3 * force)
        for _ in range(4):
            phase = self._walk(start, tolerance)
            if model.nearest(phase.position) > DUPLICATE_DISTANCE:
                return phase
            tolerance *= 0.1
        # The surrogate is stationary where it was observed: its own Newton step is what is left.
        gradient = model.evaluations[base].gradient
        step = saddle_step(gradient, phase.modes, phase.uphill)
        step = _capped(step if _longest(step) > DUPLICATE_DISTANCE else phase.mode, method.min_trust_radius)
        return Phase(start + step, phase.modes, phase.uphill, False, phase.steps)

    def _walk(self, start: np.ndarray, tolerance: float) -> Phase:
        method, model = self.method, self.model
        position, reactive = start, self.reactive
        for count in range(method.max_inner_steps):
            gradient, hessian = model.gradient_hessian(position)
            modes = internal_modes(hessian, position)
            uphill = 0
            if modes.values[0] > CLEARLY_NEGATIVE:
                uphill = int(np.argmax(np.abs(modes.vectors.T @ reactive)))
            else:
                reactive = modes.vectors[:, 0]
            if _longest(gradient) < tolerance and modes.values[0] < 0:
                return Phase(position, modes, uphill, True, count)
            step = _capped(saddle_step(gradient, modes, uphill), method.max_atom_step)
            new = position + step
            if _moved(new, start) > self.radius:
                fraction = _fraction_inside(position, step, start, self.radius)
                return Phase(position + fraction * step, modes, uphill, False, count + 1)
            position = new
        return Phase(position, modes, uphill, False, method.max_inner_steps)

    def _next(self, base: int, phase: Phase) -> Evaluation:
        """Evaluate the end of a phase; half-way back where that has no solution."""
        model = self.model
        start, force = model.positions[base], model.evaluations[base].max_atom_force
        position = phase.position
        for attempt in range(4):
            prediction = model.predict(position)
            try:
                evaluation = self.evaluate(position.reshape(-1, 3), Purpose.SEARCH, prediction)
                break
            except (ScfError, GeometryError):
                if attempt == 3:
                    raise
                position = 0.5 * (position + start)
                self.radius = max(0.5 * self.radius, self.method.min_trust_radius)
        error = _longest((prediction.forces - evaluation.forces).ravel())
        ratio = error / force
        if ratio < GOOD:
            self.radius = min(1.5 * self.radius, self.method.max_trust_radius)
        elif ratio > BAD:
            self.radius = max(0.6 * self.radius, self.method.min_trust_radius)
        if phase.modes.values[0] < CLEARLY_NEGATIVE:
            self.reactive = phase.modes.vectors[:, 0]
        model.add(evaluation)
        notes = {
            "base": base,
            "inner_steps": phase.steps,
            "stationary": phase.stationary,
            "trust_radius": self.radius,
            "error_ratio": ratio,
        }
        self._record(evaluation, phase.modes, phase.uphill, notes)
        return evaluation

    def _record(self, evaluation: Evaluation, modes: Modes, uphill: int, notes: dict) -> None:
        mode = modes.vectors[:, uphill].reshape(-1, 3)
        curvature = float(modes.values[uphill])
        notes = notes | {"surrogate_index": modes.index, "second_curvature": float(modes.values[1])}
        self.trace.append(TracePoint(evaluation.index, mode, curvature, self.model.hyperparameters(), notes))

    def _proved(self, latest: Evaluation) -> SearchResult | None:
        """Answer, if the surrogate (with this point) takes the stationary point for a first-order saddle."""
        self.model.update()
        hessian = self.model.gradient_hessian(latest.positions.ravel())[1]
        modes = internal_modes(hessian, latest.positions.ravel())
        mode, curvature = modes.vectors[:, 0], float(modes.values[0])
        return SearchResult(
            Outcome.CONVERGED,
            "",
            latest.index,
            mode.reshape(-1, 3),
            curvature,
            tuple(self.trace),
            hessian,
        )


def _longest(vector: np.ndarray) -> float:
    """Largest length of an atom's part of a vector of shape (D,)."""
    return float(np.sqrt((vector.reshape(-1, 3) ** 2).sum(axis=1)).max())


def _capped(step: np.ndarray, limit: float) -> np.ndarray:
    longest = _longest(step)
    return step if longest <= limit else step * (limit / longest)


def _moved(position: np.ndarray, reference: np.ndarray) -> float:
    return largest_displacement(position.reshape(-1, 3), reference.reshape(-1, 3))


def _fraction_inside(position: np.ndarray, step: np.ndarray, centre: np.ndarray, radius: float) -> float:
    """Part of a step that ends on the trust sphere."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = 0.5 * (low + high)
        if _moved(position + middle * step, centre) > radius:
            high = middle
        else:
            low = middle
    return low
