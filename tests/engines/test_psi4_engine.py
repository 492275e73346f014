"""The Psi4 engine: right numbers, reproducible to the last bit, and calm when things break."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing as closing_now
from pathlib import Path

import numpy as np
import pytest

from saddleflow.engines import psi4 as client
from saddleflow.engines.catalogue import check_engine, create_engine
from saddleflow.engines.psi4 import Psi4Engine
from saddleflow.engines.worker_process import PREFIX
from saddleflow.errors import (
    EngineCrashed,
    EngineTimeout,
    EngineUnavailable,
    GeometryError,
    InputError,
    ScfError,
)
from saddleflow.reaction import Reaction
from saddleflow.settings import Engine

pytestmark = pytest.mark.psi4

WATER = Reaction("water", ("O", "H", "H"), np.array([[0, 0, 0], [0.8, 0, 0.6], [-0.75, 0.1, 0.6]]))
VINOXY = Reaction(
    "vinoxy",
    ("C", "C", "O", "H", "H", "H"),
    np.array(
        [
            [-1.17, -0.20, 0.00],
            [0.10, 0.45, 0.05],
            [1.20, -0.25, 0.00],
            [-1.20, -1.28, 0.10],
            [-2.05, 0.40, -0.20],
            [0.12, 1.53, 0.00],
        ]
    ),
    multiplicity=2,
)
HYDROXIDE = Reaction("hydroxide", ("O", "H"), np.array([[0.0, 0, 0], [0, 0, 0.98]]), charge=-1)
# Start structure d000 of the transition-state set of Hermes, Sargsyan, Najm and Zador (2022).  Plain
# settings do not converge; the published energy is NWChem's at HF/3-21G.
HARD_DOUBLET = Reaction(
    "d000",
    ("C", "H", "H", "C", "C", "H", "H", "H"),
    np.array(
        [
            [0.17220932, 0.31097784, -0.00728967],
            [-0.62371501, 0.51529596, -0.71166639],
            [-0.21144299, -0.23098056, 0.87188701],
            [1.42298170, -0.02278436, -0.51369678],
            [2.03711360, 1.19986382, -0.66838640],
            [1.89820578, -0.99486416, -0.49876674],
            [0.88488817, 1.45751668, -0.01378037],
            [3.12933427, 1.41614074, -0.62866803],
        ]
    ),
    multiplicity=2,
)
HARD_ENERGY = -3147.01078


def engine(reaction, **options):
    return create_engine(Engine(program="psi4", **options), reaction)


@pytest.fixture
def closing():
    made = []

    def make(reaction, **options):
        made.append(engine(reaction, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def path_of(reaction, count, seed=1):
    rng = np.random.default_rng(seed)
    return [reaction.positions + 0.03 * rng.standard_normal(reaction.positions.shape) for _ in range(count)]


@pytest.fixture
def scratch_folders(tmp_path, monkeypatch):
    """Scratch folders of the workers of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: set(tmp_path.glob(PREFIX + "*"))


@pytest.mark.pyscf
@pytest.mark.parametrize("reaction", [WATER, VINOXY, HYDROXIDE], ids=lambda r: r.name)
def test_energies_and_forces_are_those_of_pyscf(closing, reaction):
    ours = closing(reaction).evaluate(reaction.positions)
    theirs = create_engine(Engine(program="pyscf"), reaction).evaluate(reaction.positions)
    assert ours.energy == pytest.approx(theirs.energy, abs=1e-5)
    np.testing.assert_allclose(ours.forces, theirs.forces, atol=1e-4)
    assert ours.spin_square == pytest.approx(theirs.spin_square, abs=1e-4)


