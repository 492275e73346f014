"""Two methods on the same reactions: known answers, and failures that keep their place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from saddleflow.analysis.paired import (
    bootstrap_interval,
    censored,
    compare_pair,
    holm,
    log_ratios,
    mcnemar_p,
    wilcoxon_p,
)
from saddleflow.analysis.statistics import solved_within

one_cost = st.one_of(st.integers(1, 3000).map(float), st.just(np.inf), st.just(np.nan))
pairs = st.integers(1, 30).flatmap(lambda n: arrays(float, (2, n), elements=one_cost))
BUDGET = 3000.0


@given(arrays(float, st.integers(1, 40), elements=one_cost), st.integers(1, 3000))
def test_the_profile_of_censored_costs_ends_at_the_success_rate_within_the_budget(cost, budget):
    curve = solved_within(censored(cost, budget))
    assert curve.limit == pytest.approx(np.mean(cost <= budget))


@settings(max_examples=15, deadline=None)
@given(pairs)
def test_exchanging_the_methods_turns_everything_round_and_every_reaction_counts_once(cost):
    there, back = compare_pair(*cost, BUDGET), compare_pair(*cost[::-1], BUDGET)
    for name in ("ratio_geometric_mean", "ratio_median", "ratio_geometric_mean_failures_at_budget"):
        with np.errstate(divide="ignore"):
            assert back[name] == pytest.approx(1 / np.float64(there[name]), nan_ok=True)
    parts = [there[name] for name in ("solved_by_both", "only_a", "only_b", "neither")]
    assert sum(parts) == there["reactions"] == cost.shape[1]
    assert (there["only_a"], there["only_b"]) == (back["only_b"], back["only_a"])
    for name in ("wilcoxon_p", "mcnemar_p"):
        assert there[name] == pytest.approx(back[name])
        assert 0 < there[name] <= 1


def test_ratio_of_calls_and_its_interval():
    generator = np.random.default_rng(1)
    b = generator.integers(20, 60, 100).astype(float)
    a = b * np.exp(generator.normal(np.log(0.4), 0.3, 100))
    row = compare_pair(a, b, BUDGET)
    assert row["ratio_geometric_mean"] == pytest.approx(np.exp(np.mean(np.log(a / b))))
    low, high = row["ratio_geometric_mean_low"], row["ratio_geometric_mean_high"]
    # A normal sample of 100: the interval of the mean is known.
    width = 1.98 * np.log(a / b).std(ddof=1) / 10
    assert np.log(high / low) == pytest.approx(2 * width, rel=0.1)
    assert low < row["ratio_geometric_mean"] < high
    assert row["ratio_median_low"] <= row["ratio_median"] <= row["ratio_median_high"]
    assert row == compare_pair(a, b, BUDGET), "the same seed gives the same interval"
    assert row["wilcoxon_p"] < 1e-10


def test_failures_move_the_median_and_the_test_but_not_the_ratio_of_the_solved():
    b = np.full(21, 30.0)
    a = np.array([10.0] * 10 + [np.inf] * 11)
    row = compare_pair(a, b, budget=300.0)
    assert row["ratio_geometric_mean"] == pytest.approx(1 / 3)
    assert row["ratio_median"] == np.inf and row["ratio_median_high"] == np.inf
    assert row["ratio_median_low"] == pytest.approx(1 / 3)
    assert row["ratio_geometric_mean_failures_at_budget"] == pytest.approx(
        (1 / 3) ** (10 / 21) * 10 ** (11 / 21)
    )
    assert row["mcnemar_p"] == pytest.approx(2 * 0.5**11)


def test_calls_above_the_budget_are_failures():
    row = compare_pair(np.array([10.0, 500.0]), np.array([20.0, 20.0]), budget=300.0)
    assert (row["solved_by_both"], row["only_b"]) == (1, 1)


def test_reactions_that_neither_solved_are_no_difference():
    assert log_ratios(np.array([np.inf]), np.array([np.inf])).tolist() == [0.0]
    assert wilcoxon_p(np.zeros(5)) == 1.0
    nothing = np.full(4, np.inf)
    row = compare_pair(nothing, nothing, BUDGET)
    assert row["neither"] == 4 and row["wilcoxon_p"] == 1.0 and np.isnan(row["ratio_geometric_mean"])


def test_a_small_sample_gets_the_exact_test():
    ratios = np.log([0.5, 0.6, 0.7, 0.8, 0.9])
    assert wilcoxon_p(ratios) == pytest.approx(2 / 2**5)
    # Ties included: every sign pattern is tried.
    assert wilcoxon_p(np.log([0.5, 0.5, 0.5, 0.5, 0.5, 0.5])) == pytest.approx(2 / 2**6)


def test_a_failure_has_the_highest_rank():
    worse = np.append(np.log([0.8] * 8), np.inf)
    mild = np.append(np.log([0.8] * 8), 0.01)
    assert wilcoxon_p(worse) > wilcoxon_p(mild)
    assert wilcoxon_p(worse) == pytest.approx(
        stats.wilcoxon(np.append(-np.ones(8), 99), method="exact").pvalue, abs=0.05
    )


def test_mcnemar_looks_at_the_discordant_reactions_alone():
    a = np.array([True] * 50 + [True] * 1 + [False] * 9)
    b = np.array([True] * 50 + [False] * 1 + [True] * 9)
    assert mcnemar_p(a, b) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar_p(a, a) == 1.0


def test_holm_corrects_stepwise():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, np.nan, 0.8]) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p):
    corrected, p = holm(p), np.array(p)
    assert (corrected >= p).all() and (corrected <= np.minimum(p * max(len(p), 1), 1) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


def test_one_value_has_no_interval_and_equal_ones_have_no_width():
    assert np.isnan(bootstrap_interval(np.array([1.0]), "mean")).all()
    assert bootstrap_interval(np.full(5, 2.0), "mean") == (2.0, 2.0)


def test_one_reaction_that_only_one_method_solved_proves_nothing():
    row = compare_pair(np.array([20.0]), np.array([np.inf]), BUDGET)
    assert row["wilcoxon_p"] == row["mcnemar_p"] == 1.0
    assert row["only_a"] == 1
