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
from saddleflow.searches import gp_dimer
from saddleflow.searches.base import is_converged
from saddleflow.searches.partitioned_rfo import Modes, internal_modes, saddle_step, stiff_step
from saddleflow.searches.prior_model import PriorModel
from saddleflow.settings import GPDimer, PriorGPDimer

GOOD, BAD = 0.3, 0.8
"""Error of the predicted gradient over the force before: the radius grows below GOOD, shrinks above BAD."""
REJECTED = 1.5
"""With an error above this and a larger force, the search goes back to where it came from."""
DUPLICATE_DISTANCE = 2e-5
"""Angstrom. Small: along a stiff mode a step of 1e-4 still moves the force by its convergence threshold."""
CLEARLY_NEGATIVE = -0.3
"""eV/Angstrom^2: the lowest mode is climbed below this, the one climbed before above it."""
CONVEX_STEP = 0.1
"""Angstrom: step of the fastest atom uphill where no mode is negative."""


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
    result = _Walk(evaluate, reaction, method, direction, trace).run()
    if result is not None:
        return result
    # Where the prior leads astray the published search, which knows nothing of it, starts from the guess.
    published = GPDimer(convergence=method.convergence, start=method.start, max_calls=method.max_calls)
    return gp_dimer.search(evaluate, reaction, published, direction, trace)


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
        self.base = 0

    def run(self) -> SearchResult | None:
        """Walk until the forces vanish; None when the patience of the method is used up."""
        latest = self._first()
        while not is_converged(latest, self.method.convergence):
            if len(self.model.evaluations) >= self.method.patience:
                return None
            self.model.update()
            latest = self._next(self._phase(self.base))
        return self._answer(latest)

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
        position, climbed = start, self.reactive
        for count in range(method.max_inner_steps):
            gradient, hessian = model.gradient_hessian(position)
            modes = internal_modes(hessian, position)
            uphill = 0
            if modes.values[0] > CLEARLY_NEGATIVE:
                uphill = int(np.argmax(np.abs(modes.vectors.T @ climbed)))
            climbed = modes.vectors[:, uphill]
            if _longest(gradient) < tolerance and modes.values[0] < 0:
                return Phase(position, modes, uphill, True, count)
            if modes.values[0] > 0:
                # Past the ridge nothing but the way back uphill counts: relaxing would end in a minimum.
                along = gradient @ climbed
                step = climbed * (CONVEX_STEP / _longest(climbed)) * (1.0 if along >= 0 else -1.0)
            else:
                step = _capped(saddle_step(gradient, modes, uphill), method.max_atom_step)
            new = position + step
            if _moved(new, start) > self.radius:
                fraction = _fraction_inside(position, step, start, self.radius)
                return Phase(position + fraction * step, modes, uphill, False, count + 1)
            position = new
        return Phase(position, modes, uphill, False, method.max_inner_steps)

    def _next(self, phase: Phase) -> Evaluation:
        """Evaluate the end of a phase; half-way back where that has no solution."""
        model, base = self.model, self.base
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
        model.add(evaluation)
        if not (ratio > REJECTED and evaluation.max_atom_force > force):
            self.base = len(model.evaluations) - 1
            self.reactive = phase.mode
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
        notes = notes | {"surrogate_index": modes.index}
        if len(modes.values) > 1:  # a diatomic has one mode only
            notes["second_curvature"] = float(modes.values[1])
        self.trace.append(TracePoint(evaluation.index, mode, curvature, self.model.hyperparameters(), notes))

    def _answer(self, latest: Evaluation) -> SearchResult:
        """Stationary point with the surrogate's Hessian there, this point included."""
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
