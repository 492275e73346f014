"""What the optimal-transport GP-dimer adds, formula by formula, and its switches."""

from itertools import permutations

import numpy as np
import pytest

from saddleflow.evaluation import Evaluation, Purpose
from saddleflow.reaction import Reaction
from saddleflow.searches.surrogate_model import SurrogateModel
from saddleflow.settings import GPDimer, OTGPDimer, Settings
from saddleflow.settings_resolution import resolve_methods
from saddleflow.surrogate.hyperparameters import DataScales, Posterior, SignalBarrier
from saddleflow.surrogate.inverse_distances import InverseDistances
from saddleflow.surrogate.kernel import TrainingFeatures
from saddleflow.surrogate.oscillation import OscillationDetector, flip_ratio
from saddleflow.surrogate.transport import TransportDistance, farthest_points

NUMBERS = np.array([6, 1, 1, 8, 1, 1])


def brute_force(numbers, a, b):
    """Cheapest assignment of each element by trying all of them."""
    means = []
    for z in np.unique(numbers):
        group = np.flatnonzero(numbers == z)
        costs = [np.linalg.norm(a[group] - b[list(p)], axis=1).mean() for p in permutations(group)]
        means.append(min(costs))
    return means


@pytest.mark.parametrize("seed", range(4))
def test_transport_distance_is_the_cheapest_of_all_assignments(seed):
    generator = np.random.default_rng(seed)
    a, b = generator.standard_normal((2, len(NUMBERS), 3))
    means = brute_force(NUMBERS, a, b)
    assert TransportDistance(NUMBERS)(a, b) == pytest.approx(max(means))
    assert TransportDistance(NUMBERS, "sum")(a.ravel(), b.ravel()) == pytest.approx(sum(means))


def test_like_atoms_may_trade_places_and_others_not():
    distance, a = TransportDistance(NUMBERS), np.random.default_rng(0).standard_normal((6, 3))
    hydrogens_traded, unlike_traded = a[[0, 4, 1, 3, 5, 2]], a[[3, 1, 2, 0, 4, 5]]
    assert distance(a, hydrogens_traded) == 0.0
    assert distance(a, unlike_traded) == pytest.approx(np.linalg.norm(a[0] - a[3]))


def test_small_moves_count_as_mean_displacement_of_the_element_that_moves_most():
    a = np.random.default_rng(1).standard_normal((6, 3)) * 3
    b = a.copy()
    b[1] += [0.04, 0.0, 0.0]
    b[3] += [0.0, 0.02, 0.0]
    assert TransportDistance(NUMBERS)(a, b) == pytest.approx(0.02)
    assert TransportDistance(NUMBERS, "sum")(a, b) == pytest.approx(0.03)


@pytest.mark.parametrize("limit", [0.3, 0.6, 0.9])
def test_trust_test_is_that_of_the_exact_distances(limit):
    generator, distance = np.random.default_rng(5), TransportDistance(NUMBERS)
    x = generator.standard_normal((6, 3))
    for _ in range(20):
        observed = [x[generator.permutation(6)] + 0.4 * generator.standard_normal((6, 3)) for _ in range(3)]
        exact = min(distance(x, other) for other in observed) <= limit
        assert distance.any_within(x, observed, limit) == exact
        assert all(distance.upper_bound(x, o) >= distance(x, o) - 1e-12 for o in observed)


def test_subset_keeps_the_newest_and_spreads():
    line = np.array([0.0, 5.0, 0.1, 9.0, 0.2, 4.9, 1.0, 1.1])
    distances = np.abs(line[:, None] - line[None, :])
    # newest 1.0 and 1.1; then 9.0 (7.9 away), then 5.0 (3.9 away), then 0.0 (1.0 away)
    assert farthest_points(distances, 3, 2) == [3, 6, 7]
    assert farthest_points(distances, 4, 2) == [1, 3, 6, 7]
    assert farthest_points(distances, 5, 2) == [0, 1, 3, 6, 7]
    assert farthest_points(distances, 8, 2) == list(range(8))
    assert farthest_points(np.zeros((4, 4)), 3, 2) == [0, 2, 3]


