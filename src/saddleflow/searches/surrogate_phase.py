"""One phase of a walk: from an evaluated point over the surrogate to the next point that is worth a call.

Up the mode of the ridge and down all others, until the surrogate is stationary, its expected error is too
large or the ridge ends.  Modes and steps are those of curvilinear coordinates
(:mod:`saddleflow.curvilinear`): in Cartesian ones the lowest mode of a strained guess is often no reaction
but a compressed bond that would turn aside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from saddleflow.errors import GeometryError
from saddleflow.geometry import largest_displacement, largest_motion
from saddleflow.searches.partitioned_rfo import saddle_step
from saddleflow.searches.prior_model import PriorModel
from saddleflow.searches.ridge import CLEARLY_NEGATIVE, Ridge
from saddleflow.searches.trust_region import TrustRegion
from saddleflow.settings import PriorGPDimer
from saddleflow.vibrations import Modes

STATIONARY = 0.03
"""Largest surrogate force of a stationary point over the true force before; predictions err far more."""
DUPLICATE_DISTANCE = 2e-5
"""Angstrom. Small: along a stiff mode a step of 1e-4 still moves the force by its convergence threshold."""
SOFT = 1.0
"""eV/Angstrom^2: no stiffer mode is climbed for its likeness to the one before."""
NEARLY_CONVERGED = 0.1
"""eV/Angstrom: below this force the end of a ridge is none, since the mode of a saddle can be soft."""
SETTLED = 0.5
"""eV/Angstrom: below this force a phase takes the shortest steps that leave little, and none that raise the
surrogate's force.  Above, forces are those of the guess's strain, and rise and fall on the way."""
WORSE, REJECTIONS = 2.0, 3
"""A step on the surrogate after which its force is so much larger is taken back and made anew, so often in a
phase; the last time with a new Hessian."""
CONVEX_STEP = 0.1
"""Angstrom: step of the fastest atom uphill where no mode is negative."""


@dataclass(frozen=True)
class Phase:
    """End of a phase.

    Parameters
    ----------
    position : ndarray, shape (D,)
        Where to evaluate, Angstrom.
    modes : Modes
        Of the surrogate, there or a step before.
    uphill : int
        Which of them was climbed.
    stationary : bool
        The surrogate is stationary there.
    steps : int
        On the surrogate.
    ridge_ends : bool
        On the surrogate the ridge ends there.
    """

    position: np.ndarray
    modes: Modes
    uphill: int
    stationary: bool
    steps: int
    ridge_ends: bool = False

    @property
    def mode(self) -> np.ndarray:
        """Mode that was climbed, shape (D,)."""
        return self.modes.vectors[:, self.uphill]


@dataclass(frozen=True)
class Place:
    """A place on the way of a phase.

    Parameters
    ----------
    position : ndarray, shape (D,)
        Angstrom.
    use : float
        Part of the trust region that is used up there.
    climbed : ndarray, shape (D,), or None
        Mode that was climbed last.
    on_ridge : bool
        The ridge was seen here or, before anything was looked at here, where the last step began.
    phase : Phase or None
        As it would end here; None where it begins.  After a first step that was taken back: at its end.
    """

    position: np.ndarray
    use: float
    climbed: np.ndarray | None
    on_ridge: bool = False
    phase: Phase | None = None


class SurrogatePhase:
    """Phases of one walk.

    Parameters
    ----------
    method : PriorGPDimer
        Settings.
    model : PriorModel
        The surrogate.
    ridge : Ridge
        Of the guess.
    trust : TrustRegion
        Where the surrogate may be walked on.
    """

    def __init__(self, method: PriorGPDimer, model: PriorModel, ridge: Ridge, trust: TrustRegion):
        self.method, self.model, self.ridge, self.trust = method, model, ridge, trust

    def phase(self, base: int, reactive: np.ndarray | None) -> Phase:
        """Walk on the surrogate from observation number `base`, at first along `reactive` (shape (D,)).

        Raises
        ------
        GeometryError, SurfaceFailed
            Where the prior mean has no answer.
        """
        method, model = self.method, self.model
        start = model.positions[base]
        force = model.evaluations[base].max_atom_force
        tolerance = max(0.3 * method.convergence.threshold, STATIONARY * force)
        tolerance = min(tolerance, 0.3 * force)
        for _ in range(4):
            phase = self._way(start, reactive, force, tolerance)
            if model.nearest(phase.position) > DUPLICATE_DISTANCE:
                return phase
            tolerance *= 0.1
        # The surrogate is stationary where it was observed: its own Newton step is what is left.
        gradient = model.evaluations[base].gradient
        step = saddle_step(gradient, phase.modes, phase.uphill, method.min_trust_radius)
        if largest_motion(step) < DUPLICATE_DISTANCE:
            step = phase.mode * min(1.0, method.min_trust_radius / largest_motion(phase.mode))
        return Phase(start + step, phase.modes, phase.uphill, False, phase.steps)

    def expected_error(self, position: np.ndarray) -> float:
        """Largest error of an atom's predicted force to expect at a position (shape (D,)), eV/Angstrom."""
        return self.trust.error_per_sigma * self.model.gradient_sigma(position)

    def _way(self, start: np.ndarray, reactive: np.ndarray | None, force: float, tolerance: float) -> Phase:
        """End of the way from `start`, where the largest true force is `force`."""
        method, model, ridge = self.method, self.model, self.ridge
        place = Place(start, 0.0, reactive)
        settled = force < SETTLED
        accepted: Place | None = None
        accepted_size = 0.0
        longest, rejected = method.max_atom_step, 0
        for count in range(method.max_inner_steps):
            position = place.position
            try:
                gradient, hessian = model.gradient_hessian(position)
            except GeometryError:
                if place.phase is None:
                    raise
                # No cheap surface there: half-way the truth has to be asked.
                return replace(place.phase, position=0.5 * (start + position))
            size = largest_motion(gradient)
            if accepted and size > WORSE * max(accepted_size, tolerance) and rejected < REJECTIONS:
                # The Hessian was wrong along this step.  Now it has seen it: the step is made once more.
                place = replace(accepted, phase=accepted.phase or place.phase)
                longest, rejected, accepted = 0.5 * longest, rejected + 1, None
                if rejected == REJECTIONS:
                    model.forget_hessian()
                continue
            distances, modes = ridge.curvilinear(position, gradient, hessian)
            number = ridge.number(distances, modes)
            uphill = _uphill(modes, number, place.climbed)
            climbed = modes.vectors[:, uphill]
            if place.on_ridge and number is None and force > NEARLY_CONVERGED:
                return replace(place.phase, position=position, ridge_ends=True)  # or the surrogate is wrong
            place = replace(place, climbed=climbed, on_ridge=number is not None)
            if size < tolerance and modes.values[0] < 0:
                return Phase(position, modes, uphill, True, count)
            if modes.values[0] > 0:
                accepted = None
                # Past the ridge nothing but the way back uphill counts: relaxing would end in a minimum.
                step = climbed * (CONVEX_STEP / largest_motion(climbed))
                if gradient @ climbed < 0:
                    step = -step
            else:
                accepted, accepted_size = (place if settled else None), size
                step = saddle_step(gradient, modes, uphill, longest, 0.5 * tolerance if settled else 0.0)
            new = distances.moved(step)
            use = self._use(new, start, force)
            if use > 1.0:
                # Both parts of the use grow about linearly along a step; asking more often costs gradients.
                least = (
                    method.min_trust_radius / largest_displacement(new, start) if position is start else 0.0
                )
                end = distances.moved(max((1.0 - place.use) / (use - place.use), least) * step)
                return Phase(end, modes, uphill, False, count + 1)
            phase = Phase(new, modes, uphill, False, count + 1)
            place = Place(new, use, climbed, place.on_ridge, phase)
        return place.phase

    def _use(self, position: np.ndarray, start: np.ndarray, force: float) -> float:
        """Part of the trust region that is used up at a position (shape (D,)), from an observed one."""
        try:
            return self.trust.use(
                largest_displacement(position, start), lambda: self.model.gradient_sigma(position), force
            )
        except GeometryError:
            return 2.0  # no cheap surface there: half-way the truth has to be asked


def _uphill(modes: Modes, number: int | None, climbed: np.ndarray | None) -> int:
    """Which mode is climbed: that of the ridge; the one before among soft ones where none is negative."""
    if modes.values[0] > CLEARLY_NEGATIVE and climbed is not None:
        soft = max(int((modes.values < SOFT).sum()), 1)
        return int(np.argmax(np.abs(modes.vectors[:, :soft].T @ climbed)))
    return number or 0
