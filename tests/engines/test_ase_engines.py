"""Engines in this process: PySCF, xTB and calculators by import path."""

import sys
import types

import numpy as np
import pytest
from ase.calculators.calculator import CalculationFailed, Calculator, SCFError, all_changes

from saddleflow.engines.catalogue import check_engine, create_engine
from saddleflow.errors import (
    EngineCrashed,
    EngineUnavailable,
    GeometryError,
    InputError,
    ScfError,
)
from saddleflow.reaction import Reaction
from saddleflow.settings import Engine

FORMALDEHYDE = Reaction(
    "formaldehyde",
    ("C", "O", "H", "H"),
    np.array([[0.0, 0.0, 0.0], [0.05, 0.0, 1.21], [0.95, 0.1, -0.55], [-0.92, -0.05, -0.6]]),
)
METHYL = Reaction(
    "methyl",
    ("C", "H", "H", "H"),
    np.array([[0.0, 0.0, 0.1], [1.08, 0.0, 0.0], [-0.54, 0.94, 0.0], [-0.54, -0.95, -0.1]]),
    multiplicity=2,
)
TBLITE = Engine(
    program="ase",
    calculator="tblite.ase:TBLite",
    arguments={"charge": "{charge}", "multiplicity": "{multiplicity}", "verbosity": 0, "accuracy": 0.1},
)
OPTIONS = [
    pytest.param(Engine(program="pyscf"), marks=pytest.mark.pyscf, id="pyscf"),
    pytest.param(Engine(program="xtb"), id="xtb"),
    pytest.param(TBLITE, id="ase"),
]


def displaced(reaction, seed=0, size=0.03):
    rng = np.random.default_rng(seed)
    return reaction.positions + size * rng.standard_normal(reaction.positions.shape)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reaction", [FORMALDEHYDE, METHYL], ids=lambda r: r.name)
