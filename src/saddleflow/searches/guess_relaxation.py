"""The guess before its first evaluation: on the prior surface its strain relaxes and it goes up its ridge.

The prior knows bonds well and barriers roughly.  A walk that begins where the cheap surfaces see little force
saves the evaluations that would only say that a bond of the guess is compressed; one that has left the ridge
of the guess on them seldom finds back.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from saddleflow.curvilinear import Distances
from saddleflow.errors import GeometryError, ScfError
from saddleflow.geometry import capped_motion, largest_displacement, largest_motion
from saddleflow.searches.partitioned_rfo import saddle_step, stiff_step
from saddleflow.searches.prior_model import PriorModel
from saddleflow.searches.ridge import Ridge
from saddleflow.settings import PriorGPDimer
from saddleflow.vibrations import Modes

SURELY_SAME, STILL_SAME = (0.9, 0.5), (0.7, 0.3)
"""Relaxing has left the ridge of the guess where the rates of no clearly negative mode overlap by the first
with those of the guess's lowest one, or the lowest curvature falls below so much (the second) of the guess's.
By the overlap alone, with Hessians of their own and the median of four surfaces, 34 of 59 relaxed guesses
surely kept it; 32 of the walks from there stayed on it, of the 25 others 9."""
CHECK = 0.1
"""Angstrom: so often the softest modes are checked meanwhile.  A Hessian that is followed for 0.3 Angstrom
does not see that a ridge is lost."""
ENOUGH = 0.5
"""Of the force at which climbing ends: what a step on the way there may leave."""
RELAXED = 0.005
"""Angstrom: a step that moves no atom by more ends relaxing."""


class Relaxation(Enum):
    """Where a walk begins, by how much of the strain of the guess relaxes on the prior, in order of use."""

    SURE = "all of it where it surely stays on its ridge, else nothing; then up the ridge while surely on it"
    PARTIAL = "as far as it is still on its ridge"
    NONE = "nothing"
    MEASURED = "nothing, and the lowest mode is measured there"
    GATHERED = "no guess: the best point of the walks before, with what was asked around it"


CAREFUL = (Relaxation.NONE, Relaxation.MEASURED)
"""Walks that begin at the bare guess, with less trust."""


class GuessRelaxation:
    """Way of one guess on the prior surface.

    Parameters
    ----------
    guess : ndarray, shape (D,)
        Angstrom.
    method : PriorGPDimer
        How stiff and how far.
    model : PriorModel
        Before anything was observed.  After a sure way its Hessian is the one at the answer, after any
        other the one where the way ended.
    ridge : Ridge
        Begins here.
    """

    def __init__(self, guess: np.ndarray, method: PriorGPDimer, model: PriorModel, ridge: Ridge):
        self.guess, self.method, self.model, self.ridge = guess, method, model, ridge

    def run(self, relaxation: Relaxation) -> np.ndarray:
        """Where the walk begins, shape (D,); the guess where the prior has no answer on the way."""
        try:
            self.ridge.begin(*self._modes(self.guess)[1:])
            at_guess = self.model.followed()
            if relaxation in CAREFUL:
                return self.guess
            if relaxation is Relaxation.PARTIAL:
                return self._relaxed(STILL_SAME)[0]
            relaxed, kept = self._relaxed(SURELY_SAME)
            if not kept:
                self.model.follow(at_guess)
                relaxed = self.guess
            return self._climbed(relaxed)
        except (ScfError, GeometryError):
            return self.guess

    def _modes(self, position: np.ndarray) -> tuple[np.ndarray, Distances, Modes]:
        """Gradient of the prior (shape (D,)), distances, and the modes that they leave of its Hessian."""
        gradient, hessian = self.model.prior_gradient_hessian(position, CHECK)
        return gradient, *self.ridge.curvilinear(position, gradient, hessian)

    def _relaxed(self, same: tuple[float, float]) -> tuple[np.ndarray, bool]:
        """Last position on the ridge while the stiff modes relax, and whether the ridge lasted."""
        position = before = self.guess
        for _ in range(self.method.max_inner_steps):
            gradient, distances, modes = self._modes(position)
            if self.ridge.left(distances, modes, *same):
                return before, False
            step = stiff_step(gradient, modes, self.method.relaxation_stiffness)
            step = capped_motion(step, self.method.max_atom_step)
            new = distances.moved(step)
            if self._too_far(new) or largest_motion(step) < RELAXED:
                break
            position, before = new, position
        return position, True

    def _climbed(self, start: np.ndarray) -> np.ndarray:
        """Last position surely on the ridge on the way to where the prior sees little force."""
        method, model = self.method, self.model
        position, surely = start, (start, model.followed())
        for _ in range(method.max_inner_steps):
            gradient, distances, modes = self._modes(position)
            if self.ridge.left(distances, modes, *SURELY_SAME):
                break
            surely = position, model.followed()
            uphill = self.ridge.number(distances, modes)
            if uphill is None or largest_motion(gradient) < method.relaxation_force:
                break
            enough = ENOUGH * method.relaxation_force
            step = saddle_step(gradient, modes, uphill, method.max_atom_step, enough)
            position = distances.moved(step)
            if self._too_far(position) or largest_motion(step) < RELAXED:
                break
        model.follow(surely[1])
        return surely[0]

    def _too_far(self, position: np.ndarray) -> bool:
        return largest_displacement(position, self.guess) > self.method.relaxation_distance
