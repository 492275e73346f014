"""Walk to a saddle on a Gaussian process that corrects cheap surfaces, one evaluation a phase.

Before the first evaluation the strain of the guess relaxes on the prior surface, in stiff modes only.  Each
phase walks on the surrogate, up its lowest mode and down all others, until the surrogate is stationary or an
atom has moved by the trust radius; the radius follows the errors of the predictions.  Modes and steps are
those of curvilinear coordinates (:mod:`saddleflow.curvilinear`): in Cartesian ones the lowest mode of a
strained guess is often no reaction but a compressed bond that would turn aside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from saddleflow.curvilinear import Distances
from saddleflow.errors import GeometryError, ScfError
from saddleflow.evaluation import Evaluate, Evaluation, Outcome, Purpose, SearchResult, TracePoint
from saddleflow.geometry import largest_displacement, largest_motion
from saddleflow.reaction import Reaction
from saddleflow.searches.base import is_converged
from saddleflow.searches.partitioned_rfo import saddle_step, stiff_step
from saddleflow.searches.prior_model import PriorModel
from saddleflow.searches.start_direction import start_positions
from saddleflow.settings import PriorGPDimer
from saddleflow.vibrations import Modes, internal_modes

SMALL_FORCE, LONGEST_RADIUS = 0.3, 1.0
"""Below this force (eV/Angstrom) an error is measured against it and the trust radius may double up to the
second (Angstrom), so that a soft mode is followed in long steps; and a walk may go on beyond its patience."""
GOOD, BAD = 0.3, 0.8
"""Error of the predicted gradient over the force before: the radius grows below GOOD, shrinks above BAD."""
REJECTED = 1.5
"""With an error above this and a larger force, the search goes back to where it came from."""
STATIONARY = 0.03
"""Largest surrogate force of a stationary point over the true force before; predictions err far more."""
DUPLICATE_DISTANCE = 2e-5
"""Angstrom. Small: along a stiff mode a step of 1e-4 still moves the force by its convergence threshold."""
CLEARLY_NEGATIVE = -0.3
"""eV/Angstrom^2: the lowest mode is climbed below this, the one climbed before above it."""
SAME_MODE = 0.4
"""A ridge is another one where the rates at which its mode changes the distances overlap less with those of
the guess's lowest mode.  Of 89 first walks without this rule 67 stayed above it: 60 of them converged, 57 at
a saddle that a published program finds.  Of the 22 others 8 did, 2 of them at such a saddle."""
SOFT = 1.0
"""eV/Angstrom^2: no stiffer mode is climbed for its likeness to the one before."""
LOST = 3
"""Evaluations in turn without a clearly negative mode after which a walk has lost the ridge it started on."""
RETURNS = 3
"""So often a walk goes back to its last point on the ridge, with half the radius and what it has learned."""
NEARLY_CONVERGED = 0.1
"""eV/Angstrom: below this force a walk goes on, since the mode of a saddle can be soft."""
CLEAR_RIDGE, CLEAR_OVERLAP, CLEAR_GAP = -8.0, 0.8, 3.0
"""A ridge is clear where the lowest curvature is below the first (eV/Angstrom^2), its mode still overlaps so
much with the guess's lowest one, and it is so many times the next curvature."""
CLEAR_RADIUS = 1.5
"""Factor of the trust radii of a first walk on a clear ridge."""
MORE_PATIENCE = 1.5
"""Of a walk whose forces are small already."""
SAME_RIDGE, SAME_CURVATURE = 0.5, 0.5
"""Relaxing ends before less than so much of the guess's lowest mode is in the negative modes, in squares, or
the lowest curvature falls below so much of the guess's: further on is another ridge, or none."""
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


