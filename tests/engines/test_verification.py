"""A saddle passes, everything else does not, and a check that could not run says so."""

import os
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.units import Hartree
from ase.vibrations import Vibrations
from tblite.ase import TBLite

from saddleflow.engines.catalogue import check_engine, create_engine
from saddleflow.engines.journal import read_journal
from saddleflow.errors import EngineCrashed, RunFileError, ScfError
from saddleflow.evaluation import EngineResult, Evaluation, Outcome, Purpose, SearchResult
from saddleflow.reaction import Reaction
from saddleflow.run_file import RunFile, write_run_file
from saddleflow.settings import Engine, Verification
from saddleflow.verification import Status, read_verification, verify
from saddleflow.vibrations import finite_difference_hessian, vibrational_analysis

XTB = Engine(program="xtb", method="GFN2-xTB")
HCN = Reaction("hcn", ("H", "C", "N"), np.array([[0.0, 1.1, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 1.18]]))
PLANAR_NH3 = Reaction(
    "nh3",
    ("N", "H", "H", "H"),
    np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-0.5, 0.75**0.5, 0.0], [-0.5, -(0.75**0.5), 0.0]]),
)
WATER = Reaction("water", ("O", "H", "H"), np.array([[0.0, 0.0, 0.0], [0.77, 0.59, 0.0], [-0.77, 0.59, 0.0]]))
LINEAR_WATER = replace(WATER, positions=np.array([[0.0, 0.0, 0.0], [0.93, 0.0, 0.0], [-0.93, 0.0, 0.0]]))
H3 = Reaction("h3", ("H",) * 3, np.array([[0.0, 0, -0.93], [0.0, 0, 0], [0.0, 0, 0.93]]), multiplicity=2)


def stationary(engine, reaction, uphill, displacement=0.005, threshold=0.002):
    """Evaluations of Newton steps, uphill along the `uphill` lowest modes; the last one is stationary."""
    positions, rows, hessian = reaction.positions, [], None
    for index in range(20):
        result = engine.evaluate(positions)
        rows.append(Evaluation(index, Purpose.SEARCH, positions, result.energy, result.forces, 0.01, 0.0))
        if rows[-1].max_atom_force < threshold:
            return rows
        hessian = engine.hessian(positions)
        if hessian is None:
            hessian = finite_difference_hessian(
                lambda x: -engine.evaluate(x).forces, positions, reaction.symbols, displacement
            )
        found = vibrational_analysis(hessian, positions, reaction.symbols)
        modes = np.linalg.qr(found.modes.reshape(len(found.modes), -1).T)[0]
        values, vectors = np.linalg.eigh(modes.T @ hessian @ modes)
        modes = modes @ vectors
        sign = np.where(np.arange(len(values)) < uphill, -1.0, 1.0)
        step = modes @ (sign * (modes.T @ result.forces.ravel()) / np.maximum(np.abs(values), 1.0))
        step *= min(1.0, 0.2 / np.abs(step).max())
        positions = positions + step.reshape(positions.shape)
    raise AssertionError("no stationary point")


def run_of(reaction, options, rows, mode=None, outcome=Outcome.CONVERGED):
    if mode is None:
        mode = np.random.default_rng(0).normal(size=reaction.positions.shape)
    return RunFile(
        reaction=reaction,
        method_name="newton",
        method={"convergence": {"criterion": "max_atom_force", "threshold": 0.01}},
        engine=options.model_dump(mode="json"),
        provenance={},
        evaluations=rows,
        result=SearchResult(outcome, "", len(rows) - 1, mode / np.linalg.norm(mode), -1.0),
    )


def stored(folder, reaction, options, uphill=1, **changes):
    engine = create_engine(options, reaction)
    run = run_of(reaction, options, stationary(engine, reaction, uphill), **changes)
    engine.close()
    write_run_file(folder / "run.h5", run)
    return run


