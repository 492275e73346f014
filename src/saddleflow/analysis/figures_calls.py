"""Figures of the number of calls: by method, as profiles, and method against method."""

from __future__ import annotations

import textwrap
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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
from saddleflow.analysis.statistics import (
    StepCurve,
    censored_median,
    censored_quantile,
    cost_table,
    median_ratio,
    performance_profile,
    solved,
    solved_within,
)

CALLS = "Energy and force calls"
LABEL_LENGTH = 12
"""Longest line of a method's name under an axis; longer names are broken, at hyphens if they have some."""


def calls_by_method(summary: pd.DataFrame) -> Figure:
    """Every system a point, its calls on a logarithmic axis; unsolved ones in a band at the upper edge."""
    table, (_, word) = cost_table(summary), solved(summary)
    methods = list(table.columns)
    styles = method_styles(methods)
    figure = new_figure(min(max(1.4 + 0.8 * len(methods), 2.6), DOUBLE_COLUMN), 3.2)
    axes = figure.subplots()
    low, high = log_limits(table.to_numpy())
    edge = high * (high / low) ** 0.07
    axes.axhspan(high * (high / low) ** 0.02, edge * (high / low) ** 0.05, color="#f2f2f2", lw=0, zorder=0)
    for place, method in enumerate(methods):
        cost = table[method].to_numpy()
        finite = np.isfinite(cost)
        size = 12 if len(cost) <= 150 else 5
        shown = np.where(finite, cost, edge)
        x = np.full(len(cost), float(place))
        x[finite] += _swarm(np.log(cost[finite]), np.log(edge / low), 0.36)
        failed = int((~finite).sum())
        x[~finite] += np.linspace(-1, 1, failed) * min(0.05 * (failed - 1), 0.36)
        axes.scatter(x[finite], cost[finite], s=size, alpha=0.75, linewidths=0, **styles[method])
        axes.scatter(
            x[~finite], shown[~finite], s=size, marker="x", linewidths=0.7, color=styles[method]["color"]
        )
        _median_bar(axes, place, cost)
    if not np.isfinite(table.to_numpy()).any():
        axes.text(0.5, 0.4, f"no {word} search", transform=axes.transAxes, ha="center", color=GREY)
    axes.set_yscale("log")
    axes.set_ylim(low, edge * (high / low) ** 0.05)
    plain_log_axis(axes.yaxis, low, high)
    axes.text(
        1.01, edge, "not\nsolved", transform=axes.get_yaxis_transform(), color=GREY, fontsize=6.5, va="center"
    )
    names = ["\n".join(textwrap.wrap(method, LABEL_LENGTH)) for method in methods]
    labels = [
        f"{name}\n{np.isfinite(table[m]).sum()}/{len(table)}" for name, m in zip(names, methods, strict=True)
    ]
    short = all(len(line) <= LABEL_LENGTH for name in names for line in name.split("\n"))
    axes.set_xticks(range(len(methods)), labels, rotation=0 if short else 30)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(methods) - 0.4)
    axes.set_ylabel(CALLS)
    axes.set_xlabel(f"Method ({word} / all systems)")
    return figure


def performance_profiles(summary: pd.DataFrame) -> Figure:
    """Fraction of all systems solved, against calls (a) and against calls over the best method's (b)."""
    table, (_, word) = cost_table(summary), solved(summary)
    methods, cost = list(table.columns), table.to_numpy()
    styles = method_styles(methods)
    figure = new_figure(DOUBLE_COLUMN, 2.9)
    left, right = draw_profiles(figure, cost, methods, styles)
    right.set_xlabel("Calls / calls of the best method")
    left.set_ylabel(f"Fraction of {len(table)} system{'s' if len(table) != 1 else ''} {word}")
    for axes, title in ((left, "a"), (right, "b")):
        axes.set_title(title, fontweight="bold")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(methods), 4))
    if not np.isfinite(cost).any():
        left.text(0.5, 0.5, f"no {word} search", transform=left.transAxes, ha="center", color=GREY)
    return figure


