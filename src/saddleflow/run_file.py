"""The run file: one search with everything that it saw, as HDF5.  docs/run_file.md describes the layout.

Numbers round-trip bit for bit.  A file appears by atomic rename, so it is complete or absent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from saddleflow import __version__
from saddleflow.errors import RunFileError
from saddleflow.evaluation import Evaluation, Outcome, Prediction, Purpose, SearchResult, TracePoint
from saddleflow.files import get_texts, open_hdf5, put_array, put_texts, write_hdf5
from saddleflow.reaction import Reaction

SCHEMA = "run/1"
ENERGY, LENGTH, FORCE, CURVATURE, TIME = "eV", "angstrom", "eV/angstrom", "eV/angstrom^2", "s"
REMEDY = "restore it from a copy, or move it away and run the search again"


@dataclass(frozen=True)
class RunFile:
    """One search that ended, whatever its outcome.

    Parameters
    ----------
    reaction : Reaction
        What was searched, with the start geometry as it was read.
    method_name : str
        Name of the method or of its block in the configuration.
    method, engine : dict
        Resolved settings (``model_dump`` of the pydantic models).
    provenance : dict
        What the engine says about itself: program, version, level of theory.
    evaluations : list of Evaluation
        In the order they were made; ``index`` counts from 0.
    result : SearchResult
        Outcome, answer and trace.
    seed : int
        Seed of the start direction.
    wall_seconds, engine_seconds, surrogate_seconds : float
        Wall time of the search, of it inside the engine, and of it in the surrogate.
    machine, versions : dict
        Where it ran, and with which packages.
    created : str
        Time of the end, ISO 8601 with zone.
    """

    reaction: Reaction
    method_name: str
    method: dict
    engine: dict
    provenance: dict
    evaluations: list[Evaluation]
    result: SearchResult
    seed: int = 0
    wall_seconds: float = 0.0
    engine_seconds: float = 0.0
    surrogate_seconds: float = 0.0
    machine: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    created: str = ""

    @property
    def answer(self) -> Evaluation | None:
        """Evaluation that the search gives as its answer, or None."""
        index = self.result.evaluation
        return self.evaluations[index] if 0 <= index < len(self.evaluations) else None

    @property
    def first_on_state(self) -> int:
        """Index of the first evaluation on the electronic state of the answer; see engines/state_watch."""
        return max((record.get("first", 0) for record in self.provenance.get("states", [])), default=0)

    @property
    def proved_from(self) -> int:
        """Index of the first evaluation that the search made no use of: from there on they prove its answer.

        What proved an earlier answer, from which the search then went on, belongs to the search.
        """
        last = max((e.index for e in self.evaluations if e.purpose is not Purpose.VERIFICATION), default=-1)
        return max(last, self.result.evaluation) + 1

    @property
    def converged(self) -> bool:
        """True if the search says so; see :func:`validate_run_file` for whether the stored forces agree."""
        return self.result.outcome is Outcome.CONVERGED

    def calls(self, purpose: Purpose | None = None) -> int:
        """Number of evaluations, failed ones included, of one purpose, or of the search without its proof."""
        if purpose is None:
            return self.proved_from
        return sum(evaluation.purpose == purpose for evaluation in self.evaluations)


def force_measure(forces: np.ndarray, criterion: str) -> float:
    """Residual force in eV/Angstrom as the convergence `criterion` measures it (forces of shape (N, 3)).

    Raises
    ------
    ValueError
        For an unknown criterion.
    """
    if criterion == "max_atom_force":
        return float(np.sqrt((np.asarray(forces) ** 2).sum(axis=1)).max())
    if criterion == "force_norm":
        return float(np.sqrt((np.asarray(forces) ** 2).sum()))
    raise ValueError(f"unknown convergence criterion {criterion!r}")


def write_run_file(path: str | Path, run_file: RunFile) -> None:
    """Write `run_file` atomically and durably to `path`.

    Raises
    ------
    RunFileError
        When `run_file` contradicts itself (shapes, indices), before anything is written.
    OSError
        When the disk refuses; the target is as it was and no temporary file is left.
    """
    problems = _structural_problems(run_file)
    if problems:
        raise RunFileError(f"{path}: not written: {problems[0]}")
    write_hdf5(path, SCHEMA, lambda file: _fill(file, run_file))


def read_run_file(path: str | Path) -> RunFile:
    """Read and check a run file.

    Raises
    ------
    RunFileError
        When the file is missing, truncated, damaged, of another schema version, or contradicts itself.
    """
    with open_hdf5(path, SCHEMA, REMEDY) as file:
        run_file = _collect(file)
    problems = _structural_problems(run_file)
    if problems:
        raise RunFileError(f"{path}: {problems[0]}; {REMEDY}")
    return run_file


def validate_run_file(path: str | Path) -> list[str]:
    """Problems of a run file, one line each; empty when it is complete and true to itself.

    Beyond what :func:`read_run_file` insists on, a claimed convergence is checked against the stored forces
    and the threshold in the stored settings.
    """
    try:
        with open_hdf5(path, SCHEMA, REMEDY) as file:
            run_file = _collect(file)
    except RunFileError as error:
        return [str(error)]
    problems = _structural_problems(run_file)
    return [f"{path}: {problem}" for problem in problems or _claim_problems(run_file)]


def _structural_problems(run: RunFile) -> list[str]:
    """Shapes, indices and numbers that make the content unusable."""
    problems = []
    n = len(run.reaction.symbols)
    atoms, count = (n, 3), len(run.evaluations)
    if np.shape(run.reaction.positions) != atoms:
        problems.append(f"start positions have shape {np.shape(run.reaction.positions)}, not {atoms}")
    for row, evaluation in enumerate(run.evaluations):
        where = f"evaluation {row}"
        if evaluation.index != row:
            problems.append(f"{where} carries the index {evaluation.index}")
        for name in ("positions", "forces"):
            shape = np.shape(getattr(evaluation, name))
            if shape != atoms:
                problems.append(f"{where}: {name} have shape {shape}, not {atoms}")
        if evaluation.prediction is not None and np.shape(evaluation.prediction.forces) != atoms:
            problems.append(f"{where}: predicted forces have another shape than {atoms}")
        if not evaluation.error and not (
            np.isfinite(evaluation.energy)
            and np.isfinite(evaluation.forces).all()
            and np.isfinite(evaluation.positions).all()
        ):
            problems.append(f"{where} has numbers that are not finite although it carries no error")
    result = run.result
    if not -1 <= result.evaluation < count:
        problems.append(f"the answer is evaluation {result.evaluation} of {count}")
    elif result.evaluation >= 0 and run.evaluations[result.evaluation].error:
        problems.append(f"the answer, evaluation {result.evaluation}, is one that failed")
    if np.shape(result.mode) != atoms:
        problems.append(f"the mode has shape {np.shape(result.mode)}, not {atoms}")
    if result.hessian is not None and np.shape(result.hessian) != (3 * n, 3 * n):
        problems.append(f"the Hessian has shape {np.shape(result.hessian)}, not {(3 * n, 3 * n)}")
    for row, point in enumerate(result.trace):
        if not 0 <= point.evaluation < count:
            problems.append(f"trace point {row} belongs to evaluation {point.evaluation} of {count}")
        if np.shape(point.mode) != atoms:
            problems.append(f"the mode of trace point {row} has shape {np.shape(point.mode)}, not {atoms}")
    return problems


def _claim_problems(run: RunFile) -> list[str]:
    """Where a claim of the search disagrees with what is stored."""
    if not run.converged:
        return []
    if run.answer is None:
        return ["the outcome is converged, but no evaluation is named as the answer"]
    convergence = run.method.get("convergence", {})
    if not {"criterion", "threshold"} <= set(convergence):
        return ["the outcome is converged, but the settings hold no convergence threshold"]
    force = force_measure(run.answer.forces, convergence["criterion"])
    problems = []
    if not force < convergence["threshold"]:
        problems.append(
            f"the outcome is converged, but {convergence['criterion']} of the answer is {force:.6f} eV/A, "
            f"not below {convergence['threshold']:g}"
        )
    if abs(np.linalg.norm(run.result.mode) - 1.0) > 1e-6:
        problems.append(f"the mode has length {np.linalg.norm(run.result.mode):.6f}, not 1")
    return problems


def _fill(file: h5py.File, run: RunFile) -> None:
    result, reaction, shape = run.result, run.reaction, (-1, len(run.reaction.symbols), 3)
    file.attrs.update(
        saddleflow_version=__version__,
        created=run.created,
        reaction=reaction.name,
        method=run.method_name,
        charge=reaction.charge,
        multiplicity=reaction.multiplicity,
        seed=str(run.seed),
        outcome=str(result.outcome),
        message=result.message,
        wall_seconds=float(run.wall_seconds),
        engine_seconds=float(run.engine_seconds),
        surrogate_seconds=float(run.surrogate_seconds),
    )
    settings = file.create_group("settings")
    for name in ("method", "engine", "provenance", "machine", "versions"):
        put_texts(settings, name, _json(getattr(run, name)))

    group = file.create_group("reaction")
    group.attrs["source"] = reaction.source
    put_texts(group, "symbols", list(reaction.symbols))
    put_array(group, "numbers", reaction.numbers)
    put_array(group, "positions", reaction.positions, LENGTH)
    if reaction.start_direction is not None:
        put_array(group, "start_direction", reaction.start_direction)
    if reaction.difference is not None:
        put_array(group, "difference", reaction.difference, LENGTH)

    rows = run.evaluations
    nan = float("nan")
    nothing = Prediction(nan, np.full(shape[1:], nan))
    predictions = [nothing if row.prediction is None else row.prediction for row in rows]
    group = file.create_group("evaluations")
    put_array(group, "positions", _stack([row.positions for row in rows], shape), LENGTH)
    put_array(group, "energy", _stack([row.energy for row in rows]), ENERGY)
    put_array(group, "forces", _stack([row.forces for row in rows], shape), FORCE)
    put_texts(group, "purpose", [str(row.purpose) for row in rows])
    put_array(group, "engine_seconds", _stack([row.engine_seconds for row in rows]), TIME)
    put_array(group, "surrogate_seconds", _stack([row.surrogate_seconds for row in rows]), TIME)
    iterations = [-1 if row.scf_iterations is None else row.scf_iterations for row in rows]
    put_array(group, "scf_iterations", np.array(iterations, np.int64))
    put_array(
        group, "spin_square", _stack([nan if row.spin_square is None else row.spin_square for row in rows])
    )
    put_texts(group, "error", [row.error for row in rows])
    put_texts(group, "notes", [_json(row.notes) for row in rows])
    put_array(group, "predicted", np.array([row.prediction is not None for row in rows], bool))
    put_array(group, "predicted_energy", _stack([p.energy for p in predictions]), ENERGY)
    put_array(group, "predicted_forces", _stack([p.forces for p in predictions], shape), FORCE)
    put_array(group, "predicted_energy_sigma", _stack([p.energy_sigma for p in predictions]), ENERGY)
    put_array(group, "predicted_force_sigma", _stack([p.force_sigma for p in predictions]), FORCE)

    points = result.trace
    names = sorted({name for point in points for name in point.hyperparameters})
    columns = [[point.hyperparameters.get(name, nan) for name in names] for point in points]
    group = file.create_group("trace")
    put_array(group, "evaluation", np.array([point.evaluation for point in points], np.int64))
    put_array(group, "mode", _stack([point.mode for point in points], shape))
    put_array(group, "curvature", _stack([point.curvature for point in points]), CURVATURE)
    put_texts(group, "hyperparameter_names", names)
    put_array(group, "hyperparameters", np.array(columns, float).reshape(len(points), len(names)))
    put_texts(group, "notes", [_json(point.notes) for point in points])

    group = file.create_group("result")
    group.attrs["evaluation"] = result.evaluation
    put_array(group, "mode", np.asarray(result.mode, float))
    put_array(group, "curvature", np.float64(result.curvature), CURVATURE)
    if result.hessian is not None:
        put_array(group, "hessian", np.asarray(result.hessian, float), CURVATURE)


def _json(value: dict) -> str:
    # Notes come from many hands; a numpy scalar among them must not cost the search its run file.
    return json.dumps(value, sort_keys=True, default=lambda item: np.asarray(item).tolist())


def _stack(values: list, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    array = np.array(values, float)
    return array.reshape((0, *shape[1:])) if array.size == 0 else array.reshape(shape)


def _collect(file: h5py.File) -> RunFile:
    attributes = file.attrs
    if attributes["outcome"] not in set(Outcome):
        raise ValueError(f"unknown outcome {attributes['outcome']!r}")
    settings = {name: json.loads(file["settings"][name].asstr()[()]) for name in file["settings"]}
    group = file["reaction"]
    reaction = Reaction(
        name=str(attributes["reaction"]),
        symbols=tuple(get_texts(group, "symbols")),
        positions=group["positions"][...],
        charge=int(attributes["charge"]),
        multiplicity=int(attributes["multiplicity"]),
        start_direction=group["start_direction"][...] if "start_direction" in group else None,
        difference=group["difference"][...] if "difference" in group else None,
        source=str(group.attrs["source"]),
    )
    group = file["result"]
    result = SearchResult(
        outcome=Outcome(attributes["outcome"]),
        message=str(attributes["message"]),
        evaluation=int(group.attrs["evaluation"]),
        mode=group["mode"][...],
        curvature=float(group["curvature"][()]),
        trace=tuple(_collect_trace(file["trace"])),
        hessian=group["hessian"][...] if "hessian" in group else None,
    )
    return RunFile(
        reaction=reaction,
        method_name=str(attributes["method"]),
        evaluations=_collect_evaluations(file["evaluations"]),
        result=result,
        seed=int(attributes["seed"]),
        wall_seconds=float(attributes["wall_seconds"]),
        engine_seconds=float(attributes["engine_seconds"]),
        surrogate_seconds=float(attributes["surrogate_seconds"]),
        created=str(attributes["created"]),
        **{name: settings[name] for name in ("method", "engine", "provenance", "machine", "versions")},
    )


def _columns(group: h5py.Group, texts: tuple[str, ...]) -> dict:
    """All datasets of a table-like group; every one must have the same number of rows."""
    columns = {name: get_texts(group, name) if name in texts else group[name][...] for name in group}
    lengths = {name: len(column) for name, column in columns.items() if name != "hyperparameter_names"}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of {group.name} differ in length: {lengths}")
    return columns


def _collect_evaluations(group: h5py.Group) -> list[Evaluation]:
    c = _columns(group, ("purpose", "error", "notes"))
    return [
        Evaluation(
            index=i,
            purpose=Purpose(c["purpose"][i]),
            positions=c["positions"][i],
            energy=float(c["energy"][i]),
            forces=c["forces"][i],
            engine_seconds=float(c["engine_seconds"][i]),
            surrogate_seconds=float(c["surrogate_seconds"][i]),
            scf_iterations=None if c["scf_iterations"][i] < 0 else int(c["scf_iterations"][i]),
            spin_square=None if np.isnan(c["spin_square"][i]) else float(c["spin_square"][i]),
            notes=json.loads(c["notes"][i]),
            error=c["error"][i],
            prediction=Prediction(
                energy=float(c["predicted_energy"][i]),
                forces=c["predicted_forces"][i],
                energy_sigma=float(c["predicted_energy_sigma"][i]),
                force_sigma=float(c["predicted_force_sigma"][i]),
            )
            if c["predicted"][i]
            else None,
        )
        for i in range(len(c["energy"]))
    ]


def _collect_trace(group: h5py.Group) -> list[TracePoint]:
    c = _columns(group, ("notes", "hyperparameter_names"))
    names = c["hyperparameter_names"]
    return [
        TracePoint(
            evaluation=int(c["evaluation"][i]),
            mode=c["mode"][i],
            curvature=float(c["curvature"][i]),
            hyperparameters={
                name: float(value)
                for name, value in zip(names, c["hyperparameters"][i], strict=True)
                if not np.isnan(value)
            },
            notes=json.loads(c["notes"][i]),
        )
        for i in range(len(c["evaluation"]))
    ]
