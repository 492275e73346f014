"""The levels of proof: from evaluations around a stationary point to how many negative modes it has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from saddleflow.engines.ledger import REPLAY_TOLERANCE, Ledger
from saddleflow.errors import SaddleflowError
from saddleflow.evaluation import SAME_STATE, Evaluation, Purpose, SearchResult
from saddleflow.lowest_curvature import lowest_mode_by_products
from saddleflow.reaction import Reaction
from saddleflow.run_file import RunFile
from saddleflow.saddle_index import FEWEST_PRODUCTS, IndexProof, prove_index
from saddleflow.searches.start_direction import lowest_mode
from saddleflow.settings import Verification
from saddleflow.verification_file import Status, VerificationRecord
from saddleflow.vibrations import (
    assemble_hessian,
    changed_bonds,
    difference_products,
    internal_directions,
    mass_weighted_internal_basis,
    vibrational_analysis,
)
from saddleflow.xtb import XTB

# Gradients that differ by more than this in one Hessian element can't be of one electronic state, eV/A^2.
LARGEST_ASYMMETRY = 1.0
# No bond is stiffer than this, eV/A^2; a displaced energy beyond it belongs to another electronic state.
STIFFEST = 500.0
# Level `curvature`: the repeated point, products by forward differences, and the last mode by central ones.
CURVATURE_PRODUCTS = 5
# Level `index`: evaluations after which the full Hessian is made instead.
INDEX_EVALUATIONS = 24


def analytic_hessian(
    ledger: Ledger, positions: np.ndarray, record: VerificationRecord
) -> tuple[VerificationRecord, np.ndarray | None]:
    """Hessian (3N, 3N) in eV/A^2 where the engine has an analytic one, else None."""
    # A journal that already holds displaced points says that there is none.
    if ledger.replayed > len(ledger.evaluations):
        return record, None
    started = time.perf_counter()
    hessian = ledger.engine.hessian(positions)
    if hessian is None:
        return record, None
    seconds = time.perf_counter() - started
    return replace(record, hessian_source="analytic", hessian_seconds=seconds), hessian


def hessian_by_differences(
    ledger: Ledger, run: RunFile, settings: Verification, record: VerificationRecord, point: Evaluation
) -> tuple[VerificationRecord, np.ndarray | None]:
    """Hessian (3N, 3N) in eV/A^2 by central differences; None and why if the electronic state changed."""
    directions = internal_directions(point.positions, run.reaction.symbols)
    first = len(ledger.evaluations)
    products = difference_products(
        lambda x: ledger.evaluate(x, Purpose.VERIFICATION).gradient,
        point.positions,
        directions,
        settings.displacement,
    )
    hessian, asymmetry = assemble_hessian(directions, products, run.reaction.symbols)
    record = replace(record, hessian_source="central differences", asymmetry=asymmetry)
    jump = _energy_jump(ledger.evaluations[first:], point)
    if asymmetry <= LARGEST_ASYMMETRY and jump <= largest_jump(settings):
        return record, hessian
    reason = (
        f"the electronic state changed within the Hessian (energies by {jump:.4f} eV, asymmetry "
        f"{asymmetry:.2f} eV/A^2)"
    )
    return replace(record, reason=reason), None


def _energy_jump(displaced: list[Evaluation], point: Evaluation) -> float:
    return max((abs(evaluation.energy - point.energy) for evaluation in displaced), default=0.0)


def largest_jump(settings: Verification) -> float:
    """Largest change of the energy, eV, by one displacement on one electronic state."""
    return STIFFEST * settings.displacement**2 + SAME_STATE


def judged_by_hessian(
    run: RunFile,
    settings: Verification,
    record: VerificationRecord,
    point: Evaluation,
    hessian: np.ndarray,
) -> VerificationRecord:
    """Count the negative modes of the full Hessian."""
    symbols, positions = run.reaction.symbols, point.positions
    found = vibrational_analysis(hessian, positions, symbols)
    frequencies = found.frequencies_cm1
    record = replace(
        record,
        level="hessian",
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


def judged_by_index(
    ledger: Ledger, run: RunFile, settings: Verification, record: VerificationRecord, point: Evaluation
) -> tuple[VerificationRecord, str]:
    """Count the negative modes by a few products; with why they do not decide, or an empty text."""
    symbols, positions = run.reaction.symbols, point.positions
    basis = mass_weighted_internal_basis(positions, symbols)
    # What the search measured at its answer need not be measured again.
    stored = [e for e in run.evaluations if e.purpose is Purpose.VERIFICATION and not e.error]
    jumps = [0.0]

    def change(displaced: np.ndarray) -> tuple[float, np.ndarray]:
        for evaluation in stored:
            if np.abs(evaluation.positions - displaced).max() < REPLAY_TOLERANCE:
                centre = run.answer
                break
        else:
            evaluation, centre = ledger.evaluate(displaced, Purpose.VERIFICATION), point
        jumps.append(abs(evaluation.energy - centre.energy))
        return evaluation.energy - centre.energy, evaluation.gradient - centre.gradient

    model = model_hessian(run.reaction, run.result, positions)
    proof, undecided = proof_by_products(change, run.reaction, positions, model, settings)
    if undecided:
        return record, undecided
    if (jump := max(jumps)) > largest_jump(settings):
        return record, f"the electronic state changed within the products (energies by {jump:.4f} eV)"
    (lowest, lowest_most), (second, second_most) = proof.bounds_cm1
    record = replace(
        record,
        level="index",
        frequencies_cm1=np.array([proof.frequency_cm1]),
        bounds_cm1=proof.bounds_cm1,
        modes=proof.mode[None],
        linear=basis.shape[1] == 3 * len(symbols) - 5,
        imaginary_modes=proof.index,
        bonds=changed_bonds(symbols, positions, proof.mode, settings.bond_scale),
    )
    proved = (
        f"proved by {proof.evaluations} evaluations: lowest mode {lowest:.0f} to {lowest_most:.0f}, second "
        f"{second:.0f} to {second_most:.0f} cm-1, unless one is softer than {proof.fraction:.2f} of the model"
    )
    if proof.index == 1:
        return replace(record, status=Status.PASSED, reason=proved), ""
    count = f"{proof.index} imaginary modes" if proof.index else "no imaginary mode"
    return replace(record, status=Status.FAILED, reason=f"{count} ({proved})"), ""


def proof_by_products(
    change: Callable[[np.ndarray], tuple[float, np.ndarray]],
    reaction: Reaction,
    positions: np.ndarray,
    model: np.ndarray | None,
    settings: Verification,
) -> tuple[IndexProof | None, str]:
    """Number of negative modes at a stationary point, or why it is not decided.

    Parameters
    ----------
    change : callable
        Energy in eV and gradient (3N,) in eV/Angstrom at displaced positions (N, 3), minus those at
        `positions`.
    reaction : Reaction
        Elements, charge and multiplicity.
    positions : ndarray, shape (N, 3)
        Angstrom.
    model : ndarray, shape (3N, 3N), or None
        Cheap Hessian, eV/Angstrom^2.
    settings : settings.Verification
        Displacement and what counts as zero.
    """
    modes = mass_weighted_internal_basis(positions, reaction.symbols).shape[1]
    if model is None or not modes:
        return None, "there is no model Hessian" if model is None else "an atom has no modes"
    # The full Hessian takes two evaluations a direction; more than half of that is better spent on it.
    most = max(min(INDEX_EVALUATIONS, modes), 2 * FEWEST_PRODUCTS)
    proof = prove_index(
        lambda displacement: change(positions + displacement.reshape(positions.shape)),
        positions,
        reaction.symbols,
        model,
        most,
        settings.displacement,
        settings.zero_frequency_cm1,
    )
    return proof, proof.reason


def judged_by_curvature(
    ledger: Ledger, run: RunFile, settings: Verification, record: VerificationRecord, point: Evaluation
) -> VerificationRecord:
    """Measure the curvature along the lowest mode that a few evaluations find."""
    shape, step = point.positions.shape, settings.displacement

    def gradient(positions: np.ndarray) -> np.ndarray:
        return ledger.evaluate(positions, Purpose.VERIFICATION).gradient

    def product(direction: np.ndarray) -> np.ndarray:
        return (gradient(point.positions + step * direction.reshape(shape)) - point.gradient) / step

    model = model_hessian(run.reaction, run.result, point.positions)
    mode = lowest_mode_by_products(product, run.result.mode, point.positions, CURVATURE_PRODUCTS, model)
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


def model_hessian(reaction: Reaction, result: SearchResult, positions: np.ndarray) -> np.ndarray | None:
    """Cheap Hessian that only steers where curvature is measured: the search's own, else GFN2-xTB's.

    Parameters
    ----------
    reaction : Reaction
        Elements, charge and multiplicity.
    result : SearchResult
        Of the search that converged there.
    positions : ndarray, shape (N, 3)
        Angstrom.

    Returns
    -------
    ndarray, shape (3N, 3N), or None
        eV/Angstrom^2; None where xTB has none either.
    """
    if result.hessian is not None:
        return result.hessian
    try:
        return XTB(reaction.numbers, reaction.charge, reaction.multiplicity).hessian(positions)
    except SaddleflowError:
        return None
