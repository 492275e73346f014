"""One electronic state along a search: jumps are noticed, examined, and the lower state wins.

The orbitals of the previous geometry keep the state as a rule.  Where energies of two neighbouring points do
not fit the forces at both ends, or <S^2> jumps, the point is solved once more from all SCF starts.  Where a
lower state comes out, or where the point lies too low in the first place, the nearest earlier point is solved
again from the new orbitals.  If it comes out lower as well, the earlier points were on a higher state: the
search has to begin again on the lower one, without them.  If it does not, the states cross in between, or the
step was long.

Every one of these is a counted, journaled evaluation of purpose ``state``, so that a budget holds and a
restarted search replays them; whether they are made follows from what the ledger answered.  The look at all
starts where a search has converged verifies its answer and is of purpose ``verification``.
"""

from __future__ import annotations

import numpy as np

from saddleflow.engines.ledger import Ledger
from saddleflow.errors import EngineCrashed, EngineTimeout, GeometryError, ScfError
from saddleflow.evaluation import SAME_STATE, Evaluation, Prediction, Purpose, SearchStopped

# Components of the forces of one state at one geometry, from different starts, differ by less than this,
# eV/Angstrom.
SAME_FORCES = 2e-3
# The trapezoidal rule between neighbours d Angstrom apart (2-norm of all coordinates) may be wrong by
# ENERGY_JUMP + ENERGY_CUBIC d^3 (its error is of third order) + CURVATURE_SHARE of the energy that is due to
# the change of the force, eV.  In 4,091 Hartree-Fock calls of stored searches 0.9 % are beyond that or jump
# in spin; those of `prior-gp-dimer` (17) are all in three searches, one of which had points of two states
# 0.6 eV apart in one surrogate.
ENERGY_JUMP, ENERGY_CUBIC, CURVATURE_SHARE = 0.1, 2.0, 0.25
# An energy that was predicted to so many of its standard deviations is no surprise.  In 217 searches of
# `prior-gp-dimer` 8 of 13 false alarms without a jump in spin were such energies, and no change of state was.
FORESEEN = 4.0
# <S^2> may change by SPIN_JUMP + SPIN_LINEAR d.
SPIN_JUMP, SPIN_LINEAR = 0.2, 0.5
# Jumps that turned out to be nothing, after which a search is left in peace.
FALSE_ALARMS = 3
NOTHING, EXCLUDED = "nothing", "the earlier points were on a higher state and are excluded"


class StateChanged(Exception):
    """The evaluations so far belong to a higher electronic state than the newest.

    Parameters
    ----------
    evaluation : Evaluation
        Newest point, on the lower state.
    """

    def __init__(self, evaluation: Evaluation):
        super().__init__(f"evaluation {evaluation.index} is on a lower electronic state")
        self.evaluation = evaluation


