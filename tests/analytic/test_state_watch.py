"""A search stays on the lowest electronic state, or says where it did not, and never mixes two."""

import numpy as np
import pytest

from saddleflow.engines.analytic import Transfer
from saddleflow.engines.ledger import Ledger
from saddleflow.engines.state_watch import EXCLUDED, FALSE_ALARMS, NOTHING, StateChanged, StateWatch
from saddleflow.errors import EngineCrashed, EngineTimeout
from saddleflow.evaluation import EngineResult, Outcome, Prediction, Purpose
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.run_file import read_run_file, write_run_file
from saddleflow.settings import Dimer, GPDimer

GAP = 0.8
SLOPE = 0.5


class TwoStates(Transfer):
    """A surface and a higher, tilted copy of it, as orbitals find them.

    The first start misses the lower state; orbitals keep the state, but for the calls in `falls`, which find
    the lower one by themselves.
    """

    def __init__(self, falls=(), jumps=(), ladder=(1, 0), slope=SLOPE, gap=GAP):
        super().__init__()
        self.slope, self.gap = slope, gap
        self.falls, self.jumps, self.ladder, self.state, self.calls = falls, jumps, list(ladder), b"", 0

    def evaluate(self, positions):
        notes = {}
        if self.state:
            state = int(self.state)
        else:
            state = self.ladder.pop(0) if len(self.ladder) > 1 else self.ladder[0]
            notes = {"scf_starts": 5}
        state = 0 if self.calls in self.falls else 1 if self.calls in self.jumps else state
        self.calls += 1
        low = super().evaluate(positions)
        tilt = np.zeros_like(low.forces)
        tilt[0, 0] = -self.slope
        energy = low.energy + state * (self.gap + self.slope * (positions[0, 0] - self.saddle[0, 0]))
        self.state = str(state).encode()
        return EngineResult(energy, low.forces + state * tilt, None, 0.75, self.state, notes)

    def restore(self, state):
        self.state = state


def start():
    generator = np.random.default_rng(3)
    return Transfer().saddle + 0.06 * generator.standard_normal((6, 3))


def searched(engine, journal=None, method=None):
    method = method or Dimer(start={"direction": "file"})
    saddle = Transfer()
    mode = np.linalg.eigh(saddle.hessian(saddle.saddle))[1][:, 0].reshape(-1, 3)
    reaction = Reaction("transfer", ("H",) * 6, start(), start_direction=mode)
    ledger = Ledger(engine, journal, {"a": 1}, method.max_calls)
    try:
        return carry_out(ledger, reaction, "m", method, {"program": "analytic"})
    finally:
        ledger.close()


def test_points_of_a_higher_state_are_excluded_and_the_saddle_is_that_of_the_lower(tmp_path):
    run = searched(TwoStates(falls=(4,)))
    assert run.result.outcome is Outcome.CONVERGED
    (record,) = [r for r in run.provenance["states"] if r["result"] == EXCLUDED]
    assert record["earlier_lower_by"] == pytest.approx(GAP, abs=0.3)
    assert run.first_on_state == record["first"] > 0
    low = Transfer()
    for evaluation in run.evaluations[run.first_on_state :]:
        assert evaluation.energy == pytest.approx(low.evaluate(evaluation.positions).energy)
    followed = [point.evaluation for point in run.result.trace]
    assert followed == sorted(set(followed)) and followed[0] < run.first_on_state < followed[-1]
    used = [e for e in run.evaluations if e.purpose is Purpose.STATE]
    assert len(used) == 1, (
        "the point lies too low: the nearest earlier one is solved from its orbitals; counted"
    )
    write_run_file(tmp_path / "run.h5", run)
    assert read_run_file(tmp_path / "run.h5").first_on_state == run.first_on_state


def test_a_surrogate_is_not_fitted_to_points_of_two_states():
    method = GPDimer(start={"direction": "file"}, max_calls=11, max_initial_rotations=1)
    run = searched(TwoStates(falls=(4,)), method=method)
    assert run.first_on_state > 0
    on_state = [point for point in run.result.trace if point.evaluation >= run.first_on_state]
    before = [point for point in run.result.trace if point.evaluation < run.first_on_state]
    assert before[0].evaluation == 0, "how the search began stays in the run file"
    assert on_state[0].evaluation == run.first_on_state
    low = Transfer()
    for evaluation in run.evaluations[run.first_on_state :]:
        assert evaluation.energy == pytest.approx(low.evaluate(evaluation.positions).energy)


def test_an_interrupted_search_sees_the_same_states(tmp_path):
    whole = searched(TwoStates(falls=(4,)))
    for stop in range(4, 9):
        journal = tmp_path / f"{stop}.jsonl"
        stopped = Dimer(start={"direction": "file"}, max_calls=stop)
        searched(TwoStates(falls=(4,)), journal, stopped)
        # Falls count the calls of a process; that of the first start belongs to the one that was stopped.
        again = searched(TwoStates(falls=(4 - stop,), ladder=(0,)), journal)
        assert [e.energy for e in again.evaluations] == [e.energy for e in whole.evaluations]
        assert again.provenance["states"] == whole.provenance["states"]


def test_a_jump_upwards_is_undone_by_the_starts():
    run = searched(TwoStates(jumps=(5,), ladder=(0,)))
    assert run.result.outcome is Outcome.CONVERGED and run.first_on_state == 0
    low = Transfer()
    (record,) = run.provenance["states"]
    assert record["result"] == "the states cross" and record["lower_by"] > 0.1
    for point in run.result.trace:
        evaluation = run.evaluations[point.evaluation]
        assert evaluation.energy == pytest.approx(low.evaluate(evaluation.positions).energy)


