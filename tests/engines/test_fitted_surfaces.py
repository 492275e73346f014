"""Surfaces with fitted parameters: gradients by differences, and a Hartree-Fock search on them."""

import numpy as np
import pytest

from saddleflow import sparrow
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import InputError, ScfError
from saddleflow.evaluation import Evaluation, Outcome, Purpose
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.searches.prior_model import PriorModel
from saddleflow.settings import Engine, PriorGPDimer
from saddleflow.sparrow import Sparrow
from saddleflow.surrogate.prior_mean import fitted_mean, prior_mean
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


def test_of_a_mean_the_methods_that_were_fitted_are_replaced_and_no_others():
    fitted, published = read_surface_parameters("hf_3-21g"), prior_mean(FORMALDEHYDE, "DFTB3+GFN2-xTB")
    mean = fitted_mean(FORMALDEHYDE, fitted, published)
    assert mean.names == ["DFTB3", "GFN2-xTB"]
    assert mean.potentials[0] is published.potentials[0]
    assert mean.potentials[1] is not published.potentials[1]
    assert mean.weight_prior(0.1).mean == pytest.approx([0.0, 1.0])
    assert fitted_mean(FORMALDEHYDE, fitted, prior_mean(FORMALDEHYDE, "GFN1-xTB")) is None


def noted(truth):
    """What a model says of its surfaces that has seen three points of a sum of surfaces in their shares."""
    model = PriorModel(FORMALDEHYDE, PriorGPDimer(surface_parameters="hf_3-21g"))
    weights, random = truth.weight_prior(0.1).mean, np.random.default_rng(0)
    for index in range(3):
        point = FORMALDEHYDE.positions + 0.03 * random.normal(size=(4, 3))
        energies, gradients = truth.energies_gradients(point.ravel())
        forces = -(weights @ gradients).reshape(-1, 3)
        model.add(Evaluation(index, Purpose.SEARCH, point, float(weights @ energies), forces, 0.0, 0.0))
    model.update(2)
    return model.notes.get("surface_parameters", "")


def test_fitted_parameters_are_taken_where_forces_are_small_and_the_data_likelier(monkeypatch):
    fitted = fitted_mean(FORMALDEHYDE, read_surface_parameters("hf_3-21g"))
    published = prior_mean(FORMALDEHYDE, "auto")
    assert noted(fitted) == ""  # forces are large: not yet
    monkeypatch.setattr("saddleflow.searches.prior_model.FITTED_BELOW", 100.0)
    assert "hf/3-21g, fitted" in noted(fitted)
    assert "published: the evaluations" in noted(published)


def test_fitted_surfaces_without_an_answer_leave_the_search_as_it_was(monkeypatch):
    class Silent:
        method = "PM6"

        def energy_gradient(self, positions):
            raise ScfError("no convergence")

    published = prior_mean(FORMALDEHYDE, "auto")
    fitted = fitted_mean(FORMALDEHYDE, read_surface_parameters("hf_3-21g"), published)
    fitted.potentials[fitted.names.index("PM6")] = Silent()
    monkeypatch.setattr("saddleflow.searches.prior_model.FITTED_BELOW", 100.0)
    monkeypatch.setattr("saddleflow.searches.prior_model.fitted_mean", lambda *_: fitted)
    assert noted(published) == ""


def test_parameters_without_an_element_are_refused_before_anything_is_asked():
    hcn = Reaction("hcn", ("C", "N", "H"), np.array([[0.0, 0, 0], [1.19, 0, 0], [0.45, 1.15, 0]]))
    with pytest.raises(InputError, match="none for N"):
        PriorModel(hcn, PriorGPDimer(surface_parameters="hf_3-21g"))


def test_the_hessian_is_taken_over_and_follows_the_fitted_surfaces():
    x = FORMALDEHYDE.positions.ravel()
    published = PriorModel(FORMALDEHYDE, PriorGPDimer(surface_parameters="published"))
    before = published.prior_gradient_hessian(x)[1]
    hessian = published.followed()
    fitted = fitted_mean(FORMALDEHYDE, read_surface_parameters("hf_3-21g"), prior_mean(FORMALDEHYDE, "auto"))
    hessian.exchange(fitted)
    weights = fitted.weight_prior(0.1).mean
    step = 0.01 * np.random.default_rng(1).normal(size=12)
    start, end = (fitted.energies_gradients(point)[1] for point in (x, x + step))
    after = hessian.at(x + step, end, weights)
    change = weights @ (end - start)
    assert np.linalg.norm(after @ step - change) < 0.5 * np.linalg.norm(before @ step - change)


@pytest.mark.psi4
def test_a_search_on_fitted_surfaces_finds_the_saddle_and_says_what_it_took():
    found = {}
    for fitted in ("", "hf_3-21g"):
        engine = Engine()
        ledger = Ledger(create_engine(engine, FORMALDEHYDE), None, key={}, max_calls=60)
        method = PriorGPDimer(go_on=0)
        run = carry_out(ledger, FORMALDEHYDE, "prior", method, engine.model_dump(mode="json"), fitted)
        ledger.close()
        assert run.result.outcome is Outcome.CONVERGED
        assert run.method["surface_parameters"] == "auto"
        assert ("surface_parameters" in run.result.trace[-1].notes) == bool(fitted)
        assert "surface_parameters" not in run.result.trace[0].notes  # far away they are not taken
        found[fitted] = run.answer.energy
    assert found["hf_3-21g"] == pytest.approx(found[""], abs=1e-3)
