"""Figures of what happens inside the searches: forces from call to call, and where the time goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from saddleflow.analysis.figure_style import (
    DOUBLE_COLUMN,
    GREY,
    PALE,
    SINGLE_COLUMN,
    empty_note,
    log_limits,
    method_styles,
    new_figure,
    plain_log_axis,
)

MANY_LINES = 200
"""More lines than this become pixels inside the SVG, which keeps it small; axes and text stay vectors."""


@dataclass(frozen=True)
class ForceTrace:
    """Forces of one search.

    Parameters
    ----------
    reaction, method : str
        Which search.
    calls : ndarray, shape (K,)
        Calls made so far, rotations and failed ones included, at each evaluation of purpose search.
    force : ndarray, shape (K,)
        The convergence measure there in eV/Angstrom.
    criterion : str
        ``max_atom_force`` or ``force_norm``.
    threshold : float
        Its limit in eV/Angstrom.
    converged : bool
        Whether the search ended converged.
    """

    reaction: str
    method: str
    calls: np.ndarray
    force: np.ndarray
    criterion: str
    threshold: float
    converged: bool


FORCE_LABELS = {
    "max_atom_force": "Largest force on an atom (eV/Å)",
    "force_norm": "Norm of all forces (eV/Å)",
}


def convergence_traces(traces: list[ForceTrace], methods: list[str], systems: int) -> Figure:
    """Force against calls, one panel a method, every search a line; crosses where one ended unconverged.

    Parameters
    ----------
    traces : list of ForceTrace
        Of the searches that have ended.
    methods : list of str
        All methods, in the order of the configuration.
    systems : int
        All systems that were asked for, the denominator in the titles.
    """
    styles = method_styles(methods)
    columns = 2 if len(methods) == 4 else min(len(methods), 3)
    rows = -(-len(methods) // columns)
    width = SINGLE_COLUMN if columns == 1 else DOUBLE_COLUMN
    figure = new_figure(width, 2.6 * rows + 0.2)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    every_call = np.concatenate([t.calls for t in traces]) if traces else np.array([])
    every_force = np.concatenate([t.force for t in traces]) if traces else np.array([])
    thresholds = {t.threshold for t in traces}
    x_limits = 1.0, max(log_limits(every_call, 1.1)[1], 4.0)
    y_limits = log_limits(np.concatenate([every_force, list(thresholds)]), 1.3)
    for axes, method in zip(grid.ravel(), methods, strict=False):
        own = [t for t in traces if t.method == method]
        axes.set_title(f"{method} ({sum(t.converged for t in own)}/{systems} converged)")
        _trace_panel(axes, own, styles[method]["color"])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*x_limits)
        axes.set_ylim(*y_limits)
        plain_log_axis(axes.xaxis, *x_limits)
        plain_log_axis(axes.yaxis, *y_limits)
        axes.tick_params(labelbottom=True)
    for axes in grid.ravel()[len(methods) :]:
        axes.set_visible(False)
    criteria = {t.criterion for t in traces}
    figure.supxlabel("Energy and force calls", fontsize=8)
    figure.supylabel(FORCE_LABELS[criteria.pop()] if len(criteria) == 1 else "Force (eV/Å)", fontsize=8)
    return figure


def _trace_panel(axes: Axes, traces: list[ForceTrace], colour: str) -> None:
    drawn = [t for t in traces if len(t.calls)]
    if not drawn:
        axes.text(0.5, 0.5, "no search has ended", transform=axes.transAxes, ha="center", color=GREY)
        return
    for threshold in {t.threshold for t in drawn}:
        axes.axhline(threshold, color=GREY, lw=0.7, ls=(0, (4, 2)), zorder=1)
    alpha = float(np.clip(8 / len(drawn) ** 0.6, 0.12, 0.7))
    axes.add_collection(
        LineCollection(
            [np.column_stack([t.calls, t.force]) for t in drawn],
            colors=colour, linewidths=0.7, alpha=alpha, rasterized=len(drawn) > MANY_LINES, zorder=2,
        )
    )  # fmt: skip
    ends = np.array([[t.calls[-1], t.force[-1], t.converged] for t in drawn])
    good = ends[:, 2] > 0
    size = 9 if len(drawn) <= MANY_LINES else 4
    axes.scatter(*ends[good, :2].T, s=size, color=colour, linewidths=0, zorder=4)
    axes.scatter(*ends[~good, :2].T, s=size * 2, marker="x", color="black", linewidths=0.8, zorder=5)
    if len(drawn) >= 5:
        calls, force = median_trace(drawn)
        # Below the threshold more than half of the searches have ended: the rest of the line says nothing.
        shown = slice(None, int(np.argmax(force < min(t.threshold for t in drawn))) + 1)
        if (force < min(t.threshold for t in drawn)).any():
            calls, force = calls[shown], force[shown]
        axes.plot(calls, force, color="black", lw=1.4, zorder=6)


def median_trace(traces: list[ForceTrace]) -> tuple[np.ndarray, np.ndarray]:
    """Median over the searches of the smallest force so far, against calls.

    A search that has ended keeps its last value, so all of them stay in the median at every call.

    Returns
    -------
    calls, force : ndarray
        Shapes (K,); force in eV/Angstrom.
    """
    grid = np.unique(np.concatenate([t.calls for t in traces]))
    best = np.full((len(traces), len(grid)), np.inf)
    for row, trace in zip(best, traces, strict=True):
        smallest = np.minimum.accumulate(trace.force)
        place = np.searchsorted(trace.calls, grid, side="right") - 1
        row[place >= 0] = smallest[place[place >= 0]]
    median = np.median(best, axis=0)
    known = np.isfinite(median)
    return grid[known], median[known]


def engine_surrogate_time(summary: pd.DataFrame) -> Figure:
    """Surrogate time against engine time, every search a point, with lines of equal share."""
    methods = list(pd.unique(summary["method"]))
    styles = method_styles(methods)
    figure = new_figure(SINGLE_COLUMN + 0.4, SINGLE_COLUMN)
    axes = figure.subplots()
    engine = summary["engine_s"].to_numpy(float)
    surrogate = np.maximum(summary["surrogate_s"].to_numpy(float), 1e-4)  # below the clock's worth
    known = np.isfinite(engine) & np.isfinite(surrogate) & (engine > 0)
    if not known.any():
        empty_note(axes, "no search has ended")
        return figure
    x_limits, y_limits = log_limits(engine[known], 1.5), log_limits(surrogate[known], 1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*x_limits)
    axes.set_ylim(*y_limits)
    for share, text in ((1.0, "equal"), (0.3, "30 %"), (0.1, "10 %"), (0.01, "1 %"), (0.001, "0.1 %")):
        _share_line(axes, share, text, x_limits, y_limits)
    for method in methods:
        own = known & (summary["method"] == method).to_numpy()
        if not own.any():
            continue
        size = 14 if own.sum() <= 150 else 6
        share = float(np.median(surrogate[own] / engine[own]))
        axes.scatter(
            engine[own], surrogate[own], s=size, alpha=0.75, linewidths=0, zorder=3,
            label=f"{method} (median share {100 * share:.2g} %)", **styles[method],
        )  # fmt: skip
    plain_log_axis(axes.xaxis, *x_limits)
    plain_log_axis(axes.yaxis, *y_limits)
    axes.set_xlabel("Time in the engine (s)")
    axes.set_ylabel("Time outside the engine (s)")
    figure.legend(loc="outside upper left", ncols=1 if len(methods) <= 3 else 2, handletextpad=0.3)
    return figure


def _share_line(
    axes: Axes, share: float, text: str, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> None:
    left = max(x_limits[0], y_limits[0] / share)
    right = min(x_limits[1], y_limits[1] / share)
    if right < left * 1.3:
        return
    axes.plot(
        [left, right], [left * share, right * share], color=GREY if share == 1 else PALE, lw=0.7, zorder=1
    )
    at_top = right < x_limits[1]
    axes.annotate(
        text, (right, right * share), xytext=(0, 2) if at_top else (2, 0), textcoords="offset points",
        fontsize=6, color=GREY, ha="center" if at_top else "left", va="bottom" if at_top else "center",
        annotation_clip=False,
    )  # fmt: skip
