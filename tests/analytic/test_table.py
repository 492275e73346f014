"""Every search that was asked for is a row, and each number in it is the stored one."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saddleflow.analysis.table import (
    COLUMNS,
    CONTRACT_COLUMNS,
    read_summary,
    summarise,
    write_summary,
)
from saddleflow.errors import RunFileError
from saddleflow.evaluation import Evaluation, Outcome, Purpose, SearchResult
from saddleflow.reaction import Reaction
from saddleflow.run_file import RunFile, write_run_file
from saddleflow.settings import Engine, GPDimer
from saddleflow.verification_file import Status, VerificationRecord, write_verification

CONTRACT = [
    "reaction",
    "method",
    "outcome",
    "converged",
    "verification",
    "calls",
    "calls_rotation",
    "calls_verification",
    "energy_eV",
    "barrier_from_start_eV",
    "max_force_eV_per_A",
    "imaginary_modes",
    "imaginary_frequency_cm1",
    "wall_s",
    "engine_s",
    "surrogate_s",
    "atoms",
    "charge",
    "multiplicity",
]
WATER = Reaction("water", ("O", "H", "H"), np.arange(9.0).reshape(3, 3), 1, 2)


def evaluation(index, purpose, energy, force, error=""):
    forces = np.zeros((3, 3))
    forces[0, 0] = force
    return Evaluation(
        index,
        purpose,
        WATER.positions + 0.01 * index,
        energy,
        forces,
        1.0,
        0.1,
        spin_square=0.76,
        error=error,
    )


def run(force=0.004, outcome=Outcome.CONVERGED, reaction=WATER, **changes):
    rows = [
        evaluation(0, Purpose.SEARCH, -10.0, 1.0),
        evaluation(1, Purpose.ROTATION, -10.1, 1.0),
        replace(
            evaluation(2, Purpose.SEARCH, np.nan, np.nan, "ScfError: no"), forces=np.full((3, 3), np.nan)
        ),
        evaluation(3, Purpose.SEARCH, -9.5, force),
    ]
    mode = np.full((3, 3), 1 / 3)
    whole = RunFile(
        reaction=reaction,
        method_name="gp-dimer",
        method=GPDimer().model_dump(mode="json"),
        engine=Engine(program="xtb", method="GFN2-xTB").model_dump(mode="json"),
        provenance={},
        evaluations=rows,
        result=SearchResult(outcome, "done", 3, mode, -1.5),
        wall_seconds=5.5,
        engine_seconds=5.0,
        surrogate_seconds=0.5,
        created="2026-01-01T00:00:00+00:00",
    )
    return replace(whole, **changes)


def record(status=Status.PASSED, **changes):
    whole = VerificationRecord(
        reaction="water",
        method="gp-dimer",
        status=status,
        reason="one imaginary mode",
        level="hessian",
        calls=18,
        imaginary_modes=1,
        bonds="O1-H2 breaks",
        symbols=WATER.symbols,
        positions=WATER.positions,
        frequencies_cm1=np.array([-1500.0, 100.0, 200.0]),
        modes=np.zeros((3, 3, 3)),
    )
    return replace(whole, **changes)


@pytest.fixture
def results(tmp_path):
    """Inputs of one reaction and one method, with a run file and a verification file of them."""
    inputs = tmp_path / "inputs"
    for folder in ("reactions", "methods"):
        (inputs / folder).mkdir(parents=True)
    (inputs / "reactions/water.json").write_text(json.dumps(WATER.to_dict()))
    write_inputs(tmp_path, GPDimer())
    (inputs / "plan.json").write_text(json.dumps({"reactions": ["water"], "methods": ["gp-dimer"]}))
    write_run_file(tmp_path / "searches/water/gp-dimer.h5", run())
    write_verification(tmp_path / "verifications/water/gp-dimer.h5", record())
    return tmp_path


def write_inputs(results, method, engine=None):
    engine = engine or Engine(program="xtb", method="GFN2-xTB")
    document = {
        "name": "gp-dimer",
        "method": method.model_dump(mode="json"),
        "engine": engine.model_dump(mode="json"),
    }
    (results / "inputs/methods/gp-dimer.json").write_text(json.dumps(document))


def only_row(results, **options):
    frame = summarise(results, **options)
    assert len(frame) == 1
    return frame.iloc[0]


def make_newer(path, than):
    newer = than.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(newer, newer))


def test_the_first_columns_are_the_contract():
    assert list(CONTRACT_COLUMNS) == CONTRACT
    assert list(COLUMNS)[: len(CONTRACT)] == CONTRACT


def test_a_converged_verified_search(results):
    row = only_row(results)
    assert (row.reaction, row.method, row.outcome) == ("water", "gp-dimer", "converged")
    assert row.converged and row.verification == "passed"
    assert (row.calls, row.calls_rotation, row.calls_failed, row.calls_verification) == (4, 1, 1, 18)
    assert row.energy_eV == -9.5 and row.barrier_from_start_eV == pytest.approx(0.5)
    assert row.max_force_eV_per_A == pytest.approx(0.004)
    assert (row.imaginary_modes, row.imaginary_frequency_cm1) == (1, -1500.0)
    assert (row.wall_s, row.engine_s, row.surrogate_s) == (5.5, 5.0, 0.5)
    assert (row.atoms, row.charge, row.multiplicity) == (3, 1, 2)
    assert row.engine == "xtb:GFN2-xTB" and row.bonds == "O1-H2 breaks"
    assert row.run_file == "searches/water/gp-dimer.h5"


def test_what_only_proves_the_answer_counts_as_verification(results):
    def stored(*purposes, answer=3):
        rows = run().evaluations + [evaluation(4 + i, p, -9.6, 0.004) for i, p in enumerate(purposes)]
        ended = replace(run().result, evaluation=answer)
        longer = run(evaluations=rows, result=ended, engine_seconds=5.0 + len(purposes))
        write_run_file(results / "searches/water/gp-dimer.h5", longer)
        row = only_row(results)
        assert pd.isna(row.calls_verification), "the verification is older than this search"
        write_verification(results / "verifications/water/gp-dimer.h5", record())
        return only_row(results)

    proof, further = Purpose.VERIFICATION, Purpose.SEARCH
    row = stored(proof, proof)
    assert (row.calls, row.calls_verification, row.engine_s) == (4, 20, 5.0)
    assert row.surrogate_s == pytest.approx(0.3) and row.wall_s == pytest.approx(3.3)
    # A proof that made the search go on was a part of it, whether that led anywhere or not.
    for answer in (3, 6):
        row = stored(proof, proof, further, proof, answer=answer)
        assert (row.calls, row.calls_verification, row.engine_s) == (7, 19, 8.0)
    row = stored(proof, answer=4)
    assert (row.calls, row.calls_verification) == (5, 18), "a lower state's first point is the answer itself"


def test_table_and_parquet_hold_the_same_and_read_back_with_their_types(results):
    frame = summarise(results, ["water", "absent"], ["gp-dimer"])
    csv, parquet = write_summary(frame, results)
    pd.testing.assert_frame_equal(read_summary(csv), frame)
    stored = pd.read_parquet(parquet)
    assert list(stored.columns) == list(COLUMNS)
    assert stored["calls"].tolist()[0] == 4 and pd.isna(stored["calls"][1])
    assert not [p.name for p in results.iterdir() if p.name.startswith(".")]
    before = csv.read_bytes()
    write_summary(summarise(results, ["water", "absent"], ["gp-dimer"]), results)
    assert csv.read_bytes() == before


def test_rows_come_in_the_order_asked_for_and_missing_ones_are_rows(results):
    frame = summarise(results, ["zeta", "water"], ["gp-dimer", "dimer"])
    assert list(zip(frame.reaction, frame.method, strict=True)) == [
        ("zeta", "gp-dimer"),
        ("zeta", "dimer"),
        ("water", "gp-dimer"),
        ("water", "dimer"),
    ]
    assert frame.outcome.tolist() == ["missing", "missing", "converged", "missing"]
    assert frame.converged.tolist() == [False, False, True, False]
    assert frame.verification.tolist() == ["not_run", "not_run", "passed", "not_run"]
    assert frame.atoms.tolist()[3] == 3, "known from the inputs although the search is missing"


def test_a_running_search_is_missing_and_says_how_far_it_is(results):
    (results / "searches/water/gp-dimer.h5").unlink()
    journal = results / "journals/water/gp-dimer.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"saddleflow_journal": 1}\n{}\n{}\n')
    row = only_row(results)
    assert row.outcome == "missing" and "2 calls" in row.message
    assert pd.isna(row.calls)


def test_a_damaged_run_file_is_a_row_with_its_message(results):
    path = results / "searches/water/gp-dimer.h5"
    path.write_bytes(path.read_bytes()[:3000])
    row = only_row(results)
    assert row.outcome == "unreadable" and "gp-dimer.h5" in row.message and not row.converged


def test_a_damaged_verification_is_not_run_and_leaves_the_rest(results):
    path = results / "verifications/water/gp-dimer.h5"
    path.write_bytes(b"nonsense")
    row = only_row(results)
    assert row.outcome == "converged" and row.verification == "not_run"
    assert "gp-dimer.h5" in row.verification_reason


def test_convergence_is_said_by_the_stored_forces(results):
    write_run_file(results / "searches/water/gp-dimer.h5", run(force=0.02))
    row = only_row(results)
    assert row.outcome == "converged" and not row.converged
    assert "stored forces" in row.message


def test_the_criterion_of_the_search_is_the_one_that_is_checked(results):
    method = GPDimer(convergence={"criterion": "force_norm", "threshold": 0.003}).model_dump(mode="json")
    write_run_file(results / "searches/water/gp-dimer.h5", run(force=0.004, method=method))
    assert not only_row(results).converged


def test_an_unconverged_search_keeps_its_best_point(results):
    write_run_file(results / "searches/water/gp-dimer.h5", run(force=0.3, outcome=Outcome.MAX_CALLS))
    row = only_row(results)
    assert row.outcome == "max_calls" and not row.converged and row.energy_eV == -9.5
    assert row.verification == "not_run", "the verification file is older than this run file"


def test_a_search_without_any_answer(results):
    result = SearchResult(Outcome.SCF_FAILED, "no SCF", -1, np.zeros((3, 3)), float("nan"))
    write_run_file(results / "searches/water/gp-dimer.h5", run(result=result, evaluations=[]))
    row = only_row(results)
    assert row.outcome == "scf_failed" and row.calls == 0 and np.isnan(row.energy_eV)


def test_a_result_of_other_settings_is_not_passed_off_as_current(results):
    write_inputs(results, GPDimer(noise_variance=1e-3))
    make_newer(results / "inputs/methods/gp-dimer.json", results / "searches/water/gp-dimer.h5")
    row = only_row(results)
    assert row.outcome == "missing" and "other input" in row.message and pd.isna(row.calls)


def test_settings_changed_and_changed_back_leave_the_result_valid(results):
    make_newer(results / "inputs/methods/gp-dimer.json", results / "searches/water/gp-dimer.h5")
    assert only_row(results).outcome == "converged"


def test_more_memory_for_the_engine_leaves_the_result_valid(results):
    write_inputs(results, GPDimer(), Engine(program="xtb", method="GFN2-xTB", memory_mb=4000))
    make_newer(results / "inputs/methods/gp-dimer.json", results / "searches/water/gp-dimer.h5")
    assert only_row(results).outcome == "converged"


@pytest.mark.parametrize("name", ["NA", "null", "001", "nan"])
def test_names_that_look_like_missing_values_survive(tmp_path, name):
    csv, _ = write_summary(summarise(tmp_path, [name], ["dimer"]), tmp_path)
    assert read_summary(csv).reaction.tolist() == [name]


def test_no_table_is_one_clear_line(tmp_path):
    with pytest.raises(RunFileError, match="saddleflow summarise"):
        read_summary(tmp_path / "summary.csv")


def test_a_table_without_contract_columns_is_refused(tmp_path):
    (tmp_path / "summary.csv").write_text("reaction,method\na,b\n")
    with pytest.raises(RunFileError, match="calls"):
        read_summary(tmp_path / "summary.csv")
