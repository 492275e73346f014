"""Walk to a saddle on a Gaussian process that corrects cheap surfaces, one evaluation a phase.

Before the first evaluation the strain of the guess may relax on the prior surface, in stiff modes only.  Each
phase walks on the surrogate, up its lowest mode and down all others, until the surrogate is stationary or its
expected error too large (:mod:`saddleflow.searches.trust_region`).  Modes and steps are those of curvilinear
coordinates (:mod:`saddleflow.curvilinear`): in Cartesian ones the lowest mode of a strained guess is often no
reaction but a compressed bond that would turn aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

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
from saddleflow.searches.trust_region import SMALL_FORCE, TrustRegion
from saddleflow.settings import PriorGPDimer
from saddleflow.vibrations import Modes, internal_modes

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
"""So often a walk goes back to its last point on the ridge, with half the trust and what it has learned."""
NEARLY_CONVERGED = 0.1
"""eV/Angstrom: below this force a walk goes on, since the mode of a saddle can be soft."""
MORE_PATIENCE = 1.5
"""Of a walk whose forces are small already (`SMALL_FORCE`)."""
SURELY_SAME, STILL_SAME = (0.9, 0.5), (0.7, 0.3)
"""Relaxing has left the ridge of the guess where the rates of no clearly negative mode overlap by the first
with those of the guess's lowest one, or the lowest curvature falls below so much (the second) of the guess's.
By the overlap alone, with Hessians of their own and the median of four surfaces, 34 of 59 relaxed guesses
surely kept it; 32 of the walks from there stayed on it, of the 25 others 9."""
RELAXED_CHECK = 0.1
"""Angstrom: so often the softest modes are checked while the guess relaxes.  A Hessian that is followed
for 0.3 Angstrom does not see that a ridge is lost."""
CONVEX_STEP = 0.1
"""Angstrom: step of the fastest atom uphill where no mode is negative."""


class Relaxation(Enum):
    """How much of the strain of a guess relaxes on the prior before the first evaluation, in order of use."""

    SURE = "all of it, where it surely stays on its ridge, else nothing"
    PARTIAL = "as far as it is still on its ridge"
    NONE = "nothing"


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
    last : bool
        No other walk follows: go on where the ridge is lost, until patience is used up.
    relaxation : Relaxation
        What relaxes before the first evaluation.
    trust : float
        How much of the method's trusted error and largest trust radius the walk begins with.
    asked : sequence of Evaluation
        Those of an earlier walk; the point that this one begins with is not evaluated again.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        reaction: Reaction,
        method: PriorGPDimer,
        direction: np.ndarray,
        trace: list[TracePoint],
        last: bool = False,
        relaxation: Relaxation = Relaxation.SURE,
        trust: float = 1.0,
        asked: Sequence[Evaluation] = (),
    ):
        self.evaluate = evaluate
        self.method = method
        self.numbers = reaction.numbers
        self.trace = trace
        self.model = PriorModel(reaction, method)
        length = np.linalg.norm(direction)
        self.reactive: np.ndarray | None = direction.ravel() / length if length else None
        self.trust = TrustRegion(method, trust)
        self.asked = asked
        self.guess = start_positions(reaction, method.start, direction / (length or 1.0)).ravel()
        self.base = 0
        self.reactive_rates: np.ndarray | None = None
        self.off_ridge = self.returns = 0
        self.ridge: tuple[int, np.ndarray] | None = None
        self.last = last
        self.relaxation, self.began_bare = relaxation, True

    def run(self) -> SearchResult | None:
        """Walk until the forces vanish; None when the ridge, patience or solvable geometries are lost."""
        try:
            latest = self._first()
        except (ScfError, GeometryError):
            return None
        while not is_converged(latest, self.method.convergence):
            more = MORE_PATIENCE if self._force() < SMALL_FORCE else 1.0
            if len(self.model.evaluations) >= more * self.method.patience:
                return None
            self.model.update()
            self._keep_to_ridge()
            if not self.last and self.off_ridge >= LOST:
                return None
            try:
                latest = self._next(self._phase(self.base))
            except (ScfError, GeometryError):
                return None
        return self._answer(latest)

    def _first(self) -> Evaluation:
        """Evaluate the guess after its strain has relaxed; the bare guess where that has no SCF solution."""
        relaxed = self._relaxed(self.guess)
        self.began_bare = np.array_equal(relaxed, self.guess)
        try:
            evaluation = self._first_evaluation(relaxed)
        except (ScfError, GeometryError):
            if self.began_bare:
                raise
            evaluation = self._first_evaluation(self.guess)
        self.model.add(evaluation)
        if all(evaluation is not earlier for earlier in self.asked):
            _, hessian = self.model.prior_gradient_hessian(self.model.latest)
            self._record(evaluation, internal_modes(hessian, self.model.latest), 0, {})
        return evaluation

    def _first_evaluation(self, position: np.ndarray) -> Evaluation:
        for earlier in self.asked:
            if np.array_equal(earlier.positions.ravel(), position):
                return earlier
        return self.evaluate(position.reshape(-1, 3))

    def _keep_to_ridge(self) -> None:
        """Go back where the last evaluation was off the ridge; count where there is no way back."""
        if self._on_ridge(self.base):
            self.ridge, self.off_ridge = (self.base, self.reactive), 0
        elif self._force() < NEARLY_CONVERGED:
            return
        elif self.ridge is not None and self.returns < RETURNS and self._on_ridge(self.ridge[0]):
            self.base, self.reactive = self.ridge
            self.trust.halve()
            self.returns += 1
        else:
            self.off_ridge += 1

    def _on_ridge(self, number: int) -> bool:
        """Whether one of the surrogate's clearly negative modes at an observed point is the guess's."""
        position = self.model.positions[number]
        return self._ridge(*self._curvilinear(position, *self.model.gradient_hessian(position))) is not None

    def _ridge(self, distances: Distances, modes: Modes) -> int | None:
        """Number of the lowest clearly negative mode that is like the guess's lowest one; None: none is."""
        alike = self._likeness(distances, modes) > SAME_MODE
        return int(alike.argmax()) if alike.any() else None

    def _likeness(self, distances: Distances, modes: Modes) -> np.ndarray:
        """Overlap of the rates of each clearly negative mode with those of the lowest of the guess.

        Shape (m,); 1 for each where the guess has no ridge.
        """
        rates = distances.rates(modes.vectors[:, modes.values < CLEARLY_NEGATIVE])
        if self.reactive_rates is None:
            return np.ones(rates.shape[1])
        return np.abs(self.reactive_rates @ rates)

    def _force(self) -> float:
        """Largest atomic force where the walk is, eV/Angstrom."""
        return self.model.evaluations[self.base].max_atom_force

    def _curvilinear(
        self, position: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
    ) -> tuple[Distances, Modes]:
        """Distances at a position (shape (D,)) and the modes that they leave of a Hessian (shape (D, D))."""
        distances = Distances(self.numbers, position)
        return distances, internal_modes(distances.strain_free(gradient, hessian), position)

    def _relaxed(self, guess: np.ndarray) -> np.ndarray:
        """Guess after the stiff modes of the prior surface have relaxed, shape (D,)."""
        method, model = self.method, self.model
        position, before, ridge, at_guess = guess, guess, None, None
        try:
            for _ in range(method.max_inner_steps):
                gradient, hessian = model.prior_gradient_hessian(position, RELAXED_CHECK)
                distances, modes = self._curvilinear(position, gradient, hessian)
                if ridge is None:
                    ridge, at_guess = modes, model.followed()
                    if modes.values[0] < CLEARLY_NEGATIVE:
                        self.reactive_rates = distances.rates(modes.vectors[:, :1])[:, 0]
                if self.relaxation is Relaxation.NONE:
                    return guess
                if self._left(ridge, distances, modes):
                    if self.relaxation is Relaxation.SURE:
                        model.follow(at_guess)
                        return guess
                    return before
                step = _capped(stiff_step(gradient, modes, method.relaxation_stiffness), method.max_atom_step)
                new = distances.moved(step)
                if _moved(new, guess) > method.relaxation_distance or largest_motion(step) < 0.005:
                    return position
                position, before = new, position
            return position
        except (ScfError, GeometryError):
            return guess

    def _left(self, start: Modes, distances: Distances, modes: Modes) -> bool:
        """Whether relaxing has left the ridge of the guess, whose modes are `start`."""
        if self.reactive_rates is None:
            return False
        overlap, curvature = STILL_SAME if self.relaxation is Relaxation.PARTIAL else SURELY_SAME
        likeness = self._likeness(distances, modes).max(initial=0.0)
        return likeness < overlap or modes.values[0] > curvature * start.values[0]

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
        on_ridge, use = False, 0.0
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
            before, use = use, self._use(new, start)
            if use > 1.0:
                # Both parts of the use grow about linearly along a step; asking more often costs gradients.
                least = method.min_trust_radius / _moved(new, start) if count == 0 else 0.0
                end = distances.moved(max((1.0 - before) / (use - before), least) * step)
                return Phase(end, modes, uphill, False, count + 1)
            position = new
            phase = Phase(position, modes, uphill, False, count + 1)
        return phase

    def _use(self, position: np.ndarray, start: np.ndarray) -> float:
        """Part of the trust region that is used up at a position (shape (D,)), from an observed one."""
        try:
            return self.trust.use(
                _moved(position, start), lambda: self.model.gradient_sigma(position), self._force()
            )
        except GeometryError:
            return 2.0  # no cheap surface there: half-way the truth has to be asked

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
                self.trust.halve()
        error = largest_motion((prediction.forces - evaluation.forces).ravel())
        ratio = self.trust.observe(error, prediction.force_sigma, force)
        model.add(evaluation)
        if not (ratio > REJECTED and evaluation.max_atom_force > force):
            self.base = len(model.evaluations) - 1
            self.reactive = phase.mode
        notes = {
            "base": model.evaluations[base].index,
            "inner_steps": phase.steps,
            "stationary": phase.stationary,
            "trust_radius": self.trust.radius,
            "error_ratio": ratio,
            "error_per_sigma": self.trust.error_per_sigma,
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


def _capped(step: np.ndarray, limit: float) -> np.ndarray:
    longest = largest_motion(step)
    return step if longest <= limit else step * (limit / longest)


def _moved(position: np.ndarray, reference: np.ndarray) -> float:
    return largest_displacement(position.reshape(-1, 3), reference.reshape(-1, 3))
