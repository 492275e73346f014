"""Search on top of an xTB prior: its surrogate by differences, its searches with another xTB as the truth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saddleflow import sparrow
from saddleflow.curvilinear import Distances
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import ScfError
from saddleflow.evaluation import Outcome, Purpose, SearchStopped, TracePoint
from saddleflow.geometry import largest_displacement, largest_motion
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.searches import gp_dimer, guess_relaxation, measured_modes, prior_gp_dimer, prior_walk
from saddleflow.searches.partitioned_rfo import saddle_step, stiff_step
from saddleflow.searches.prior_model import PriorModel
from saddleflow.searches.ridge import SAME_MODE, Ridge
from saddleflow.searches.start_direction import start_direction
from saddleflow.settings import Engine, GPDimer, PriorGPDimer, Start
from saddleflow.surrogate import followed_hessian
from saddleflow.surrogate import prior_mean as prior_mean_module
from saddleflow.surrogate.followed_hessian import FollowedHessian, secant_metric, secant_update
from saddleflow.surrogate.inverse_distances import InverseDistances
from saddleflow.surrogate.kernel import TrainingFeatures
from saddleflow.surrogate.prior_mean import (
    PriorMean,
    SurfaceFailed,
    prior_mean,
)
from saddleflow.surrogate.prior_process import Observations, PriorProcess
from saddleflow.vibrations import Modes, internal_modes
from saddleflow.xtb import XTB

HCN = Reaction("hcn", ("C", "N", "H"), np.array([[0.0, 0.0, 0.0], [1.19, 0.0, 0.0], [0.45, 1.15, 0.0]]))
FORMALDEHYDE = Reaction(
    "formaldehyde",
    ("C", "O", "H", "H"),
    np.array([[0.0, 0.0, 0.0], [1.18, 0.0, 0.0], [-0.9, 0.9, 0.0], [0.25, 1.2, 0.0]]),
)


OTHER = "GFN1-xTB+PM6+DFTB3" if sparrow.available() else "GFN1-xTB"
"""A prior that is not the truth of these tests; `auto` holds it."""


class Truth:
    """GFN2-xTB as the expensive surface, so that the GFN1-xTB prior is near but wrong."""

    def __init__(self, reaction, fail_at=()):
        self.engine = create_engine(Engine(program="xtb"), reaction)
        self.calls, self.fail_at = 0, fail_at

    def evaluate(self, positions):
        self.calls += 1
        if self.calls in self.fail_at:
            raise ScfError("no convergence")
        return self.engine.evaluate(positions)

    def close(self):
        self.engine.close()


def run(reaction, method, module=prior_gp_dimer, **kwargs):
    ledger, trace = Ledger(Truth(reaction, **kwargs), None, {}, method.max_calls), []
    direction = start_direction(reaction, method.start)
    return module.search(ledger.evaluate, reaction, method, direction, trace), ledger


def central(function, x, step=1e-5):
    return np.array([(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(len(x))])


@pytest.fixture(scope="module")
def conditioned():
    """A process on three points of a truth that is 0.8 GFN1-xTB plus a smooth part in one distance."""
    mean, generator = prior_mean(HCN, "GFN1-xTB"), np.random.default_rng(0)
    descriptor = InverseDistances(HCN.numbers)
    training, rows = TrainingFeatures(descriptor), []
    for _ in range(3):
        x = HCN.positions.ravel() + 0.05 * generator.standard_normal(9)
        energies, gradients = mean.energies_gradients(x)
        bent = np.array([0.3, 0.0, 0.0])
        value = 0.8 * energies[0] + bent @ descriptor.features(x)
        rows.append((value, 0.8 * gradients[0] + descriptor.pull_back(x, bent), energies, gradients))
        training.add(x)
    observations = Observations(*(np.array(column) for column in zip(*rows, strict=True)))
    weights = mean.weight_prior(0.2)
    return PriorProcess(training, observations, 0.6, weights, 2e-4, 1e-3), observations, mean, training


def test_process_reproduces_its_data_and_weighs_the_prior(conditioned):
    process, observations, _, training = conditioned
    assert process.weights == pytest.approx([0.8], abs=0.1)
    assert len(training) == 3
    for i, (e, g) in enumerate(zip(observations.prior_energies, observations.prior_gradients, strict=True)):
        x = _position(i)
        energy, gradient = process.energy_gradient(x, (e, g))
        assert energy == pytest.approx(observations.energies[i], abs=5e-3)
        assert gradient == pytest.approx(observations.gradients[i], abs=2e-2)
        assert process.standard_deviations(x, (e, g))[1] < 5e-3


def _position(number):
    generator = np.random.default_rng(0)
    return [HCN.positions.ravel() + 0.05 * generator.standard_normal(9) for _ in range(number + 1)][-1]


def test_gradient_and_hessian_of_the_prediction(conditioned):
    process, _, mean, _ = conditioned
    x = HCN.positions.ravel() + 0.03
    x[0] += 0.04
    energy = lambda y: process.energy_gradient(y, mean.energies_gradients(y))[0]  # noqa: E731
    gradient = lambda y: process.energy_gradient(y, mean.energies_gradients(y))[1]  # noqa: E731
    assert gradient(x) == pytest.approx(central(energy, x, 1e-3), abs=2e-3)
    prior_hessian = process.weights[0] * mean.hessians(x, mean.energies_gradients(x)[1])[0]
    assert process.hessian(x, prior_hessian) == pytest.approx(central(gradient, x, 1e-3), rel=0.03, abs=0.6)


def test_uncertainty_grows_away_from_the_data(conditioned):
    process, _, mean, _ = conditioned
    sigmas = []
    for shift in (0.0, 0.2, 0.5):
        x = _position(0)
        x[7] += shift
        sigmas.append(process.standard_deviations(x, mean.energies_gradients(x))[1])
    assert sigmas == sorted(sigmas)


class Quartic:
    """A cheap surface with a known Hessian: r^4 / 12 + curvature r^2 / 2 of each pair of atoms."""

    method = "quartic"

    def __init__(self, curvature=0.0):
        self.curvature, self.asked, self.fail = curvature, 0, False

    def _pairs(self, positions):
        """Differences (N, N, 3), and the slopes of the energy over the distances (N, N, 1)."""
        d = positions[:, None] - positions[None, :]
        return d, (d**2).sum(axis=2, keepdims=True) / 3 + self.curvature

    def energy_gradient(self, positions):
        if self.fail:
            raise ScfError("no convergence")
        d, slope = self._pairs(np.reshape(positions, (-1, 3)))
        return float(((d**2).sum(axis=2, keepdims=True) * (slope + self.curvature)).sum() / 8), (
            slope * d
        ).sum(axis=1)

    def gradients(self, points):
        self.asked += len(points)
        return np.array([self.energy_gradient(point)[1] for point in points])

    def hessian(self, x):
        d, slope = self._pairs(x.reshape(-1, 3))
        blocks = slope[..., None] * np.eye(3) + d[..., :, None] * d[..., None, :] * 2 / 3
        blocks[np.diag_indices(len(blocks))] = 0.0
        blocks[np.diag_indices(len(blocks))] = -blocks.sum(axis=1)
        return -blocks.transpose(0, 2, 1, 3).reshape(x.size, x.size)


def test_the_quartic_surface_has_the_hessian_that_it_says():
    surface, x = Quartic(0.7), FORMALDEHYDE.positions.ravel()
    energy = [surface.energy_gradient(x + s * 1e-5 * np.eye(12)[4])[0] for s in (1, -1)]
    assert surface.energy_gradient(x)[1].ravel()[4] == pytest.approx((energy[0] - energy[1]) / 2e-5)
    assert surface.hessian(x) == pytest.approx(
        central(lambda y: surface.energy_gradient(y)[1].ravel(), x, 1e-4), abs=1e-6
    )


def test_secant_update_obeys_the_secant_and_spares_the_soft_modes():
    generator = np.random.default_rng(1)
    vectors = np.linalg.qr(generator.standard_normal((9, 9)))[0]
    hessian = vectors @ np.diag([0.1, 0.2, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0]) @ vectors.T
    step = vectors @ np.full(9, 0.1)
    change = hessian @ step + vectors[:, 8]
    updated = secant_update(hessian, step, change, secant_metric(hessian, step))
    assert updated @ step == pytest.approx(change)
    assert updated == pytest.approx(updated.T)
    soft = vectors[:, :2]
    assert np.abs(soft.T @ (updated - hessian) @ soft).max() < 0.1


def test_hessian_of_the_prior_is_made_once_followed_and_made_anew_far_away(monkeypatch):
    surface = Quartic(-0.5)
    mean = PriorMean([surface])
    follows = FollowedHessian(mean, HCN.numbers, 0.3)
    x = HCN.positions.ravel()
    weights = np.array([0.7])
    monkeypatch.setattr(followed_hessian, "CORRECTIONS", 1)
    monkeypatch.setattr(followed_hessian, "FOLLOWED_ERROR", 0.01)
    for made, shift in ((3, 0.0), (3, 0.05), (3, 0.1), (9, 0.9)):  # rigid motion is never asked
        moved = x.copy()
        moved[0] += shift
        hessian = follows.at(moved, mean.energies_gradients(moved)[1], weights)
        assert surface.asked == made
        assert hessian == pytest.approx(hessian.T)
        if shift in (0.0, 0.9):
            assert hessian == pytest.approx(0.7 * surface.hessian(moved), abs=0.05)


def test_a_followed_hessian_stays_near_the_true_one():
    """GFN1-xTB, six steps of 0.05 Angstrom along a bend and a stretch."""
    mean, weights = prior_mean(FORMALDEHYDE, "GFN1-xTB"), np.ones(1)
    follows = FollowedHessian(mean, FORMALDEHYDE.numbers, 10.0)
    x = FORMALDEHYDE.positions.ravel().copy()
    follows.at(x, mean.energies_gradients(x)[1], weights)
    start = mean.hessians(x, mean.energies_gradients(x)[1])[0]
    for _ in range(6):
        x[[3, 6, 10]] += [0.02, -0.04, 0.03]
        followed = follows.at(x, mean.energies_gradients(x)[1], weights)
    true = mean.hessians(x, mean.energies_gradients(x)[1])[0]
    assert np.linalg.norm(followed - true) < 0.6 * np.linalg.norm(start - true)
    modes, exact = internal_modes(followed, x), internal_modes(true, x)
    assert abs(modes.vectors[:, 0] @ exact.vectors[:, 0]) > 0.8


class FadingRidge:
    """A downward curvature along one mode that vanishes along another one."""

    method = "fading ridge"

    def __init__(self, x):
        modes = internal_modes(np.diag(np.arange(12.0)), x).vectors
        self.x, self.ridge, self.bend = x.copy(), modes[:, 0], modes[:, 1]

    def energy_gradient(self, positions):
        d = np.ravel(positions) - self.x
        along, aside = self.ridge @ d, self.bend @ d
        fading = np.exp(-((aside / 0.1) ** 2))
        gradient = 2.0 * (d - along * self.ridge) - 5.0 * along * fading * self.ridge
        gradient += 500.0 * along**2 * aside * fading * self.bend
        return float(d @ d - (1.0 + 2.5 * fading) * along**2), gradient.reshape(-1, 3)

    def gradients(self, points):
        return np.array([self.energy_gradient(point)[1] for point in points])


def test_the_default_check_sees_that_a_ridge_fades_aside_of_the_way():
    """The gradients on the way say nothing of it: followed for 0.3 Angstrom, it would still be there."""
    x = FORMALDEHYDE.positions.ravel()
    mean = PriorMean([FadingRidge(x)])
    lowest = {}
    for limit in (PriorGPDimer().hessian_rebuild_distance, 0.3):
        follows = FollowedHessian(mean, FORMALDEHYDE.numbers, limit)
        for part in np.linspace(0.0, 0.25, 4):
            moved = x + part * mean.potentials[0].bend / largest_motion(mean.potentials[0].bend)
            hessian = follows.at(moved, mean.energies_gradients(moved)[1], np.ones(1))
        lowest[limit] = internal_modes(hessian, moved).values[0]
    assert lowest[0.3] < -3.0
    assert lowest[PriorGPDimer().hessian_rebuild_distance] > -0.5


def test_a_followed_hessian_that_holds_is_not_made_anew_but_corrected(monkeypatch):
    mean, weights = prior_mean(FORMALDEHYDE, "GFN1-xTB"), np.ones(1)
    x = FORMALDEHYDE.positions.ravel().copy()
    checked, unchecked = (FollowedHessian(mean, FORMALDEHYDE.numbers, limit) for limit in (0.01, 10.0))
    for follows in (checked, unchecked):
        follows.at(x, mean.energies_gradients(x)[1], weights)
    monkeypatch.setattr(followed_hessian, "FOLLOWED_ERROR", 1e3)
    with monkeypatch.context() as patch:
        patch.setattr(mean, "part_hessians", None)  # not asked again
        for _ in range(4):
            x[[3, 6, 10]] += [0.02, -0.04, 0.03]
            gradients = mean.energies_gradients(x)[1]
            corrected, followed = (f.at(x, gradients, weights) for f in (checked, unchecked))
    true = mean.hessians(x, mean.energies_gradients(x)[1])[0]
    soft = internal_modes(true, x).vectors[:, :2]
    assert corrected == pytest.approx(corrected.T)
    assert np.linalg.norm((corrected - true) @ soft) < 0.7 * np.linalg.norm((followed - true) @ soft)


def test_the_softest_modes_of_a_followed_hessian_are_corrected_until_they_hold():
    """Formaldehyde after a large step: a few products mend what 12 gradients would make anew."""
    mean, weights = prior_mean(FORMALDEHYDE, "GFN1-xTB"), np.ones(1)
    x = FORMALDEHYDE.positions.ravel().copy()
    follows = FollowedHessian(mean, FORMALDEHYDE.numbers, 0.1)
    follows.at(x, mean.energies_gradients(x)[1], weights)
    asked = []
    products = mean.part_products
    mean.part_products = lambda *args: asked.append(args[-1].shape[1]) or products(*args)
    mean.part_hessians = None
    x[[3, 6, 10]] += [0.15, -0.25, 0.2]
    corrected = follows.at(x, mean.energies_gradients(x)[1], weights)
    assert len(asked) > 1 and sum(asked) <= 6  # the molecule has six modes; none is asked twice
    true = mean.hessians(x, mean.energies_gradients(x)[1])[0]
    modes, exact = internal_modes(corrected, x), internal_modes(true, x)
    assert modes.values[:2] == pytest.approx(exact.values[:2], rel=0.05)
    assert abs(modes.vectors[:, 0] @ exact.vectors[:, 0]) > 0.98


def test_going_back_to_an_earlier_hessian_asks_for_no_other():
    model = PriorModel(FORMALDEHYDE, PriorGPDimer(prior="GFN1-xTB"))
    x = FORMALDEHYDE.positions.ravel()
    first = model.prior_gradient_hessian(x)[1]
    kept = model.followed()
    moved = x + np.linspace(0.0, 0.3, x.size)
    model.prior_gradient_hessian(moved)
    model.follow(kept)
    model._mean.part_hessians = None
    assert model.prior_gradient_hessian(x)[1] == pytest.approx(first)


def test_a_surface_that_was_dropped_leaves_nothing_in_the_hessian():
    surfaces = [Quartic(), Quartic()]
    mean, x = PriorMean(surfaces), HCN.positions.ravel()
    follows = FollowedHessian(mean, HCN.numbers, 0.3)
    follows.at(x, mean.energies_gradients(x)[1], np.array([0.5, 0.5]))
    mean.drop(1)
    hessian = follows.at(x, mean.energies_gradients(x)[1], np.array([0.5]))
    assert hessian == pytest.approx(0.5 * surfaces[0].hessian(x), abs=0.05)


def test_a_followed_hessian_is_that_of_the_weights_as_they_are_now(monkeypatch):
    """Also where the molecule has not moved: a step along a stiff mode with old weights would miss."""
    mean, x = prior_mean(FORMALDEHYDE, "GFN1-xTB+GFN2-xTB"), FORMALDEHYDE.positions.ravel().copy()
    follows = FollowedHessian(mean, FORMALDEHYDE.numbers, 0.3)
    gradients = mean.energies_gradients(x)[1]
    follows.at(x, gradients, np.array([0.5, 0.5]))
    hessians = mean.hessians(x, gradients)
    monkeypatch.setattr(mean, "part_hessians", None)
    for weights in ([0.3, 0.4], [1.2, 0.1]):
        assert follows.at(x, gradients, np.array(weights)) == pytest.approx(
            np.tensordot(weights, hessians, 1), abs=0.05
        )


def test_curvatures_that_all_methods_agree_on_are_no_crossing():
    """Also where all are large and positive: a stretch of a small molecule."""
    prior_mean_module._refuse_cusps(np.array([45.8, 46.6, 44.2, 44.9]).reshape(4, 1, 1))
    prior_mean_module._refuse_cusps(np.array([-90.0, -100.0, -95.0]).reshape(3, 1, 1))
    with pytest.raises(SurfaceFailed, match="no other method sees"):
        prior_mean_module._refuse_cusps(np.array([45.0, -40.0, 44.0]).reshape(3, 1, 1))


def test_a_surface_that_fails_is_named():
    surfaces = [Quartic(), Quartic()]
    mean, x = PriorMean(surfaces), HCN.positions.ravel()
    gradients = mean.energies_gradients(x)[1]
    surfaces[1].fail = True
    with pytest.raises(SurfaceFailed) as failure:
        mean.energies_gradients(x)
    assert failure.value.number == 1
    with pytest.raises(SurfaceFailed) as failure:
        mean.hessians(x, gradients)
    assert failure.value.number == 1


def test_a_step_that_is_too_long_gives_in_along_soft_modes_first():
    x = np.random.default_rng(3).standard_normal(12)
    basis = internal_modes(np.diag(np.arange(12.0)), x).vectors
    hessian = basis @ np.diag([-2.0, 0.01, 1.0, 3.0, 5.0, 40.0]) @ basis.T
    modes = internal_modes(hessian, x)
    gradient = modes.vectors @ np.array([0.05, 0.3, 0.0, 0.0, 0.0, 2.0])
    whole, short = (modes.vectors.T @ saddle_step(gradient, modes, 0, limit) for limit in (None, 0.1))
    assert largest_motion(modes.vectors @ short) == pytest.approx(0.1, rel=0.01)
    assert largest_motion(modes.vectors @ whole) > 0.3
    assert abs(short[1]) < 0.4 * abs(whole[1])
    assert short[5] == pytest.approx(whole[5], rel=0.15)


def test_saddle_step_climbs_one_mode_and_descends_the_others():
    generator = np.random.default_rng(3)
    x = generator.standard_normal(12)
    modes = internal_modes(np.diag(np.arange(12.0)), x)
    assert modes.vectors.shape == (12, 6)
    eigenvalues = np.array([-2.0, 0.5, 1.0, 3.0, 5.0, 40.0])
    hessian = modes.vectors @ np.diag(eigenvalues) @ modes.vectors.T
    modes = internal_modes(hessian, x)
    gradient = hessian @ (0.01 * generator.standard_normal(12))
    step = modes.vectors.T @ saddle_step(gradient, modes, 0)
    slope = modes.vectors.T @ gradient
    assert step[0] * slope[0] > 0
    assert (step[1:] * slope[1:] < 0).all()
    # Near the saddle the step is Newton's.
    assert step == pytest.approx(-slope / eigenvalues, rel=0.05, abs=1e-4)
    stiff = modes.vectors.T @ stiff_step(gradient, modes, 10.0)
    assert stiff[:5] == pytest.approx(0.0)
    assert stiff[5] == pytest.approx(-slope[5] / 40.0)


@pytest.mark.parametrize("reaction", [HCN, FORMALDEHYDE])
def test_finds_a_first_order_saddle_in_fewer_calls_than_the_published_search(reaction):
    result, ledger = run(reaction, PriorGPDimer(prior=OTHER))
    published, long_ledger = run(reaction, GPDimer(start={"direction": "xtb_softest_mode"}), gp_dimer)
    assert result.outcome is published.outcome is Outcome.CONVERGED
    answer = ledger.evaluations[result.evaluation]
    assert answer.max_atom_force < 0.01
    assert internal_modes(result.hessian, answer.positions.ravel()).index == 1
    assert len(ledger.evaluations) < 0.7 * len(long_ledger.evaluations)
    other = long_ledger.evaluations[published.evaluation]
    assert answer.energy == pytest.approx(other.energy, abs=2e-3)
    assert largest_displacement(answer.positions, other.positions) < 0.05


def test_same_input_same_geometries():
    first, second = (run(FORMALDEHYDE, PriorGPDimer(prior=OTHER))[1].evaluations for _ in range(2))
    assert [e.positions.tolist() for e in first] == [e.positions.tolist() for e in second]


def test_predictions_come_with_every_phase():
    _, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER))
    assert all(e.prediction is not None for e in ledger.evaluations[1:])
    last = ledger.evaluations[-1]
    assert last.prediction.energy == pytest.approx(last.energy, abs=1e-2)


def test_survives_an_scf_failure_on_the_way():
    result, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER), fail_at=(1, 4))
    assert result.outcome is Outcome.CONVERGED
    assert sum(bool(e.error) for e in ledger.evaluations) == 2
    # The relaxed guess had no solution: the bare one was evaluated instead.
    assert np.array_equal(ledger.evaluations[1].positions, FORMALDEHYDE.positions)


def test_the_published_search_takes_over_when_patience_is_used_up():
    result, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER, patience=1))
    assert result.outcome is Outcome.CONVERGED
    assert "rotation" in ledger.calls
    # One call of each walk; the published search starts at the bare guess.
    rotation = [evaluation.purpose for evaluation in ledger.evaluations].index(Purpose.ROTATION)
    assert np.array_equal(ledger.evaluations[rotation - 1].positions, FORMALDEHYDE.positions)


def test_the_published_search_ends_where_it_climbs_far_above_the_start():
    """Left alone it can press atoms into each other, calls and calls above any saddle."""
    low = replace(FORMALDEHYDE, positions=MINIMUM + 0.05 * np.eye(4, 3))
    ledger = Ledger(Truth(low), None, {}, 60)
    method = PriorGPDimer(prior=OTHER, patience=1, energy_limit=0.05)
    with pytest.raises(SearchStopped) as stopped:
        prior_gp_dimer.search(ledger.evaluate, low, method, np.zeros((4, 3)), [])
    assert stopped.value.outcome is Outcome.ENERGY_LIMIT
    assert str(stopped.value).endswith("above the start (energy_limit is 0.05 eV)")
    published = [e.purpose for e in ledger.evaluations].index(Purpose.ROTATION) - 1
    rises = [e.energy - ledger.evaluations[published].energy for e in ledger.evaluations[published:]]
    assert max(rises[:-1]) <= 0.05 < rises[-1]


def test_no_hessian_for_a_direction_unless_the_published_search_needs_it(monkeypatch):
    asked = []
    real = XTB.hessian
    monkeypatch.setattr(XTB, "hessian", lambda self, x: asked.append(self.method) or real(self, x))
    for method, count in (
        (PriorGPDimer(prior=OTHER), 0),
        (PriorGPDimer(prior=OTHER, patience=1), 1),
        (PriorGPDimer(prior=OTHER, start=Start(displacement=0.05)), 1),
    ):
        asked.clear()
        engine = create_engine(Engine(program="xtb"), FORMALDEHYDE)
        ledger = Ledger(engine, None, {}, method.max_calls)
        found = carry_out(ledger, FORMALDEHYDE, "prior", method, {})
        assert found.result.outcome is Outcome.CONVERGED
        assert len(asked) == count


def test_a_constant_prior_needs_no_xtb():
    result, ledger = run(HCN, PriorGPDimer(prior="constant"))
    assert result.outcome is Outcome.CONVERGED
    assert len(ledger.evaluations) < 60


def test_goes_on_without_a_surface_that_has_no_answer(monkeypatch):
    """The second cheap method fails from the second evaluation on, in the middle of the search."""
    from saddleflow.searches import prior_model

    class Failing:
        method = "failing"

        def __init__(self, potential):
            self.potential = potential

        def energy_gradient(self, positions):
            if len(observed) > 1:
                raise ScfError("no convergence")
            return self.potential.energy_gradient(positions)

        def gradients(self, points):
            return self.potential.gradients(points)

    observed = []
    add = PriorModel.add

    def counting(model, evaluation):
        add(model, evaluation)
        observed.append(evaluation)

    monkeypatch.setattr(PriorModel, "add", counting)
    real = prior_mean

    def with_failing(reaction, prior):
        failing = Failing(real(reaction, "GFN2-xTB").potentials[0])
        return PriorMean([*real(reaction, prior).potentials, failing])

    monkeypatch.setattr(prior_model, "prior_mean", with_failing)
    result, _ = run(FORMALDEHYDE, PriorGPDimer(prior="GFN1-xTB"))
    assert result.outcome is Outcome.CONVERGED
    assert "weight_failing" in result.trace[1].hyperparameters
    assert "weight_failing" not in result.trace[-1].hyperparameters


def test_every_method_of_the_mixture_that_can_be_had_has_a_weight():
    result, _ = run(FORMALDEHYDE, PriorGPDimer())
    weights = {key for key in result.trace[-1].hyperparameters if key.startswith("weight_")}
    expected = {"GFN2-xTB"} | ({"PM6", "DFTB3"} if sparrow.available() else {"GFN1-xTB"})
    assert weights == {f"weight_{name}" for name in expected}


MINIMUM = np.array([[0.0, 0.0, 0.0], [1.25, 0.0, 0.0], [-0.58, 0.94, 0.0], [-0.58, -0.94, 0.0]])
"""Near formaldehyde's own, where all modes are positive."""