class Walk:
    """One walk from the guess, with a surrogate of its own.

    Parameters
    ----------
    evaluate : Evaluate
        The true surface.
    reaction : Reaction
        The guess.
    method : PriorGPDimer
        Settings.
    direction : ndarray, shape (N, 3)
        Start direction; zeros: the surrogate's lowest mode.
    trace : list of TracePoint
        Taken further.
    leaves_when_lost : bool
        End where the ridge is lost, before patience is used up; on a clear ridge the trust radii are larger.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        reaction: Reaction,
        method: PriorGPDimer,
        direction: np.ndarray,
        trace: list[TracePoint],
        leaves_when_lost: bool = False,
    ):
        self.evaluate = evaluate
        self.method = method
        self.numbers = reaction.numbers
        self.trace = trace
        self.model = PriorModel(reaction, method)
        length = np.linalg.norm(direction)
        self.reactive: np.ndarray | None = direction.ravel() / length if length else None
        self.radius, self.max_radius = method.trust_radius, method.max_trust_radius
        self.guess = start_positions(reaction, method.start, direction / (length or 1.0)).ravel()
        self.base = 0
        self.reactive_rates: np.ndarray | None = None
        self.off_ridge = self.returns = 0
        self.ridge: tuple[int, np.ndarray] | None = None
        self.leaves_when_lost = leaves_when_lost

    def run(self) -> SearchResult | None:
        """Walk until the forces vanish; None when the ridge, patience or solvable geometries are lost."""
        latest = self._first()
        while not is_converged(latest, self.method.convergence):
            more = MORE_PATIENCE if self._force() < SMALL_FORCE else 1.0
            if len(self.model.evaluations) >= more * self.method.patience:
                return None
            self.model.update()
            self._keep_to_ridge()
            if self.leaves_when_lost and self.off_ridge >= LOST:
                return None
            try:
                latest = self._next(self._phase(self.base))
            except (ScfError, GeometryError):
                return None
        return self._answer(latest)

    def _first(self) -> Evaluation:
        """Evaluate the guess after its strain has relaxed; the bare guess where that has no SCF solution."""
        relaxed, ridge = self._relaxed(self.guess)
        try:
            evaluation = self.evaluate(relaxed.reshape(-1, 3))
        except (ScfError, GeometryError):
            if np.array_equal(relaxed, self.guess):
                raise
            evaluation = self.evaluate(self.guess.reshape(-1, 3))
        self.model.add(evaluation)
        position = self.model.latest
        gradient, hessian = self.model.prior_gradient_hessian(position)
        self._record(evaluation, internal_modes(hessian, position), 0, {})
        modes = self._curvilinear(position, gradient, hessian)[1]
        if self.leaves_when_lost and ridge is not None and _clear(ridge, modes):
            self.radius, self.max_radius = CLEAR_RADIUS * self.radius, CLEAR_RADIUS * self.max_radius
        return evaluation

    def _keep_to_ridge(self) -> None:
        """Go back where the last evaluation was off the ridge; count where there is no way back."""
        if self._on_ridge(self.base):
            self.ridge, self.off_ridge = (self.base, self.reactive), 0
        elif self._force() < NEARLY_CONVERGED:
            return
        elif self.ridge is not None and self.returns < RETURNS and self._on_ridge(self.ridge[0]):
            self.base, self.reactive = self.ridge
            self.radius = max(0.5 * self.radius, self.method.min_trust_radius)
            self.returns += 1
        else:
            self.off_ridge += 1

    def _on_ridge(self, number: int) -> bool:
        """Whether one of the surrogate's clearly negative modes at an observed point is the guess's."""
        position = self.model.positions[number]
        return self._ridge(*self._curvilinear(position, *self.model.gradient_hessian(position))) is not None

    def _ridge(self, distances: Distances, modes: Modes) -> int | None:
        """Number of the lowest clearly negative mode that is like the guess's lowest one; None: none is."""
        count = int((modes.values < CLEARLY_NEGATIVE).sum())
        if not count or self.reactive_rates is None:
            return 0 if count else None
        alike = np.abs(self.reactive_rates @ distances.rates(modes.vectors[:, :count])) > SAME_MODE
        return int(alike.argmax()) if alike.any() else None

    def _force(self) -> float:
        """Largest atomic force where the walk is, eV/Angstrom."""
        return self.model.evaluations[self.base].max_atom_force

    def _curvilinear(
        self, position: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
    ) -> tuple[Distances, Modes]:
        """Distances at a position (shape (D,)) and the modes that they leave of a Hessian (shape (D, D))."""
        distances = Distances(self.numbers, position)
        return distances, internal_modes(distances.strain_free(gradient, hessian), position)

    def _relaxed(self, guess: np.ndarray) -> tuple[np.ndarray, Modes | None]:
        """Guess after the stiff modes of the prior surface have relaxed, and the modes before."""
        method, model = self.method, self.model
        position, before, ridge = guess, guess, None
        try:
            for _ in range(method.max_inner_steps):
                gradient, hessian = model.prior_gradient_hessian(position)
                distances, modes = self._curvilinear(position, gradient, hessian)
                if ridge is None:
                    ridge = modes
                    if modes.values[0] < CLEARLY_NEGATIVE:
                        self.reactive_rates = distances.rates(modes.vectors[:, :1])[:, 0]
                if _left(ridge, modes):
                    return before, ridge
                step = _capped(stiff_step(gradient, modes, method.relaxation_stiffness), method.max_atom_step)
                new = distances.moved(step)
                if _moved(new, guess) > method.relaxation_distance or largest_motion(step) < 0.005:
                    break
                position, before = new, position
        except (ScfError, GeometryError):
            return guess, None
        return position, ridge

    def _phase(self, base: int) -> Phase:
        """Walk on the surrogate from an observed point."""
        method, model = self.method, self.model
        start = model.positions[base]
        force = model.evaluations[base].max_atom_force
        tolerance = max(0.3 * method.convergence.threshold, STATIONARY * force)
        tolerance = min(tolerance, 0.3 * force)
        for _ in range(4):
            phase = self._walk(start, tolerance)
            if model.nearest(phase.position) > DUPLICATE_DISTANCE:
                return phase
            tolerance *= 0.1
        # The surrogate is stationary where it was observed: its own Newton step is what is left.
        gradient = model.evaluations[base].gradient
        step = saddle_step(gradient, phase.modes, phase.uphill, method.min_trust_radius)
        if largest_motion(step) < DUPLICATE_DISTANCE:
            step = _capped(phase.mode, method.min_trust_radius)
        return Phase(start + step, phase.modes, phase.uphill, False, phase.steps)

    def _walk(self, start: np.ndarray, tolerance: float) -> Phase:
        method, model = self.method, self.model
        position, climbed = start, self.reactive
        phase: Phase | None = None
        on_ridge = False
        for count in range(method.max_inner_steps):
            try:
                gradient, hessian = model.gradient_hessian(position)
            except GeometryError:
                if phase is None:
                    raise
                # No cheap surface there: half-way the truth has to be asked.
                return replace(phase, position=0.5 * (start + position))
            distances, modes = self._curvilinear(position, gradient, hessian)
            ridge = self._ridge(distances, modes)
            uphill = ridge or 0
            if modes.values[0] > CLEARLY_NEGATIVE and climbed is not None:
                soft = max(int((modes.values < SOFT).sum()), 1)
                uphill = int(np.argmax(np.abs(modes.vectors[:, :soft].T @ climbed)))
            climbed = modes.vectors[:, uphill]
            if on_ridge and ridge is None and self._force() > NEARLY_CONVERGED:
                return replace(phase, position=position)  # here the ridge ends, or the surrogate is wrong
            on_ridge = ridge is not None
            if largest_motion(gradient) < tolerance and modes.values[0] < 0:
                return Phase(position, modes, uphill, True, count)
            if modes.values[0] > 0:
                # Past the ridge nothing but the way back uphill counts: relaxing would end in a minimum.
                step = climbed * (CONVEX_STEP / largest_motion(climbed))
                if gradient @ climbed < 0:
                    step = -step
            else:
                step = saddle_step(gradient, modes, uphill, method.max_atom_step)
            new = distances.moved(step)
            if _moved(new, start) > self.radius:
                fraction = _fraction_inside(position, step, start, self.radius)
                return Phase(distances.moved(fraction * step), modes, uphill, False, count + 1)
            position = new
            phase = Phase(position, modes, uphill, False, count + 1)
        return phase

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
        error = largest_motion((prediction.forces - evaluation.forces).ravel())
        ratio = error / max(force, SMALL_FORCE)
        if ratio < GOOD:
            if force < SMALL_FORCE:
                self.radius = min(2.0 * self.radius, max(self.max_radius, LONGEST_RADIUS))
            else:
                self.radius = min(1.5 * self.radius, self.max_radius)
        elif ratio > BAD:
            self.radius = max(0.6 * self.radius, self.method.min_trust_radius)
        model.add(evaluation)
        if not (ratio > REJECTED and evaluation.max_atom_force > force):
            self.base = len(model.evaluations) - 1
            self.reactive = phase.mode
        notes = {
            "base": model.evaluations[base].index,
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
        notes = notes | self.model.notes | {"surrogate_index": modes.index}
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


def _left(start: Modes, modes: Modes) -> bool:
    """Whether the ridge of the modes at the start is not that of the modes here."""
    if start.values[0] > CLEARLY_NEGATIVE:
        return False
    negative = modes.vectors[:, modes.values < CLEARLY_NEGATIVE]
    likeness = ((negative.T @ start.vectors[:, 0]) ** 2).sum()
    return likeness < SAME_RIDGE or modes.values[0] > SAME_CURVATURE * start.values[0]


def _clear(start: Modes, modes: Modes) -> bool:
    """Whether the lowest mode at the start is, among the modes here, the only one that counts."""
    lowest, following = modes.values[0], modes.values[1] if len(modes.values) > 1 else 0.0
    overlap = abs(start.vectors[:, 0] @ modes.vectors[:, 0])
    return lowest < CLEAR_RIDGE and overlap > CLEAR_OVERLAP and lowest < CLEAR_GAP * following


def _capped(step: np.ndarray, limit: float) -> np.ndarray:
    longest = largest_motion(step)
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