class StateWatch:
    """Evaluations through a ledger, on one electronic state.

    Parameters
    ----------
    ledger : Ledger
        Counts and answers.

    Attributes
    ----------
    first : int
        Index of the first evaluation on the present state; those before it are excluded.
    records : list of dict
        One for each jump that was examined, JSON-serialisable, for the run file.
    """

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.first = 0
        self.records: list[dict] = []
        self._points: list[Evaluation] = []
        self._begin: Evaluation | None = None
        self._orbitals: int | None = None

    def begin(self, evaluation: Evaluation) -> None:
        """Exclude all points before this one; asked for first, it is answered without another call."""
        self.first = evaluation.index
        self._points = [evaluation]
        self._begin = evaluation

    def evaluate(
        self,
        positions: np.ndarray,
        purpose: Purpose = Purpose.SEARCH,
        prediction: Prediction | None = None,
    ) -> Evaluation:
        """Energy and forces; see :class:`saddleflow.evaluation.Evaluate`.

        Raises
        ------
        StateChanged
            When the points so far belong to a higher state.
        SearchStopped, ScfError, GeometryError, EngineCrashed, EngineTimeout
            As :meth:`saddleflow.engines.ledger.Ledger.evaluate`.
        """
        begin, self._begin = self._begin, None
        if begin is not None and np.abs(begin.positions - positions).max() < 1e-8:
            return begin
        orbitals, self._orbitals = self._orbitals, None
        evaluation = self.ledger.evaluate(positions, purpose, prediction, orbitals)
        if self._points and self._starts_again() and (seen := self._jump(evaluation)):
            evaluation = self._examined(evaluation, seen)
        self._points.append(evaluation)
        return evaluation

    def lower_state(self, index: int) -> Evaluation | None:
        """Same geometry on a lower state, if the SCF starts find one (one call); the others are excluded.

        Symmetry can keep orbitals on a state that has ceased to be the lowest, without any jump.  States that
        cross have nearly one energy there, but different forces.
        """
        here = self.ledger.evaluations[index]
        if not self._has_starts():
            return None
        try:
            fresh = self.ledger.evaluate(here.positions, Purpose.VERIFICATION, None, Ledger.FRESH)
        except (SearchStopped, ScfError, EngineCrashed, EngineTimeout):
            return None  # the answer stands, and the verification will look once more
        lower_by = here.energy - fresh.energy
        apart = float(np.abs(here.forces - fresh.forces).max()) > SAME_FORCES
        if lower_by <= (0.0 if apart else SAME_STATE):
            return None
        record = {"evaluation": index, "lower_by": lower_by, "result": EXCLUDED, "first": fresh.index}
        self.records.append(record)
        return fresh

    def _has_starts(self) -> bool:
        """Whether the engine can look for other states."""
        return any("scf_starts" in evaluation.notes for evaluation in self.ledger.evaluations[:1])

    def _starts_again(self) -> bool:
        """Whether it can, and it is still worth it."""
        alarms = sum(record.get("result") == NOTHING for record in self.records)
        return alarms < FALSE_ALARMS and self._has_starts()

    def _nearest(self, positions: np.ndarray) -> Evaluation:
        return min(self._points, key=lambda point: float(np.linalg.norm(point.positions - positions)))

    def _jump(self, new: Evaluation) -> dict:
        """What jumps from the nearest earlier point to a new one; empty if nothing does."""
        old = self._nearest(new.positions)
        step = new.positions - old.positions
        distance = float(np.linalg.norm(step))
        jump = new.energy - old.energy + 0.5 * float(((old.forces + new.forces) * step).sum())
        bend = 0.5 * abs(float(((old.forces - new.forces) * step).sum()))
        unforeseen = new.prediction is None or abs(new.energy - new.prediction.energy) > max(
            ENERGY_JUMP, FORESEEN * new.prediction.energy_sigma
        )
        spin = 0.0
        if new.spin_square is not None and old.spin_square is not None:
            spin = new.spin_square - old.spin_square
        limit = ENERGY_JUMP + ENERGY_CUBIC * distance**3 + CURVATURE_SHARE * bend
        energy_jumps = abs(jump) > limit and unforeseen
        if not energy_jumps and abs(spin) <= SPIN_JUMP + SPIN_LINEAR * distance:
            return {}
        return {
            "evaluation": new.index,
            "nearest": old.index,
            "distance": distance,
            "energy_jump": jump,
            "spin_square_jump": spin,
            "too_low": energy_jumps and jump < 0.0,
        }

    def _examined(self, followed: Evaluation, seen: dict) -> Evaluation:
        """Lower of the followed and the newly started state; StateChanged where it was lower before, too."""
        lowest, old = followed, self.ledger.evaluations[seen["nearest"]]
        if not seen["too_low"] and "scf_starts" not in followed.notes:
            try:
                fresh = self.ledger.evaluate(followed.positions, Purpose.STATE, None, Ledger.FRESH)
                lowest = fresh if fresh.energy < followed.energy - SAME_STATE else followed
            except ScfError:
                pass
        seen["lower_by"] = followed.energy - lowest.energy
        self.records.append(seen)
        self._orbitals = lowest.index
        if lowest is followed and not seen["too_low"]:
            seen["result"] = NOTHING
            return lowest
        try:
            again = self.ledger.evaluate(old.positions, Purpose.STATE, None, lowest.index)
        except (ScfError, GeometryError):
            seen["result"] = "the earlier points have no solution on this state"
            return lowest
        # It followed the lowest state, so that the next point starts from its orbitals as usual.
        self._orbitals = None
        if again.energy < old.energy - SAME_STATE:
            seen |= {"result": EXCLUDED, "earlier_lower_by": old.energy - again.energy, "first": lowest.index}
            raise StateChanged(lowest)
        seen["result"] = NOTHING if lowest is followed else "the states cross"
        return lowest
