"""Exports hold what the run file holds, read back with the programs that they are for."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest

from saddleflow.analysis.export import export, write_saddle
from saddleflow.errors import InputError, RunFileError
from saddleflow.evaluation import Outcome
from saddleflow.run_file import write_run_file

spec = importlib.util.spec_from_file_location("run_example", Path(__file__).with_name("test_run_file.py"))
run_example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_example)


@pytest.fixture
def stored(tmp_path):
    run = run_example.example()
    write_run_file(tmp_path / "run.h5", run)
    return run, tmp_path / "run.h5"


@pytest.mark.parametrize(("name", "tolerance"), [("extxyz", 1e-8), ("traj", 0.0)])
def test_structures_energies_and_forces_survive(stored, tmp_path, name, tolerance):
    run, path = stored
    (written,) = export(path, [name], tmp_path / "out")
    assert written.name == f"é-1.gp-dimer.{name}"
    frames = ase.io.read(written, index=":")
    assert len(frames) == 4
    for frame, evaluation in zip(frames, run.evaluations, strict=True):
        assert tuple(frame.get_chemical_symbols()) == run.reaction.symbols
        np.testing.assert_allclose(frame.positions, evaluation.positions, atol=tolerance, rtol=0)
        assert frame.info["purpose"] == evaluation.purpose
        assert frame.info["multiplicity"] == 2
        if evaluation.error:
            assert frame.info["error"] == evaluation.error
            assert frame.calc is None
        else:
            assert frame.get_potential_energy() == pytest.approx(evaluation.energy, abs=1e-10)
            np.testing.assert_allclose(frame.get_forces(), evaluation.forces, atol=tolerance, rtol=0)


def test_csv_has_a_row_for_each_evaluation(stored, tmp_path):
    run, path = stored
    (written,) = export(path, ["csv"], tmp_path)
    table = pd.read_csv(written)
    assert list(table["index"]) == [0, 1, 2, 3]
    assert table["energy_eV"][0] == run.evaluations[0].energy
    assert np.isnan(table["energy_eV"][1])
    assert table["error"][1] == run.evaluations[1].error
    assert list(table["purpose"]) == ["search", "search", "rotation", "search"]
    difference = run.evaluations[3].prediction.forces - run.evaluations[3].forces
    assert table["force_error_eV_per_A"][3] == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert np.isnan(table["predicted_energy_eV"][0])
    assert table["curvature_eV_per_A2"][3] == -2.0
    assert table["hyperparameter s2"][2] == 1.1


def test_csv_of_a_search_without_evaluations(tmp_path):
    run = run_example.example(Outcome.SCF_FAILED, evaluations=0)
    write_run_file(tmp_path / "run.h5", run)
    for path in export(tmp_path / "run.h5", ["csv", "extxyz"], tmp_path):
        assert path.exists()
    with pytest.raises(RunFileError, match="no saddle to write"):
        export(tmp_path / "run.h5", ["saddle"], tmp_path)


def test_saddle_comes_with_its_mode(stored, tmp_path):
    run, path = stored
    (written,) = export(path, ["saddle"], tmp_path)
    atoms = ase.io.read(written)
    np.testing.assert_allclose(atoms.get_array("mode"), run.result.mode, atol=1e-8)
    assert atoms.get_potential_energy() == pytest.approx(run.answer.energy, abs=1e-10)
    assert atoms.info["charge"] == -1
    assert atoms.info["curvature"] == -2.0
    assert atoms.info["reaction"] == "é-1"


def test_saddle_of_a_diatomic_and_an_atom(tmp_path):
    run = run_example.example()
    for n in (2, 1):
        rows = [
            replace(e, positions=e.positions[:n], forces=e.forces[:n], prediction=None)
            for e in run.evaluations
        ]
        reaction = replace(
            run.reaction, symbols=run.reaction.symbols[:n], positions=run.reaction.positions[:n]
        )
        result = replace(run.result, mode=run.result.mode[:n])
        write_saddle(replace(run, reaction=reaction, evaluations=rows, result=result), tmp_path / "s.xyz")
        assert ase.io.read(tmp_path / "s.xyz").get_array("mode").shape == (n, 3)


def test_unknown_format_is_one_line(stored, tmp_path):
    with pytest.raises(InputError, match="--format pdb: unknown, choose from extxyz, traj, csv, saddle"):
        export(stored[1], ["pdb"], tmp_path)


def test_a_search_does_not_wait_for_libraries_of_the_analysis():
    code = "import sys, saddleflow.run; print(*{'pandas', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