def walk_on(reaction):
    """A walk after its first evaluation, and a function that makes it stand somewhere else."""
    method = PriorGPDimer(prior=OTHER)
    ledger, trace = Ledger(Truth(reaction), None, {}, 60), []
    direction = start_direction(reaction, method.start)
    walk = prior_walk.Walk(ledger.evaluate, reaction, method, direction, trace)
    walk._first()

    def stand_at(positions):
        walk.model.add(ledger.evaluate(positions))
        walk.base = len(walk.model.evaluations) - 1
        walk.model.update()
        walk._keep_to_ridge()

    walk.model.update()
    walk._keep_to_ridge()
    return walk, stand_at


def test_a_walk_that_fell_off_the_ridge_goes_back_to_its_last_point_there():
    walk, stand_at = walk_on(FORMALDEHYDE)
    radius = walk.trust.radius
    stand_at(MINIMUM + 0.02 * np.eye(4, 3))
    assert walk.base == 0 and walk.off_ridge == 0
    assert walk.trust.radius == pytest.approx(0.5 * radius)
    assert len(walk.model.evaluations) == 2  # what it saw there stays


def test_a_ridge_ends_where_little_is_left_of_its_curvature():
    """At a hundredth of the guess's curvature nearly all walks were lost, however alike the mode."""
    walk, _ = walk_on(FORMALDEHYDE)
    walk.ridge.rates = None  # all modes are alike
    walk.ridge.curvature = -1.2
    distances = Distances(FORMALDEHYDE.numbers, FORMALDEHYDE.positions.ravel())
    vectors = np.eye(12)[:, :2]
    assert walk.ridge.number(distances, Modes(np.array([-2.0, 1.0]), vectors)) == 0
    assert walk.ridge.number(distances, Modes(np.array([-1.0, 1.0]), vectors)) is None


