"""Bayesian model of the calls: negative binomial, with a random effect for each reaction.

The calls of method j on reaction i have the mean exp(a_j + sigma z_i): every reaction is as much harder or
easier for all methods.  A search that failed is right-censored: it would have needed more calls than a limit.
Sampling needs the package pymc, an optional extra.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saddleflow.analysis.paired import CONFIDENCE, censored
from saddleflow.errors import InputError
from saddleflow.files import write_atomically

DRAWS, CHAINS = 1000, 4
TRUSTED_R_HAT = 1.01
"""Chains that differ more have not met (Vehtari et al., Bayesian Anal. 16, 667 (2021))."""
SMALLEST_SURVIVAL = 1e-12


@dataclass(frozen=True)
class CallsModel:
    """What the model says.

    Parameters
    ----------
    methods : pandas.DataFrame
        One row a method: ``method``, ``calls`` expected on a typical reaction with ``_low, _high`` (95 %),
        ``spread`` (of its calls about the mean beyond a Poisson distribution's, relative).
    pairs : pandas.DataFrame
        One row a pair: ``a, b``, ``ratio`` of the expected calls a/b with ``_low, _high``, and
        ``probability_fewer``, that a needs fewer.
    facts : dict
        ``limit`` of the censoring (calls), ``reactions``, ``failures``, ``reaction_sigma`` (standard
        deviation of the logarithm of the calls between reactions), ``r_hat`` (the largest), ``divergences``,
        ``seed``.
    """

    methods: pd.DataFrame
    pairs: pd.DataFrame
    facts: dict[str, float]


def require_pymc() -> Any:
    """The package pymc.

    Raises
    ------
    InputError
        In one line, when it is not installed.
    """
    try:
        import pymc
    except ImportError as error:
        raise InputError(
            f"the Bayesian model needs the package pymc ({error}): pip install 'saddleflow[bayes]'"
        ) from error
    return pymc


def calls_model(
    costs: pd.DataFrame,
    budget: float = np.inf,
    seed: int = 0,
    draws: int = DRAWS,
    chains: int = CHAINS,
) -> CallsModel:
    """Sample the model.

    Parameters
    ----------
    costs : pandas.DataFrame
        Calls, one row a reaction and one column a method; infinity or NaN where the search failed.
    budget : float
        Calls above it count as failed.  Failures are censored at the most calls of any success within it: how
        many calls a failed search would have needed beyond all others is not in the data.
    seed : int
        The same seed and data give the same numbers.
    draws, chains : int
        Of the sampler, after as many draws of tuning.

    Raises
    ------
    InputError
        When pymc is missing, there are fewer than two methods or reactions, or a method solved nothing.
    """
    pymc = require_pymc()
    table = costs.apply(lambda column: censored(column.to_numpy(), budget))
    never = [str(name) for name in table if not np.isfinite(table[name]).any()]
    if table.shape[1] < 2 or len(table) < 2 or never:
        what = f"{', '.join(never)} solved none" if never else "fewer than two of either here"
        raise InputError(f"the Bayesian model compares methods on reactions that they solved: {what}")
    calls = table.to_numpy()
    reaction, method = np.indices(calls.shape).reshape(2, -1)
    solved = np.isfinite(calls).ravel()
    limit = float(np.nanmax(np.where(np.isfinite(calls), calls, np.nan)))
    with _model(pymc, calls.ravel(), solved, reaction, method, limit), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what sampling may warn of is in the facts
        trace = pymc.sample(
            draws,
            tune=draws,
            chains=chains,
            cores=1,
            random_seed=seed,
            progressbar=False,
            target_accept=0.9,
            compute_convergence_checks=False,
        )
    r_hat = max(float(value.max()) for value in pymc.rhat(trace).data_vars.values())
    facts = {
        "limit": limit,
        "reactions": len(table),
        "failures": int((~solved).sum()),
        "reaction_sigma": float(trace.posterior["sigma"].median()),
        "r_hat": r_hat,
        "divergences": int(trace.sample_stats["diverging"].sum()),
        "seed": seed,
    }
    level = trace.posterior["level"].to_numpy().reshape(-1, table.shape[1])
    spread = trace.posterior["spread"].to_numpy().reshape(-1, table.shape[1])
    return CallsModel(_method_rows(table.columns, level, spread), _pair_rows(table.columns, level), facts)


def as_text(model: CallsModel) -> str:
    """Tables and sentences for the screen."""
    facts = model.facts
    lines = [
        f"Bayesian model of the calls (negative binomial, random effect of {facts['reactions']} reactions); "
        f"{facts['failures']} failed searches count as more than {facts['limit']:g} calls:",
    ]
    for _, row in model.methods.iterrows():
        lines.append(
            f"{row['method']}: {row['calls']:.3g} calls ({row['calls_low']:.3g}-{row['calls_high']:.3g})"
        )
    for _, row in model.pairs.iterrows():
        lines.append(
            f"{row['a']} / {row['b']}: {row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f}), "
            f"fewer with probability {row['probability_fewer']:.3f}"
        )
    if facts["r_hat"] > TRUSTED_R_HAT or facts["divergences"]:
        lines.append(
            f"Do not trust these numbers: R-hat {facts['r_hat']:.3f}, {facts['divergences']} divergences."
        )
    return "\n".join(lines)


def write_model(model: CallsModel, path: Path) -> Path:
    """Write everything as JSON, atomically."""
    document = {
        **model.facts,
        "methods": model.methods.to_dict(orient="records"),
        "pairs": model.pairs.to_dict(orient="records"),
    }
    write_atomically(path, json.dumps(document, indent=1) + "\n")
    return path


def _model(
    pymc: Any,
    calls: np.ndarray,
    solved: np.ndarray,
    reaction: np.ndarray,
    method: np.ndarray,
    limit: float,
) -> Any:
    """The model as pymc wants it; all arrays have one entry a search."""
    methods, reactions = int(method.max()) + 1, int(reaction.max()) + 1
    with pymc.Model() as model:
        level = pymc.Normal("level", np.log(calls[solved]).mean(), 2.0, shape=methods)
        sigma = pymc.HalfNormal("sigma", 1.0)
        effect = pymc.Normal("effect", 0.0, 1.0, shape=reactions)
        # Variance mean + (spread mean)^2: without spread a Poisson distribution.
        spread = pymc.HalfNormal("spread", 1.0, shape=methods)
        mean = pymc.math.exp(level[method] + sigma * effect[reaction])
        alpha = spread[method] ** -2
        pymc.NegativeBinomial(
            "calls", mu=mean[solved], alpha=alpha[solved], observed=calls[solved].astype(int)
        )
        if not solved.all():
            # The sum over all counts up to the limit is exact, and its gradient cheap.
            counts = np.arange(int(limit) + 1)[:, None]
            failed = pymc.NegativeBinomial.dist(mu=mean[~solved], alpha=alpha[~solved])
            within = pymc.math.exp(pymc.logp(failed, np.repeat(counts, (~solved).sum(), axis=1))).sum(axis=0)
            pymc.Potential(
                "failures", pymc.math.log(pymc.math.maximum(1.0 - within, SMALLEST_SURVIVAL)).sum()
            )
    return model


def _method_rows(names: pd.Index, level: np.ndarray, spread: np.ndarray) -> pd.DataFrame:
    rows = [
        {"method": name}
        | _interval("calls", np.exp(level[:, k]))
        | {"spread": float(np.median(spread[:, k]))}
        for k, name in enumerate(names)
    ]
    return pd.DataFrame(rows)


def _pair_rows(names: pd.Index, level: np.ndarray) -> pd.DataFrame:
    rows = []
    for a, b in combinations(range(len(names)), 2):
        difference = level[:, a] - level[:, b]
        rows.append(
            {"a": names[a], "b": names[b]}
            | _interval("ratio", np.exp(difference))
            | {"probability_fewer": float((difference < 0).mean())}
        )
    return pd.DataFrame(rows)


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    """Median of the posterior and its central 95 %."""
    tail = 0.5 * (1.0 - CONFIDENCE)
    low, middle, high = np.quantile(values, [tail, 0.5, 1.0 - tail])
    return {name: float(middle), f"{name}_low": float(low), f"{name}_high": float(high)}
