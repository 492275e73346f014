"""Compare methods with each other and with published results; docs/comparison.md explains the numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from saddleflow import __version__
from saddleflow.analysis.entries import (
    HERE,
    PUBLISHED,
    compared_reactions,
    coverage,
    our_entries,
    published_entries,
    verifies,
)
from saddleflow.analysis.paired import censored, compare_pair, holm, mcnemar_p, success_interval
from saddleflow.analysis.published import comparable, read_published
from saddleflow.analysis.statistics import CONVERGED, VERIFIED, censored_median, censored_quantile
from saddleflow.analysis.table import summarise
from saddleflow.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """Everything that a table or page of the comparison shows.

    Parameters
    ----------
    entries : pandas.DataFrame
        The searches compared, columns as in :data:`saddleflow.analysis.entries.COLUMNS`.
    methods, whole_table, pairs : pandas.DataFrame
        One row a method on the compared reactions, a published program on its whole table, a pair.
    counts : dict
        Which reactions are compared and what was left out, see :func:`~saddleflow.analysis.entries.coverage`.
    facts : dict
        ``word`` (what counts as solved here), ``budget``, ``max_calls`` and ``criteria`` by method,
        ``engines``, ``published`` (the table), ``comparable`` (whether it is of the same level of theory),
        ``best_published``, ``seed``, ``version``.
    """

    entries: pd.DataFrame
    methods: pd.DataFrame
    whole_table: pd.DataFrame
    pairs: pd.DataFrame
    counts: dict
    facts: dict = field(default_factory=dict)

    @property
    def method_names(self) -> list[str]:
        """Ours first, each in its order."""
        return list(self.methods["method"])

    def costs(self) -> pd.DataFrame:
        """Calls, one row a reaction and one column a method; infinity where not solved within the budget.

        Published programs are columns only where they searched the same surface.
        """
        return _costs(_comparable(self.entries, self.facts["comparable"]), self.facts["budget"])


def compare(
    results_dir: str | Path,
    published: str | Path | None = None,
    budget: float | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare the methods of a results folder on the reactions that all of them have finished.

    Parameters
    ----------
    results_dir : path
        Folder of results; the run may be unfinished.
    published : path, optional
        Table of published results; by default the one that the run's settings name, if any.
    budget : float, optional
        Calls above it count as failed; by default so many that no success is cut.
    seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        When there is no run here, no reaction was finished by all methods, or the table is unusable.
    """
    results = Path(results_dir)
    summary = summarise(results)
    if summary.empty:
        raise InputError(f"{results}: no run was started here; name the results folder of a run")
    path = published or _configured_table(results)
    table = read_published(path) if path else None
    verified = verifies(summary, results)
    counts = coverage(summary, table, verified)
    reactions = compared_reactions(summary, table, verified)
    if not reactions:
        finished = ", ".join(f"{name} {count}" for name, count in counts["finished"].items())
        if counts["waiting"]:
            finished += f"; {counts['waiting']} wait for their verification"
        raise InputError(
            f"{results}: no reaction was finished by all methods yet ({finished}); go on with the run"
        )
    counts["compared"] = len(reactions)
    entries = our_entries(summary, reactions, results, table)
    if table is not None:
        entries = pd.concat([entries, published_entries(table, reactions)], ignore_index=True)
    budgets, criteria = _method_facts(results, list(pd.unique(summary["method"])))
    largest = max([*budgets.values(), entries["calls"].where(entries["solved"]).max()], default=np.nan)
    facts = {
        "version": __version__,
        "seed": seed,
        "word": VERIFIED if verified else CONVERGED,
        "budget": float(budget if budget is not None else np.nanmax([largest, 1.0])),
        "max_calls": budgets,
        "criteria": criteria,
        "engines": sorted(summary["engine"].dropna().unique()),
        "published": str(path) if path else None,
        "comparable": table is not None and bool(summary["engine"].dropna().map(comparable).all()),
        "best_published": None,
    }
    methods = _method_rows(entries, facts["budget"])
    facts["best_published"] = _best_published(methods) if facts["comparable"] else None
    pairs = _pair_rows(_comparable(entries, facts["comparable"]), facts["budget"], seed)
    methods = _with_ratio(methods, pairs, facts["best_published"])
    whole = published_entries(table, None) if table is not None else entries.iloc[:0]
    return Comparison(entries, methods, _method_rows(whole, np.inf), pairs, counts, facts)


def _configured_table(results: Path) -> str | None:
    try:
        settings = yaml.safe_load((results / "inputs" / "settings.yaml").read_text(encoding="utf-8"))
        return settings.get("published") or None
    except (OSError, yaml.YAMLError, AttributeError):
        return None