def test_the_last_walk_begins_at_the_best_point_with_what_is_known_around_it(monkeypatch):
    """Three walks are lost at their third evaluation; the fourth asks nothing again and converges."""
    walks_that_get_lost(monkeypatch, 3)
    monkeypatch.setattr(guess_relaxation, "SURELY_SAME", (1.1, 1.1))
    result, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER))
    assert result.outcome is Outcome.CONVERGED
    assert "rotation" not in ledger.calls
    before = ledger.evaluations[:8]
    base = result.trace[8].notes["base"]
    assert base == min(before, key=lambda evaluation: evaluation.max_atom_force).index
    positions = [evaluation.positions for evaluation in ledger.evaluations]
    assert len({x.tobytes() for x in positions}) == len(positions)


@pytest.mark.parametrize(("curvature", "begins_at"), [(-5.0, 0), (-0.2, 1)])
def test_the_last_walk_begins_on_a_ridge_if_any_was_seen(curvature, begins_at):
    ledger = Ledger(Truth(FORMALDEHYDE), None, {}, 60)
    places = (FORMALDEHYDE.positions, MINIMUM + 0.06 * np.eye(4, 3))
    asked = [ledger.evaluate(place) for place in places]
    assert asked[1].max_atom_force < asked[0].max_atom_force
    trace = [TracePoint(0, np.zeros((4, 3)), curvature), TracePoint(1, np.zeros((4, 3)), -0.01)]
    walk = prior_walk.Walk(
        ledger.evaluate,
        FORMALDEHYDE,
        PriorGPDimer(prior="GFN1-xTB"),
        np.zeros((4, 3)),
        trace,
        relaxation=guess_relaxation.Relaxation.GATHERED,
        asked=asked,
    )
    assert walk._gathered().index == begins_at == walk.base


