"""Figures of the leaderboard page: profiles of all methods, and paired ratios reaction by reaction."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saddleflow.analysis.comparison import Comparison
from saddleflow.analysis.entries import PUBLISHED
from saddleflow.analysis.figure_style import (
    DOUBLE_COLUMN,
    GREY,
    empty_note,
    method_styles,
    new_figure,
    plain_log_axis,
)
from saddleflow.analysis.figures_calls import draw_profiles


def comparison_profiles(comparison: Comparison) -> Figure:
    """Fraction of the compared reactions solved, against calls (left) and against the best one's (right)."""
    table = comparison.costs()
    methods, cost = list(table.columns), table.to_numpy()
    styles = method_styles(methods)
    for name in comparison.entries.loc[comparison.entries["source"] == PUBLISHED, "method"].unique():
        styles[name] = styles.get(name, {}) | {"lw": 0.8}
    figure = new_figure(DOUBLE_COLUMN, 3.1)
    left, right = draw_profiles(figure, cost, methods, styles)
    right.set_xlabel("Calls / calls of the best for the same reaction")
    left.set_ylabel(f"Fraction of {len(table)} reactions solved")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(methods), 3))
    return figure


def paired_ratios(comparison: Comparison) -> Figure:
    """Ratio of calls of every pair: a point for each reaction that both solved, and the geometric mean."""
    pairs, table = comparison.pairs, comparison.costs()
    figure = new_figure(DOUBLE_COLUMN, 0.9 + 0.3 * max(len(pairs), 1))
    axes = figure.subplots()
    shown = pairs[pairs["solved_by_both"] > 0] if len(pairs) else pairs
    if not len(shown):
        empty_note(axes, "no pair of methods has solved the same reaction")
        return figure
    every = [1.0]
    for place, (_, row) in enumerate(shown.iterrows()):
        ratio = (table[row["a"]] / table[row["b"]]).to_numpy()
        ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
        spread = 0.22 * np.linspace(-1, 1, len(ratio)) if len(ratio) > 1 else np.zeros(1)
        axes.scatter(ratio, place + spread, s=10, color="#0072B2", alpha=0.6, linewidths=0, zorder=2)
        mean, low, high = (row[f"ratio_geometric_mean{end}"] for end in ("", "_low", "_high"))
        if pd.notna(low):
            axes.hlines(place, low, high, color="black", lw=1.4, zorder=3)
        axes.plot(mean, place, "D", color="black", ms=4, zorder=4)
        every += [*ratio, mean]
    axes.axvline(1.0, color=GREY, lw=0.8, zorder=1)
    axes.set_xscale("log")
    low, high = min(every) / 1.2, max(every) * 1.2
    axes.set_xlim(low, high)
    plain_log_axis(axes.xaxis, low, high)
    axes.set_yticks(range(len(shown)), [f"{a} / {b}" for a, b in zip(shown["a"], shown["b"], strict=True)])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Ratio of calls (left of 1: the first needs fewer)")
    return figure
