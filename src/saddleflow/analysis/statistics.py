"""Statistics of the summary in which a failed search never leaves the denominator.

The cost of a search that did not solve its system is infinity, not a missing value: it keeps its place in
every fraction, rank and median.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

CONVERGED, VERIFIED = "converged", "verified"
"""What :func:`solved` may mean."""


@dataclass(frozen=True)
class StepCurve:
    """A right-continuous step function that starts at zero.

    Parameters
    ----------
    x : ndarray, shape (K,)
        Ascending positions of the steps.
    y : ndarray, shape (K,)
        Value from each step on, as a fraction between 0 and 1.
    total : int
        The denominator: all systems, failed ones included.
    """

    x: np.ndarray
    y: np.ndarray
    total: int

    @property
    def limit(self) -> float:
        """Value at the right end: the success rate."""
        return float(self.y[-1]) if len(self.y) else 0.0


def solved(summary: pd.DataFrame, verified: bool | None = None) -> tuple[pd.Series, str]:
    """Which searches count as solved, and the word for it.

    Where at least one search of the table was verified (passed or failed), only a verified saddle counts;
    where verification was switched off, a converged search does.

    Parameters
    ----------
    summary : pandas.DataFrame
        The table of :mod:`saddleflow.analysis.table`.
    verified : bool, optional
        Whether only a verified saddle counts, where that is known better than from the table.

    Returns
    -------
    mask : pandas.Series of bool
        One entry a row.
    word : str
        ``"verified"`` or ``"converged"``.
    """
    converged = summary["converged"].fillna(False).astype(bool)
    status = summary["verification"].fillna("not_run")
    if status.isin(["passed", "failed"]).any() if verified is None else verified:
        return converged & (status == "passed"), VERIFIED
    return converged, CONVERGED


def cost_table(summary: pd.DataFrame, column: str = "calls") -> pd.DataFrame:
    """Cost of each system with each method, infinity where it was not solved.

    Parameters
    ----------
    summary : pandas.DataFrame
        The table of :mod:`saddleflow.analysis.table`.
    column : str
        What counts as cost.

    Returns
    -------
    pandas.DataFrame
        One row a reaction, one column a method, both in the order of the summary.  A pair that the summary
        lacks is infinity as well.
    """
    mask, _ = solved(summary)
    cost = summary[column].astype("float64").where(mask).fillna(np.inf)
    frame = pd.DataFrame({"reaction": summary["reaction"], "method": summary["method"], "cost": cost})
    table = frame.pivot_table(index="reaction", columns="method", values="cost", aggfunc="min", sort=False)
    return table.reindex(
        index=pd.unique(summary["reaction"]), columns=pd.unique(summary["method"]), fill_value=np.inf
    ).fillna(np.inf)


def solved_within(cost: np.ndarray) -> StepCurve:
    """Fraction of all systems solved with at most x calls (a data profile with x not scaled).

    Parameters
    ----------
    cost : ndarray, shape (S,)
        Cost of each system, infinity where it failed.

    Returns
    -------
    StepCurve
        Its limit is the success rate.
    """
    cost = _as_cost(cost)
    finite = np.sort(cost[np.isfinite(cost)])
    x, counts = np.unique(finite, return_counts=True)
    return StepCurve(x=x, y=np.cumsum(counts) / max(len(cost), 1), total=len(cost))


def performance_profile(cost: np.ndarray) -> list[StepCurve]:
    """Performance profile of Dolan and More (Math. Program. 91, 201 (2002), eq. 2.1).

    Parameters
    ----------
    cost : ndarray, shape (S, M)
        Cost of S systems with M methods, infinity where a method failed.

    Returns
    -------
    list of StepCurve, length M
        Fraction of all S systems that the method solved at a cost of at most x times the best method's.
        Systems that no method solved stay in the denominator; each limit is the method's success rate.
    """
    cost = _as_cost(cost)
    best = cost.min(axis=1, initial=np.inf)
    ratio = np.full_like(cost, np.inf)
    some = np.isfinite(best)
    # A search that starts on a saddle costs one call, so best is never zero for real data.
    ratio[some] = cost[some] / np.maximum(best[some], np.finfo(float).tiny)[:, None]
    return [solved_within(column) for column in ratio.T]


def censored_quantile(cost: np.ndarray, quantile: float) -> float:
    """Smallest cost that at least the fraction `quantile` of all systems stays within.

    Parameters
    ----------
    cost : ndarray, shape (S,)
        Cost of each system, infinity where it failed.
    quantile : float
        Between 0 (exclusive) and 1.

    Returns
    -------
    float
        Infinity when fewer systems than that were solved, NaN without systems.
    """
    cost = np.sort(_as_cost(cost))
    if not len(cost):
        return float("nan")
    # The small term keeps 0.1 * 30 = 3.0000000000000004 from asking for the fourth value.
    rank = int(np.ceil(quantile * len(cost) - 1e-9))
    return float(cost[max(rank, 1) - 1])


def censored_median(cost: np.ndarray) -> float:
    """Median with failures as infinity: mean of the two middle values, infinity if one of them is."""
    cost = np.sort(_as_cost(cost))
    if not len(cost):
        return float("nan")
    return float((cost[(len(cost) - 1) // 2] + cost[len(cost) // 2]) / 2)


def method_statistics(summary: pd.DataFrame) -> pd.DataFrame:
    """One row a method: systems, solved, success rate, quartiles of the calls with failures as infinity."""
    table = cost_table(summary)
    rows = []
    for method in table.columns:
        cost = table[method].to_numpy()
        finite = np.isfinite(cost)
        rows.append(
            {
                "method": method,
                "systems": len(cost),
                "solved": int(finite.sum()),
                "success_rate": float(finite.mean()) if len(cost) else float("nan"),
                "calls_quartile_1": censored_quantile(cost, 0.25),
                "calls_median": censored_median(cost),
                "calls_quartile_3": censored_quantile(cost, 0.75),
            }
        )
    return pd.DataFrame(rows)


def median_ratio(cost_a: np.ndarray, cost_b: np.ndarray) -> tuple[float, int]:
    """Median of a/b over the systems that both methods solved.

    Returns
    -------
    ratio : float
        NaN when there is no such system.
    count : int
        Number of systems solved by both.
    """
    a, b = _as_cost(cost_a), _as_cost(cost_b)
    both = np.isfinite(a) & np.isfinite(b) & (b > 0)
    return (float(np.median(a[both] / b[both])) if both.any() else float("nan")), int(both.sum())


def _as_cost(values: np.ndarray) -> np.ndarray:
    cost = np.array(values, float)
    cost[np.isnan(cost)] = np.inf  # not known to be solved: a failure
    return cost