def test_a_plain_is_no_saddle():
    """Forces vanish where the surrogate has no negative mode: only the last walk answers with that."""
    walk, stand_at = walk_on(FORMALDEHYDE)
    stand_at(MINIMUM)
    flat = walk._answer(walk.model.evaluations[-1])
    assert flat.curvature > prior_walk.PLAIN


def test_a_walk_without_a_way_back_is_lost_after_two_evaluations():
    walk, stand_at = walk_on(FORMALDEHYDE)
    walk.places = []
    lost = []
    for shift in (0.02, 0.03):
        stand_at(MINIMUM + shift * np.eye(4, 3))
        lost.append(walk.off_ridge >= prior_walk.LOST)
    assert lost == [False, True]


@pytest.mark.parametrize(("plain", "expected"), [(np.inf, [0, 0, 1]), (-0.3, [1, 2, 3])])
def test_a_walk_that_improves_is_not_lost_but_on_a_plain(monkeypatch, plain, expected):
    """Near a minimum forces get smaller, too."""
    monkeypatch.setattr(prior_walk, "PLAIN", plain)
    walk, stand_at = walk_on(FORMALDEHYDE)
    walk.places, walk.returns = [], 1
    lost = []
    for shift in (0.05, 0.06, 0.02):
        stand_at(MINIMUM + shift * np.eye(4, 3))
        lost.append(walk.off_ridge)
        assert walk.on_plain == (plain < 0.0)
    assert lost == expected


