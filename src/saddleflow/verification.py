"""From run file to verification file: whether the answer of a search really is a first-order saddle.

Nothing here trusts the search: the stored forces are measured again, energy and forces are computed again by
a fresh engine, and the number of negative modes comes from a Hessian.  What can't be checked is `not_run`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import EngineUnavailable, GeometryError, InputError, SaddleflowError, ScfError
from saddleflow.evaluation import Engine, Evaluation, Purpose
from saddleflow.lowest_curvature import lowest_mode_by_products
from saddleflow.provenance import machine, now, versions
from saddleflow.run_file import RunFile, force_measure, read_run_file
from saddleflow.searches.start_direction import lowest_mode
from saddleflow.settings import Convergence, Verification
from saddleflow.settings import Engine as EngineSettings
from saddleflow.verification_file import Status, VerificationRecord, read_verification, write_verification
from saddleflow.vibrations import (
    assemble_hessian,
    changed_bonds,
    difference_products,
    internal_directions,
    vibrational_analysis,
)
from saddleflow.xtb import XTB

__all__ = ["Status", "VerificationRecord", "read_verification", "verify"]

# Energies of the same electronic state differ by less than this between two SCFs, eV.
SAME_STATE = 1e-3
# Gradients that differ by more than this in one Hessian element can't be of one electronic state, eV/A^2.
LARGEST_ASYMMETRY = 1.0
# No bond is stiffer than this, eV/A^2; a displaced energy beyond it belongs to another electronic state.
STIFFEST = 500.0
# Level `curvature`: the repeated point, products by forward differences, and the last mode by central ones.
CURVATURE_PRODUCTS = 5
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
        record = replace(record, reason=f"the engine can't be used here: {_line(error)}")
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
            record = replace(record, reason=f"{type(error).__name__}: {_line(error)}")
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
        return _judged_by_curvature(ledger, run, settings, record, point)
    return _judged_by_hessian(ledger, run, settings, record, point)


def _same_state(ledger: Ledger, run: RunFile) -> Evaluation:
    """Evaluation of the answer; if its electronic state comes out too high, along the path of the search."""
    answer = run.answer
    point = ledger.evaluate(answer.positions, Purpose.VERIFICATION)
    if point.energy - answer.energy <= SAME_STATE:
        return point
    path = [
        e.positions for e in run.evaluations[: answer.index] if e.purpose is Purpose.SEARCH and not e.error
    ]
    ledger.engine.restore(b"")
    for index in np.unique(np.linspace(0, len(path) - 1, min(WAYPOINTS, len(path))).astype(int)):
        ledger.evaluate(path[index], Purpose.VERIFICATION)
    return ledger.evaluate(answer.positions, Purpose.VERIFICATION)


def _judged_by_hessian(
    ledger: Ledger, run: RunFile, settings: Verification, record: VerificationRecord, point: Evaluation
) -> VerificationRecord:
    """Count the negative modes of the full Hessian."""
    symbols, positions = run.reaction.symbols, point.positions
    hessian = None
    started = time.perf_counter()
    # A journal that already holds displaced points says that there is no analytic Hessian.
    if ledger.replayed <= len(ledger.evaluations):
        hessian = ledger.engine.hessian(positions)
    if hessian is not None:
        seconds = time.perf_counter() - started
        record = replace(record, hessian_source="analytic", hessian_seconds=seconds)
    else:
        directions = internal_directions(positions, symbols)
        first = len(ledger.evaluations)
        products = difference_products(
            lambda x: ledger.evaluate(x, Purpose.VERIFICATION).gradient,
            positions,
            directions,
            settings.displacement,
        )
        hessian, asymmetry = assemble_hessian(directions, products, symbols)
        record = replace(record, hessian_source="central differences", asymmetry=asymmetry)
        jump = max((abs(e.energy - point.energy) for e in ledger.evaluations[first:]), default=0.0)
        if asymmetry > LARGEST_ASYMMETRY or jump > STIFFEST * settings.displacement**2 + SAME_STATE:
            reason = (
                f"the electronic state changed within the Hessian (energies by {jump:.4f} eV, asymmetry "
                f"{asymmetry:.2f} eV/A^2)"
            )
            return replace(record, reason=reason)
    found = vibrational_analysis(hessian, positions, symbols)
    frequencies = found.frequencies_cm1
    record = replace(
        record,
        hessian=hessian,
        frequencies_cm1=frequencies,
        modes=found.modes,
        linear=found.linear,
        imaginary_modes=int((frequencies < -settings.zero_frequency_cm1).sum()),
    )
    if len(frequencies):
        record = replace(
            record,
            curvature=lowest_mode(hessian, positions)[0],
            bonds=changed_bonds(symbols, positions, found.modes[0], settings.bond_scale),
        )
    if record.imaginary_modes == 1:
        return replace(record, status=Status.PASSED)
    if record.imaginary_modes == 0:
        lowest = f", the lowest frequency is {frequencies[0]:.0f} cm-1" if len(frequencies) else ""
        return replace(record, status=Status.FAILED, reason=f"no imaginary mode{lowest}")
    listed = ", ".join(f"{frequency:.0f}i" for frequency in -frequencies[: record.imaginary_modes])
    reason = f"{record.imaginary_modes} imaginary modes ({listed} cm-1)"
    return replace(record, status=Status.FAILED, reason=reason)


def _judged_by_curvature(
    ledger: Ledger, run: RunFile, settings: Verification, record: VerificationRecord, point: Evaluation
) -> VerificationRecord:
    """Measure the curvature along the lowest mode that a few evaluations find."""
    shape, step = point.positions.shape, settings.displacement

    def gradient(positions: np.ndarray) -> np.ndarray:
        return ledger.evaluate(positions, Purpose.VERIFICATION).gradient

    def product(direction: np.ndarray) -> np.ndarray:
        return (gradient(point.positions + step * direction.reshape(shape)) - point.gradient) / step

    mode = lowest_mode_by_products(
        product, run.result.mode, point.positions, CURVATURE_PRODUCTS, _model_hessian(run, point.positions)
    )
    flat = mode.reshape(-1, 1)
    curvature = float(mode.ravel() @ difference_products(gradient, point.positions, flat, step)[:, 0])
    record = replace(
        record,
        curvature=curvature,
        modes=mode[None],
        bonds=changed_bonds(run.reaction.symbols, point.positions, mode, settings.bond_scale),
    )
    if curvature < 0:
        reason = "only the lowest mode was measured: a second negative one is not excluded"
        return replace(record, status=Status.PASSED, reason=reason)
    reason = f"no negative curvature found, the lowest is {curvature:.3f} eV/A^2"
    return replace(record, status=Status.FAILED, reason=reason)


def _model_hessian(run: RunFile, positions: np.ndarray) -> np.ndarray | None:
    """Cheap Hessian that only steers where curvature is measured: the search's own, else xTB's, else none."""
    if run.result.hessian is not None:
        return run.result.hessian
    try:
        return XTB(run.reaction.numbers, run.reaction.charge, run.reaction.multiplicity).hessian(positions)
    except SaddleflowError:
        return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
