"""A run file holds a search exactly, appears whole or not at all, and says what is wrong with a bad one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import saddleflow.files
from saddleflow.errors import RunFileError
from saddleflow.evaluation import Evaluation, Outcome, Prediction, Purpose, SearchResult, TracePoint
from saddleflow.reaction import Reaction
from saddleflow.run_file import RunFile, read_run_file, validate_run_file, write_run_file


def example(outcome=Outcome.CONVERGED, evaluations=4, seed=1):
    """A search of four atoms; the last evaluation has forces of 1e-3 eV/A, the second one failed."""
    generator = np.random.default_rng(seed)
    shape = (4, 3)
    rows = []
    for index in range(evaluations):
        failed = index == 1
        prediction = (
            Prediction(generator.normal(), generator.normal(size=shape), 0.1, 0.2) if index > 1 else None
        )
        rows.append(
            Evaluation(
                index=index,
                purpose=Purpose.ROTATION if index == 2 else Purpose.SEARCH,
                positions=generator.normal(size=shape),
                energy=float("nan") if failed else generator.normal() * 1e3,
                forces=np.full(shape, np.nan) if failed else generator.normal(size=shape) * 1e-4,
                engine_seconds=generator.random(),
                surrogate_seconds=generator.random() * 1e-5,
                scf_iterations=None if index == 0 else 12 + index,
                spin_square=None if index == 0 else 0.75 + 1e-9 * generator.random(),
                notes={"start": "SAD", "tries": [1, 2.5]} if index else {},
                prediction=prediction,
                error="ScfError: no SCF convergence" if failed else "",
            )
        )
    mode = generator.normal(size=shape)
    mode /= np.linalg.norm(mode)
    trace = ()
    if evaluations > 3:
        trace = (
            TracePoint(2, mode[::-1], -1.0, {"s2": 1.1, "l C/H": 0.3}, {"radius": 0.1}),
            TracePoint(3, mode, -2.0, {"s2": 1.2}),
        )
    hessian = generator.normal(size=(12, 12))
    return RunFile(
        reaction=Reaction(
            "é-1", ("C", "O", "H", "H"), generator.normal(size=shape), -1, 2, mode, 2 * mode, "a.xyz"
        ),
        method_name="gp-dimer",
        method={"convergence": {"criterion": "max_atom_force", "threshold": 0.01}, "noise": 1e-5},
        engine={"program": "psi4", "method": "hf"},
        provenance={"program": "psi4", "version": "1.3.2"},
        evaluations=rows,
        result=SearchResult(outcome, "done", evaluations - 1, mode, -2.0, trace, hessian),
        seed=2**60 + 1,
        wall_seconds=1.5,
        engine_seconds=1.2,
        surrogate_seconds=0.1,
        machine={"cpus": 2},
        versions={"numpy": "2"},
        created="2025-01-01T00:00:00+00:00",
    )


def assert_same(left, right):
    """Equal in everything, floats bit for bit."""
    for name in ("method_name", "method", "engine", "provenance", "seed", "machine", "versions", "created"):
        assert getattr(left, name) == getattr(right, name), name
    for name in ("wall_seconds", "engine_seconds", "surrogate_seconds"):
        assert getattr(left, name) == getattr(right, name), name
    assert left.reaction.to_dict() == right.reaction.to_dict()
    assert len(left.evaluations) == len(right.evaluations)
    for a, b in zip(left.evaluations, right.evaluations, strict=True):
        for name in (
            "index",
            "purpose",
            "engine_seconds",
            "surrogate_seconds",
            "scf_iterations",
            "spin_square",
        ):
            assert getattr(a, name) == getattr(b, name), name
        assert (a.notes, a.error) == (b.notes, b.error)
        assert np.float64(a.energy).tobytes() == np.float64(b.energy).tobytes()
        assert a.positions.tobytes() == b.positions.tobytes()
        assert a.forces.tobytes() == b.forces.tobytes()
        assert (a.prediction is None) == (b.prediction is None)
        if a.prediction is not None:
            assert a.prediction.forces.tobytes() == b.prediction.forces.tobytes()
            assert a.prediction.energy == b.prediction.energy
            assert (a.prediction.energy_sigma, a.prediction.force_sigma) == (
                b.prediction.energy_sigma,
                b.prediction.force_sigma,
            )
    a, b = left.result, right.result
    assert (a.outcome, a.message, a.evaluation, a.curvature) == (
        b.outcome,
        b.message,
        b.evaluation,
        b.curvature,
    )
    assert a.mode.tobytes() == b.mode.tobytes()
    assert (a.hessian is None) == (b.hessian is None)
    assert a.hessian is None or a.hessian.tobytes() == b.hessian.tobytes()
    for p, q in zip(a.trace, b.trace, strict=True):
        assert (p.evaluation, p.curvature, p.hyperparameters, p.notes) == (
            q.evaluation,
            q.curvature,
            q.hyperparameters,
            q.notes,
        )
        assert p.mode.tobytes() == q.mode.tobytes()


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "new" / "run.h5"
    write_run_file(path, example())
    assert_same(read_run_file(path), example())
    assert validate_run_file(path) == []


def test_a_search_that_never_got_an_evaluation_is_stored(tmp_path):
    run = example(Outcome.SCF_FAILED, evaluations=0)
    run = replace(run, result=replace(run.result, hessian=None))
    write_run_file(tmp_path / "run.h5", run)
    assert_same(read_run_file(tmp_path / "run.h5"), run)
    assert read_run_file(tmp_path / "run.h5").answer is None


def test_numpy_scalars_in_notes_are_stored(tmp_path):
    run = example()
    run.evaluations[0].notes["radius"] = np.float64(0.5)
    run.evaluations[0].notes["angles"] = np.arange(2)
    write_run_file(tmp_path / "run.h5", run)
    assert read_run_file(tmp_path / "run.h5").evaluations[0].notes == {"radius": 0.5, "angles": [0, 1]}


def test_physical_datasets_carry_units(tmp_path):
    write_run_file(tmp_path / "run.h5", example())
    with h5py.File(tmp_path / "run.h5") as file:
        units = {name: file["evaluations"][name].attrs.get("unit") for name in file["evaluations"]}
        assert file["result/hessian"].attrs["unit"] == "eV/angstrom^2"
    assert units["positions"] == "angstrom"
    assert units["energy"] == units["predicted_energy"] == units["predicted_energy_sigma"] == "eV"
    assert units["forces"] == units["predicted_forces"] == units["predicted_force_sigma"] == "eV/angstrom"
    assert units["engine_seconds"] == units["surrogate_seconds"] == "s"


def test_the_documentation_names_everything_in_the_file(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "run_file.md").read_text(encoding="utf-8")
    write_run_file(tmp_path / "run.h5", example())
    with h5py.File(tmp_path / "run.h5") as file:
        names = [*file.attrs, *file]
        file.visit(lambda path: names.append(path.rsplit("/", 1)[-1]))
    assert [name for name in names if f"`{name}`" not in text and f"`/{name}`" not in text] == []
    assert [outcome for outcome in Outcome if f"`{outcome}`" not in text] == []


def test_calls_count_failed_ones_too():
    assert example().calls() == 4
    assert example().calls(Purpose.ROTATION) == 1


def test_failed_write_leaves_the_target_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    write_run_file(path, example())
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saddleflow.files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_run_file(path, example(seed=2))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.h5"]


def test_disk_really_full_leaves_nothing(tmp_path):
    """RLIMIT_FSIZE makes the kernel refuse the write half-way."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from saddleflow.files import write_atomically; write_atomically(sys.argv[1], b'x' * 100000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda run: replace(run, result=replace(run.result, evaluation=4)),
        lambda run: replace(run, result=replace(run.result, evaluation=1)),
        lambda run: replace(run, result=replace(run.result, mode=np.zeros(3))),
        lambda run: replace(run, evaluations=run.evaluations[1:]),
        lambda run: replace(run, evaluations=[replace(run.evaluations[1], index=0, error="")]),
    ],
)
def test_contradictions_are_refused_before_writing(tmp_path, change):
    with pytest.raises(RunFileError, match="not written"):
        write_run_file(tmp_path / "run.h5", change(example()))
    assert os.listdir(tmp_path) == []


