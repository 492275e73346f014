"""Walk to a saddle on a Gaussian process that corrects cheap surfaces, one evaluation a phase.

The guess may relax on the prior surface first (:mod:`saddleflow.searches.guess_relaxation`).  Each phase
(:mod:`saddleflow.searches.surrogate_phase`) ends at the next point to evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np

from saddleflow.curvilinear import Distances
from saddleflow.errors import GeometryError, ScfError
from saddleflow.evaluation import Evaluate, Evaluation, Outcome, Purpose, SearchResult, TracePoint
from saddleflow.geometry import largest_displacement, largest_motion
from saddleflow.reaction import Reaction
from saddleflow.searches.base import is_converged
from saddleflow.searches.guess_relaxation import CAREFUL, GuessRelaxation, Relaxation
from saddleflow.searches.measured_modes import measure_lowest_mode
from saddleflow.searches.prior_model import PriorModel
from saddleflow.searches.ridge import CLEARLY_NEGATIVE, RIDGE_CURVATURE, Ridge
from saddleflow.searches.start_direction import start_positions
from saddleflow.searches.surrogate_phase import NEARLY_CONVERGED, Phase, SurrogatePhase
from saddleflow.searches.trust_region import REJECTED, SMALL_FORCE, TrustRegion
from saddleflow.settings import PriorGPDimer
from saddleflow.vibrations import Modes, internal_modes

CAREFUL_TRUST = 0.5
"""Part of the trusted error and of the largest trust radius with which the careful walk begins."""
LOST = 2
"""Evaluations in turn off the ridge, and without a way back, after which a walk has lost it.  One with the
smallest force so far does not count: with AM1 as the truth 60 of 60 searches converged within 60 calls, in
8.8 on average, where 59 had taken 9.7 (a failure as 60), to the same saddles."""
RETURNS = 1
"""So often a walk goes back to its last point on the ridge, with half the trust and what it has learned.
Of 78 walks that had gone back at most once 74 arrived, of 13 that went back further 6, 14 calls each."""
MORE_PATIENCE = 1.5
"""Of a walk whose forces are small already (`SMALL_FORCE`)."""
KNOWN = 0.1
"""Expected error over the force before of a point that need not be asked."""
PLAIN = CLEARLY_NEGATIVE
"""With no lower curvature there is a plain, where forces may vanish without a saddle.  122 answers at saddles
that all published programs agree on had -2.2 eV/Angstrom^2 at most, five answers elsewhere -0.23 to -0.004;
of 122 walks to agreed saddles one met such a point, with 5 eV/Angstrom."""
MISLED = 3.0
"""eV/Angstrom: where the prior's force is wrong by more at the first evaluation of an open shell, the cheap
surfaces are those of another electronic state."""


class Lost(Enum):
    """Why a walk has no answer."""

    WAY = "ridge, patience or solvable geometries are lost, or there was no other place to begin"
    MISLED = "the prior leads astray: far from the truth at the start of an open shell, or to a plain"


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
    relaxation : Relaxation
        Where it begins.  The careful ones (`NONE`, `MEASURED`) trust less; no other walk follows the last
        one (`GATHERED`), so it goes on where the ridge is lost, until patience is used up.
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
        relaxation: Relaxation = Relaxation.SURE,
        asked: Sequence[Evaluation] = (),
    ):
        self.evaluate = evaluate
        self.method = method
        self.trace = trace
        self.model = PriorModel(reaction, method)
        length = np.linalg.norm(direction)
        self.reactive: np.ndarray | None = direction.ravel() / length if length else None
        self.trust = TrustRegion(method, CAREFUL_TRUST if relaxation in CAREFUL else 1.0)
        self.ridge = Ridge(reaction.numbers)
        self.phases = SurrogatePhase(method, self.model, self.ridge, self.trust)
        self.asked = asked
        self.guess = start_positions(reaction, method.start, direction / (length or 1.0)).ravel()
        self.base = 0
        self.off_ridge = self.returns = self.known_before = 0
        self.places: list[tuple[int, np.ndarray]] = []  # on the ridge, with the mode climbed
        self.last = relaxation is Relaxation.GATHERED
        self.relaxation, self.began_bare = relaxation, True
        self.open_shell, self.on_plain = reaction.multiplicity > 1, False

    def run(self) -> SearchResult | Lost:
        """Walk until the forces vanish.

        Without a call where a partial relaxation comes no further than the bare guess: that would be the
        first walk once more.
        """
        try:
            latest = self._gathered() if self.relaxation is Relaxation.GATHERED else self._first()
            misled = self._misled_from_the_start()
        except (ScfError, GeometryError):
            return Lost.WAY
        if isinstance(latest, Lost):
            return latest
        if misled and not is_converged(latest, self.method.convergence):
            return Lost.MISLED
        while not is_converged(latest, self.method.convergence):
            more = MORE_PATIENCE if self._force() < SMALL_FORCE else 1.0
            if len(self.model.evaluations) - self.known_before >= more * self.method.patience:
                return self._lost()
            self.model.update(self.base)
            self._keep_to_ridge()
            if not self.last and self.off_ridge >= LOST:
                return self._lost()
            try:
                phase = self._informative_phase()
                if phase is None:
                    return self._lost()
                latest = self._next(phase)
            except (ScfError, GeometryError):
                return self._lost()
        answer = self._answer(latest)
        return Lost.MISLED if answer.curvature > PLAIN and not self.last else answer

    def _lost(self) -> Lost:
        return Lost.MISLED if self.on_plain else Lost.WAY

    def _first(self) -> Evaluation | Lost:
        """Evaluate the guess as relaxed on the prior; the bare guess where that has no SCF solution."""
        relaxed = GuessRelaxation(self.guess, self.method, self.model, self.ridge).run(self.relaxation)
        self.began_bare = np.array_equal(relaxed, self.guess)
        if self.began_bare and self.relaxation is Relaxation.PARTIAL:
            return Lost.WAY
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
        if self.relaxation is Relaxation.MEASURED:
            self._measure(evaluation)
        return evaluation

    def _measure(self, first: Evaluation) -> None:
        """Measure the lowest mode at the first evaluation; its ridge is the one to keep to."""
        measure_lowest_mode(self.evaluate, self.model, first)
        self.known_before = len(self.model.evaluations) - 1
        self.model.update(0)
        self.ridge.begin(*self._curvilinear(0))

    def _misled_from_the_start(self) -> bool:
        """Whether the first walk of an open shell finds the prior far from the truth."""
        return self.relaxation is Relaxation.SURE and self.open_shell and self._prior_error() > MISLED

    def _prior_error(self) -> float:
        """Largest error of an atom's force as the prior says it at the first evaluation, eV/Angstrom."""
        prior = self.model.prior(self.model.positions[0])[1]  # first: it may drop a surface
        return largest_motion(self.model.weights @ prior - self.model.evaluations[0].gradient.ravel())

    def _gathered(self) -> Evaluation:
        """Take up what earlier walks asked around the best point, and begin there.

        That is the one with the smallest force on a ridge, if any was: on a plain all forces are small.
        """
        asked = list({evaluation.index: evaluation for evaluation in self.asked}.values())
        ridges = {point.evaluation for point in self.trace if point.curvature < RIDGE_CURVATURE}
        best = min(
            [evaluation for evaluation in asked if evaluation.index in ridges] or asked,
            key=lambda evaluation: evaluation.max_atom_force,
        )
        near = sorted(asked, key=lambda e: largest_displacement(e.positions, best.positions))
        near = near[: self.method.observations]
        for number, evaluation in enumerate(sorted(near, key=lambda e: e.index)):
            self.model.add(evaluation)
            if evaluation is best:
                self.base = number
        self.known_before = len(near)
        return best

    def _first_evaluation(self, position: np.ndarray) -> Evaluation:
        for earlier in self.asked:
            if np.array_equal(earlier.positions.ravel(), position):
                return earlier
        return self.evaluate(position.reshape(-1, 3))

    def _keep_to_ridge(self) -> None:
        """Go back where the last evaluation was off the ridge; count where there is no way back."""
        distances, modes = self._curvilinear(self.base)
        self.on_plain = self.ridge.rates is not None and modes.values[0] > PLAIN
        if self.ridge.number(distances, modes) is not None:
            self.places.append((self.base, self.reactive))
            self.off_ridge = 0
        elif not self.on_plain and (self._force() < NEARLY_CONVERGED or (self.returns and self._improves())):
            return
        elif self.places and self.returns < RETURNS and self._on_ridge(self.places[-1][0]):
            self._go_back(self.places[-1])
            self.returns += 1
        else:
            self.off_ridge += 1

    def _improves(self) -> bool:
        """Whether the force where the walk is, is the smallest that it has seen."""
        return self._force() <= min(evaluation.max_atom_force for evaluation in self.model.evaluations)

    def _informative_phase(self) -> Phase | None:
        """Phase whose end is worth an evaluation; None: the ridge is lost.

        Where the ridge ends at a point that the surrogate knows well, an evaluation would only say so again:
        the walk goes on from an earlier point of the ridge at once.
        """
        while True:
            phase = self.phases.phase(self.base, self.reactive)
            if self.last or not phase.ridge_ends or not self._known(phase.position):
                return phase
            earlier = [place for place in self.places if place[0] < self.base]
            if not earlier:
                return None
            self._go_back(earlier[-1])

    def _go_back(self, place: tuple[int, np.ndarray]) -> None:
        """Begin the next phase at an earlier point of the ridge, with half the trust."""
        self.base, self.reactive = place
        self.model.update(self.base)
        self.trust.halve()

    def _known(self, position: np.ndarray) -> bool:
        """Whether the expected error of the force at a position is small."""
        return self.phases.expected_error(position) < KNOWN * max(self._force(), SMALL_FORCE)

    def _on_ridge(self, number: int) -> bool:
        """Whether one of the surrogate's clearly negative modes at an observed point is the guess's."""
        return self.ridge.number(*self._curvilinear(number)) is not None

    def _curvilinear(self, number: int) -> tuple[Distances, Modes]:
        """Distances at an observed point, and the surrogate's modes that they leave there."""
        position = self.model.positions[number]
        return self.ridge.curvilinear(position, *self.model.gradient_hessian(position))

    def _force(self) -> float:
        """Largest atomic force where the walk is, eV/Angstrom."""
        return self.model.evaluations[self.base].max_atom_force

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
        self.trust.went(self.ridge.change(start, position), not phase.stationary, ratio)
        model.add(evaluation)
        if not (ratio > REJECTED and evaluation.max_atom_force > force):
            self.base = len(model.evaluations) - 1
            self.reactive = phase.mode
        notes = {
            "base": model.evaluations[base].index,
            "inner_steps": phase.steps,
            "stationary": phase.stationary,
            "trust_radius": self.trust.radius,
            "allowance": self.trust.allowance,
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
        self.model.update(len(self.model.evaluations) - 1)
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