def test_without_a_jump_nothing_is_spent():
    run = searched(TwoStates(ladder=(0,)))
    assert "states" not in run.provenance
    assert all(e.purpose is not Purpose.STATE for e in run.evaluations)


def test_a_state_that_was_followed_without_a_jump_is_left_at_the_end():
    higher = searched(TwoStates(slope=0.0))
    assert higher.result.outcome is Outcome.CONVERGED and "states" not in higher.provenance
    run = searched(TwoStates(slope=0.0), method=Dimer(start={"direction": "file"}, go_on=1))
    assert run.result.outcome is Outcome.CONVERGED
    (record,) = run.provenance["states"]
    assert record["result"] == EXCLUDED and run.first_on_state == record["first"]
    low = Transfer().evaluate(run.answer.positions)
    assert run.answer.energy == pytest.approx(low.energy)
    assert run.answer.max_atom_force < 0.01
    look = run.evaluations[record["first"]]
    assert look.purpose is Purpose.VERIFICATION and look.index < run.proved_from, "it began what came after"


def test_a_budget_that_ends_with_the_search_leaves_its_answer():
    alone = searched(TwoStates(ladder=(0,)))
    for spare in (0, 1, 3):
        method = Dimer(start={"direction": "file"}, go_on=1, max_calls=len(alone.evaluations) + spare)
        run = searched(TwoStates(ladder=(0,)), method=method)
        assert run.result.outcome is Outcome.CONVERGED
        assert run.result.evaluation == alone.result.evaluation
        assert len(run.evaluations) == len(alone.evaluations) + spare
        assert run.proved_from == len(alone.evaluations)


@pytest.mark.parametrize("fault", [EngineCrashed, EngineTimeout])
def test_an_engine_that_breaks_down_in_the_proof_loses_no_answer(fault):
    alone = searched(TwoStates(ladder=(0,)))

    class Breaks(TwoStates):
        def __init__(self, after):
            super().__init__(ladder=(0,))
            self.after = after

        def evaluate(self, positions):
            if self.calls == self.after:
                raise fault("no more")
            return super().evaluate(positions)

    for spare in (0, 1, 2):
        engine = Breaks(len(alone.evaluations) + spare)
        run = searched(engine, method=Dimer(start={"direction": "file"}, go_on=1))
        assert run.result.outcome is Outcome.CONVERGED
        assert run.result.evaluation == alone.result.evaluation
        assert run.proved_from == len(alone.evaluations)


class Rough(TwoStates):
    """One state whose energies do not fit its forces."""

    def evaluate(self, positions):
        result = super().evaluate(positions)
        return EngineResult(
            result.energy + 3.0 * self.calls, result.forces, None, 0.75, b"0", {"scf_starts": 5}
        )


def test_false_alarms_end_and_predictions_that_hold_are_none():
    watch = StateWatch(Ledger(Rough(ladder=(0,)), None, {}, 100))
    for number in range(FALSE_ALARMS + 3):
        watch.evaluate(start() + 0.01 * number)
    assert [record["result"] for record in watch.records] == [NOTHING] * FALSE_ALARMS
    energy = Rough(ladder=(0,)).evaluate(start()).energy + 3.0
    for error, sigma, alarms in ((0.0, 0.0, 0), (0.0, float("nan"), 0), (1.5, 0.5, 0), (1.5, 0.3, 1)):
        watch = StateWatch(Ledger(Rough(ladder=(0,)), None, {}, 100))
        watch.evaluate(start())
        watch.evaluate(start(), Purpose.SEARCH, Prediction(energy + error, np.zeros((6, 3)), sigma))
        assert len(watch.records) == alarms


def test_a_jump_of_the_spin_alone_is_examined():
    class Spin(TwoStates):
        def evaluate(self, positions):
            result = super().evaluate(positions)
            return EngineResult(
                result.energy, result.forces, None, 0.76 + 0.9 * (self.calls == 2), b"0", result.notes
            )

    watch = StateWatch(Ledger(Spin(ladder=(0,)), None, {}, 100))
    watch.evaluate(start())
    watch.evaluate(start() + 0.01)
    (record,) = watch.records
    assert record["spin_square_jump"] == pytest.approx(0.9)


def test_the_first_point_after_a_change_costs_nothing():
    ledger = Ledger(TwoStates(falls=(1,)), None, {}, 100)
    watch = StateWatch(ledger)
    watch.evaluate(start())
    with pytest.raises(StateChanged) as changed:
        watch.evaluate(start() + 0.01)
    watch.begin(changed.value.evaluation)
    calls = len(ledger.evaluations)
    assert watch.evaluate(start() + 0.01) is changed.value.evaluation
    assert len(ledger.evaluations) == calls


def test_a_state_of_nearly_the_same_energy_with_other_forces_is_found_out_where_the_search_ends():
    """Verification starts from nothing: it would meet the lower state, whose forces do not vanish there."""
    run = searched(
        TwoStates(slope=0.02, gap=1.4e-3), method=Dimer(start={"direction": "file"}, go_on=1, max_calls=600)
    )
    assert run.result.outcome is Outcome.CONVERGED
    (record,) = run.provenance["states"]
    assert 0.0 < record["lower_by"] < 1e-3
    assert run.result.evaluation > record["first"]
    low = Transfer().evaluate(run.answer.positions)
    assert run.answer.energy == pytest.approx(low.energy, abs=1e-9)