def test_every_truncation_is_one_clear_line(tmp_path):
    path = tmp_path / "run.h5"
    write_run_file(path, example())
    data = path.read_bytes()
    for length in [0, 1, 100, *range(512, len(data), len(data) // 25), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(RunFileError, match=r"run\.h5: truncated or damaged") as caught:
            read_run_file(path)
        assert "\n" not in str(caught.value)
        assert validate_run_file(path) == [str(caught.value)]


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path):
    path = tmp_path / "run.h5"
    write_run_file(path, example())
    with h5py.File(path) as file:
        chunk = file["evaluations/forces"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(RunFileError, match="damaged"):
        read_run_file(path)


def test_missing_garbage_and_foreign_files(tmp_path):
    with pytest.raises(RunFileError, match="no such file"):
        read_run_file(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello\n" * 1000)
    with pytest.raises(RunFileError, match="truncated or damaged"):
        read_run_file(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1.0
    with pytest.raises(RunFileError, match="not one of saddleflow's"):
        read_run_file(tmp_path / "foreign.h5")


def test_another_schema_names_both_versions(tmp_path):
    path = tmp_path / "run.h5"
    write_run_file(path, example())
    with h5py.File(path, "a") as file:
        file.attrs["saddleflow_schema"] = "run/2"
    with pytest.raises(
        RunFileError, match=r"found schema 'run/2' .*expected 'run/1'; read it with the version"
    ):
        read_run_file(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.attrs.modify("outcome", "great"), "unknown outcome 'great'"),
        (lambda file: file.pop("evaluations/energy"), "energy"),
        (lambda file: file["result"].attrs.modify("evaluation", 7), "the answer is evaluation 7 of 4"),
        (lambda file: file["evaluations/forces"].write_direct(np.full((4, 4, 3), np.nan)), "not finite"),
        (lambda file: file["trace/evaluation"].write_direct(np.array([2, 9])), "trace point 1 belongs to"),
        (lambda file: file["evaluations/forces"].write_direct(np.full((4, 4, 3), 0.1)), "not below 0.01"),
        (lambda file: file["result/mode"].write_direct(np.ones((4, 3))), "the mode has length"),
    ],
)
def test_validation_finds_it(tmp_path, change, message):
    path = tmp_path / "run.h5"
    write_run_file(path, example())
    with h5py.File(path, "a") as file:
        change(file)
    problems = validate_run_file(path)
    assert problems
    assert message in problems[0]
    assert str(path) in problems[0]


def test_force_norm_is_the_stricter_criterion(tmp_path):
    run = example()
    forces = np.full((4, 3), 0.004)
    run.evaluations[3] = replace(run.evaluations[3], forces=forces)
    write_run_file(tmp_path / "run.h5", run)
    assert validate_run_file(tmp_path / "run.h5") == []
    run.method["convergence"]["criterion"] = "force_norm"
    write_run_file(tmp_path / "run.h5", run)
    assert "force_norm of the answer is 0.013856" in validate_run_file(tmp_path / "run.h5")[0]