def test_a_ridge_is_that_of_the_guess_however_the_molecule_has_turned():
    walk, _ = walk_on(FORMALDEHYDE)
    position = FORMALDEHYDE.positions.ravel()
    distances = Distances(FORMALDEHYDE.numbers, position)
    vectors = np.zeros((12, 3))  # the C=O bond, one C-H bond and the other stretch
    for column, (atom, other) in enumerate(((1, 0), (2, 0), (3, 0))):
        bond = FORMALDEHYDE.positions[atom] - FORMALDEHYDE.positions[other]
        vectors[3 * atom : 3 * atom + 3, column] = bond / np.linalg.norm(bond)
    walk.ridge.rates = distances.rates(vectors[:, 1:2])[:, 0]
    likeness = np.abs(walk.ridge.rates @ distances.rates(vectors))
    assert likeness[1] == pytest.approx(1.0)
    assert likeness[[0, 2]].max() < SAME_MODE
    assert walk.ridge.number(distances, Modes(np.array([-9.0, -2.0, 2.0]), vectors)) == 1
    assert walk.ridge.number(distances, Modes(np.array([-9.0, 1.0, 2.0]), vectors)) is None
    assert walk.ridge.number(distances, Modes(np.array([1.0, 1.0, 2.0]), vectors)) is None
    turn = Rotation.from_rotvec([0.3, -1.2, 0.7]).as_matrix()
    turned = Distances(FORMALDEHYDE.numbers, (FORMALDEHYDE.positions @ turn.T).ravel())
    moved = (vectors.T.reshape(3, -1, 3) @ turn.T).reshape(3, -1).T
    assert walk.ridge.number(turned, Modes(np.array([-9.0, -2.0, 2.0]), moved)) == 1