def test_forces_are_the_slope_of_the_energy(options, reaction):
    one = create_engine(options, reaction)
    here = one.evaluate(reaction.positions)
    direction = np.random.default_rng(2).standard_normal(reaction.positions.shape)
    direction /= np.linalg.norm(direction)
    step = 2e-3
    ahead, behind = (one.evaluate(reaction.positions + s * step * direction).energy for s in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(-(here.forces * direction).sum(), abs=5e-4)
    one.close()


@pytest.mark.parametrize("options", OPTIONS)
def test_a_restored_state_continues_bit_for_bit(options):
    undisturbed = create_engine(options, METHYL)
    undisturbed.evaluate(METHYL.positions)
    state = undisturbed.evaluate(displaced(METHYL, 1)).state
    expected = undisturbed.evaluate(displaced(METHYL, 2))
    fresh = create_engine(options, METHYL)
    if state is not None:
        fresh.restore(state)
    result = fresh.evaluate(displaced(METHYL, 2))
    assert result.energy == expected.energy
    assert (result.forces == expected.forces).all()


def test_xtb_is_the_calculator_of_the_same_name():
    ours = create_engine(Engine(program="xtb"), FORMALDEHYDE)
    theirs = create_engine(TBLITE, FORMALDEHYDE)
    assert ours.provenance()["level"] == "xtb:GFN2-xTB"
    first, second = ours.evaluate(FORMALDEHYDE.positions), theirs.evaluate(FORMALDEHYDE.positions)
    assert first.energy == pytest.approx(second.energy, abs=1e-8)
    np.testing.assert_allclose(first.forces, second.forces, atol=1e-7)


def test_gfn1_is_another_method():
    energies = [
        create_engine(Engine(program="xtb", method=m), METHYL).evaluate(METHYL.positions).energy
        for m in ("GFN1-xTB", "gfn2-xtb")
    ]
    assert abs(energies[0] - energies[1]) > 0.1


@pytest.mark.pyscf
@pytest.mark.parametrize("reaction", [FORMALDEHYDE, METHYL], ids=lambda r: r.name)
def test_the_pyscf_hessian_is_that_of_its_forces(reaction):
    one = create_engine(Engine(program="pyscf"), reaction)
    hessian = one.hessian(reaction.positions)
    assert np.abs(hessian - hessian.T).max() < 1e-10
    step = 1e-3
    column = np.zeros_like(reaction.positions)
    column[1, 2] = step
    ahead, behind = (one.evaluate(reaction.positions + s * column).forces for s in (1, -1))
    np.testing.assert_allclose(hessian[:, 5], -(ahead - behind).ravel() / (2 * step), atol=5e-3)


@pytest.mark.pyscf
def test_density_functionals_by_name():
    functional = create_engine(Engine(program="pyscf", method="b3lyp"), METHYL)
    assert functional.provenance()["level"] == "pyscf:b3lyp/3-21g"
    hartree_fock = create_engine(Engine(program="pyscf"), METHYL)
    difference = functional.evaluate(METHYL.positions).energy - hartree_fock.evaluate(METHYL.positions).energy
    assert -20 < difference < -1


@pytest.mark.pyscf
def test_pyscf_says_when_the_scf_does_not_converge():
    apart = Reaction("nitrogen", ("N", "N"), np.array([[0.0, 0, 0], [0, 0, 50.0]]))
    one = create_engine(Engine(program="pyscf", basis="sto-3g", multi_start=False), apart)
    with pytest.raises(ScfError, match="does not converge"):
        one.evaluate(apart.positions)


@pytest.mark.parametrize("options", OPTIONS)
def test_impossible_geometries_are_refused(options):
    one = create_engine(options, METHYL)
    for positions in (np.full((4, 3), np.nan), np.zeros((4, 3)), np.zeros((3, 3))):
        with pytest.raises(GeometryError):
            one.evaluate(positions)


@pytest.mark.parametrize("options", OPTIONS)
def test_impossible_multiplicity_is_an_input_error(options):
    with pytest.raises(InputError, match="impossible with 9 electrons"):
        create_engine(options, Reaction("methyl", METHYL.symbols, METHYL.positions, multiplicity=1))


@pytest.mark.parametrize(
    ("options", "symbols", "says"),
    [
        (Engine(program="xtb", method="GFN7-xTB"), {"C"}, "engine.method: xtb knows no 'GFN7-xTB'"),
        (Engine(program="xtb"), {"U"}, "engine xtb: no parameters for U"),
        (Engine(program="ase", calculator="tblite.ase.TBLite"), {"C"}, "write package.module:Class"),
        (Engine(program="ase", calculator="no_such_package.x:Y"), {"C"}, "install the package"),
        (Engine(program="ase", calculator="tblite.ase:Nothing"), {"C"}, "has no class Nothing"),
        pytest.param(
            Engine(program="pyscf", basis="6-31x"), {"C"}, "engine.basis: pyscf", marks=pytest.mark.pyscf
        ),
        pytest.param(
            Engine(program="pyscf", method="b4lyp"), {"C"}, "engine.method: pyscf", marks=pytest.mark.pyscf
        ),
    ],
    ids=lambda value: value.level if isinstance(value, Engine) else None,
)
def test_the_check_names_what_is_wrong_in_one_line(options, symbols, says):
    problems = check_engine(options, symbols)
    assert len(problems) == 1
    assert says in problems[0]
    assert "\n" not in problems[0]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_check_is_content_with_what_works(options):
    assert check_engine(options, {"C", "H", "O"}) == []


@pytest.mark.parametrize(("program", "package"), [("xtb", "tblite"), ("pyscf", "pyscf")])
def test_a_missing_program_says_how_to_get_it(monkeypatch, program, package):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
    (problem,) = check_engine(Engine(program=program), {"C"})
    assert f"{package} is not installed" in problem.replace("PySCF", "pyscf")
    assert "pip install" in problem
    with pytest.raises(EngineUnavailable):
        create_engine(Engine(program=program), METHYL)


class Moody(Calculator):
    """Fails as it is told to."""

    implemented_properties = ("energy", "forces")
    failure: Exception | None = None
    energy = 1.0

    def __init__(self, charge=None, label=""):
        super().__init__()
        self.charge, self.name_of_run = charge, label

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.failure is not None:
            raise self.failure
        self.results = {"energy": self.energy, "forces": np.zeros((len(atoms), 3))}


@pytest.fixture
def moody(monkeypatch):
    module = types.ModuleType("moody_calculators")
    module.Moody = Moody
    monkeypatch.setitem(sys.modules, "moody_calculators", module)
    options = Engine(
        program="ase",
        calculator="moody_calculators:Moody",
        arguments={"charge": "{charge}", "label": "q{charge}-m{multiplicity}"},
    )
    return create_engine(options, METHYL)


def test_arguments_the_calculator_refuses_are_an_input_error(moody):
    options = Engine(program="ase", calculator="moody_calculators:Moody", arguments={"no_such": 1})
    with pytest.raises(InputError, match=r"no_such.*change engine\.arguments"):
        create_engine(options, METHYL)
    late = Engine(program="ase", calculator="tblite.ase:TBLite", arguments={"method": "GFN9"})
    with pytest.raises(InputError, match=r"GFN9.*change engine\.arguments"):
        create_engine(late, METHYL).evaluate(METHYL.positions)


@pytest.mark.parametrize(
    ("failure", "energy", "expected"),
    [
        (SCFError("no luck"), 1.0, ScfError),
        (CalculationFailed("SCF not converged in 2 cycles"), 1.0, ScfError),
        (CalculationFailed("disk full"), 1.0, EngineCrashed),
        (ZeroDivisionError("oops"), 1.0, EngineCrashed),
        (None, float("nan"), ScfError),
    ],
)
def test_failures_of_calculators_get_their_class(moody, monkeypatch, failure, energy, expected):
    monkeypatch.setattr(Moody, "failure", failure)
    monkeypatch.setattr(Moody, "energy", energy)
    with pytest.raises(expected):
        moody.evaluate(METHYL.positions)


def test_charge_and_multiplicity_are_filled_in(moody):
    assert moody.provenance()["settings"]["arguments"] == {"charge": 0, "label": "q0-m2"}
