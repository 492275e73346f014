"""From run file to verification file: whether the answer of a search really is a first-order saddle.

Nothing here trusts the search: the stored forces are measured again, energy and forces are computed again by
a fresh engine, and the number of negative modes comes from a Hessian.  What can't be checked is `not_run`.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import EngineUnavailable, GeometryError, InputError, ScfError, one_line
from saddleflow.evaluation import SAME_STATE, Engine, Evaluation, Purpose
from saddleflow.provenance import machine, now, versions
from saddleflow.run_file import RunFile, force_measure, read_run_file
from saddleflow.settings import Convergence, Verification
from saddleflow.settings import Engine as EngineSettings
from saddleflow.verification_file import Status, VerificationRecord, read_verification, write_verification
from saddleflow.verification_levels import (
    analytic_hessian,
    hessian_by_differences,
    judged_by_curvature,
    judged_by_hessian,
    judged_by_index,
)

__all__ = ["Status", "VerificationRecord", "read_verification", "verify"]

# Geometries of the search's path along which a lost electronic state is sought again, at most.
WAYPOINTS = 6


def verify(
    run_file_path: str | Path,
    settings: Verification,
    output: str | Path,
    journal: str | Path | None,
    engine: Engine | None = None,
) -> VerificationRecord:
    """Verify one search and write the verification file.

    Parameters
    ----------
    run_file_path : path
        Run file of a search that ended.
    settings : settings.Verification
        Level and steps.
    output : path
        Verification file, written by atomic rename.
    journal : path or None
        Journal of a verification under way; taken up if it exists, removed at the end.
    engine : Engine, optional
        Instead of the one that the run file's settings name (for searches made from Python); is closed.

    Returns
    -------
    VerificationRecord
        What was written.

    Raises
    ------
    RunFileError
        When the run file can't be read.
    EngineCrashed, EngineTimeout
        Faults of the machine: the journal stays, the same call goes on from there.
    """
    run = read_run_file(run_file_path)
    record = _judged_by_stored_forces(run, settings)
    if record.reason or settings.level == "none":
        reason = record.reason or "switched off (verification.level: none)"
        record = replace(record, reason=reason)
        write_verification(output, record)
        return record
    try:
        engine = engine or create_engine(EngineSettings.model_validate(run.engine), run.reaction)
    except (EngineUnavailable, InputError, ValidationError) as error:
        record = replace(record, reason=f"the engine can't be used here: {one_line(error)}")
        write_verification(output, record)
        return record
    key = {
        "positions": run.answer.positions.tolist(),
        "engine": run.engine,
        "settings": settings.model_dump(mode="json"),
    }
    header = {"reaction": run.reaction.name, "method": run.method_name, "task": "verification"}
    path = None if journal is None else Path(journal)
    budget = 6 * len(run.reaction.symbols) + 50
    ledger, finished = Ledger(engine, path, key, budget, header, wait=True), False
    try:
        try:
            record = _judged_by_engine(ledger, run, settings, record)
        except (ScfError, GeometryError, InputError) as error:
            record = replace(record, reason=f"{type(error).__name__}: {one_line(error)}")
        record = replace(
            record,
            calls=len(ledger.evaluations),
            seconds=ledger.engine_seconds + record.hessian_seconds,
            provenance=engine.provenance(),
        )
        write_verification(output, record)
        finished = True
    finally:
        ledger.close(remove_journal=finished)
    return record


def _judged_by_stored_forces(run: RunFile, settings: Verification) -> VerificationRecord:
    """Record with what the run file alone tells; a reason in it is final."""
    record = VerificationRecord(
        reaction=run.reaction.name,
        method=run.method_name,
        status=Status.NOT_RUN,
        reason="",
        level=settings.level,
        symbols=run.reaction.symbols,
        positions=run.reaction.positions if run.answer is None else run.answer.positions,
        settings=settings.model_dump(mode="json"),
        machine=machine(),
        versions=versions(),
        created=now(),
    )
    if not run.converged:
        return replace(record, reason=f"the search did not converge ({run.result.outcome})")
    if run.answer is None:
        return replace(record, status=Status.FAILED, reason="the search names no evaluation as its answer")
    convergence = Convergence.model_validate(run.method.get("convergence", {}))
    force = force_measure(run.answer.forces, convergence.criterion)
    record = replace(record, stored_force=force, forces_checked=force < convergence.threshold)
    if not record.forces_checked:
        reason = f"{convergence.criterion} of the stored forces is {force:.4f} eV/A, not below "
        return replace(record, status=Status.FAILED, reason=reason + f"{convergence.threshold:g}")
    return record


def _judged_by_engine(
    ledger: Ledger, run: RunFile, settings: Verification, record: VerificationRecord
) -> VerificationRecord:
    """Verdict from new evaluations."""
    point = _same_state(ledger, run)
    difference = point.energy - run.answer.energy
    record = replace(
        record,
        energy_difference=difference,
        force_difference=float(np.abs(point.forces - run.answer.forces).max()),
    )
    if difference < -SAME_STATE:
        reason = f"the molecule has an electronic state {-difference:.4f} eV lower than the one searched on"
        return replace(record, status=Status.FAILED, reason=reason)
    if difference > SAME_STATE:
        reason = f"the electronic state of the search was not found again ({difference:.4f} eV too high)"
        return replace(record, reason=reason)
    convergence = Convergence.model_validate(run.method.get("convergence", {}))
    force = force_measure(point.forces, convergence.criterion)
    if force > 1.5 * convergence.threshold:
        reason = f"a new evaluation gives {convergence.criterion} {force:.4f} eV/A at the stored geometry"
        return replace(record, status=Status.FAILED, reason=reason)
    if settings.level == "curvature":
        return judged_by_curvature(ledger, run, settings, record, point)
    hessian, undecided = None, ""
    # A proof that the search has paid for already is taken up rather than made by other means again.
    proved = len(run.evaluations) > run.proved_from
    by_products = settings.level == "index" or (settings.level == "auto" and proved)
    if not by_products:
        record, hessian = analytic_hessian(ledger, point.positions, record)
    if settings.level in ("auto", "index") and hessian is None:
        judged, undecided = judged_by_index(ledger, run, settings, record, point)
        if not undecided:
            return judged
    if by_products:
        record, hessian = analytic_hessian(ledger, point.positions, record)
    if hessian is None:
        record, hessian = hessian_by_differences(ledger, run, settings, record, point)
    record = replace(record, level="hessian")
    if hessian is None:
        return record
    record = judged_by_hessian(run, settings, record, point, hessian)
    if undecided:
        after = f"full Hessian, as {undecided}"
        record = replace(record, reason=f"{record.reason}; {after}" if record.reason else after)
    return record


def _same_state(ledger: Ledger, run: RunFile) -> Evaluation:
    """Evaluation of the answer; if its electronic state comes out too high, along the path of the search."""
    answer = run.answer
    point = ledger.evaluate(answer.positions, Purpose.VERIFICATION)
    if point.energy - answer.energy <= SAME_STATE:
        return point
    # Where a state was found by the look at all starts that ended another search, that point is the first.
    path = [
        e.positions
        for e in run.evaluations[run.first_on_state : answer.index]
        if (e.purpose in (Purpose.SEARCH, Purpose.STATE) or e.index == run.first_on_state) and not e.error
    ]
    ledger.engine.restore(b"")
    for index in np.unique(np.linspace(0, len(path) - 1, min(WAYPOINTS, len(path))).astype(int)):
        with contextlib.suppress(ScfError):  # the next one may do
            ledger.evaluate(path[index], Purpose.VERIFICATION)
    return ledger.evaluate(answer.positions, Purpose.VERIFICATION)
