"""Surfaces with fitted parameters: gradients by differences, and a Hartree-Fock search on them."""

import numpy as np
import pytest

from saddleflow import sparrow
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.evaluation import Outcome
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.settings import Engine, PriorGPDimer
from saddleflow.sparrow import Sparrow
from saddleflow.surrogate.prior_mean import fitted_mean
from saddleflow.surrogate.surface_parameters import read_surface_parameters

pytestmark = pytest.mark.skipif(not sparrow.available(), reason="scine-sparrow is not installed")

FORMALDEHYDE = Reaction(
    "formaldehyde",
    ("C", "O", "H", "H"),
    np.array([[0.0, 0.0, 0.0], [1.18, 0.0, 0.0], [-0.9, 0.9, 0.0], [0.25, 1.2, 0.0]]),
)


def test_gradients_of_the_fitted_surfaces():
    mean, step = fitted_mean(FORMALDEHYDE, read_surface_parameters("hf_3-21g")), 1e-3
    assert sorted(mean.names) == ["DFTB3", "GFN2-xTB", "PM6"]
    fitted = [mean.names.index(name) for name in ("GFN2-xTB", "PM6")]
    x = FORMALDEHYDE.positions.ravel()
    _, gradients = mean.energies_gradients(x)
    for i in range(0, 12, 2):
        up, down = (mean.energies_gradients(x + sign * step * np.eye(12)[i])[0] for sign in (1.0, -1.0))
        assert gradients[fitted, i] == pytest.approx((up - down)[fitted] / (2 * step), abs=1e-3)
    published = Sparrow(FORMALDEHYDE.numbers).energy_gradient(FORMALDEHYDE.positions)[1]
    assert abs(gradients[fitted[1]] - published.ravel()).max() > 0.1  # these are other parameters


def test_weights_begin_at_the_shares_of_the_fit():
    mean = fitted_mean(FORMALDEHYDE, read_surface_parameters("hf_3-21g"))
    weights = mean.weight_prior(0.1)
    assert dict(zip(mean.names, weights.mean, strict=True)) == pytest.approx(
        {"GFN2-xTB": 0.6, "PM6": 0.4, "DFTB3": 0.0}
    )
    assert weights.factor == pytest.approx(0.05 * np.eye(3))
    mean.drop(mean.names.index("PM6"))
    weights = dict(zip(mean.names, mean.weight_prior(0.1).mean, strict=True))
    assert weights == pytest.approx({"GFN2-xTB": 1.0, "DFTB3": 0.0})
    mean.drop(mean.names.index("GFN2-xTB"))  # what is left takes over, though it had no share
    assert mean.weight_prior(0.1).mean == pytest.approx([1.0])
    mean.drop(0)
    assert mean.weight_prior(0.1).mean.shape == (0,)


def test_where_one_surface_has_no_answer_the_sum_is_none():
    far = Reaction("atoms", ("H", "H", "O"), np.array([[0.0, 0, 0], [0.2, 0, 0], [0, 1.0, 0]]))
    assert fitted_mean(far, read_surface_parameters("hf_3-21g")) is None


@pytest.mark.psi4
def test_a_search_on_fitted_surfaces_finds_the_saddle_and_says_what_it_took():
    found = {}
    for fitted in ("", "hf_3-21g"):
        engine = Engine()
        ledger = Ledger(create_engine(engine, FORMALDEHYDE), None, key={}, max_calls=60)
        method = PriorGPDimer(surface_parameters="auto", go_on=0)
        run = carry_out(ledger, FORMALDEHYDE, "prior", method, engine.model_dump(mode="json"), fitted)
        ledger.close()
        assert run.result.outcome is Outcome.CONVERGED
        assert run.method["surface_parameters"] == "auto"
        assert ("surface_parameters" in run.result.trace[0].notes) == bool(fitted)
        found[fitted] = run.answer.energy
    assert found["hf_3-21g"] == pytest.approx(found[""], abs=1e-3)