def test_rates_are_the_changes_of_the_distances():
    position = FORMALDEHYDE.positions.ravel()
    distances = Distances(FORMALDEHYDE.numbers, position)
    mode = np.random.default_rng(1).normal(size=12)
    step = 1e-5
    change = Distances(FORMALDEHYDE.numbers, position + step * mode).lengths - distances.lengths
    rates = distances.rates(mode[:, None])[:, 0]
    weighted = np.sqrt(distances._weights) * change
    assert rates == pytest.approx(weighted / np.linalg.norm(weighted), abs=1e-4)


def test_relaxing_ends_where_the_ridge_of_the_guess_ends():
    """Modes that turn into other ones, or fade, are another ridge; one more negative mode is none."""
    distances = Distances(FORMALDEHYDE.numbers, FORMALDEHYDE.positions.ravel())
    vectors = np.zeros((12, 3))
    for column, (atom, other) in enumerate(((1, 0), (2, 0), (3, 0))):
        bond = FORMALDEHYDE.positions[atom] - FORMALDEHYDE.positions[other]
        vectors[3 * atom : 3 * atom + 3, column] = bond / np.linalg.norm(bond)

    def left(start, *values, order=(0, 1, 2)):
        ridge = Ridge(FORMALDEHYDE.numbers)
        ridge.begin(distances, Modes(np.array(start), vectors))
        now = Modes(np.array(values), vectors[:, list(order)])
        return ridge.left(distances, now, *guess_relaxation.SURELY_SAME)

    start = [-10.0, -2.0, 2.0]
    assert not left(start, -12.0, -5.0, 2.0)
    assert not left(start, -12.0, -5.0, 2.0, order=(1, 0, 2))
    assert left(start, -12.0, 1.0, 2.0, order=(1, 0, 2))
    assert left(start, -2.0, 1.0, 2.0)
    assert left(start, 0.1, 1.0, 2.0)
    assert not left([-0.1, 1.0, 2.0], 0.5, 1.0, 2.0)  # no ridge at the guess that could be left


