"""What all searches share: convergence, guards, and the answer of an interrupted search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from saddleflow.evaluation import (
    Evaluate,
    Evaluation,
    Outcome,
    Prediction,
    Purpose,
    SearchResult,
    SearchStopped,
    TracePoint,
)
from saddleflow.geometry import longest_gap
from saddleflow.reaction import Reaction
from saddleflow.settings import Convergence, Method

Search = Callable[[Evaluate, Reaction, Method, np.ndarray, list[TracePoint]], SearchResult]
"""``search(evaluate, reaction, method, direction, trace)``.

`direction` is a unit vector of shape (N, 3); `trace` is filled as the search goes, so that an interrupted
search keeps what it had.  A search raises nothing but SearchStopped and what `evaluate` raises.
"""


def residual(evaluation: Evaluation, convergence: Convergence) -> float:
    """Force measure of the convergence criterion at a point, eV/Angstrom."""
    if convergence.criterion == "force_norm":
        return evaluation.force_norm
    return evaluation.max_atom_force


def is_converged(evaluation: Evaluation, convergence: Convergence) -> bool:
    """Whether the true forces at a point meet the criterion."""
    return residual(evaluation, convergence) < convergence.threshold


def guard_dissociation(positions: np.ndarray, start: np.ndarray, largest: float | None) -> None:
    """Stop a search whose molecule falls apart.

    Parameters
    ----------
    positions, start : ndarray, shape (N, 3)
        Of a point and of the guess, Angstrom.
    largest : float or None
        Gap that still counts as one molecule, Angstrom; half of it comes on top of one that the guess has.
        None: any.

    Raises
    ------
    SearchStopped
        With outcome ``dissociated``.
    """
    if largest is None:
        return
    gap = longest_gap(positions)
    if gap > max(largest, longest_gap(start) + 0.5 * largest):
        raise SearchStopped(Outcome.DISSOCIATED, f"two parts of the molecule are {gap:.1f} Angstrom apart")


def guard_rise(evaluate: Evaluate, limit: float) -> Evaluate:
    """Stop a search that climbs too far above the first point that it asks: no saddle comes after that.

    Parameters
    ----------
    evaluate : Evaluate
        The true surface.
    limit : float
        Largest rise of the energy, eV.

    Returns
    -------
    Evaluate
        The same, but it raises SearchStopped with outcome ``energy_limit`` where the energy is higher.
    """
    start: float | None = None

    def guarded(
        positions: np.ndarray, purpose: Purpose = Purpose.SEARCH, prediction: Prediction | None = None
    ) -> Evaluation:
        nonlocal start
        evaluation = evaluate(positions, purpose, prediction)
        start = evaluation.energy if start is None else start
        if (rise := evaluation.energy - start) > limit:
            message = f"{rise:.1f} eV above the start (energy_limit is {limit:g} eV)"
            raise SearchStopped(Outcome.ENERGY_LIMIT, message)
        return evaluation

    return guarded


def interrupted(
    outcome: Outcome,
    message: str,
    evaluations: list[Evaluation],
    trace: list[TracePoint],
    mode: np.ndarray,
    first: int = 0,
) -> SearchResult:
    """Answer of a search that was stopped: the translated point with the smallest force.

    Parameters
    ----------
    outcome, message
        How it ended.
    evaluations : list of Evaluation
        All of the search.
    trace : list of TracePoint
        States of the translated points.
    mode : ndarray, shape (N, 3)
        Start direction, for a search that has no trace yet.
    first : int
        Evaluations before this one are on another electronic state.
    """
    usable = [point for point in trace if not evaluations[point.evaluation].error]
    if usable:
        best = min(usable, key=lambda point: evaluations[point.evaluation].max_atom_force)
        return SearchResult(outcome, message, best.evaluation, best.mode, best.curvature, tuple(trace))
    answered = [e for e in evaluations[first:] if not e.error]
    index = min(answered, key=lambda e: e.max_atom_force).index if answered else -1
    return SearchResult(outcome, message, index, mode, float("nan"), tuple(trace))
