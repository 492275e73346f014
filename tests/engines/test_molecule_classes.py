"""Molecules of every shape: searches end in an outcome and a run file, proofs count the right modes."""

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from saddleflow.analysis.figures import draw_figures
from saddleflow.analysis.table import summarise, write_summary
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import InputError
from saddleflow.evaluation import Outcome
from saddleflow.geometry import rigid_motion_basis
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out, search
from saddleflow.run_file import read_run_file, validate_run_file, write_run_file
from saddleflow.searches.catalogue import SEARCHES
from saddleflow.searches.start_direction import start_direction
from saddleflow.settings import AnyMethod, Engine, Start, Verification
from saddleflow.verification import Status, verify

CALLS = 12


def molecule(name, symbols, positions, charge=0, multiplicity=1):
    return Reaction(name, tuple(symbols), np.array(positions, float), charge, multiplicity)


DIATOMIC = molecule("diatomic", "HH", [[0, 0, 0], [0, 0, 1.3]])
TILTED = molecule("tilted_diatomic", "CO", [[0, 0, 0], [0.6, 0.7, 0.8]])
LINEAR = molecule("linear", "HCN", [[0, 0, -1.3], [0, 0, 0], [0, 0, 1.2]])
LINEAR_SYMMETRIC = molecule("linear_symmetric", "OCO", [[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]])
EXCHANGE = molecule("exchange", "HHH", [[0, 0, -0.97], [0, 0, 0], [0, 0, 0.93]], 0, 2)
LINEAR_RADICAL = molecule("linear_radical", "HHH", [[0, 0, -0.95], [0, 0, 0], [0, 0, 0.9]], 0, 2)
PLANAR = molecule("planar", "NHHH", [[0, 0, 0], [1, 0, 0], [-0.5, 0.87, 0], [-0.5, -0.87, 0]])
ONE_HEAVY = molecule(
    "one_heavy",
    "CHHHHH",
    [[0, 0, 0], [0, 0, 1.3], [0, 0, -1.3], [1.08, 0, 0], [-0.54, 0.94, 0], [-0.54, -0.94, 0]],
    -1,
)
TWO_FRAGMENTS = molecule("two_fragments", "HFHF", [[0, 0, 0], [0, 0, 0.95], [0, 1.8, 1.2], [0, 2.2, 0.3]])
WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
SECOND, THIRD = np.array([3.0, 0.2, 0.1]), np.array([1.3, 2.6, 0.6])
THREE_FRAGMENTS = molecule("three_fragments", "OHHOHHOHH", np.vstack([WATER, WATER + SECOND, WATER + THIRD]))
CARBONS = np.array([[1.27 * i, 0.42 * (-1) ** i, 0.0] for i in range(20)])
OUTWARD = np.array([[0.0, 0.63 * (-1) ** i, 0.89] for i in range(20)])
SIXTY_ATOMS = molecule(
    "sixty", "C" * 20 + "H" * 40, np.vstack([CARBONS, CARBONS + OUTWARD, CARBONS + OUTWARD * [1, 1, -1]])
)
SMALL = [
    DIATOMIC,
    TILTED,
    LINEAR,
    LINEAR_RADICAL,
    PLANAR,
    ONE_HEAVY,
    TWO_FRAGMENTS,
    THREE_FRAGMENTS,
]


def run(reaction, algorithm, folder: Path, max_calls=CALLS, program="xtb", **options):
    """One search, written and read again."""
    engine = Engine(program=program)
    options = {"algorithm": algorithm, "max_calls": max_calls} | options
    method = TypeAdapter(AnyMethod).validate_python(options)
    ledger = Ledger(create_engine(engine, reaction), None, {}, method.max_calls)
    path = folder / "searches" / reaction.name / f"{algorithm}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_run_file(path, carry_out(ledger, reaction, algorithm, method, engine.model_dump(mode="json")))
    finally:
        ledger.close()
    assert validate_run_file(path) == []
    return path, read_run_file(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("classes")


@pytest.mark.parametrize("algorithm", SEARCHES)
@pytest.mark.parametrize("reaction", SMALL, ids=lambda reaction: reaction.name)
def test_every_search_ends_in_an_outcome_and_every_level_of_proof_in_a_verdict(reaction, algorithm, folder):
    if algorithm.startswith("sella"):
        pytest.importorskip("sella")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=RuntimeWarning, module="saddleflow")
        # Pulled apart, carbon monoxide has no xTB solution, and each failure takes a prior seconds.
        path, answer = run(reaction, algorithm, folder, 1 if reaction is TILTED else CALLS)
    assert 0 < len(answer.evaluations) <= CALLS
    assert answer.result.outcome is Outcome.CONVERGED or answer.result.message
    verdicts = {}
    for level in ("curvature", "index", "hessian"):
        target = folder / "verifications" / reaction.name / f"{algorithm}.h5"
        target.parent.mkdir(parents=True, exist_ok=True)
        verdicts[level] = verify(path, Verification(level=level), target, None)
    if answer.converged:
        full = verdicts["hessian"]
        assert full.status in (Status.PASSED, Status.FAILED)
        rigid = 5 if full.linear else 6
        assert len(full.frequencies_cm1) == 3 * len(reaction.symbols) - rigid
        # A mode within the noise of differences can fall on either side.
        if np.abs(full.frequencies_cm1).min() > 60:
            assert verdicts["index"].imaginary_modes == full.imaginary_modes
    else:
        assert {verdict.status for verdict in verdicts.values()} == {Status.NOT_RUN}


