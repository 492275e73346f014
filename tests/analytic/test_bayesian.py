"""Bayesian model of the calls: it finds the ratio that the data were made with, censored or not."""

import builtins

import numpy as np
import pandas as pd
import pytest

from saddleflow.analysis import bayesian
from saddleflow.cli import main
from saddleflow.errors import InputError

RATIO = 0.5


def synthetic(reactions=40, censoring=np.inf):
    """Calls of methods a and b, a with half the calls of b, and reactions that differ by a factor."""
    rng = np.random.default_rng(7)
    effect = np.exp(0.4 * rng.standard_normal(reactions))
    mean = {"a": 40 * RATIO * effect, "b": 40 * effect}
    # Gamma-Poisson mixture: negative binomial with a relative spread of 0.3.
    shape = 0.3**-2
    calls = {
        name: rng.poisson(m * rng.gamma(shape, 1 / shape, reactions)).astype(float)
        for name, m in mean.items()
    }
    table = pd.DataFrame(calls)
    return table.where(table <= censoring, np.inf)


def test_a_missing_package_is_one_line_and_stops_before_any_work(monkeypatch, capsys, tmp_path):
    original = builtins.__import__

    def without_pymc(name, *arguments, **keywords):
        if name == "pymc":
            raise ImportError("No module named 'pymc'")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_pymc)
    assert main(["compare", str(tmp_path), "--bayes"]) == 2
    message = capsys.readouterr().err.strip()
    assert "saddleflow[bayes]" in message
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("censoring", [np.inf, 45.0])
def test_the_true_ratio_is_found_with_and_without_censoring(censoring):
    pytest.importorskip("pymc", reason="the extra bayes is not installed")
    costs = synthetic(censoring=censoring)
    model = bayesian.calls_model(costs, draws=500, chains=2)
    pair = model.pairs.iloc[0]
    assert pair["ratio_low"] < RATIO < pair["ratio_high"]
    assert pair["ratio"] == pytest.approx(RATIO, abs=0.1)
    assert pair["probability_fewer"] > 0.99
    assert model.facts["failures"] == int(np.isinf(costs.to_numpy()).sum())
    assert model.facts["reaction_sigma"] == pytest.approx(0.4, abs=0.2)
    assert model.facts["r_hat"] < 1.05
    if np.isfinite(censoring):
        # The ratio over the reactions that both solved leaves out those that b finds hard.
        both = costs[np.isfinite(costs).all(axis=1)]
        naive = np.exp(np.log(both["a"] / both["b"]).mean())
        assert abs(np.log(pair["ratio"] / RATIO)) < abs(np.log(naive / RATIO))


def test_methods_that_solved_nothing_can_not_be_compared():
    pytest.importorskip("pymc", reason="the extra bayes is not installed")
    costs = pd.DataFrame({"a": [3.0, 4.0], "b": [np.inf, np.inf]})
    with pytest.raises(InputError, match="b solved none"):
        bayesian.calls_model(costs)
