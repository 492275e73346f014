"""Two methods on the same reactions: ratio of calls, success, and tests that keep failures in place.

The unit is the reaction.  The cost of a search that did not solve its reaction, or not within the budget of
the comparison, is censored: it is known only to lie above the budget.  Ranks and medians take it as larger
than every success (infinity); where a number is needed it is put at the budget itself, and the name says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
EXACT_UP_TO = 13
"""Up to so many pairs all 2^n signs are tried; beyond it, ties included, the normal limit is good."""


def censored(cost: np.ndarray, budget: float) -> np.ndarray:
    """Cost with infinity wherever it is unknown or above `budget` (calls)."""
    cost = np.array(cost, float)
    cost[np.isnan(cost) | (cost > budget)] = np.inf
    return cost


def success_interval(solved: int, total: int) -> tuple[float, float]:
    """95 % interval of a success rate (Wilson, J. Am. Stat. Assoc. 22, 209 (1927)); NaN without reactions."""
    if not total:
        return float("nan"), float("nan")
    interval = stats.binomtest(solved, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def log_ratios(cost_a: np.ndarray, cost_b: np.ndarray) -> np.ndarray:
    """Natural logarithm of a/b for each reaction, failures in place.

    Parameters
    ----------
    cost_a, cost_b : ndarray, shape (S,)
        Calls, infinity where a method failed.

    Returns
    -------
    ndarray, shape (S,)
        Infinity where only a failed, minus infinity where only b failed, zero where both did: neither was
        better.
    """
    a, b = np.asarray(cost_a, float), np.asarray(cost_b, float)
    ratios = np.zeros(len(a))
    some = np.isfinite(a) | np.isfinite(b)
    ratios[some] = np.log(a[some]) - np.log(b[some])
    return ratios


def bootstrap_interval(values: np.ndarray, statistic: str, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean (bias-corrected) or median (percentile) over reactions.

    Parameters
    ----------
    values : ndarray, shape (S,)
        One finite value a reaction.
    statistic : {"mean", "median"}
        Of what.
    seed : int
        The same seed and data give the same interval.

    Returns
    -------
    low, high : float
        NaN for fewer than two values, which say nothing about the spread.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float("nan"), float("nan")
    function = np.mean if statistic == "mean" else _middle
    if np.ptp(values) == 0:  # the bias correction divides by the spread
        return float(values[0]), float(values[0])
    interval = stats.bootstrap(
        (values,),
        function,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="BCa" if statistic == "mean" else "percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def wilcoxon_p(ratios: np.ndarray, seed: int = 0) -> float:
    """Two-sided Wilcoxon signed-rank test of log ratios against zero.

    A failure of one method alone has the highest rank, whatever the budget was; ties, also reactions that
    neither method solved, are ranked and then left out (Pratt, J. Am. Stat. Assoc. 54, 655 (1959)).

    Returns
    -------
    float
        1 where there is no difference at all, and for a single reaction, whose sign is a coin's.
    """
    ratios = np.asarray(ratios, float)
    finite = np.abs(ratios[np.isfinite(ratios)])
    beyond = finite.max(initial=0.0) + 1.0
    ranked = np.where(np.isfinite(ratios), ratios, np.sign(ratios) * beyond)
    # Ratios that are equal as fractions (2/4 and 3/6) must tie; their logarithms differ by rounding.
    ranked = np.round(ranked, 12)
    if len(ranked) < 2 or not ranked.any():
        return 1.0
    method: str | stats.PermutationMethod = "asymptotic"
    if len(ranked) <= EXACT_UP_TO:
        method = stats.PermutationMethod(n_resamples=2**EXACT_UP_TO, random_state=np.random.default_rng(seed))
    return float(stats.wilcoxon(ranked, zero_method="pratt", method=method).pvalue)


def mcnemar_p(success_a: np.ndarray, success_b: np.ndarray) -> float:
    """Exact two-sided McNemar test of whether reactions that only one method solved are shared out evenly.

    Parameters
    ----------
    success_a, success_b : ndarray of bool, shape (S,)
        By reaction.
    """
    a, b = np.asarray(success_a, bool), np.asarray(success_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values corrected for their number (Holm, Scand. J. Stat. 6, 65 (1979)); NaN is not counted."""
    p = np.asarray(p_values, float)
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(known) - np.arange(len(known))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def compare_pair(cost_a: np.ndarray, cost_b: np.ndarray, budget: float, seed: int = 0) -> dict[str, float]:
    """Everything about the calls and the success of method a against method b.

    Parameters
    ----------
    cost_a, cost_b : ndarray, shape (S,)
        Calls on the same reactions; infinity or NaN where the method failed.
    budget : float
        Calls above it count as failed.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``reactions, solved_by_both, only_a, only_b, neither``; over reactions that both solved
        ``ratio_geometric_mean`` of a/b with ``_low, _high``; over all reactions ``ratio_median`` with
        ``_low, _high`` (0 or infinity where failures decide it) and
        ``ratio_geometric_mean_failures_at_budget``; ``wilcoxon_p, mcnemar_p``.
    """
    a, b = censored(cost_a, budget), censored(cost_b, budget)
    solved_a, solved_b = np.isfinite(a), np.isfinite(b)
    both = solved_a & solved_b
    ratios = log_ratios(a, b)
    finite = ratios[both]
    low, high = bootstrap_interval(finite, "mean", seed)
    # An interval of a median needs only the order, so infinity may stand at any number beyond all others.
    beyond = np.abs(finite).max(initial=0.0) + 1.0
    placed = np.where(np.isfinite(ratios), ratios, np.sign(ratios) * beyond)
    median_low, median_high = (
        edge if abs(edge) < beyond - 0.5 or np.isnan(edge) else np.sign(edge) * np.inf
        for edge in bootstrap_interval(placed, "median", seed)
    )
    at_budget = np.log(np.minimum(a, budget)) - np.log(np.minimum(b, budget))
    return {
        "reactions": len(a),
        "solved_by_both": int(both.sum()),
        "only_a": int((solved_a & ~solved_b).sum()),
        "only_b": int((solved_b & ~solved_a).sum()),
        "neither": int((~solved_a & ~solved_b).sum()),
        "ratio_geometric_mean": float(np.exp(finite.mean())) if len(finite) else float("nan"),
        "ratio_geometric_mean_low": float(np.exp(low)),
        "ratio_geometric_mean_high": float(np.exp(high)),
        "ratio_median": float(np.exp(_median(ratios))),
        "ratio_median_low": float(np.exp(median_low)),
        "ratio_median_high": float(np.exp(median_high)),
        "ratio_geometric_mean_failures_at_budget": float(np.exp(at_budget.mean()))
        if len(a)
        else float("nan"),
        "wilcoxon_p": wilcoxon_p(ratios, seed),
        "mcnemar_p": mcnemar_p(solved_a, solved_b),
    }


def _middle(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Median that is always one of the values, so that a stand-in for infinity is never averaged in."""
    return np.quantile(values, 0.5, axis=axis, method="inverted_cdf")


def _median(values: np.ndarray) -> float:
    """Median that stays defined between minus infinity and infinity (then: no difference)."""
    if not len(values):
        return float("nan")
    ordered = np.sort(values)
    middle = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return 0.0 if np.isinf(middle).all() and middle[0] != middle[1] else float(np.mean(middle))