def calls_pairwise(summary: pd.DataFrame) -> Figure:
    """Calls of one method against another's, one panel a pair; systems not solved by one at the edges."""
    table = cost_table(summary)
    pairs = list(combinations(table.columns, 2))
    if not pairs:
        figure = new_figure(SINGLE_COLUMN, SINGLE_COLUMN)
        empty_note(figure.subplots(), "a comparison needs two methods")
        return figure
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    size = SINGLE_COLUMN if len(pairs) == 1 else DOUBLE_COLUMN / columns
    figure = new_figure(size * columns, (size + 0.15) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    low, high = log_limits(table.to_numpy())
    for axes, (first, second) in zip(grid, pairs, strict=False):
        _pair(axes, table[first].to_numpy(), table[second].to_numpy(), (low, high))
        axes.set_xlabel(f"Calls of {first}")
        axes.set_ylabel(f"Calls of {second}")
    for axes in grid[len(pairs) :]:
        axes.set_visible(False)
    return figure


def _pair(axes: Axes, x: np.ndarray, y: np.ndarray, limits: tuple[float, float]) -> None:
    low, high = limits
    edge = high * (high / low) ** 0.07
    end = edge * (high / low) ** 0.05
    start = high * (high / low) ** 0.02
    for span in (axes.axvspan, axes.axhspan):
        span(start, end, color="#f2f2f2", lw=0, zorder=0)
    for factor in (1, 2, 5, 10, 20):
        for k in (factor,) if factor == 1 else (factor, 1 / factor):
            _ratio_line(axes, k, low, high)
    both = np.isfinite(x) & np.isfinite(y)
    size = 14 if len(x) <= 150 else 6
    axes.scatter(x[both], y[both], s=size, color="#333333", alpha=0.6, linewidths=0, zorder=3)
    axes.scatter(
        np.where(np.isfinite(x), x, edge)[~both],
        np.where(np.isfinite(y), y, edge)[~both],
        s=size, marker="x", linewidths=0.7, color="#333333", zorder=3,
    )  # fmt: skip
    neither = int((~np.isfinite(x) & ~np.isfinite(y)).sum())
    if neither > 1:
        axes.annotate(
            str(neither), (edge, edge), xytext=(3, 3), textcoords="offset points", fontsize=6, zorder=4
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, end)
    axes.set_ylim(low, end)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_axis(axis, low, high)
    ratio, count = median_ratio(y, x)
    text = f"{count} of {len(x)} solved by both"
    if count:
        text += f"\nmedian ratio y/x = {ratio:.3g}"
    axes.set_title(text, fontsize=7, color=GREY)


def _ratio_line(axes: Axes, ratio: float, low: float, high: float) -> None:
    line = np.array([max(low, low / ratio), min(high, high / ratio)])
    if line[1] < line[0] * 1.3:
        return
    equal = ratio == 1
    axes.plot(line, line * ratio, color=GREY if equal else PALE, lw=0.8 if equal else 0.6, zorder=1)
    if not equal:
        above = ratio > 1
        axes.annotate(
            f"{ratio:g}" if above else f"1/{1 / ratio:g}", (line[1], line[1] * ratio),
            xytext=(0, -1) if above else (-1, 0), textcoords="offset points", fontsize=5.5, color=GREY,
            ha="right", va="top" if above else "bottom", zorder=2,
        )  # fmt: skip


def draw_profiles(figure: Figure, cost: np.ndarray, methods: list[str], styles: dict) -> tuple[Axes, Axes]:
    """Draw data profile (left) and performance profile (right) of costs (shape (S, M)); the two panels."""
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_steps(left, [solved_within(column) for column in cost.T], methods, styles, origin=None)
    _draw_steps(right, performance_profile(cost), methods, styles, origin=1.0)
    left.set_xlabel(CALLS)
    left.set_ylim(0, 1.03)
    return left, right


def _draw_steps(
    axes: Axes, curves: list[StepCurve], methods: list[str], styles: dict, origin: float | None
) -> None:
    """Draw step curves with a legend entry each, on a logarithmic axis from `origin` if one is given."""
    every = np.concatenate([curve.x for curve in curves]) if curves else np.array([])
    low, high = log_limits(every)
    if origin is not None:  # a little before it, or the steps at the origin would be hidden by the axis
        low, high = 0.95 * origin, max(4.0, every.max(initial=1.0) * 1.25)
    dashes = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1.5, 1.5)))
    for i, (curve, method) in enumerate(zip(curves, methods, strict=True)):
        x = np.concatenate([[low], curve.x, [high]])
        y = np.concatenate([[0.0], curve.y, [curve.limit]])
        axes.step(
            x, y, where="post", color=styles[method]["color"], linestyle=dashes[i % len(dashes)],
            lw=styles[method].get("lw"), clip_on=False,
            label=f"{method} ({round(curve.limit * curve.total)}/{curve.total})",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    plain_log_axis(axes.xaxis, low, high)


def _median_bar(axes: Axes, place: int, cost: np.ndarray) -> None:
    median = censored_median(cost)
    quartiles = censored_quantile(cost, 0.25), censored_quantile(cost, 0.75)
    if not np.isfinite(median) or len(cost) < 3:
        return  # where more than half of the systems failed, the median lies beyond the edge
    axes.hlines(median, place - 0.4, place + 0.4, color="black", lw=1.2, zorder=4)
    axes.annotate(
        f"{median:.4g}",
        (place + 0.41, median),
        xytext=(1, 0),
        textcoords="offset points",
        fontsize=6.5,
        va="center",
    )
    for quartile in quartiles:
        if np.isfinite(quartile):
            axes.hlines(quartile, place - 0.2, place + 0.2, color="black", lw=0.6, zorder=4)


def _swarm(height: np.ndarray, span: float, half_width: float) -> np.ndarray:
    """Sideways offsets (shape (S,)) that keep points of like height apart; the same for the same data."""
    offsets = np.zeros(len(height))
    bins = np.floor((height - height.min(initial=0.0)) / max(span, 1e-9) * 45).astype(int)
    crowd = max(np.unique(bins, return_counts=True)[1].max(initial=1), 8)
    for value in np.unique(bins):
        members = np.flatnonzero(bins == value)
        members = members[np.argsort(height[members], kind="stable")]
        # Neighbours in height go to opposite sides, and the row is centred.
        ranks = np.argsort(np.argsort(np.where(np.arange(len(members)) % 2, 1, -1) * np.arange(len(members))))
        offsets[members] = (ranks - (len(members) - 1) / 2) * (2 * half_width / crowd)
    return offsets