def test_forces_are_the_slope_of_the_energy(closing):
    one = closing(VINOXY)
    here = one.evaluate(VINOXY.positions)
    direction = np.random.default_rng(2).standard_normal(VINOXY.positions.shape)
    direction /= np.linalg.norm(direction)
    step = 1e-3
    ahead, behind = (one.evaluate(VINOXY.positions + s * step * direction).energy for s in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(-(here.forces * direction).sum(), abs=1e-4)


@pytest.mark.parametrize("reaction", [WATER, VINOXY], ids=lambda r: r.name)
def test_a_restored_state_continues_bit_for_bit(closing, reaction):
    a, b, c = path_of(reaction, 3)
    undisturbed = closing(reaction)
    undisturbed.evaluate(a)
    state = undisturbed.evaluate(b).state
    expected = undisturbed.evaluate(c)
    fresh = closing(reaction)
    fresh.restore(state)
    result = fresh.evaluate(c)
    assert result.energy == expected.energy
    assert (result.forces == expected.forces).all()
    assert result.state == expected.state
    assert result.scf_iterations == expected.scf_iterations


def test_first_evaluation_and_hessian_leave_no_trace(closing):
    a, b = path_of(WATER, 2)
    plain, disturbed = closing(WATER), closing(WATER)
    first = plain.evaluate(a)
    disturbed.evaluate(b)
    disturbed.hessian(b)
    disturbed.restore(b"")
    again = disturbed.evaluate(a)
    assert again.energy == first.energy
    assert (again.forces == first.forces).all()
    assert disturbed.evaluate(b).energy == plain.evaluate(b).energy


def test_recycling_the_worker_changes_nothing(closing, monkeypatch):
    path = path_of(VINOXY, 3)
    one = closing(VINOXY)
    expected = [one.evaluate(x) for x in path]
    monkeypatch.setattr(client, "RECYCLE_AFTER", 1)
    recycled = closing(VINOXY)
    pids = []
    for x, wanted in zip(path, expected, strict=True):
        result = recycled.evaluate(x)
        pids.append(recycled._worker.pid)
        assert result.energy == wanted.energy
        assert (result.forces == wanted.forces).all()
    assert len(set(pids)) == 3


def test_a_worker_killed_in_mid_call_is_replaced_and_the_answer_is_the_same(closing):
    a, b = path_of(VINOXY, 2)
    undisturbed = closing(VINOXY)
    undisturbed.evaluate(a)
    expected = undisturbed.evaluate(b)
    one = closing(VINOXY)
    one.evaluate(a)
    victim, scratch = one._worker.pid, one._worker.scratch
    # Stopped first, so that the kill surely falls into the call.
    os.kill(victim, signal.SIGSTOP)
    killer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    killer.start()
    result = one.evaluate(b)
    killer.join()
    assert one._worker.pid != victim
    assert not scratch.exists()
    assert result.energy == expected.energy
    assert (result.forces == expected.forces).all()


def test_a_worker_that_always_dies_is_a_crash(closing):
    one = closing(WATER)
    real = one._running_worker

    def dying():
        worker = real()
        os.kill(worker.pid, signal.SIGKILL)
        return worker

    one._running_worker = dying
    with pytest.raises(EngineCrashed, match="signal 9") as caught:
        one.evaluate(WATER.positions)
    assert caught.value.retry == "as-is"
    one._running_worker = real
    assert np.isfinite(one.evaluate(WATER.positions).energy)


def test_a_call_that_takes_too_long_is_stopped(closing):
    one = closing(WATER, timeout_seconds=0.5)
    worker = one._worker
    os.kill(worker.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(EngineTimeout, match="within 0"):
        one.evaluate(WATER.positions)
    assert time.monotonic() - started < 5
    assert worker.process.poll() == -signal.SIGKILL
    assert not worker.scratch.exists()


def test_the_worker_dies_with_its_parent_and_its_scratch_is_swept_later():
    script = (
        "import sys, time, numpy as np\n"
        "from saddleflow.engines.catalogue import create_engine\n"
        "from saddleflow.reaction import Reaction\n"
        "from saddleflow.settings import Engine\n"
        "e = create_engine(Engine(program='psi4'), Reaction('h', ('H', 'H'), np.array([[0,0,0],[0,0,.7]])))\n"
        "print(e._worker.pid, e._worker.scratch, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid, scratch = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _running(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(int(pid))
    from saddleflow.engines.worker_process import sweep_scratch

    assert Path(scratch) in sweep_scratch(minimum_age=0.0)
    assert not Path(scratch).exists()


def _running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_closing_removes_the_process_and_its_scratch(scratch_folders):
    before = scratch_folders()
    one = engine(WATER)
    one.evaluate(WATER.positions)
    pid = one._worker.pid
    one.close()
    one.close()
    assert not _running(pid)
    assert not scratch_folders() - before


@pytest.mark.parametrize(
    ("python", "says"),
    [("/nowhere/python3", "can't be started"), (sys.executable, "psi4")],
    ids=["no such interpreter", "interpreter without psi4"],
)
def test_a_useless_interpreter_is_named(python, says, monkeypatch, scratch_folders):
    if python == sys.executable and importlib.util.find_spec("psi4"):
        pytest.skip("this interpreter has psi4")
    if python == sys.executable:
        monkeypatch.setenv("PATH", "/nowhere")
    before = scratch_folders()
    with pytest.raises(EngineUnavailable) as caught:
        engine(WATER, python=python)
    message = str(caught.value)
    assert python in message
    assert says in message
    assert "apt install psi4" in message
    assert "\n" not in message
    assert not scratch_folders() - before


def test_the_array_trap_of_a_foreign_numpy_is_seen(monkeypatch):
    """Debian's psi4 under NumPy 2 imports without complaint, but hands over wrong arrays."""
    directory = "/usr/lib/x86_64-linux-gnu"
    if not Path(directory, "psi4").is_dir():
        pytest.skip("needs Debian's psi4")
    from saddleflow.engines.psi4_interpreter import Candidate, launch
    from saddleflow.engines.worker_process import WorkerDied

    with pytest.raises(WorkerDied):
        launch(Candidate(sys.executable, directory, "test"), 500, 1).close()


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        (np.full((3, 3), np.nan), "not finite"),
        (np.array([[0, 0, 0], [0.05, 0, 0], [1, 0, 0]]), "atoms 1 and 2 are only 0.050"),
    ],
    ids=["not a number", "atoms too close"],
)
def test_impossible_geometries_never_reach_psi4(closing, positions, says):
    one = closing(WATER)
    with pytest.raises(GeometryError, match=says):
        one.evaluate(positions)
    assert one._worker.calls == 0


def test_impossible_multiplicity_is_an_input_error():
    with pytest.raises(InputError, match="charge 0 and multiplicity 2 are impossible with 10 electrons"):
        engine(Reaction("water", WATER.symbols, WATER.positions, multiplicity=2))


def test_the_check_knows_bases_and_methods():
    assert check_engine(Engine(program="psi4"), {"C", "H"}) == []
    problems = check_engine(Engine(program="psi4", basis="6-31x", method="b4lyp"), {"C", "H"})
    assert [line.split(":")[0] for line in problems] == ["engine.basis", "engine.method"]
    assert "for C, H;" in problems[0]
    assert check_engine(Engine(program="psi4", basis="sto-3g"), {"U"}) == [
        "engine.basis: psi4 has no 'sto-3g' for U; write another basis set, such as 3-21g or def2-svp"
    ]


def test_the_hessian_of_a_closed_shell_is_that_of_the_forces(closing):
    one = closing(WATER)
    hessian = one.hessian(WATER.positions)
    assert hessian.shape == (9, 9)
    step = 1e-3
    column = np.zeros((3, 3))
    column[1, 2] = step
    ahead, behind = (one.evaluate(WATER.positions + s * column).forces for s in (1, -1))
    np.testing.assert_allclose(hessian[:, 5], -(ahead - behind).ravel() / (2 * step), atol=5e-3)


def test_an_open_shell_hessian_is_none_or_right(closing):
    one = closing(HYDROXYL := Reaction("oh", ("O", "H"), HYDROXIDE.positions, multiplicity=2))
    assert (one.hessian(HYDROXYL.positions) is None) == one.provenance()["version"].startswith("1.3")


@pytest.mark.pyscf
@pytest.mark.parametrize("program", ["psi4", "pyscf"])
def test_many_starts_find_the_state_that_plain_settings_miss(program):
    with closing_now(create_engine(Engine(program=program), HARD_DOUBLET)) as one:
        result = one.evaluate(HARD_DOUBLET.positions)
    assert result.energy == pytest.approx(HARD_ENERGY, abs=1e-3)
    assert result.notes["scf_starts"] > 4


def test_orbitals_of_nonsense_lead_back_to_the_starts(closing):
    one = closing(VINOXY)
    expected = one.evaluate(VINOXY.positions)
    stretched = closing(VINOXY)
    stretched.restore(_shuffled(expected.state))
    result = stretched.evaluate(VINOXY.positions)
    assert result.energy == pytest.approx(expected.energy, abs=2e-3)


def _shuffled(state):
    import io

    rng = np.random.default_rng(0)
    with np.load(io.BytesIO(state)) as archive:
        arrays = [np.linalg.qr(rng.standard_normal(archive[name].shape))[0] for name in archive.files]
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def test_an_scf_that_never_converges_is_said_so_and_the_worker_lives_on(closing):
    apart = Reaction("nitrogen", ("N", "N"), np.array([[0.0, 0, 0], [0, 0, 50.0]]))
    one = closing(apart, basis="sto-3g", multi_start=False)
    pid = one._worker.pid
    with pytest.raises(ScfError, match="does not converge from any of"):
        one.evaluate(apart.positions)
    assert one.evaluate(np.array([[0.0, 0, 0], [0, 0, 1.1]])).energy < -2900
    assert one._worker.pid == pid
    # Of the starts that all go on downhill each arrives.
    far = closing(apart, basis="sto-3g").evaluate(apart.positions)
    assert np.abs(far.forces).max() < 0.01


def test_an_impossible_level_is_no_fault_of_the_machine(closing):
    one = closing(WATER, method="b97m-v", multi_start=False)
    if not one.provenance()["version"].startswith("1.3"):
        pytest.skip("newer Psi4 has this gradient")
    with pytest.raises(InputError, match="VV10"):
        one.evaluate(WATER.positions)


def test_provenance_says_what_computed(closing):
    facts = closing(WATER).provenance()
    assert facts["program"] == "psi4"
    assert facts["level"] == "psi4:hf/3-21g"
    assert facts["version"]
    assert facts["settings"]["scf_type"] == "pk"
    assert isinstance(closing(WATER), Psi4Engine)
