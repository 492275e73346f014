"""The ledger counts, journals and replays; nothing is lost and nothing is silently repeated."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from saddleflow.engines.analytic import Transfer
from saddleflow.engines.journal import read_journal
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import JournalError, ScfError
from saddleflow.evaluation import EngineResult, Outcome, Prediction, Purpose, SearchStopped


class Counting(Transfer):
    """A surface that counts its calls and keeps a state as Psi4 keeps orbitals."""

    def __init__(self, fail_at=()):
        super().__init__()
        self.calls, self.restored, self.fail_at, self.memory = 0, [], fail_at, 0

    def evaluate(self, positions):
        self.calls += 1
        if self.calls in self.fail_at:
            raise ScfError("no convergence")
        result = super().evaluate(positions)
        self.memory += 1
        return EngineResult(result.energy, result.forces, state=str(self.memory).encode())

    def restore(self, state):
        self.restored.append(state)
        self.memory = int(state)


def points(count):
    generator = np.random.default_rng(0)
    return [Transfer().saddle + 0.1 * generator.standard_normal((6, 3)) for _ in range(count)]


def fill(path, positions, engine=None, **kwargs):
    ledger = Ledger(engine or Counting(), path, kwargs.pop("key", {"reaction": "a"}), 100, **kwargs)
    for x in positions:
        ledger.evaluate(x)
    return ledger


def test_counts_by_purpose(tmp_path):
    ledger = Ledger(Counting(), tmp_path / "j.jsonl", {}, 10)
    x = points(1)[0]
    ledger.evaluate(x)
    ledger.evaluate(x, Purpose.ROTATION)
    ledger.evaluate(x, Purpose.ROTATION)
    assert ledger.calls == {"search": 1, "rotation": 2}
    assert ledger.engine_seconds > 0
    assert ledger.surrogate_seconds > 0


def test_budget(tmp_path):
    ledger = Ledger(Counting(), None, {}, 2)
    for x in points(2):
        ledger.evaluate(x)
    with pytest.raises(SearchStopped) as stopped:
        ledger.evaluate(points(1)[0])
    assert stopped.value.outcome is Outcome.MAX_CALLS


def test_everything_about_an_evaluation_survives_the_journal(tmp_path):
    path = tmp_path / "j.jsonl"
    ledger = Ledger(Counting(), path, {}, 10)
    x = points(1)[0]
    prediction = Prediction(-1.0 / 3.0, np.full((6, 3), 0.1), 0.2, float("nan"))
    made = ledger.evaluate(x, Purpose.SEARCH, prediction)
    _, (stored,) = read_journal(path)
    assert np.array_equal(stored.positions, made.positions)
    assert np.array_equal(stored.forces, made.forces)
    assert stored.energy == made.energy
    assert stored.prediction.energy == prediction.energy
    assert np.isnan(stored.prediction.force_sigma)


def test_restart_replays_and_restores_the_state_of_the_last_evaluation(tmp_path):
    path, positions = tmp_path / "j.jsonl", points(5)
    fill(path, positions[:3]).close()
    engine = Counting()
    ledger = fill(path, positions, engine)
    assert engine.calls == 2
    assert engine.restored == [b"3"]
    assert [e.index for e in ledger.evaluations] == [0, 1, 2, 3, 4]


def test_a_torn_last_line_is_evaluated_again_from_the_state_before(tmp_path):
    path, positions = tmp_path / "j.jsonl", points(4)
    fill(path, positions[:3]).close()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 40])
    engine = Counting()
    fill(path, positions, engine)
    assert engine.calls == 2
    assert engine.restored == [b"2"]
    assert len(read_journal(path)[1]) == 4


def test_damage_in_the_middle_is_reported_not_guessed(tmp_path):
    path = tmp_path / "j.jsonl"
    fill(path, points(3)).close()
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"search", b"rotatn")
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match="line 3 is damaged"):
        fill(path, points(3))
    assert path.read_bytes() == b"\n".join(lines)


def test_another_key_sets_the_journal_aside(tmp_path):
    path = tmp_path / "j.jsonl"
    fill(path, points(3)).close()
    engine = Counting()
    fill(path, points(2), engine, key={"reaction": "b"})
    assert engine.calls == 2
    assert len(read_journal(path.with_suffix(".old1"))[1]) == 3


def test_other_geometries_are_never_answered_from_the_journal(tmp_path):
    path, positions = tmp_path / "j.jsonl", points(4)
    fill(path, positions[:3]).close()
    engine = Counting()
    ledger = fill(path, [positions[0], positions[3], positions[1]], engine)
    assert engine.calls == 2
    assert np.array_equal(ledger.evaluations[1].positions, positions[3])
    assert len(read_journal(path)[1]) == 3
    assert len(read_journal(path.with_suffix(".old1"))[1]) == 3


def test_a_failed_evaluation_counts_and_replays_as_a_failure(tmp_path):
    path, positions = tmp_path / "j.jsonl", points(3)
    for expected_calls, engine in ((3, Counting(fail_at=(2,))), (0, Counting())):
        ledger = Ledger(engine, path, {}, 10)
        ledger.evaluate(positions[0])
        with pytest.raises(ScfError, match="no convergence"):
            ledger.evaluate(positions[1])
        ledger.evaluate(positions[2])
        assert engine.calls == expected_calls
        assert ledger.calls == {"search": 3}
        assert np.isnan(ledger.evaluations[1].energy)
        ledger.close()


def test_two_processes_can_not_write_the_same_search(tmp_path):
    path = tmp_path / "j.jsonl"
    ledger = fill(path, points(1))
    with pytest.raises(JournalError, match="another process"):
        fill(path, points(1))
    ledger.close()
    fill(path, points(1)).close()


def test_finished_search_leaves_no_journal(tmp_path):
    ledger = fill(tmp_path / "gp.v1-a.jsonl", points(3))
    ledger.close(remove_journal=True)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
import numpy as np
from pathlib import Path
from saddleflow.engines.analytic import Transfer
from saddleflow.engines.ledger import Ledger
from saddleflow.reaction import Reaction
from saddleflow.searches import gp_dimer
from saddleflow.settings import GPDimer

class Slow(Transfer):
    def evaluate(self, positions):
        time.sleep(0.02)
        return super().evaluate(positions)

surface = Slow()
start = surface.saddle + 0.15 * np.random.default_rng(1).standard_normal((6, 3)) / 3**0.5
mode = np.linalg.eigh(surface.hessian(start))[1][:, 0].reshape(-1, 3)
reaction = Reaction("t", tuple("COHHHN"), start)
ledger = Ledger(surface, Path(sys.argv[1]), {}, 300)
gp_dimer.search(ledger.evaluate, reaction, GPDimer(start={"direction": "file"}), mode, [])
ledger.close()
"""


def test_a_search_killed_at_random_instants_ends_as_if_undisturbed(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def start(path):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(path)], env=environment)

    undisturbed, killed = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert start(undisturbed).wait() == 0
    generator = np.random.default_rng(0)
    kills = 0
    for _ in range(6):
        process = start(killed)
        held = len(read_journal(killed)[1]) if killed.exists() else 0
        deadline = time.time() + 60
        while process.poll() is None and time.time() < deadline:
            if killed.exists() and killed.stat().st_size and len(read_journal(killed)[1]) > held:
                break
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 3
    assert start(killed).wait() == 0
    expected, found = read_journal(undisturbed)[1], read_journal(killed)[1]
    assert [e.positions.tolist() for e in found] == [e.positions.tolist() for e in expected]
    assert [e.energy for e in found] == [e.energy for e in expected]


def test_journal_is_plain_json_lines(tmp_path):
    path = tmp_path / "j.jsonl"
    fill(path, points(2), header={"reaction": "a", "method": "m"}).close()
    lines = [json.loads(line)["record"] for line in path.read_text().splitlines()]
    assert lines[0]["reaction"] == "a"
    assert lines[0]["max_calls"] == 100
    assert [line["index"] for line in lines[1:]] == [0, 1]
