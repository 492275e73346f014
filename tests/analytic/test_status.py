"""Status is read from journals and run files alone; curvature and estimate against known answers."""

import io
import json
import os
import time

import numpy as np
import pytest

from saddleflow import progress
from saddleflow.engines.journal import Journal
from saddleflow.errors import InputError
from saddleflow.evaluation import Evaluation, Outcome, Purpose, SearchResult
from saddleflow.reaction import Reaction
from saddleflow.run_file import RunFile, write_run_file
from saddleflow.run_inputs import Plan, write_inputs
from saddleflow.settings import Convergence, Dimer, GPDimer, Settings
from saddleflow.status import (
    SILENCE_SECONDS,
    SearchStatus,
    State,
    difference_curvature,
    read_status,
    seconds_left,
)

HESSIAN = np.diag([-2.0, 1.0, 3.0, 5.0, 7.0, 9.0])
DOWNHILL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def evaluation(index, positions, purpose=Purpose.SEARCH, error="", seconds=2.0):
    """On a quadratic surface, so that forces and curvatures are known."""
    forces = -(HESSIAN @ positions.ravel()).reshape(2, 3)
    if error:
        forces = np.full((2, 3), np.nan)
    return Evaluation(index, purpose, positions, 0.0, forces, seconds, 0.5, error=error)


def reaction(name):
    return Reaction(name, ("H", "F"), np.array([[0.1, 0.0, 0.0], [0.0, 0.0, 1.0]]))


@pytest.fixture
def results(tmp_path):
    """Two reactions and two methods planned; force_norm for the dimer."""
    methods = {"dimer": Dimer(convergence=Convergence(criterion="force_norm")), "gp-dimer": GPDimer()}
    settings = Settings(reactions="set", results=str(tmp_path / "results"), methods=list(methods))
    write_inputs(Plan([reaction("a"), reaction("b")], methods), settings)
    return tmp_path / "results"


def journal(results, name, method, evaluations, age=0.0):
    path = results / "journals" / name / f"{method}.jsonl"
    opened = Journal(path, {"reaction": name}, {"reaction": name, "method": method, "machine": "node7"})
    for row in evaluations:
        opened.append(row, None)
    opened.close()
    os.utime(path, (time.time() - age,) * 2)
    return path


def ended(results, name, method, outcome=Outcome.CONVERGED):
    rows = [evaluation(0, reaction(name).positions), evaluation(1, np.full((2, 3), 1e-4))]
    run = RunFile(
        reaction(name),
        method,
        Dimer().model_dump(mode="json"),
        {},
        {},
        rows,
        SearchResult(outcome, "budget is used up", 1, DOWNHILL, -2.0),
        wall_seconds=60.0,
    )
    path = results / "searches" / name / f"{method}.h5"
    write_run_file(path, run)
    return path


def by_name(results):
    return {(s.reaction, s.method): s for s in read_status(results)}


def test_nothing_started_is_all_waiting(results):
    assert [s.state for s in read_status(results)] == [State.WAITING] * 4
    assert "0 of 4 searches done" in progress.status(results)


def test_a_running_search_shows_calls_force_and_curvature(results):
    start = reaction("a").positions
    rows = [evaluation(0, start), evaluation(1, start + 0.01 * DOWNHILL, Purpose.ROTATION)]
    journal(results, "a", "dimer", rows)
    found = by_name(results)["a", "dimer"]
    assert found.state is State.RUNNING
    assert found.calls == {"search": 1, "rotation": 1}
    assert found.force == pytest.approx(np.linalg.norm(HESSIAN @ start.ravel()))  # force_norm of the method
    assert found.threshold == 0.01
    assert found.curvature == pytest.approx(-2.0)
    assert found.wall_seconds == pytest.approx(5.0)
    text = progress.status(results)
    assert "rotation 1" in text
    assert "1 running" in text


def test_failed_calls_count_but_have_no_force(results):
    start = reaction("a").positions
    journal(results, "a", "dimer", [evaluation(0, start), evaluation(1, start, error="ScfError: no")])
    found = by_name(results)["a", "dimer"]
    assert found.calls == {"search": 2}
    assert np.isfinite(found.force)


def test_a_silent_journal_looks_stalled_only_after_its_own_patience(results):
    start = reaction("a").positions
    journal(results, "a", "dimer", [evaluation(0, start)], age=SILENCE_SECONDS + 60)
    journal(results, "b", "dimer", [evaluation(0, start, seconds=200.0)], age=SILENCE_SECONDS + 60)
    found = by_name(results)
    assert found["a", "dimer"].state is State.STALLED
    assert "node7" in found["a", "dimer"].message
    assert found["b", "dimer"].state is State.RUNNING  # one call takes 200 s there


def test_ended_searches_and_the_torn_journal_of_a_killed_one(results):
    ended(results, "a", "dimer")
    ended(results, "a", "gp-dimer", Outcome.MAX_CALLS)
    path = journal(results, "b", "dimer", [evaluation(0, reaction("b").positions)])
    with open(path, "ab") as stream:
        stream.write(b'{"crc":12,"reco')
    found = by_name(results)
    assert found["a", "dimer"].state is State.CONVERGED
    assert found["a", "gp-dimer"].state is State.FAILED
    assert found["a", "gp-dimer"].outcome == "max_calls"
    assert found["b", "dimer"].calls == {"search": 1}
    text = progress.status(results)
    assert "2 of 4 searches done (1 converged, 1 failed), 1 running, 1 waiting" in text
    assert "budget is used up" in text