def relaxed(method, left=None):
    """Guess of HCN relaxed on the prior, its model and ridge."""
    model, ridge = PriorModel(HCN, method), Ridge(HCN.numbers)
    ridge.left = left or ridge.left
    relaxation = guess_relaxation.GuessRelaxation(HCN.positions.ravel(), method, model, ridge)
    return relaxation.run(guess_relaxation.Relaxation.SURE), model, ridge


def test_the_guess_goes_up_its_ridge_on_the_prior_until_forces_are_small():
    still, model, _ = relaxed(PriorGPDimer(prior=OTHER, relaxation_force=1000.0))
    before = largest_motion(model.prior_gradient_hessian(still)[0])
    force = 0.3 * before
    end, model, ridge = relaxed(PriorGPDimer(prior=OTHER, relaxation_force=force))
    gradient, hessian = model.prior_gradient_hessian(end)
    assert largest_motion(gradient) < force < before
    assert largest_displacement(end, HCN.positions) <= PriorGPDimer().relaxation_distance
    assert not ridge.left(*ridge.curvilinear(end, gradient, hessian), *guess_relaxation.SURELY_SAME)
    none, _, _ = relaxed(PriorGPDimer(prior=OTHER, relaxation_force=force, relaxation_distance=0.0))
    assert np.array_equal(none, HCN.positions.ravel())


def test_climbing_stops_before_the_ridge_is_lost():
    method = PriorGPDimer(prior=OTHER, relaxation_force=0.01)
    far = 0.0135  # the ridge is said to end there, past the relaxed guess

    def left(distances, *_):
        return largest_displacement(distances._position, HCN.positions) > far

    further, end = relaxed(method)[0], relaxed(method, left)[0]
    moved = [largest_displacement(position, HCN.positions) for position in (end, further)]
    assert 0.0 < moved[0] <= far < moved[1]


def test_of_the_steps_that_leave_little_the_shortest_is_taken():
    """A soft mode with next to no force is not followed for half an Angstrom."""
    modes = Modes(np.array([-20.0, 0.005, 0.2, 30.0]), np.eye(6)[:, :4])
    gradient = np.array([0.3, 0.005, 0.05, 0.6, 0.0, 0.0])
    plain = saddle_step(gradient, modes, 0)
    short = saddle_step(gradient, modes, 0, enough=0.02)
    assert abs(plain[1]) > 2.0 * abs(short[1])
    left = gradient + np.array([-20.0, 0.005, 0.2, 30.0, 0.0, 0.0]) * short
    assert largest_motion(left) <= 0.02
    assert short[[0, 3]] == pytest.approx(plain[[0, 3]], rel=0.05)  # stiff modes relax all the same


def test_the_surrogate_forgets_what_is_long_ago_but_not_where_it_stands():
    method = PriorGPDimer(prior="GFN1-xTB", observations=2)
    model, truth = PriorModel(HCN, method), Truth(HCN)
    ledger = Ledger(truth, None, {}, 60)
    places = [HCN.positions + 0.03 * k * np.eye(3)[::-1] for k in range(5)]
    for place in places:
        model.add(ledger.evaluate(place))
    for base, known in ((4, [3, 4]), (0, [0, 3, 4])):
        model.update(base)
        wrong = [
            np.abs(model.predict(x.ravel()).forces - e.forces).max()
            for x, e in zip(places, model.evaluations, strict=True)
        ]
        assert [k for k in range(5) if wrong[k] < 0.01] == known


def test_the_softest_modes_are_checked_as_often_as_asked():
    position = FORMALDEHYDE.positions.ravel()
    mean = prior_mean(FORMALDEHYDE, "GFN1-xTB")
    checked = []
    products = mean.part_products
    mean.part_products = lambda x, *rest: checked.append(x) or products(x, *rest)
    follower = FollowedHessian(mean, FORMALDEHYDE.numbers, 0.3)

    def at(shift, *within):
        x = position.copy()
        x[3] += shift
        follower.at(x, mean.energies_gradients(x)[1], np.ones(1), *within)
        return len(checked)

    assert [at(0.0), at(0.15), at(0.15, 0.1), at(0.2, 0.1)] == [0, 0, 1, 1]


def walks_that_get_lost(monkeypatch, count):
    """Let so many walks lose the ridge at their third evaluation."""
    lost = []

    def keep_to_ridge(walk):
        if len(walk.model.evaluations) == 3 and len(lost) < count:
            lost.append(walk)
            walk.off_ridge = prior_walk.LOST

    monkeypatch.setattr(prior_walk.Walk, "_keep_to_ridge", keep_to_ridge)


def test_a_lost_walk_from_the_bare_guess_is_followed_by_one_from_the_relaxed_guess(monkeypatch):
    walks_that_get_lost(monkeypatch, 1)
    monkeypatch.setattr(guess_relaxation, "SURELY_SAME", (1.1, 1.1))  # never sure: the first walk begins bare
    result, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER))
    assert result.outcome is Outcome.CONVERGED
    assert np.array_equal(ledger.evaluations[0].positions, FORMALDEHYDE.positions)
    assert 0.01 < largest_displacement(ledger.evaluations[3].positions, FORMALDEHYDE.positions) < 0.5
    assert "rotation" not in ledger.calls