def test_figures_and_the_table_take_them_all(folder):
    rows = [(path.parent.name, path.stem) for path in sorted((folder / "searches").rglob("*.h5"))]
    assert rows, "made by the tests before"
    frame = summarise(folder, sorted({row[0] for row in rows}), sorted({row[1] for row in rows}))
    write_summary(frame, folder)
    drawn = draw_figures(folder / "summary.csv", folder, folder / "figures")
    assert drawn and all(path.stat().st_size for path in drawn)


@pytest.mark.parametrize(
    ("reaction", "rigid"),
    [(DIATOMIC, 5), (TILTED, 5), (LINEAR, 5), (LINEAR_RADICAL, 5), (PLANAR, 6), (THREE_FRAGMENTS, 6)],
    ids=lambda value: getattr(value, "name", str(value)),
)
@pytest.mark.parametrize("kind", ["xtb_softest_mode", "random"])
def test_the_start_direction_is_no_rigid_motion(reaction, rigid, kind):
    basis = rigid_motion_basis(reaction.positions)
    assert basis.shape[1] == rigid
    direction = start_direction(reaction, Start(direction=kind))
    assert np.linalg.norm(direction) == pytest.approx(1.0)
    # Six decimals of an xTB mode are kept.
    assert np.abs(basis.T @ direction.ravel()).max() < 1e-5
    assert (direction == start_direction(reaction, Start(direction=kind))).all()


@pytest.mark.psi4
def test_a_linear_saddle_has_four_modes_and_one_of_them_is_imaginary(tmp_path):
    path, answer = run(EXCHANGE, "prior-gp-dimer", tmp_path, program="psi4")
    assert answer.converged
    for level in ("index", "hessian"):
        record = verify(path, Verification(level=level), tmp_path / "verification.h5", None)
        assert record.status is Status.PASSED and record.linear and record.imaginary_modes == 1
    assert len(record.frequencies_cm1) == 4
    assert record.bonds == "breaks H1-H2, forms H2-H3"


def test_a_dimer_that_symmetry_holds_says_so(tmp_path):
    bend = np.array([[0.0, -1, 0], [0, 2, 0], [0, -1, 0]])
    reaction = replace(LINEAR_SYMMETRIC, start_direction=bend)
    _, answer = run(reaction, "dimer", tmp_path, start={"direction": "file"})
    assert answer.result.outcome is Outcome.STALLED
    assert "by symmetry no force acts along the mode" in answer.result.message


@pytest.mark.parametrize("algorithm", ["dimer", "gp-dimer"])
def test_sixty_atoms_start(algorithm, tmp_path):
    # The other searches do so too, but take half a minute to make xTB's Hessian of 60 atoms.
    _, answer = run(SIXTY_ATOMS, algorithm, tmp_path, 3, start={"direction": "random"})
    assert answer.result.outcome in (Outcome.MAX_CALLS, Outcome.GEOMETRY_FAILED)
    assert np.isfinite([evaluation.energy for evaluation in answer.evaluations]).all()


@pytest.mark.parametrize("method", ["prior-gp-dimer", "dimer"])
def test_a_molecule_is_searched_from_python(method):
    ase = pytest.importorskip("ase")
    calculators = pytest.importorskip("tblite.ase")
    guess = ase.Atoms("CNH", [[0.0, 0.0, 0.0], [1.18, 0.0, 0.0], [0.3, 1.2, 0.0]])
    calculator = calculators.TBLite(method="GFN1-xTB", verbosity=0)
    found = search(guess, calculator, method, start={"direction": "xtb_softest_mode"}, max_calls=200)
    assert found.result.outcome is Outcome.CONVERGED
    assert found.answer.max_atom_force < 0.01
    calculator.reset()
    guess.set_positions(found.answer.positions)
    guess.calc = calculator
    assert guess.get_potential_energy() == pytest.approx(found.answer.energy, abs=1e-4)
    with pytest.raises(InputError, match="did you mean"):
        search(guess, calculator, "prior-gp-dimmer")
    with pytest.raises(InputError, match="max_cals"):
        search(guess, calculator, method, max_cals=3)


def test_the_example_of_one_molecule_runs():
    pytest.importorskip("tblite")
    example = Path(__file__).parents[2] / "examples/search_one_molecule.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("converged")


def test_one_atom_is_refused_in_one_line():
    ase = pytest.importorskip("ase")
    calculators = pytest.importorskip("tblite.ase")
    with pytest.raises(InputError, match="1 atom; a reaction needs 2 to"):
        search(ase.Atoms("Ar"), calculators.TBLite(verbosity=0), "prior-gp-dimer")
