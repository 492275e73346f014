"""Draw all figures of a results folder.  docs/figures.md says what each shows and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saddleflow.analysis.figure_names import FIGURES
from saddleflow.analysis.figure_style import save, style
from saddleflow.analysis.figures_calls import calls_by_method, calls_pairwise, performance_profiles
from saddleflow.analysis.figures_traces import ForceTrace, convergence_traces, engine_surrogate_time
from saddleflow.analysis.table import convergence_of, read_summary
from saddleflow.errors import RunFileError
from saddleflow.evaluation import Purpose
from saddleflow.run_file import RunFile, read_run_file


def draw_figures(summary_csv: str | Path, results_dir: str | Path, output_dir: str | Path) -> list[Path]:
    """Draw every figure of :data:`~saddleflow.analysis.figure_names.FIGURES`, as SVG and PNG.

    Each figure is drawn whatever the table holds (one system, one method, nothing solved): a panel that has
    nothing to show says so.

    Parameters
    ----------
    summary_csv : path
        The table.
    results_dir : path
        Folder that the table's column ``run_file`` is relative to.
    output_dir : path
        Where figures go; existing ones of the same names are replaced.

    Returns
    -------
    list of Path
        The files, two a figure.

    Raises
    ------
    RunFileError
        When the table is missing, empty or lacks columns.
    """
    summary = read_summary(summary_csv)
    if summary.empty:
        raise RunFileError(f"{summary_csv}: the table has no rows, so there is nothing to draw")
    traces = read_traces(summary, Path(results_dir))
    draw: dict[str, Callable[[], Figure]] = {
        "calls_by_method": lambda: calls_by_method(summary),
        "performance_profile": lambda: performance_profiles(summary),
        "calls_pairwise": lambda: calls_pairwise(summary),
        "convergence_traces": lambda: convergence_traces(
            traces, list(pd.unique(summary["method"])), summary["reaction"].nunique()
        ),
        "engine_surrogate_time": lambda: engine_surrogate_time(summary),
    }
    with style():
        return [path for name in FIGURES for path in save(draw[name](), Path(output_dir), name)]


def read_traces(summary: pd.DataFrame, results_dir: Path) -> list[ForceTrace]:
    """Forces of all searches of the table whose run file can be read (the table says which can't)."""
    traces = []
    for row in summary.itertuples():
        if pd.isna(row.run_file) or row.outcome in ("missing", "unreadable"):
            continue
        try:
            run = read_run_file(results_dir / row.run_file)
        except (RunFileError, OSError):
            continue  # it was readable when the table was made; its row is in the other figures
        traces.append(force_trace(run, bool(row.converged)))
    return traces


def force_trace(run: RunFile, converged: bool) -> ForceTrace:
    """Convergence measure of each evaluation of purpose search, against the calls made so far."""
    convergence = convergence_of(run)
    points = [e for e in run.evaluations if e.purpose == Purpose.SEARCH and not e.error]
    measure = [e.force_norm if convergence.criterion == "force_norm" else e.max_atom_force for e in points]
    return ForceTrace(
        reaction=run.reaction.name,
        method=run.method_name,
        calls=np.array([e.index + 1 for e in points], float),
        # A force of exactly zero (analytic surfaces) has no place on a logarithmic axis.
        force=np.maximum(np.array(measure, float), 1e-12),
        criterion=convergence.criterion,
        threshold=convergence.threshold,
        converged=converged,
    )
