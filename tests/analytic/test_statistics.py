"""Failures keep their place in every fraction, rank and median."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saddleflow.analysis.statistics import (
    censored_median,
    censored_quantile,
    cost_table,
    median_ratio,
    method_statistics,
    performance_profile,
    solved,
    solved_within,
)

one_cost = st.one_of(st.integers(1, 3000).map(float), st.just(np.inf), st.just(np.nan))
costs = st.tuples(st.integers(1, 30), st.integers(1, 5)).flatmap(
    lambda shape: arrays(float, shape, elements=one_cost)
)


@given(costs)
def test_right_hand_limit_of_a_profile_is_the_success_rate(cost):
    for curve, column in zip(performance_profile(cost), cost.T, strict=True):
        assert curve.total == len(cost)
        assert curve.limit == pytest.approx(np.isfinite(column).mean())
        assert (curve.x >= 1).all()
        assert (np.diff(curve.y) > 0).all() and (np.diff(curve.x) > 0).all()


@given(costs)
def test_at_ratio_one_the_profiles_share_out_every_solved_system_at_least_once(cost):
    finite = np.isfinite(cost).any(axis=1).mean()
    wins = sum(curve.y[0] if len(curve.x) and curve.x[0] == 1 else 0.0 for curve in performance_profile(cost))
    assert wins >= finite - 1e-12


@given(costs)
def test_a_failed_system_more_lowers_every_profile_and_never_lifts_one(cost):
    worse = np.vstack([cost, np.full(cost.shape[1], np.inf)])
    for before, after in zip(performance_profile(cost), performance_profile(worse), strict=True):
        assert np.array_equal(before.x, after.x)
        assert np.allclose(after.y * after.total, before.y * before.total)


@given(arrays(float, st.integers(1, 40), elements=one_cost), st.floats(0.01, 1))
def test_at_least_the_fraction_lies_within_its_quantile_and_less_below(cost, quantile):
    value = censored_quantile(cost, quantile)
    known = np.where(np.isnan(cost), np.inf, cost)
    assert (known <= value).mean() >= quantile - 1e-9
    assert (known < value).mean() < quantile


@given(arrays(float, st.integers(1, 40), elements=one_cost))
def test_median_is_infinite_when_more_than_half_failed(cost):
    failed = (~np.isfinite(cost)).sum()
    assert np.isinf(censored_median(cost)) == (2 * failed >= len(cost))


def test_median_equals_the_plain_one_without_failures():
    cost = np.array([3.0, 9.0, 1.0, 4.0])
    assert censored_median(cost) == np.median(cost)


def test_nothing_solved_and_no_system_at_all():
    assert solved_within(np.array([np.inf, np.nan])).limit == 0.0
    assert solved_within(np.array([])).limit == 0.0
    assert np.isnan(censored_median(np.array([])))


def _summary(**changes):
    rows = {
        "reaction": ["b", "b", "a", "a"],
        "method": ["gp", "dimer", "gp", "dimer"],
        "converged": [True, True, True, False],
        "verification": ["passed", "failed", "not_run", "not_run"],
        "calls": pd.array([10, 200, 12, 300], dtype="Int64"),
    }
    return pd.DataFrame(rows | changes)


def test_only_a_verified_saddle_counts_once_anything_was_verified():
    mask, word = solved(_summary())
    assert word == "verified"
    assert mask.tolist() == [True, False, False, False]


def test_convergence_counts_where_verification_is_off():
    mask, word = solved(_summary(verification=["not_run"] * 4))
    assert word == "converged"
    assert mask.tolist() == [True, True, True, False]


def test_costs_keep_the_order_of_the_summary_and_failures_as_infinity():
    table = cost_table(_summary(verification=["not_run"] * 4))
    assert list(table.index) == ["b", "a"] and list(table.columns) == ["gp", "dimer"]
    assert table.loc["a", "dimer"] == np.inf
    assert table.loc["b", "dimer"] == 200


def test_a_pair_that_the_table_lacks_is_a_failure():
    table = cost_table(_summary(verification=["not_run"] * 4).iloc[:3])
    assert table.loc["a", "dimer"] == np.inf


def test_statistics_of_methods():
    frame = method_statistics(_summary(verification=["not_run"] * 4)).set_index("method")
    assert frame.loc["dimer", "systems"] == 2 and frame.loc["dimer", "solved"] == 1
    assert frame.loc["dimer", "success_rate"] == 0.5
    assert np.isinf(frame.loc["dimer", "calls_median"])
    assert frame.loc["gp", "calls_median"] == 11


def test_ratio_is_of_the_systems_that_both_solved():
    ratio, count = median_ratio(np.array([10, np.inf, 30.0]), np.array([5, 7, np.nan]))
    assert (ratio, count) == (2.0, 1)
    assert np.isnan(median_ratio(np.array([np.inf]), np.array([1.0]))[0])