def test_flip_ratio_counts_turns():
    zigzag = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 2.0], [1.0, 3.0], [0.0, 4.0], [1.0, 5.0]])
    assert flip_ratio(zigzag) == 0.5
    assert flip_ratio(zigzag[:, :1]) == 1.0
    assert flip_ratio(1e-6 * zigzag) == 0.0


def test_oscillation_is_seen_once_the_window_is_full_and_then_forgotten():
    detector = OscillationDetector(6, 0.8)
    answers = [detector.oscillates(np.array([(-1.0) ** k, (-1.0) ** k])) for k in range(12)]
    assert answers == [False] * 5 + [True] + [False] * 5 + [True]
    steady = OscillationDetector(6, 0.8)
    assert not any(steady.oscillates(np.array([float(k)])) for k in range(20))


def test_barrier_has_its_slope_and_stops_growing():
    barrier, h = SignalBarrier(), 1e-6
    for observed in (30, 10_000):
        for w in (-3.0, 0.0, 0.6):
            slope = (barrier.evaluate(w + h, observed)[0] - barrier.evaluate(w - h, observed)[0]) / (2 * h)
            assert barrier.evaluate(w, observed)[1] == pytest.approx(slope, rel=1e-6)
    assert barrier.evaluate(0.0, 100)[0] == pytest.approx(-0.1001 * np.log(np.log(2.0)))
    assert barrier.evaluate(0.0, 10_000)[0] == pytest.approx(-0.5 * np.log(np.log(2.0)))
    assert np.isinf(barrier.evaluate(np.log(2.0), 30)[0])
    assert barrier.inside(36.0) < 2.0 and barrier.inside(0.3) == 0.3
    assert barrier.inside(1.99) == 1.99 and SignalBarrier(start_fraction=0.9).inside(1.99) == 1.8


def test_posterior_with_barrier_matches_finite_differences():
    generator = np.random.default_rng(3)
    descriptor = InverseDistances(NUMBERS)
    training = TrainingFeatures(descriptor)
    base = 2.0 * generator.standard_normal((6, 3))
    for _ in range(3):
        training.add(base + 0.1 * generator.standard_normal((6, 3)))
    energies, gradients = np.array([0.0, 0.3, -0.2]), generator.standard_normal((3, 18))
    scales = DataScales.of(training, energies)
    plain, walled = (
        Posterior(training, energies, gradients, scales, 1.0, 1e-3, 28.0, b) for b in (None, SignalBarrier())
    )
    w = np.concatenate([[0.2], np.full(len(descriptor.type_labels), -0.4)])
    here = walled.evaluate(w)
    assert here.value - plain.evaluate(w).value == pytest.approx(SignalBarrier().evaluate(0.2, 18)[0])
    h = 1e-5
    slopes = [
        (walled.evaluate(w + h * e).value - walled.evaluate(w - h * e).value) / (2 * h)
        for e in np.eye(len(w))
    ]
    assert here.gradient() == pytest.approx(slopes, rel=1e-5, abs=1e-6)
    assert np.isinf(walled.evaluate(np.concatenate([[0.7], w[1:]])).value)


def model_with(count, numbers=NUMBERS, seed=0, **options):
    """Surrogate of so many observations of a random smooth surface."""
    generator = np.random.default_rng(seed)
    base = 1.5 * np.arange(len(numbers))[:, None] + generator.standard_normal((len(numbers), 3))
    symbols = tuple({1: "H", 6: "C", 8: "O"}[z] for z in numbers)
    model = SurrogateModel(Reaction("x", symbols, base), OTGPDimer(**options))
    for index in range(count):
        moved = base + 0.1 * generator.standard_normal(base.shape)
        pull = moved - base
        model.add(Evaluation(index, Purpose.SEARCH, moved, float((pull**2).sum()), -2.0 * pull, 0.0, 0.0))
    return model


@pytest.mark.parametrize(("atoms", "count", "radius"), [(10, 3, 0.1643), (10, 5, 0.1734), (10, 17, 0.2235)])
def test_trust_radius_of_the_specification(atoms, count, radius):
    model = model_with(count, np.array([6] + [1] * (atoms - 1)))
    assert model.trust_radius() == pytest.approx(radius, abs=5e-5)


