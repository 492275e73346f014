"""How far a run is, from its journals and run files alone, so that it is true on a cluster as well."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np

from saddleflow.engines.journal import read_journal
from saddleflow.errors import InputError, SaddleflowError
from saddleflow.evaluation import Evaluation, Outcome, Purpose
from saddleflow.files import get_texts, open_hdf5
from saddleflow.run_file import REMEDY, SCHEMA, force_measure
from saddleflow.run_inputs import planned
from saddleflow.settings import Convergence
from saddleflow.verification_file import read_verification

SILENCE_SECONDS = 600.0
"""A journal without a new line for so long, and for ``SILENCE_CALLS`` mean calls, looks stalled."""
SILENCE_CALLS = 20
PAIR_DISTANCE = 0.1
"""Two evaluations at most so far apart (Angstrom, 2-norm) give a curvature by their difference."""


class State(StrEnum):
    """Where a search is."""

    CONVERGED = "converged"
    FAILED = "failed"
    RUNNING = "running"
    STALLED = "stalled?"
    WAITING = "waiting"
    OUTDATED = "outdated"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class SearchStatus:
    """What is known of one search.

    Parameters
    ----------
    reaction, method : str
        Which search.
    state : State
        ``failed``: ended without convergence; ``outdated``: ended, but its inputs changed since.
    calls : dict of str to int
        Engine calls so far by purpose.
    force, threshold : float or None
        Residual force at the last point as the criterion measures it, and its limit, eV/Angstrom.
    curvature : float or None
        Along the mode, eV/Angstrom^2, where it is known.
    outcome : str
        How the search ended; ``""`` while it has not.
    verification : str
        ``passed``, ``failed``, ``not_run``, calls so far, or ``""``.
    age_seconds : float or None
        Since the journal's last line.
    wall_seconds : float or None
        Spent in the search so far.
    ended_at : float or None
        Unix time at which it ended.
    message : str
        For the user.
    """

    reaction: str
    method: str
    state: State
    calls: dict[str, int] = field(default_factory=dict)
    force: float | None = None
    threshold: float | None = None
    curvature: float | None = None
    outcome: str = ""
    verification: str = ""
    age_seconds: float | None = None
    wall_seconds: float | None = None
    ended_at: float | None = None
    message: str = ""


def residual_force(evaluations: Sequence[Evaluation], convergence: Convergence) -> float | None:
    """Force at the last point of the search itself (not of rotations) as the criterion measures it."""
    for evaluation in reversed(evaluations):
        if evaluation.purpose == Purpose.SEARCH and not evaluation.error:
            return force_measure(evaluation.forces, convergence.criterion)
    return None


def difference_curvature(evaluations: Sequence[Evaluation]) -> float | None:
    """Curvature along the last rotation: difference of the forces at a point and its image.

    With unit vector n from R0 to R1: C = (F0 - F1) . n / |R1 - R0| (Henkelman and Jonsson 1999).

    Returns
    -------
    float or None
        eV/Angstrom^2; None if the last point has no rotation near it.
    """
    centre: Evaluation | None = None
    curvature: float | None = None
    for evaluation in evaluations:
        if evaluation.error:
            continue
        if evaluation.purpose == Purpose.SEARCH:
            centre = evaluation
        elif evaluation.purpose == Purpose.ROTATION and centre is not None:
            step = (evaluation.positions - centre.positions).ravel()
            length = float(np.linalg.norm(step))
            if 0 < length <= PAIR_DISTANCE:
                change = (centre.forces - evaluation.forces).ravel()
                curvature = float(change @ step) / length**2
    return curvature


@lru_cache(maxsize=10000)
def _ended(path: Path, stamp: int) -> SearchStatus:
    """Return the status of a run file; the time stamp makes a changed file a new cache entry.

    Reads only what is shown: reading a thousand run files whole would take a quarter of a minute.
    """
    with open_hdf5(path, SCHEMA, REMEDY) as file:
        attributes = file.attrs
        rows = file["evaluations"]
        purposes = get_texts(rows, "purpose")
        answer = int(file["result"].attrs["evaluation"])
        method = json.loads(file["settings"]["method"].asstr()[()])
        convergence = Convergence.model_validate(method.get("convergence", {}))
        force = None
        if 0 <= answer < len(purposes):
            force = force_measure(rows["forces"][answer], convergence.criterion)
        outcome = Outcome(attributes["outcome"])
        return SearchStatus(
            str(attributes["reaction"]),
            str(attributes["method"]),
            State.CONVERGED if outcome is Outcome.CONVERGED else State.FAILED,
            calls=dict(Counter(purposes)),
            force=force,
            threshold=convergence.threshold,
            curvature=float(file["result"]["curvature"][()]),
            outcome=str(outcome),
            wall_seconds=float(attributes["wall_seconds"]),
            ended_at=stamp / 1e9,
            message=str(attributes["message"]),
        )


@lru_cache(maxsize=10000)
def _verified(path: Path, stamp: int) -> str:
    del stamp
    return str(read_verification(path).status)


def _verifying(journal: Path) -> str:
    return f"{len(read_journal(journal)[1])} calls" if journal.exists() else ""


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _convergence(results: Path, method: str) -> Convergence:
    try:
        document = json.loads((results / "inputs" / "methods" / f"{method}.json").read_text(encoding="utf-8"))
        return Convergence.model_validate(document["method"]["convergence"])
    except (OSError, ValueError, KeyError, TypeError):
        return Convergence()


def _under_way(results: Path, reaction: str, method: str, journal: Path, now: float) -> SearchStatus:
    header, evaluations = read_journal(journal)
    age = max(now - journal.stat().st_mtime, 0.0)
    wall = sum(e.engine_seconds + e.surrogate_seconds for e in evaluations)
    patience = max(SILENCE_SECONDS, SILENCE_CALLS * wall / max(len(evaluations), 1))
    convergence = _convergence(results, method)
    stalled = age > patience
    return SearchStatus(
        reaction,
        method,
        State.STALLED if stalled else State.RUNNING,
        calls=dict(Counter(str(e.purpose) for e in evaluations)),
        force=residual_force(evaluations, convergence),
        threshold=convergence.threshold,
        curvature=difference_curvature(evaluations),
        age_seconds=age,
        wall_seconds=wall,
        message=f"interrupted or hanging on {header.get('machine', '?')}; start snakemake again"
        if stalled
        else "",
    )


def search_status(results: Path, reaction: str, method: str, now: float | None = None) -> SearchStatus:
    """Status of one search.

    Parameters
    ----------
    results : Path
        Folder of results.
    reaction, method : str
        Which search.
    now : float, optional
        Unix time that ages are counted to.
    """
    now = time.time() if now is None else now
    run_file = results / "searches" / reaction / f"{method}.h5"
    journal = results / "journals" / reaction / f"{method}.jsonl"
    try:
        stamp = _stamp(run_file)
        inputs = results / "inputs"
        needed = (inputs / "reactions" / f"{reaction}.json", inputs / "methods" / f"{method}.json")
        outdated = stamp is not None and any((_stamp(path) or 0) > stamp for path in needed)
        if stamp is not None and not outdated:
            verification = results / "verifications" / reaction / f"{method}.h5"
            verified = _stamp(verification)
            if verified is None:
                found = _verifying(journal.with_name(f"{method}.verification.jsonl"))
            else:
                found = _verified(verification, verified)
            return replace(_ended(run_file, stamp), verification=found)
        if journal.exists():
            return _under_way(results, reaction, method, journal, now)
        if outdated:
            return SearchStatus(reaction, method, State.OUTDATED, message="its input changed since it ended")
    except FileNotFoundError:  # the search ended between two looks
        return search_status(results, reaction, method, now)
    except (SaddleflowError, OSError) as error:
        return SearchStatus(reaction, method, State.UNREADABLE, message=str(error))
    return SearchStatus(reaction, method, State.WAITING)


def read_status(results: str | os.PathLike[str], now: float | None = None) -> list[SearchStatus]:
    """Status of every search of the last run's set.

    Raises
    ------
    InputError
        When the folder holds no run.
    """
    folder = Path(results)
    reactions, methods = planned(folder)
    if not reactions or not methods:
        raise InputError(f"{folder}: no run was started here; name the results folder of the configuration")
    return [search_status(folder, reaction, method, now) for reaction in reactions for method in methods]


def seconds_left(searches: Sequence[SearchStatus], now: float | None = None) -> float | None:
    """Estimate of the time that the rest of the set takes.

    Waiting searches take the mean wall time of the ended ones of their method (of all methods if there are
    none), running ones what is missing to it, at least one call.  This work is divided by the pace: work
    done since the present run began over the time since then, which counts how many searches run at a time
    as well as what passes between them (verification, starts of processes).

    Parameters
    ----------
    searches : sequence of SearchStatus
        Of the whole set.
    now : float, optional
        Unix time.

    Returns
    -------
    float or None
        Seconds; None while no search has ended, and when nothing is going on.
    """
    now = time.time() if now is None else now
    ended = sorted((s for s in searches if s.ended_at is not None), key=lambda s: -s.ended_at)
    running = [s for s in searches if s.state is State.RUNNING]
    if not ended or (not running and now - ended[0].ended_at > SILENCE_SECONDS):
        return None
    everything = float(np.mean([s.wall_seconds for s in ended]))

    def mean(method: str) -> float:
        own = [s.wall_seconds for s in ended if s.method == method]
        return float(np.mean(own)) if own else everything

    # Only what ended without a long pause after it belongs to the present run.
    begin, work = now, 0.0
    for s in running:
        spent = s.wall_seconds or 0.0
        begin, work = min(begin, now - spent), work + spent
    for s in ended:
        if begin - s.ended_at > SILENCE_SECONDS:
            break
        begin, work = min(begin, s.ended_at - s.wall_seconds), work + s.wall_seconds
    rest = sum(mean(s.method) for s in searches if s.state in (State.WAITING, State.OUTDATED, State.STALLED))
    for s in running:
        spent = s.wall_seconds or 0.0
        rest += max(mean(s.method) - spent, spent / max(sum(s.calls.values()), 1))
    return rest * (now - begin) / work if work > 0 else None