def _method_facts(results: Path, methods: list[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Budget of calls and convergence criterion of each method, as the run's inputs say."""
    budgets, criteria = {}, {}
    for name in methods:
        try:
            text = (results / "inputs" / "methods" / f"{name}.json").read_text(encoding="utf-8")
            method = json.loads(text)["method"]
            budgets[name] = int(method["max_calls"])
            convergence = method["convergence"]
            criteria[name] = f"{convergence['criterion']} < {convergence['threshold']:g} eV/A"
        except (OSError, ValueError, KeyError, TypeError):
            continue  # results that were copied without their inputs; the rows say what they can
    return budgets, criteria


def _comparable(entries: pd.DataFrame, same_level: bool) -> pd.DataFrame:
    """All entries, or ours alone where the published ones are of another level of theory."""
    return entries if same_level else entries[entries["source"] == HERE]


def _costs(entries: pd.DataFrame, budget: float) -> pd.DataFrame:
    cost = entries.assign(cost=entries["calls"].where(entries["solved"]))
    names, reactions = pd.unique(cost["method"]), pd.unique(cost["reaction"])
    table = cost.pivot(index="reaction", columns="method", values="cost").reindex(reactions, columns=names)
    return table.apply(lambda column: censored(column.to_numpy(), budget))


def _method_rows(entries: pd.DataFrame, budget: float) -> pd.DataFrame:
    """One row a method; medians and percentiles with failures as infinity, the mean over solved reactions."""
    rows = []
    for name, group in entries.groupby("method", sort=False):
        cost = censored(group["calls"].where(group["solved"]).to_numpy(), budget)
        found = np.isfinite(cost)
        low, high = success_interval(int(found.sum()), len(group))
        engine, surrogate = group["engine_s"], group["surrogate_s"]
        rows.append(
            {
                "method": name,
                "source": group["source"].iloc[0],
                "reactions": len(group),
                "solved": int(found.sum()),
                "solved_low": low,
                "solved_high": high,
                "verified": int(group["verified"].sum()) if group["verified"].notna().any() else pd.NA,
                "verification_not_run": int(group["verification_not_run"].sum()),
                "intended": int(group["intended"].sum()) if group["intended"].notna().any() else pd.NA,
                "intended_known": int(group["intended"].notna().sum()),
                "calls_median": censored_median(cost),
                "calls_mean_solved": float(cost[found].mean()) if found.any() else np.nan,
                "calls_p90": censored_quantile(cost, 0.9),
                "engine_s_median": engine.median(),
                "surrogate_s_median": surrogate.median(),
                "surrogate_over_engine_median": (surrogate / engine.where(engine > 0)).median(),
                "mode_overlap_median": group["mode_overlap"].median(),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"verified": "Int64", "intended": "Int64"}) if rows else frame


def _pair_rows(entries: pd.DataFrame, budget: float, seed: int) -> pd.DataFrame:
    """Every pair of our methods, and each of them against each published program, Holm-corrected."""
    costs = _costs(entries, budget)
    sources = entries.drop_duplicates("method").set_index("method")["source"]
    intended = entries.pivot(index="reaction", columns="method", values="intended").reindex(costs.index)
    rows = []
    for a, b in combinations(costs.columns, 2):
        if sources[a] == PUBLISHED:
            continue  # ours come first, so both are published: not our business
        known = intended[a].notna() & intended[b].notna()
        found = (intended.loc[known, name].to_numpy(bool) for name in (a, b))
        row = {"a": a, "b": b} | compare_pair(costs[a].to_numpy(), costs[b].to_numpy(), budget, seed)
        row["mcnemar_intended_p"] = mcnemar_p(*found) if known.any() else np.nan
        rows.append(row)
    frame = pd.DataFrame(rows)
    for test in ("wilcoxon_p", "mcnemar_p", "mcnemar_intended_p") if rows else ():
        frame[f"{test}_holm"] = holm(frame[test].to_numpy(float))
    return frame


def _best_published(methods: pd.DataFrame) -> str | None:
    """Published program with the lowest median on the compared reactions (then the lowest mean)."""
    rows = methods[methods["source"] == PUBLISHED]
    return (
        None if rows.empty else str(rows.sort_values(["calls_median", "calls_mean_solved"])["method"].iloc[0])
    )


def _with_ratio(methods: pd.DataFrame, pairs: pd.DataFrame, best: str | None) -> pd.DataFrame:
    """Add the paired ratio of calls to the best published program (geometric mean, both solved)."""
    columns = {
        "ratio_to_best_published": "ratio_geometric_mean",
        "ratio_to_best_published_low": "ratio_geometric_mean_low",
        "ratio_to_best_published_high": "ratio_geometric_mean_high",
    }
    against = (
        pairs[pairs["b"] == best].set_index("a") if best else pd.DataFrame(columns=list(columns.values()))
    )
    ours = methods["method"].where(methods["source"] == HERE)
    return methods.assign(**{name: ours.map(against[old]).astype("float64") for name, old in columns.items()})
