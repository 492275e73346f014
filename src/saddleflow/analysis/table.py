"""The summary: one row a search, for every search that the configuration asks for.

A search that has not run, still runs, or left an unreadable file is a row too, so that no denominator
shrinks.  The names and units of the first columns (:data:`CONTRACT_COLUMNS`) are a contract with programs
that read the table; new columns are only added behind them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from saddleflow.errors import RunFileError, one_line
from saddleflow.evaluation import Outcome, Purpose
from saddleflow.files import write_atomically
from saddleflow.reaction import Reaction
from saddleflow.run_file import RunFile, force_measure, read_run_file
from saddleflow.run_inputs import planned
from saddleflow.settings import Convergence, Engine
from saddleflow.verification_file import read_verification

CONTRACT_COLUMNS = {
    "reaction": "string",
    "method": "string",
    "outcome": "string",
    "converged": "bool",
    "verification": "string",
    "calls": "Int64",
    "calls_rotation": "Int64",
    "calls_verification": "Int64",
    "energy_eV": "float64",
    "barrier_from_start_eV": "float64",
    "max_force_eV_per_A": "float64",
    "imaginary_modes": "Int64",
    "imaginary_frequency_cm1": "float64",
    "wall_s": "float64",
    "engine_s": "float64",
    "surrogate_s": "float64",
    "atoms": "Int64",
    "charge": "Int64",
    "multiplicity": "Int64",
}
FURTHER_COLUMNS = {
    "calls_failed": "Int64",
    "force_norm_eV_per_A": "float64",
    "curvature_eV_per_A2": "float64",
    "spin_square": "float64",
    "bonds": "string",
    "message": "string",
    "verification_level": "string",
    "verification_reason": "string",
    "engine": "string",
    "run_file": "string",
}
COLUMNS = CONTRACT_COLUMNS | FURTHER_COLUMNS

MISSING = "missing"
UNREADABLE = "unreadable"
NOT_VERIFIED, VERIFIED_BEFORE = "not verified yet", "not verified again since the search was repeated"
UNVERIFIED = (NOT_VERIFIED, VERIFIED_BEFORE)
"""Values of ``verification_reason`` of a search whose verification is still to come."""


def summarise(
    results_dir: str | Path,
    reaction_names: Iterable[str] | None = None,
    method_names: Iterable[str] | None = None,
) -> pd.DataFrame:
    """One row for each pair of reaction and method.

    Parameters
    ----------
    results_dir : path
        Folder of results.
    reaction_names, method_names : iterable of str, optional
        The set that was asked for, in the order of the rows; without them the set of the last run.

    Returns
    -------
    pandas.DataFrame
        Columns and types as in :data:`COLUMNS`; energies in eV, forces in eV/Angstrom, times in seconds.
        Cells that are not known are empty (NaN, <NA>).
    """
    results = Path(results_dir)
    planned_reactions, planned_methods = planned(results)
    reactions = planned_reactions if reaction_names is None else list(reaction_names)
    methods = planned_methods if method_names is None else list(method_names)
    rows = [_row(results, reaction, method) for reaction in reactions for method in methods]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(COLUMNS)


def write_summary(frame: pd.DataFrame, results_dir: str | Path) -> tuple[Path, Path]:
    """Write ``summary.csv`` and ``summary.parquet`` into `results_dir`, each by atomic rename.

    Returns
    -------
    tuple of Path
        The two files.
    """
    csv, parquet = Path(results_dir) / "summary.csv", Path(results_dir) / "summary.parquet"
    write_atomically(csv, frame.to_csv(index=False))
    write_atomically(parquet, frame.to_parquet(index=False))
    return csv, parquet


def read_summary(path: str | Path) -> pd.DataFrame:
    """Read a ``summary.csv`` with the types of :data:`COLUMNS`.

    Raises
    ------
    RunFileError
        When the file is not there or lacks a column of the contract.
    """
    path = Path(path)
    if not path.is_file():
        raise RunFileError(f"{path}: no such table; make it with: saddleflow summarise {path.parent}")
    # Only empty cells are missing values: a reaction may well be called "NA" or "null".
    frame = pd.read_csv(
        path, keep_default_na=False, na_values=[""], dtype={"reaction": "string", "method": "string"}
    )
    absent = [name for name in CONTRACT_COLUMNS if name not in frame.columns]
    if absent:
        raise RunFileError(
            f"{path}: columns {', '.join(absent)} are missing; make it again: saddleflow summarise"
        )
    return frame.astype({name: kind for name, kind in COLUMNS.items() if name in frame.columns})


def _row(results: Path, reaction: str, method: str) -> dict:
    run_path = results / "searches" / reaction / f"{method}.h5"
    row = {"reaction": reaction, "method": method, "converged": False, "verification": "not_run"}
    row |= _input_cells(results, reaction)
    row["run_file"] = f"searches/{reaction}/{method}.h5" if run_path.exists() else None
    if not run_path.exists():
        return row | {
            "outcome": MISSING,
            "message": _progress_message(results / "journals" / reaction / f"{method}.jsonl"),
            "verification_reason": "the search has not ended",
        }
    try:
        run = read_run_file(run_path)
    except (RunFileError, OSError) as error:
        return row | {
            "outcome": UNREADABLE,
            "message": one_line(error),
            "verification_reason": "the run file can't be read",
        }
    if _outdated(results, run_path, run):
        return row | {
            "outcome": MISSING,
            "message": "the run file was made with other input; run snakemake again",
            "verification_reason": "the run file was made with other input",
        }
    row |= _search_cells(run) | _verification_cells(results, reaction, method)
    if row.get("calls_verification") is not None:
        # What the search itself measured to prove its answer, which the verification did not measure again.
        row["calls_verification"] += len(run.evaluations) - run.proved_from
    return row


def _outdated(results: Path, run_path: Path, run: RunFile) -> bool:
    """Whether the inputs are newer than the run file and say something else than it was made with.

    Newer alone is not enough (a setting may have been changed and changed back), and other alone is not
    either (``snakemake --touch`` accepts existing results).
    """
    inputs = results / "inputs"
    paths = inputs / "reactions" / f"{run.reaction.name}.json", inputs / "methods" / f"{run.method_name}.json"
    try:
        if all(path.stat().st_mtime_ns <= run_path.stat().st_mtime_ns for path in paths):
            return False
        reaction, method = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        # A prior that the run itself learned (settings learn_prior) is no setting of the method.
        learned = set() if method["method"].get("learned_prior") else {"learned_prior"}
        asked = (
            _without(reaction, {"source"}),
            _without(method["method"], learned),
            _without(method["engine"], Engine.resource_keys),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no inputs to compare with: the run file stands for itself
    made = (
        _without(run.reaction.to_dict(), {"source"}),
        _without(run.method, learned),
        _without(run.engine, Engine.resource_keys),
    )
    return asked != made


def _without(data: dict, keys: Iterable[str]) -> dict:
    return {key: value for key, value in data.items() if key not in set(keys)}


def _input_cells(results: Path, name: str) -> dict:
    path = results / "inputs" / "reactions" / f"{name}.json"
    try:
        reaction = Reaction.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # the cells stay empty; the run file, if there is one, knows them too
    return _molecule_cells(reaction)


def _molecule_cells(reaction: Reaction) -> dict:
    return {
        "atoms": len(reaction.symbols),
        "charge": reaction.charge,
        "multiplicity": reaction.multiplicity,
    }


def _progress_message(journal: Path) -> str:
    try:
        with journal.open("rb") as handle:
            calls = max(sum(1 for _ in handle) - 1, 0)
    except OSError:
        return "not started"
    return f"running or interrupted, {calls} calls so far"


def _search_cells(run: RunFile) -> dict:
    result, evaluations = run.result, run.evaluations
    counted, proof = evaluations[: run.proved_from], evaluations[run.proved_from :]
    proof_engine_s = sum(e.engine_seconds for e in proof)
    proof_surrogate_s = sum(e.surrogate_seconds for e in proof)
    answer = evaluations[result.evaluation] if 0 <= result.evaluation < len(evaluations) else None
    message = result.message
    converged = False
    if answer is not None and result.outcome == Outcome.CONVERGED:
        convergence = convergence_of(run)
        # A comparison with NaN is false, so a point without forces never counts as converged.
        converged = force_measure(answer.forces, convergence.criterion) < convergence.threshold
        if not converged:
            message = f"{message}; the stored forces do not pass the convergence criterion"
    cells = {
        "outcome": str(result.outcome),
        "converged": converged,
        "message": message,
        "calls": len(counted),
        "calls_rotation": sum(e.purpose == Purpose.ROTATION for e in counted),
        "calls_failed": sum(bool(e.error) for e in counted),
        "wall_s": run.wall_seconds - proof_engine_s - proof_surrogate_s,
        "engine_s": run.engine_seconds - proof_engine_s,
        "surrogate_s": run.surrogate_seconds - proof_surrogate_s,
        "engine": _level(run.engine),
    }
    if answer is not None:
        cells |= {
            "energy_eV": answer.energy,
            "barrier_from_start_eV": answer.energy - evaluations[0].energy,
            "max_force_eV_per_A": answer.max_atom_force,
            "force_norm_eV_per_A": answer.force_norm,
            "curvature_eV_per_A2": result.curvature,
            "spin_square": answer.spin_square,
        }
    return cells | _molecule_cells(run.reaction)


def _verification_cells(results: Path, reaction: str, method: str) -> dict:
    path = results / "verifications" / reaction / f"{method}.h5"
    if not path.exists():
        return {"verification_reason": NOT_VERIFIED}
    if path.stat().st_mtime_ns < (results / "searches" / reaction / f"{method}.h5").stat().st_mtime_ns:
        return {"verification_reason": VERIFIED_BEFORE}
    try:
        verification = read_verification(path)
    except (RunFileError, OSError) as error:
        return {"verification_reason": f"unreadable: {' '.join(str(error).split())}"}
    return {
        "verification": str(verification.status),
        "verification_reason": verification.reason,
        "verification_level": verification.level,
        "calls_verification": verification.calls,
        "imaginary_modes": verification.imaginary_modes,
        "imaginary_frequency_cm1": verification.imaginary_frequency_cm1,
        "bonds": verification.bonds,
    }


def convergence_of(run: RunFile) -> Convergence:
    """Convergence criterion that `run` was made with."""
    return Convergence(**run.method.get("convergence", {}))


def _level(engine: dict) -> str | None:
    try:
        return Engine(**engine).level
    except (TypeError, ValidationError):
        return engine.get("program")