def verified(folder, settings=None, engine=None):
    """Verify run.h5 in `folder`; the file that was written says what was returned, the journal is gone."""
    settings = settings or Verification(level="hessian")
    record = verify(folder / "run.h5", settings, folder / "v.h5", folder / "v.jsonl", engine)
    again = read_verification(folder / "v.h5")
    assert (again.status, again.reason, again.calls) == (record.status, record.reason, record.calls)
    assert sorted(os.listdir(folder)) == ["run.h5", "v.h5"]
    return again


def test_a_saddle_passes_and_its_frequencies_are_ases(tmp_path):
    run = stored(tmp_path, PLANAR_NH3, XTB)
    record = verified(tmp_path)
    assert (record.status, record.reason) == (Status.PASSED, "")
    assert record.calls == 1 + 2 * (3 * 4 - 6)
    assert (record.imaginary_modes, record.linear, len(record.frequencies_cm1)) == (1, False, 6)
    assert record.hessian_source == "central differences"
    assert record.asymmetry < 0.02
    assert record.forces_checked
    assert abs(record.energy_difference) < 1e-6
    assert record.curvature < 0
    assert record.bonds.startswith("no bond changes")

    atoms = Atoms(run.reaction.symbols, run.answer.positions)
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0)
    reference = Vibrations(atoms, delta=0.005, name=str(tmp_path / "vib"))
    reference.run()
    energies = reference.get_energies() * 8065.544  # eV to cm-1
    frequencies = np.sort(
        np.where(np.abs(energies.imag) > np.abs(energies.real), -energies.imag, energies.real)
    )
    internal = np.delete(frequencies, np.argsort(np.abs(frequencies))[:6])
    np.testing.assert_allclose(record.frequencies_cm1, internal, atol=1.0)
    assert record.imaginary_frequency_cm1 == record.frequencies_cm1[0] < 0


@pytest.mark.pyscf
@pytest.mark.parametrize("reaction", [HCN, H3], ids=["hcn", "linear doublet"])
def test_analytic_hessian_agrees_with_pyscfs_own_analysis(tmp_path, reaction):
    pytest.importorskip("pyscf")
    from pyscf import gto, scf
    from pyscf.hessian import thermo

    options = Engine(program="pyscf", method="hf", basis="3-21g")
    run = stored(tmp_path, reaction, options)
    record = verified(tmp_path)
    assert (record.status, record.calls, record.hessian_source) == (Status.PASSED, 1, "analytic")
    assert record.linear == (reaction is H3)
    atoms = list(zip(reaction.symbols, run.answer.positions, strict=True))
    molecule = gto.M(atom=atoms, basis="3-21g", spin=reaction.multiplicity - 1, verbose=0)
    field = (scf.RHF if reaction.multiplicity == 1 else scf.UHF)(molecule).run(conv_tol=1e-11)
    assert run.answer.energy == pytest.approx(field.e_tot * Hartree, abs=1e-5)
    reference = thermo.harmonic_analysis(molecule, field.Hessian().kernel())["freq_wavenumber"]
    np.testing.assert_allclose(record.frequencies_cm1, np.real(reference) - np.imag(reference), atol=0.1)
    if reaction is HCN:
        assert record.bonds in ("breaks H1-C2, forms H1-N3", "breaks H1-N3, forms H1-C2")
    else:
        assert record.bonds in ("breaks H1-H2, forms H2-H3", "breaks H2-H3, forms H1-H2")


@pytest.mark.psi4
def test_psi4_unrestricted_by_differences_and_restricted_analytically(tmp_path):
    options = Engine(program="psi4", method="hf", basis="3-21g")
    if problems := check_engine(options, {"H", "C", "N"}):
        pytest.skip(problems[0])
    for reaction in (H3, HCN):
        folder = tmp_path / reaction.name
        folder.mkdir()
        stored(folder, reaction, options)
        record = verified(folder)
        assert record.status is Status.PASSED
        assert record.calls in ((1, 9) if reaction is H3 else (1, 7))
        if record.hessian_source == "central differences":
            assert record.asymmetry < 0.02


