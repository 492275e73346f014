"""One search from reaction to run file: wires engine, ledger and search."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from saddleflow import sparrow
from saddleflow.analysis.export import write_saddle
from saddleflow.engines.ase_calculator import AseEngine
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.engines.state_watch import StateChanged, StateWatch
from saddleflow.errors import GeometryError, InputError, RunFileError, ScfError
from saddleflow.evaluation import (
    Engine,
    Evaluation,
    Outcome,
    Purpose,
    SearchResult,
    SearchStopped,
    TracePoint,
)
from saddleflow.going_on import departure, proof_at
from saddleflow.provenance import machine, now, versions
from saddleflow.reaction import Reaction, check_reaction
from saddleflow.run_file import RunFile, read_run_file, write_run_file
from saddleflow.searches.base import guard_dissociation, interrupted, is_converged, residual
from saddleflow.searches.catalogue import SEARCHES
from saddleflow.searches.start_direction import start_direction
from saddleflow.settings import AnyMethod, Method, Settings
from saddleflow.settings import Engine as EngineSettings
from saddleflow.settings_resolution import resolve_methods
from saddleflow.surrogate.learned_prior import read_learned_prior
from saddleflow.surrogate.surface_parameters import read_surface_parameters, shipped_for

Progress = Callable[[Evaluation], None]


def run_search(
    reaction_json: Path,
    method_json: Path,
    output: Path,
    journal: Path,
    progress: Progress | None = None,
    learned_prior: Path | None = None,
) -> Outcome:
    """Carry out one search and write its run file (and the saddle beside it).

    Parameters
    ----------
    reaction_json, method_json : Path
        Inputs as preflight wrote them.
    output : Path
        Run file, written by atomic rename when the search has ended.
    journal : Path
        Journal of the running search; it is taken up if it exists and removed at the end.
    progress : callable, optional
        Called with each new evaluation.
    learned_prior : Path, optional
        What finished searches taught; for methods with that setting.

    Returns
    -------
    Outcome
        How the search ended; every outcome is a result.

    Raises
    ------
    SaddleflowError
        Only for faults of the machine or the input; the journal keeps what was evaluated.
    """
    reaction = Reaction.from_dict(json.loads(Path(reaction_json).read_text()))
    specification = json.loads(Path(method_json).read_text())
    if learned_prior is not None:
        specification["method"] = specification["method"] | {"learned_prior": str(learned_prior)}
    method = TypeAdapter(AnyMethod).validate_python(specification["method"])
    engine_settings = EngineSettings.model_validate(specification["engine"])
    engine = create_engine(engine_settings, reaction)
    ledger = Ledger(
        engine,
        Path(journal),
        key=_key(reaction, specification),
        max_calls=method.max_calls,
        header={"reaction": reaction.name, "method": specification["name"], "machine": platform.node()},
        on_evaluation=progress,
        wait=True,
    )
    finished = False
    try:
        if ledger.waited and (done := _same_search(Path(output), reaction, specification)) is not None:
            finished = True
            return done
        fitted = fitted_parameters(specification, reaction)
        run = carry_out(ledger, reaction, specification["name"], method, specification["engine"], fitted)
        try:
            write_run_file(Path(output), run)
            _write_saddle(run, Path(output).with_suffix(".xyz"))
        except OSError as error:
            raise RunFileError(
                f"{output}: can't be written ({error.strerror or error}); make room or change permissions "
                f"and start again: no evaluation is lost, {journal} has them all"
            ) from error
        finished = True
    finally:
        ledger.close(remove_journal=finished)
    return run.result.outcome


def _key(reaction: Reaction, specification: dict) -> dict:
    """What the evaluations of a search depend on: not on where a file lay, or how long a call may take."""
    structure = {name: value for name, value in reaction.to_dict().items() if name != "source"}
    engine = specification["engine"]
    level = {name: value for name, value in engine.items() if name not in EngineSettings.resource_keys}
    key = {"reaction": structure, "method": specification["method"], "engine": level}
    if fitted := fitted_parameters(specification, reaction):
        key["surface_parameters"] = read_surface_parameters(fitted).digest
    if learned := specification["method"].get("learned_prior"):
        # Another content under the same name makes other geometries, which no journal can answer.
        key["learned_prior"] = read_learned_prior(learned).sources
    return key


def fitted_parameters(specification: dict, reaction: Reaction) -> str:
    """Which parameters of the cheap surfaces a search takes; ``""``: the published ones."""
    method = specification["method"]
    asked = method.get("surface_parameters", "published")
    if asked != "auto":
        return "" if asked == "published" else asked
    if method["prior"] != "auto" or method["learned_prior"] or not sparrow.available():
        return ""
    if reaction.multiplicity > 1:
        return ""  # two of 59 were lost with them, of 133 closed shells none
    level = EngineSettings.model_validate(specification["engine"]).level
    return shipped_for(level, reaction.numbers.tolist())


def _same_search(output: Path, reaction: Reaction, specification: dict) -> Outcome | None:
    """Outcome of the run file that another process has just written, if it is of this very search."""
    try:
        run = read_run_file(output)
    except RunFileError:
        return None
    theirs = {"name": run.method_name, "method": run.method, "engine": run.engine}
    same = _key(run.reaction, theirs) == json.loads(json.dumps(_key(reaction, specification)))
    return run.result.outcome if same else None


def _write_saddle(run: RunFile, path: Path) -> None:
    """Put the saddle beside its run file; one of an earlier search that this one did not find again goes."""
    if run.result.outcome is Outcome.CONVERGED:
        write_saddle(run, path)
    else:
        path.unlink(missing_ok=True)


def carry_out(
    ledger: Ledger, reaction: Reaction, name: str, method: Method, engine: dict, fitted: str = ""
) -> RunFile:
    """Search with an open ledger and gather everything that a run file holds.

    Parameters
    ----------
    ledger : Ledger
        Counts and journals the evaluations.
    reaction : Reaction
        Where to start.
    name : str
        Name of the method or variant.
    method : Method
        Its settings; ``algorithm`` picks the search.
    engine : dict
        Engine settings, for the record.
    fitted : str
        Parameters of the cheap surfaces, by name or file, in place of what the method says.
    """
    asked = method
    if hasattr(method, "surface_parameters"):
        method = method.model_copy(update={"surface_parameters": fitted or "published"})
    trace: list[TracePoint] = []
    of_other_states: list[TracePoint] = []
    direction = np.zeros_like(reaction.positions)
    watch = StateWatch(ledger)

    def evaluate(positions, purpose=Purpose.SEARCH, prediction=None):
        guard_dissociation(positions, reaction.positions, method.dissociation_gap)
        return watch.evaluate(positions, purpose, prediction)

    def stopped(outcome: Outcome, message: str) -> SearchResult:
        return interrupted(outcome, message, ledger.evaluations, trace, direction, watch.first)

    def begin_on_state_of(first: Evaluation) -> None:
        # No search may look back at another state; a reader of the run file may.
        of_other_states.extend(trace)
        trace.clear()
        watch.begin(first)

    def searched(here: Reaction, how: Method) -> SearchResult:
        nonlocal direction
        while True:
            try:
                result = SEARCHES[method.algorithm](evaluate, here, how, direction, trace)
                return _checked(result, ledger.evaluations, method)
            except StateChanged as change:
                # No surrogate may mix two states: the search begins again where the lower one was found.
                here = replace(reaction, positions=change.evaluation.positions)
                how = without_preparation(method)
                direction = trace[-1].mode if trace else direction
                begin_on_state_of(change.evaluation)

    try:
        if method.starts_along_direction:
            direction = start_direction(reaction, method.start)
        result = searched(reaction, method)
        for _ in range(method.go_on):
            if result.outcome is not Outcome.CONVERGED:
                break
            before = result
            if (lower := watch.lower_state(result.evaluation)) is not None:
                positions, direction = lower.positions, result.mode
                begin_on_state_of(lower)
            elif (way := _way_on(ledger, reaction, result)) is not None:
                positions, direction = way
            else:
                break
            try:
                result = searched(replace(reaction, positions=positions), without_preparation(method))
            except (SearchStopped, ScfError, GeometryError):
                if before.evaluation < watch.first:
                    raise
                break
            if result.outcome is not Outcome.CONVERGED and before.evaluation >= watch.first:
                result = before
                break
    except SearchStopped as stop:
        result = stopped(stop.outcome, stop.message)
    except ScfError as error:
        result = stopped(Outcome.SCF_FAILED, str(error))
    except GeometryError as error:
        result = stopped(Outcome.GEOMETRY_FAILED, str(error))
    surrogate_seconds = ledger.surrogate_seconds
    return RunFile(
        reaction=reaction,
        method_name=name,
        method=asked.model_dump(mode="json"),
        engine=engine,
        provenance=ledger.engine.provenance() | ({"states": watch.records} if watch.records else {}),
        evaluations=list(ledger.evaluations),
        result=replace(result, trace=(*of_other_states, *result.trace)),
        seed=method.start.seed,
        wall_seconds=ledger.engine_seconds + surrogate_seconds,
        engine_seconds=ledger.engine_seconds,
        surrogate_seconds=surrogate_seconds,
        machine=machine(),
        versions=versions(),
        created=now(),
    )


def _way_on(ledger: Ledger, reaction: Reaction, result: SearchResult) -> tuple[np.ndarray, np.ndarray] | None:
    """Where to search on from a converged point that is no first-order saddle, by a few more calls."""
    proof = proof_at(ledger, reaction, result)
    if proof is None:
        return None
    position = ledger.evaluations[result.evaluation].positions
    return departure(proof, position, reaction.positions, result.mode)


def without_preparation(method: Method) -> Method:
    """The same search from where it is: the guess is neither displaced nor relaxed once more."""
    changes: dict = {
        "start": method.start.model_copy(update={"displacement": 0.0, "random_displacement": 0.0})
    }
    if hasattr(method, "relaxation_distance"):
        changes["relaxation_distance"] = 0.0
    return method.model_copy(update=changes)


def _checked(result: SearchResult, evaluations: list[Evaluation], method: Method) -> SearchResult:
    """Let the stored forces, not the search, say that a point is stationary."""
    if result.outcome is not Outcome.CONVERGED:
        return result
    answer = evaluations[result.evaluation]
    if is_converged(answer, method.convergence):
        return result
    message = f"the search ended at {residual(answer, method.convergence):.4f} eV/Angstrom: not converged"
    return replace(result, outcome=Outcome.STALLED, message=message)


def search(
    atoms, calculator, method: str = "prior-gp-dimer", charge: int = 0, multiplicity: int = 1, **options
) -> RunFile:
    """Search one molecule from Python, without Snakemake and without files.

    Parameters
    ----------
    atoms : ase.Atoms
        Guessed transition state.
    calculator : ase.calculators.calculator.Calculator
        Any ASE calculator with energies and forces.
    method : str
        Built-in method.
    charge, multiplicity : int
        For the cheap surfaces of the prior and of start directions; the calculator has its own.
    **options
        Settings of the method, such as ``max_calls=100`` or ``start={"direction": "random"}``.

    Returns
    -------
    RunFile
        Everything a run file holds; ``write_run_file(path, run)`` stores it.

    Raises
    ------
    InputError
        For an unknown method or option, or a molecule that can't be searched, such as a single atom.
    """
    reaction = Reaction(
        name=atoms.get_chemical_formula(),
        symbols=tuple(atoms.get_chemical_symbols()),
        positions=atoms.get_positions(),
        charge=charge,
        multiplicity=multiplicity,
        source="Python",
    )
    if problems := check_reaction(reaction):
        raise InputError(problems)
    asked = {"search": options | {"algorithm": method}}
    settings = resolve_methods(Settings(methods=["search"], method_settings=asked))["search"]
    engine: Engine = AseEngine.around(calculator, reaction)
    ledger = Ledger(engine, None, key={}, max_calls=settings.max_calls)
    try:
        return carry_out(ledger, reaction, method, settings, {"program": "ase"})
    finally:
        ledger.close()