def test_changed_inputs_make_a_search_outdated_until_it_runs_again(results):
    path = ended(results, "a", "dimer")
    os.utime(path, (1.0, 1.0))
    assert by_name(results)["a", "dimer"].state is State.OUTDATED
    journal(results, "a", "dimer", [])
    assert by_name(results)["a", "dimer"].state is State.RUNNING


def test_damaged_files_are_said_and_do_not_stop_the_others(results):
    ended(results, "a", "gp-dimer").write_bytes(b"no HDF5")
    path = journal(results, "a", "dimer", [evaluation(i, reaction("a").positions) for i in range(3)])
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:-9] + b'"' + lines[1][-8:], *lines[2:]]))
    found = by_name(results)
    assert found["a", "gp-dimer"].state is State.UNREADABLE
    assert found["a", "dimer"].state is State.UNREADABLE
    assert "line 2" in found["a", "dimer"].message
    assert found["b", "dimer"].state is State.WAITING
    assert "2 unreadable" in progress.status(results)


def test_a_folder_without_a_run_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no run was started here"):
        read_status(tmp_path)


def test_names_come_from_the_plan_and_not_from_stale_inputs(results):
    (results / "inputs" / "reactions" / "old.json").write_text("{}")
    assert {s.reaction for s in read_status(results)} == {"a", "b"}
    (results / "inputs" / "plan.json").unlink()
    assert {s.reaction for s in read_status(results)} == {"a", "b", "old"}


def one(method, state, wall=None, calls=0, ended_at=None):
    counts = {"search": calls} if calls else {}
    return SearchStatus("x", method, state, calls=counts, wall_seconds=wall, ended_at=ended_at)


def test_the_estimate_uses_each_methods_own_mean_and_the_present_pace():
    now = 10000.0
    searches = [
        one("dimer", State.CONVERGED, 100.0, 50, now - 100),  # began 200 s ago
        one("dimer", State.FAILED, 300.0, 150, now - 5000),  # of an earlier run: counts for the mean only
        one("gp-dimer", State.CONVERGED, 10.0, 20, now - 50),
        one("dimer", State.RUNNING, 50.0, 25),  # 150 s are missing to the mean
        one("gp-dimer", State.RUNNING, 30.0, 30),  # longer than the mean: one more call of 1 s
        one("gp-dimer", State.WAITING),
    ]
    pace = (100.0 + 10.0 + 50.0 + 30.0) / 200.0
    assert seconds_left(searches, now) == pytest.approx((150.0 + 1.0 + 10.0) / pace)


def test_there_is_no_estimate_without_an_ended_search_or_when_nothing_goes_on():
    assert seconds_left([one("dimer", State.RUNNING, 1.0, 5), one("dimer", State.WAITING)], 1e4) is None
    paused = [one("dimer", State.CONVERGED, 1.0, 5, 1000.0), one("dimer", State.WAITING)]
    assert seconds_left(paused, 1001.0) == pytest.approx(2.0)
    assert seconds_left(paused, 1e4) is None


def test_curvature_needs_a_rotation_near_the_last_point():
    start = reaction("a").positions
    far = evaluation(1, start + DOWNHILL, Purpose.ROTATION)
    assert difference_curvature([evaluation(0, start)]) is None
    assert difference_curvature([evaluation(0, start), far]) is None
    along_z = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    near = evaluation(1, start + 0.02 * along_z, Purpose.ROTATION)
    assert difference_curvature([evaluation(0, start), near]) == pytest.approx(3.0)


def test_a_large_set_shows_what_needs_attention(results):
    plan = json.loads((results / "inputs" / "plan.json").read_text())
    plan["reactions"] += [f"r{i}" for i in range(progress.LONG_TABLE)]
    (results / "inputs" / "plan.json").write_text(json.dumps(plan))
    journal(results, "r7", "dimer", [evaluation(0, reaction("a").positions)])
    short, full = progress.status(results), progress.status(results, everything=True)
    assert "r7" in short
    assert "r8" not in short
    assert "r8" in full


def test_watch_ends_when_every_search_is_done(results):
    for name in "ab":
        for method in ("dimer", "gp-dimer"):
            ended(results, name, method)
    stream = io.StringIO()
    progress.watch(results, interval=0.0, stream=stream)
    assert "4 of 4 searches done" in stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_live_line_is_written_over_on_a_terminal_and_kept_in_a_log():
    start = reaction("a").positions
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        show = progress.live_line("a", "dimer", Convergence(), stream)
        show(evaluation(0, start))
        show(evaluation(1, start + 0.01 * DOWNHILL, Purpose.ROTATION))
        show(evaluation(2, start, error="ScfError: no convergence"))
    first, second, third = log.getvalue().splitlines()
    assert first == "a dimer call 1 search force 9.0000 eV/A (limit 0.01)"
    assert second == "a dimer call 2 rotation curvature -2.00 eV/A^2"
    assert "ScfError: no convergence" in third
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().count("\r") == 3