def test_two_negative_modes_or_none_fail(tmp_path):
    for name, reaction, uphill, reason in (
        ("minimum", WATER, 0, "no imaginary mode, the lowest frequency is"),
        ("second order", LINEAR_WATER, 2, "2 imaginary modes"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        stored(folder, reaction, XTB, uphill)
        record = verified(folder)
        assert record.status is Status.FAILED
        assert record.reason.startswith(reason)
        assert record.imaginary_modes == uphill
        assert record.linear == (reaction is LINEAR_WATER)


def test_small_imaginary_frequencies_can_be_ignored(tmp_path):
    stored(tmp_path, LINEAR_WATER, XTB, uphill=2)
    assert verified(tmp_path, Verification(level="hessian", zero_frequency_cm1=5000.0)).imaginary_modes == 0


@pytest.mark.parametrize(("reaction", "uphill", "status"), [(HCN, 1, "passed"), (WATER, 0, "failed")])
def test_curvature_takes_few_evaluations_and_says_what_it_does_not_prove(tmp_path, reaction, uphill, status):
    run = stored(tmp_path, reaction, XTB, uphill)
    record = verified(tmp_path, Verification(level="curvature"))
    assert record.status == status
    assert record.calls <= 8
    assert record.imaginary_modes is None
    assert "second negative one is not excluded" in record.reason or "no negative curvature" in record.reason
    engine = create_engine(XTB, reaction)
    hessian = finite_difference_hessian(
        lambda x: -engine.evaluate(x).forces, run.answer.positions, reaction.symbols
    )
    internal = np.sort(np.linalg.eigvalsh(hessian))
    lowest = internal[np.abs(internal) > 1e-3][0]
    assert record.curvature == pytest.approx(lowest, rel=0.05)


@pytest.mark.parametrize(
    ("reaction", "uphill", "status"),
    [(HCN, 1, "passed"), (PLANAR_NH3, 1, "passed"), (WATER, 0, "failed"), (LINEAR_WATER, 2, "failed")],
    ids=["hcn", "ammonia", "minimum", "second order"],
)
@pytest.mark.parametrize("level", ["index", "auto"])
def test_the_index_is_that_of_the_full_hessian_at_less_cost(tmp_path, reaction, uphill, status, level):
    stored(tmp_path, reaction, XTB, uphill)
    full = verified(tmp_path, Verification(level="hessian"))
    record = verified(tmp_path, Verification(level=level))
    assert record.status == full.status == status
    assert record.imaginary_modes == full.imaginary_modes == uphill
    assert record.linear == full.linear
    assert record.level == "index"
    assert record.calls <= full.calls
    assert "evaluations: lowest mode" in record.reason
    assert record.frequencies_cm1[0] == pytest.approx(full.frequencies_cm1[0], rel=0.02)
    assert np.isnan(record.imaginary_frequency_cm1) == (uphill == 0)


def test_the_full_hessian_decides_what_few_products_do_not(tmp_path, monkeypatch):
    stored(tmp_path, PLANAR_NH3, XTB)
    monkeypatch.setattr("saddleflow.hessian_products.GRADIENT_NOISE", 1.0)
    record = verified(tmp_path, Verification(level="index"))
    assert (record.status, record.level, record.imaginary_modes) == (Status.PASSED, "hessian", 1)
    assert record.reason.startswith("full Hessian, as ")
    assert record.hessian_source == "central differences"


@pytest.mark.pyscf
def test_auto_takes_an_analytic_hessian_where_there_is_one(tmp_path):
    pytest.importorskip("pyscf")
    stored(tmp_path, HCN, Engine(program="pyscf", method="hf", basis="3-21g"))
    record = verified(tmp_path, Verification(level="auto"))
    assert (record.status, record.level, record.hessian_source) == (Status.PASSED, "hessian", "analytic")
    assert record.calls == 1


def test_forces_above_the_threshold_fail_before_any_evaluation(tmp_path):
    run = stored(tmp_path, HCN, XTB)
    last = run.evaluations[-1]
    run.evaluations[-1] = replace(last, forces=last.forces + 0.05)
    write_run_file(tmp_path / "run.h5", run)
    record = verified(tmp_path)
    assert (record.status, record.calls) == (Status.FAILED, 0)
    assert "max_atom_force of the stored forces" in record.reason
    assert "not below 0.01" in record.reason


def test_forged_forces_fail_at_the_new_evaluation(tmp_path):
    run = stored(tmp_path, HCN, XTB)
    moved = replace(run.evaluations[-1], positions=HCN.positions, energy=run.evaluations[0].energy)
    write_run_file(tmp_path / "run.h5", replace(run, evaluations=[*run.evaluations[:-1], moved]))
    record = verified(tmp_path)
    assert (record.status, record.calls) == (Status.FAILED, 1)
    assert "a new evaluation gives max_atom_force" in record.reason


@pytest.mark.parametrize(
    ("changes", "level", "engine", "reason"),
    [
        ({"outcome": Outcome.MAX_CALLS}, "hessian", XTB, r"the search did not converge \(max_calls\)"),
        ({}, "none", XTB, r"switched off \(verification.level: none\)"),
        (
            {},
            "hessian",
            Engine(program="ase", calculator="no.such:Thing"),
            "the engine can't be used here: .*no.such",
        ),
    ],
)
def test_what_can_not_be_checked_is_not_run(tmp_path, changes, level, engine, reason):
    run = stored(tmp_path, HCN, XTB, **changes)
    write_run_file(tmp_path / "run.h5", replace(run, engine=engine.model_dump(mode="json")))
    record = verified(tmp_path, Verification(level=level))
    assert (record.status, record.calls, record.imaginary_modes) == (Status.NOT_RUN, 0, None)
    assert re.search(reason, record.reason)


class Faulty:
    """The real xTB engine until evaluation number `after`, then an error."""

    def __init__(self, reaction, after, error):
        self.inner, self.after, self.error, self.count = create_engine(XTB, reaction), after, error, 0
        self.name = "faulty"

    def evaluate(self, positions):
        self.count += 1
        if self.count > self.after:
            raise self.error
        return self.inner.evaluate(positions)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_scf_failure_within_the_hessian_is_not_run(tmp_path):
    stored(tmp_path, HCN, XTB)
    record = verified(tmp_path, engine=Faulty(HCN, 3, ScfError("no convergence")))
    assert (record.status, record.calls) == (Status.NOT_RUN, 4)
    assert record.reason == "ScfError: no convergence"


def test_a_crash_fails_the_job_and_the_next_one_goes_on_from_there(tmp_path):
    stored(tmp_path, HCN, XTB)
    with pytest.raises(EngineCrashed):
        verify(
            tmp_path / "run.h5",
            Verification(level="hessian"),
            tmp_path / "v.h5",
            tmp_path / "v.jsonl",
            Faulty(HCN, 4, EngineCrashed("gone")),
        )
    assert not (tmp_path / "v.h5").exists()
    assert len(read_journal(tmp_path / "v.jsonl")[1]) == 4
    engine = Faulty(HCN, 3, EngineCrashed("evaluated again what the journal held"))
    resumed = verified(tmp_path, engine=engine)
    assert (resumed.status, resumed.calls, engine.count) == (Status.PASSED, 7, 3)
    assert resumed.hessian.tobytes() == verified(tmp_path).hessian.tobytes()


class TwoStates:
    """xTB with a second electronic state `gap` eV above; a fresh start at one geometry falls into it."""

    name = "two states"

    def __init__(self, gap, fresh_is_high_at):
        self.inner, self.gap, self.fresh_is_high_at, self.high = (
            create_engine(XTB, HCN),
            gap,
            fresh_is_high_at,
            None,
        )

    def evaluate(self, positions):
        if self.high is None:
            self.high = np.abs(positions - self.fresh_is_high_at).max() < 1e-6
        result = self.inner.evaluate(positions)
        return EngineResult(
            result.energy + self.gap * self.high, result.forces, state=b"1" if self.high else b"0"
        )

    def restore(self, state):
        self.high = bool(int(state)) if state else None

    def hessian(self, positions):
        return None

    def provenance(self):
        return {}

    def close(self):
        pass


def test_a_lost_electronic_state_is_sought_along_the_path(tmp_path):
    run = stored(tmp_path, HCN, XTB)
    record = verified(tmp_path, engine=TwoStates(0.5, run.answer.positions))
    assert record.status is Status.PASSED
    assert record.calls > 1 + 6 + 1
    assert abs(record.energy_difference) < 1e-6


def test_a_state_that_the_last_look_found_is_sought_from_there_and_beyond_a_point_without_scf(tmp_path):
    run = stored(tmp_path, HCN, XTB)
    rows = list(run.evaluations)
    # As if the first point had been the answer of a search on a higher state, and the look had left it.
    rows[0] = replace(rows[0], purpose=Purpose.VERIFICATION)
    record = {"result": "excluded", "first": 0}
    write_run_file(tmp_path / "run.h5", replace(run, evaluations=rows, provenance={"states": [record]}))

    class Stumbles(TwoStates):
        """Fresh starts find the lower state at the first point alone; there is no solution at the second."""

        def evaluate(self, positions):
            fresh = self.high is None
            if np.abs(positions - rows[1].positions).max() < 1e-6:
                raise ScfError("no convergence")
            result = super().evaluate(positions)
            if fresh and np.abs(positions - rows[0].positions).max() > 1e-6:
                self.high = True
                return replace(result, energy=result.energy + self.gap)
            return result

    record = verified(tmp_path, engine=Stumbles(0.5, np.full((3, 3), 99.0)))
    assert record.status is Status.PASSED, record.reason
    assert abs(record.energy_difference) < 1e-6


def test_an_electronic_state_that_stays_lost_is_not_run(tmp_path):
    run = stored(tmp_path, HCN, XTB)
    rows = [replace(row, energy=row.energy - 0.5) for row in run.evaluations]
    write_run_file(tmp_path / "run.h5", replace(run, evaluations=rows))
    record = verified(tmp_path)
    assert record.status is Status.NOT_RUN
    assert record.reason == "the electronic state of the search was not found again (0.5000 eV too high)"


def test_a_lower_electronic_state_fails(tmp_path):
    run = stored(tmp_path, HCN, XTB)
    rows = [replace(row, energy=row.energy + 0.5) for row in run.evaluations]
    write_run_file(tmp_path / "run.h5", replace(run, evaluations=rows))
    record = verified(tmp_path)
    assert record.status is Status.FAILED
    assert "an electronic state 0.5000 eV lower" in record.reason


def test_a_state_change_within_the_hessian_is_not_run(tmp_path):
    run = stored(tmp_path, HCN, XTB)

    class Jumping(TwoStates):
        def evaluate(self, positions):
            self.high = np.abs(positions - run.answer.positions).max() > 1e-6
            return super().evaluate(positions)

    record = verified(tmp_path, engine=Jumping(0.1, run.answer.positions))
    assert record.status is Status.NOT_RUN
    assert "the electronic state changed within the Hessian" in record.reason


def test_the_documentation_names_everything_in_the_file(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "run_file.md").read_text(encoding="utf-8")
    text = text[text.index("## Verification file") :]
    stored(tmp_path, HCN, XTB)
    verified(tmp_path)
    with h5py.File(tmp_path / "v.h5") as file:
        names = [*file.attrs, *file]
        file.visit(lambda path: names.append(path.rsplit("/", 1)[-1]))
    names.remove("saddleflow_schema")
    assert [name for name in names if f"`{name}`" not in text and f"`/{name}`" not in text] == []


def test_damaged_verification_files_are_one_clear_line(tmp_path):
    stored(tmp_path, HCN, XTB)
    verified(tmp_path)
    path = tmp_path / "v.h5"
    data = path.read_bytes()
    for length in (0, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(RunFileError, match="delete it and verify again") as caught:
            read_verification(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(RunFileError, match=r"found schema 'run/1' .* expected 'verification/1'"):
        read_verification(tmp_path / "run.h5")
