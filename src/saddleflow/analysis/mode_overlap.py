"""How far a search kept the motion that it started with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from saddleflow.errors import RunFileError
from saddleflow.geometry import best_rotation, project_out, rigid_motion_basis
from saddleflow.run_file import RunFile, read_run_file


def mode_overlap(run: RunFile) -> float:
    """Overlap between the start's reactive mode and the mode at the answer.

    The start's mode is what came with the reaction (a start direction, or product minus reactant); without
    it, the first mode that the search knew.  It is turned with the molecule, and rigid motion is taken out of
    both.

    Returns
    -------
    float
        Between 0 (another motion) and 1 (the same one); NaN where the run file has no mode.
    """
    answer, start = run.answer, run.reaction.start_direction
    start_positions = run.reaction.positions
    if start is None:
        start = run.reaction.difference
    if start is None and run.result.trace:
        first = run.result.trace[0]
        start, start_positions = first.mode, run.evaluations[first.evaluation].positions
    if answer is None or start is None:
        return float("nan")
    turned = np.asarray(start) @ best_rotation(start_positions, answer.positions)
    basis = rigid_motion_basis(answer.positions)
    first, last = (project_out(basis, np.asarray(mode, float)).ravel() for mode in (turned, run.result.mode))
    norm = np.linalg.norm(first) * np.linalg.norm(last)
    return float(min(abs(first @ last) / norm, 1.0)) if norm > 0 else float("nan")


def mode_overlaps(results: Path, run_files: list[str | None]) -> list[float]:
    """Overlap for each run file (relative to `results`); NaN where there is none or it can't be read."""
    overlaps = []
    for name in run_files:
        try:
            overlaps.append(mode_overlap(read_run_file(results / name)) if name else float("nan"))
        except (RunFileError, OSError):
            overlaps.append(float("nan"))
    return overlaps