def test_trust_radius_is_capped_by_the_number_of_atoms_and_can_be_fixed():
    options = {"trust_radius_half": 0.1}
    assert model_with(2, np.array([6] * 27), **options).trust_radius() == pytest.approx(1.3 / np.sqrt(27))
    assert model_with(2, np.array([6] * 30), **options).trust_radius() == 0.25
    assert model_with(3, adaptive_trust_radius=False).trust_radius() == 0.4


@pytest.mark.parametrize("trust", ["transport", "distance_ratio", "none"])
def test_each_trust_measure_knows_near_from_far(trust):
    model = model_with(4, trust=trust)
    near, far = model.positions[2] + 0.01, model.positions[2] + np.linspace(0.0, 4.0, 18)
    assert model.trusts(near)
    assert model.trusts(far) == (trust == "none")


def test_fit_sees_the_subset_and_predictions_all_data():
    part, whole = model_with(14), model_with(14, fit_subset=0)
    for model in (part, whole):
        model.update(from_data_ranges=True)
    assert not np.allclose(part.hyperparameters.logarithms, whole.hyperparameters.logarithms)
    for model in (part, whole):
        energies = [model.process.energy_gradient(x)[0] for x in model.positions]
        truth = np.array(model._energies) - model.reference_energy
        assert energies == pytest.approx(truth, abs=0.02)


def test_signal_variance_stays_below_the_barrier_and_passes_it_without():
    walled, free = model_with(9), model_with(9, signal_barrier=False)
    for model in (walled, free):
        model._energies = [40.0 * e for e in model._energies]
        model._gradients = [40.0 * g for g in model._gradients]
        model.update(from_data_ranges=True)
    assert walled.hyperparameters.signal_variance < 2.0
    assert free.hyperparameters.signal_variance > 2.0


def test_subset_grows_when_hyperparameters_swing():
    model = model_with(12, oscillation_window=3, oscillation_ratio=0.2)
    model.update(from_data_ranges=True)
    fitted = model.hyperparameters.logarithms
    model._oscillation._history = [fitted + 1.0, fitted - 1.0]
    model.update(from_data_ranges=False)
    assert model.fit_subset == 12


def test_prior_degrees_of_freedom_grow_with_the_elements():
    assert model_with(1)._degrees_of_freedom == 28.0
    model = SurrogateModel(Reaction("x", ("H", "C", "N", "O", "F"), np.eye(5, 3)), OTGPDimer())
    assert model._degrees_of_freedom == 32.0


def test_variants_of_the_paper_are_blocks_of_a_configuration():
    settings = Settings.model_validate(
        {
            "methods": ["ot-gp-dimer", "ot-no-barrier", "gp-with-barrier"],
            "method_settings": {
                "ot-no-barrier": {"algorithm": "ot-gp-dimer", "signal_barrier": False},
                "gp-with-barrier": {"algorithm": "gp-dimer", "signal_barrier": True},
            },
        }
    )
    whole, without, added = resolve_methods(settings).values()
    assert whole.signal_barrier and whole.trust == "transport" and whole.start.displacement == 0.01
    assert not without.signal_barrier and without.fit_subset == 10
    assert added.signal_barrier and added.fit_subset == 0 and added.start.displacement == 0.0
    assert type(whole) is OTGPDimer and type(added) is GPDimer


def test_what_the_configuration_says_goes_before_a_method_s_own_start():
    settings = Settings.model_validate({"methods": ["ot-gp-dimer"], "start": {"displacement": 0.0}})
    assert resolve_methods(settings)["ot-gp-dimer"].start.displacement == 0.0


def test_between_fits_the_kernel_stays_and_all_observations_count():
    source, model = model_with(10), model_with(4, fit_every=3)
    fits = []
    for count in range(4, 10):
        model.update(from_data_ranges=False)
        fits.append(model.fit_evaluations > 0)
        energies = [model.process.energy_gradient(x)[0] for x in model.positions]
        truth = np.array(model._energies) - model.reference_energy
        assert energies == pytest.approx(truth, abs=0.02)
        x, gradient = source.positions[count].reshape(-1, 3), source._gradients[count].reshape(-1, 3)
        model.add(Evaluation(count, Purpose.SEARCH, x, source._energies[count], -gradient, 0.0, 0.0))
    assert fits == [True, False, False, True, False, False]