def test_the_careful_walk_asks_nothing_again(monkeypatch):
    walks_that_get_lost(monkeypatch, 2)
    monkeypatch.setattr(guess_relaxation, "SURELY_SAME", (1.1, 1.1))
    result, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER))
    assert result.outcome is Outcome.CONVERGED
    positions = [evaluation.positions for evaluation in ledger.evaluations]
    assert sum(np.array_equal(x, FORMALDEHYDE.positions) for x in positions) == 1
    assert [point.evaluation for point in result.trace] == list(range(len(positions)))
    assert largest_displacement(positions[6], FORMALDEHYDE.positions) < 0.41
    assert "rotation" not in ledger.calls


def test_a_lost_walk_from_the_relaxed_guess_is_followed_by_a_careful_one_from_the_bare_guess(monkeypatch):
    walks_that_get_lost(monkeypatch, 1)
    result, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER))
    assert result.outcome is Outcome.CONVERGED
    assert not np.array_equal(ledger.evaluations[0].positions, FORMALDEHYDE.positions)
    assert np.array_equal(ledger.evaluations[3].positions, FORMALDEHYDE.positions)


def test_a_lost_walk_from_a_guess_that_cannot_relax_is_not_made_once_more(monkeypatch):
    """The second walk is the careful one: with less trust it goes elsewhere."""
    walks_that_get_lost(monkeypatch, 1)
    began = []
    first = prior_walk.Walk._first
    monkeypatch.setattr(prior_walk.Walk, "_first", lambda walk: began.append(walk) or first(walk))
    result, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER, relaxation_distance=0.0))
    assert result.outcome is Outcome.CONVERGED
    asked = [walk.relaxation.name for walk in began if walk.model.evaluations]
    assert asked == ["SURE", "NONE"]
    third, fourth = (ledger.evaluations[i].positions for i in (2, 3))
    assert np.array_equal(ledger.evaluations[0].positions, FORMALDEHYDE.positions)
    assert largest_displacement(third, fourth) > 1e-3


RADICAL = Reaction("radical", FORMALDEHYDE.symbols, FORMALDEHYDE.positions, charge=1, multiplicity=2)


@pytest.mark.parametrize(("reaction", "measured"), [(RADICAL, True), (FORMALDEHYDE, False)])
def test_where_the_prior_misleads_an_open_shell_the_mode_is_measured(monkeypatch, reaction, measured):
    """At the bare guess, with a few gradients next to it; no walk on the relaxed guess is made."""
    monkeypatch.setattr(prior_walk, "MISLED", 0.0)
    result, ledger = run(reaction, PriorGPDimer(prior=OTHER))
    assert result.outcome is Outcome.CONVERGED
    probes = [e for e in ledger.evaluations if e.purpose is Purpose.ROTATION]
    assert bool(probes) == measured
    assert len(probes) <= measured_modes.MOST_PROBES
    for probe in probes:
        length = np.linalg.norm(probe.positions - reaction.positions)
        assert length == pytest.approx(measured_modes.PROBE)
    if measured:
        assert np.array_equal(ledger.evaluations[1].positions, reaction.positions)


def test_a_walk_lost_on_a_plain_is_followed_by_one_along_a_measured_mode(monkeypatch):
    began = []
    first = prior_walk.Walk._first
    monkeypatch.setattr(prior_walk.Walk, "_first", lambda walk: began.append(walk) or first(walk))

    def keep_to_ridge(walk):
        walk.on_plain = len(began) == 1 and len(walk.model.evaluations) == 3
        walk.off_ridge = prior_walk.LOST if walk.on_plain else 0

    monkeypatch.setattr(prior_walk.Walk, "_keep_to_ridge", keep_to_ridge)
    result, ledger = run(FORMALDEHYDE, PriorGPDimer(prior=OTHER))
    assert result.outcome is Outcome.CONVERGED
    assert [walk.relaxation.name for walk in began] == ["SURE", "MEASURED"]
    assert "rotation" in ledger.calls


def test_a_prior_that_is_right_enough_leads_an_open_shell():
    result, ledger = run(RADICAL, PriorGPDimer(prior=OTHER))
    assert result.outcome is Outcome.CONVERGED
    assert "rotation" not in ledger.calls


def test_a_guess_that_is_the_saddle_is_the_answer_however_wrong_the_prior(monkeypatch):
    result, ledger = run(RADICAL, PriorGPDimer(prior=OTHER))
    saddle = replace(RADICAL, positions=ledger.evaluations[result.evaluation].positions)
    monkeypatch.setattr(prior_walk, "MISLED", 0.0)
    result, ledger = run(saddle, PriorGPDimer(prior=OTHER, relaxation_distance=0.0))
    assert result.outcome is Outcome.CONVERGED
    assert ledger.calls == {"search": 1}


def test_the_measured_mode_is_that_of_the_true_surface():
    """Gradients next to the guess tell the surrogate what the prior does not know."""
    ledger = Ledger(Truth(FORMALDEHYDE), None, {}, 60)
    model = PriorModel(FORMALDEHYDE, PriorGPDimer(prior="GFN1-xTB"))
    first = ledger.evaluate(FORMALDEHYDE.positions)
    model.add(first)
    position = first.positions.ravel()

    def gradient(x):
        return -ledger.engine.evaluate(x.reshape(-1, 3)).forces.ravel()

    true = internal_modes(central(gradient, position, 1e-3), position)
    before = model.prior_gradient_hessian(position)[1]
    measured_modes.measure_lowest_mode(ledger.evaluate, model, first)
    model.update(0)
    after = model.gradient_hessian(position)[1]
    mode = true.vectors[:, 0]
    error = [abs(mode @ hessian @ mode - true.values[0]) for hessian in (before, after)]
    assert error[1] < 0.05 * abs(true.values[0]) < error[0]
    assert abs(internal_modes(after, position).vectors[:, 0] @ mode) > 0.98
