"""Figures are drawn from any table, look the same for the same data, and keep failures visible."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest

from saddleflow.analysis import figures_calls, figures_traces
from saddleflow.analysis.figure_names import FIGURES
from saddleflow.analysis.figure_style import (
    COLOURS,
    log_limits,
    method_styles,
    new_figure,
    plain_log_axis,
    plain_number,
    save,
    style,
)
from saddleflow.analysis.figures_traces import ForceTrace, median_trace


def synthetic(systems, methods, failing=0.1, seed=1):
    """Table and traces of a set, as the figures need them."""
    rng = np.random.default_rng(seed)
    rows, traces = [], []
    for i in range(systems):
        for method in methods:
            good = rng.random() >= failing
            calls = int(rng.integers(5, 300))
            rows.append(
                {
                    "reaction": f"r{i}",
                    "method": method,
                    "converged": good,
                    "verification": "passed" if good else "not_run",
                    "calls": calls,
                    "engine_s": calls * rng.uniform(0.5, 2),
                    "surrogate_s": calls * rng.uniform(0, 0.2),
                }
            )
            force = np.geomspace(5, 0.009 if good else 0.5, calls)
            traces.append(
                ForceTrace(f"r{i}", method, np.arange(1.0, calls + 1), force, "max_atom_force", 0.01, good)
            )
    return pd.DataFrame(rows).astype({"calls": "Int64"}), traces


def draw(summary, traces, methods):
    return {
        "calls_by_method": figures_calls.calls_by_method(summary),
        "performance_profile": figures_calls.performance_profiles(summary),
        "calls_pairwise": figures_calls.calls_pairwise(summary),
        "convergence_traces": figures_traces.convergence_traces(
            traces, methods, summary["reaction"].nunique()
        ),
        "engine_surrogate_time": figures_traces.engine_surrogate_time(summary),
    }


@pytest.mark.parametrize(
    ("systems", "methods", "failing"),
    [
        (1, ["gp-dimer"], 0.0),
        (1, ["gp-dimer"], 1.1),
        (3, ["gp-dimer", "dimer"], 1.1),
        (12, ["gp-dimer", "dimer"], 0.2),
        (25, ["gp-dimer", "dimer", "a-very-long-name-of-a-variant", "d"], 0.1),
    ],
)
def test_every_figure_is_drawn_without_a_warning(tmp_path, systems, methods, failing):
    summary, traces = synthetic(systems, methods, failing)
    with style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = draw(summary, traces, methods)
        assert tuple(figures) == FIGURES
        for name, figure in figures.items():
            for path in save(figure, tmp_path, name, resolution=50):
                assert path.stat().st_size > 500


def test_searches_that_have_not_ended_leave_readable_figures(tmp_path):
    summary, _ = synthetic(2, ["gp-dimer", "dimer"], 1.1)
    summary["calls"] = pd.array([pd.NA] * len(summary), dtype="Int64")
    summary[["engine_s", "surrogate_s"]] = np.nan
    with style():
        for name, figure in draw(summary, [], ["gp-dimer", "dimer"]).items():
            save(figure, tmp_path, name, resolution=50)
    assert "no search has ended" in (tmp_path / "engine_surrogate_time.svg").read_text()


def test_same_data_same_bytes(tmp_path):
    for folder in ("one", "two"):
        summary, traces = synthetic(8, ["gp-dimer", "dimer"])
        with style():
            for name, figure in draw(summary, traces, ["gp-dimer", "dimer"]).items():
                save(figure, tmp_path / folder, name, resolution=60)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_text_in_the_svg_stays_text_and_no_date_is_in_it(tmp_path):
    summary, _ = synthetic(5, ["gp-dimer", "dimer"])
    with style():
        save(figures_calls.calls_by_method(summary), tmp_path, "f", resolution=50)
    svg = (tmp_path / "f.svg").read_text()
    assert "<text" in svg and "Energy and force calls" in svg
    assert not re.search(r"20\d\d-\d\d-\d\dT", svg)


def test_every_system_is_a_point_and_every_failure_a_cross():
    summary, _ = synthetic(30, ["gp-dimer", "dimer"], 0.3)
    with style():
        axes = figures_calls.calls_by_method(summary).axes[0]
    points = [len(c.get_offsets()) for c in axes.collections if hasattr(c, "get_offsets") and c.get_paths()]
    drawn = sum(n for n in points if n)
    assert drawn >= len(summary)
    failed = int((~summary["converged"]).sum())
    edge = axes.get_ylim()[1]
    crosses = sum(
        len(c.get_offsets())
        for c in axes.collections
        if len(c.get_offsets()) and (np.asarray(c.get_offsets())[:, 1] > 0.5 * edge).all()
    )
    assert crosses >= failed


def test_colours_are_fixed_by_place_and_never_repeat_with_the_same_marker():
    names = [f"m{i}" for i in range(30)]
    styles = method_styles(names)
    assert styles["m0"]["color"] == COLOURS[0]
    assert len({(s["color"], s["marker"]) for s in styles.values()}) == 30
    assert method_styles(names[:2]) == {name: styles[name] for name in names[:2]}


def test_a_search_that_has_not_ended_stays_in_the_denominator_of_its_panel():
    summary, traces = synthetic(4, ["gp-dimer"], 0.0)
    with style():
        figure = figures_traces.convergence_traces(traces[:3], ["gp-dimer"], len(summary))
    assert figure.axes[0].get_title(loc="left") == "gp-dimer (3/4 converged)"


def test_median_trace_keeps_ended_searches():
    one = ForceTrace("a", "m", np.array([1.0, 2.0]), np.array([4.0, 0.005]), "max_atom_force", 0.01, True)
    two = ForceTrace("b", "m", np.array([1.0, 3.0]), np.array([2.0, 8.0]), "max_atom_force", 0.01, False)
    calls, force = median_trace([one, two])
    assert calls.tolist() == [1, 2, 3]
    # The smallest so far: 4, .005, .005 and 2, 2, 2.
    assert force.tolist() == pytest.approx([3.0, 1.0025, 1.0025])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01, "0.01"), (20, "20"), (3000.0, "3000"), (1e-5, "10⁻⁵"), (1e6, "10⁶"), (2e6, "2·10⁶")],
)
def test_numbers_on_axes_are_plain(value, text):
    assert plain_number(value) == text


@pytest.mark.parametrize(("low", "high"), [(0.83, 1.7), (1.2, 1.9), (3.0, 3.3), (0.5, 40.0), (5, 500)])
def test_every_logarithmic_axis_has_numbers_to_read_a_value_by(low, high):
    axes = new_figure(3.0, 2.0).subplots()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    plain_log_axis(axes.xaxis, low, high)
    labels = [plain_number(value) for value in axes.xaxis.get_major_locator()()]
    assert 3 <= len(labels) <= 12
    assert len(set(labels)) == len(labels)


def test_the_best_method_is_seen_at_a_ratio_of_one():
    cost = np.array([[10.0, 11.0], [20.0, 25.0]])
    styles = method_styles(["a", "b"])
    figure = new_figure(7.0, 3.0)
    _, right = figures_calls.draw_profiles(figure, cost, ["a", "b"], styles)
    assert right.get_xlim()[0] < 1.0
    x, y = right.lines[0].get_data()
    assert y[x < 1.0].max() == 0.0
    assert y[x == 1.0].max() == 1.0


def test_limits_of_a_single_value_span_a_decade():
    low, high = log_limits(np.array([30.0]))
    assert low < 30 < high and high / low == pytest.approx(10)
