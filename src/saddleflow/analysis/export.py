"""A run file in the formats of other programs: extxyz, ASE trajectory, CSV, and the saddle with its mode.

Every search writes its saddle with this module, so that pandas and ASE's readers are imported where they are
needed: both together take longer than the rest of the package.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from saddleflow.errors import InputError, RunFileError
from saddleflow.evaluation import Evaluation
from saddleflow.files import write_atomically
from saddleflow.run_file import RunFile, read_run_file

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("extxyz", "traj", "csv", "saddle")


def export(run_file_path: str | Path, formats: list[str], out_dir: str | Path) -> list[Path]:
    """Write a run file in other formats, as ``REACTION.METHOD.SUFFIX`` in `out_dir`.

    Parameters
    ----------
    run_file_path : path
        Run file to read.
    formats : list of str
        Of ``extxyz`` and ``traj`` (all evaluations), ``csv`` (one row an evaluation), and ``saddle``
        (the answer with its mode, as extxyz).
    out_dir : path
        Folder, made if missing.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        For an unknown format.
    RunFileError
        When the run file can't be read, or a saddle is asked of a search without one.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise InputError(f"--format {unknown[0]}: unknown, choose from {', '.join(FORMATS)}")
    run = read_run_file(run_file_path)
    written = []
    for name in formats:
        suffix = "saddle.xyz" if name == "saddle" else name
        path = Path(out_dir) / f"{run.reaction.name}.{run.method_name}.{suffix}"
        if name == "saddle":
            write_saddle(run, path)
        elif name == "csv":
            write_atomically(path, evaluation_table(run).to_csv(index=False))
        elif name == "extxyz":
            write_atomically(path, _extxyz(trajectory(run)))
        else:
            write_atomically(path, _traj(trajectory(run)))
        written.append(path)
    return written


def trajectory(run: RunFile) -> list[Atoms]:
    """All evaluations in order as ASE atoms with energy and forces; failed ones carry only the error."""
    return [_atoms(run, evaluation) for evaluation in run.evaluations]


def write_saddle(run: RunFile, path: str | Path) -> None:
    """Write the answer of a search as extxyz, atomically.

    Energy and forces come as ASE writes them, the minimum mode as the per-atom array ``mode`` (unit vector),
    and charge, multiplicity, curvature (eV/Angstrom^2), level of theory and origin in the comment line.

    Raises
    ------
    RunFileError
        When the search has no answer.
    """
    if run.answer is None:
        raise RunFileError(
            f"{run.reaction.name}, {run.method_name}: no saddle to write ({run.result.message})"
        )
    atoms = _atoms(run, run.answer)
    facts = {
        "reaction": run.reaction.name,
        "method": run.method_name,
        "outcome": str(run.result.outcome),
        "curvature": run.result.curvature,
        "program": run.engine.get("program", ""),
        "saddleflow": run.versions.get("saddleflow", ""),
    }
    # An empty value would swallow the key after it when the comment line is read.
    atoms.info |= {key: value for key, value in facts.items() if value != ""}
    atoms.set_array("mode", np.asarray(run.result.mode))
    write_atomically(path, _extxyz([atoms]))


def evaluation_table(run: RunFile) -> pd.DataFrame:
    """One row an evaluation.

    Returns
    -------
    pandas.DataFrame
        ``index, purpose, energy_eV, relative_energy_eV`` (to the first evaluation), ``max_force_eV_per_A,
        force_norm_eV_per_A, engine_s, surrogate_s, scf_iterations, spin_square``; of the surrogate's
        prediction ``predicted_energy_eV, energy_sigma_eV, energy_error_eV, force_error_eV_per_A`` (root mean
        square over components), ``force_sigma_eV_per_A``; of the trace ``curvature_eV_per_A2`` and columns
        ``hyperparameter NAME``; ``error``.  Empty cells mean there was nothing.
    """
    import pandas as pd

    first = run.evaluations[0].energy if run.evaluations else float("nan")
    points = {point.evaluation: point for point in run.result.trace}
    rows = []
    for e in run.evaluations:
        row = {
            "index": e.index,
            "purpose": str(e.purpose),
            "energy_eV": e.energy,
            "relative_energy_eV": e.energy - first,
            "max_force_eV_per_A": e.max_atom_force,
            "force_norm_eV_per_A": e.force_norm,
            "engine_s": e.engine_seconds,
            "surrogate_s": e.surrogate_seconds,
            "scf_iterations": e.scf_iterations,
            "spin_square": e.spin_square,
        }
        if e.prediction is not None:
            difference = e.prediction.forces - e.forces
            row |= {
                "predicted_energy_eV": e.prediction.energy,
                "energy_sigma_eV": e.prediction.energy_sigma,
                "energy_error_eV": e.prediction.energy - e.energy,
                "force_error_eV_per_A": float(np.sqrt((difference**2).mean())),
                "force_sigma_eV_per_A": e.prediction.force_sigma,
            }
        if e.index in points:
            row["curvature_eV_per_A2"] = points[e.index].curvature
            row |= {f"hyperparameter {k}": v for k, v in sorted(points[e.index].hyperparameters.items())}
        rows.append(row | {"error": e.error})
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "error"))
    return pd.DataFrame(rows, columns=[*columns, "error"]).astype(
        {"scf_iterations": "Int64", "spin_square": float} if rows else {}
    )


def _atoms(run: RunFile, evaluation: Evaluation) -> Atoms:
    atoms = Atoms(list(run.reaction.symbols), positions=evaluation.positions)
    atoms.info |= {
        "index": evaluation.index,
        "purpose": str(evaluation.purpose),
        "charge": run.reaction.charge,
        "multiplicity": run.reaction.multiplicity,
    }
    if evaluation.error:
        atoms.info["error"] = " ".join(evaluation.error.split())
    else:
        atoms.calc = SinglePointCalculator(atoms, energy=evaluation.energy, forces=evaluation.forces)
    return atoms


def _extxyz(frames: list[Atoms]) -> str:
    import ase.io

    stream = io.StringIO()
    ase.io.write(stream, frames, format="extxyz")
    return stream.getvalue()


def _traj(frames: list[Atoms]) -> bytes:
    import ase.io

    # ASE's trajectory writer wants a real file to seek in.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.traj"
        ase.io.write(path, frames, format="traj")
        return path.read_bytes()
