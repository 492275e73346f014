"""The formulas of the surrogate against finite differences and against its own data."""

import numpy as np
import pytest

from saddleflow.surrogate.gaussian_process import GaussianProcess
from saddleflow.surrogate.hyperparameters import DataScales, Posterior, constant_variance, fit
from saddleflow.surrogate.inverse_distances import InverseDistances
from saddleflow.surrogate.kernel import (
    Hyperparameters,
    TrainingFeatures,
    covariance,
    objective_gradient_terms,
    pair_weights,
)
from saddleflow.surrogate.scaled_conjugate_gradient import Evaluated, ScaledConjugateGradient

NUMBERS = np.array([6, 8, 1, 1])
GUESS = np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [-0.5, 0.9, 0.1], [-0.5, -0.9, 0.2]])
SIZE = GUESS.size
CONSTANT = 0.7


def central(function, x, step=1e-5):
    """Central differences of a scalar or vector function of a flat array."""
    return np.array([(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(len(x))])


@pytest.fixture
def samples():
    return [GUESS + 0.1 * np.random.default_rng(seed).standard_normal(GUESS.shape) for seed in range(3)]


@pytest.fixture
def training(samples):
    features = TrainingFeatures(InverseDistances(NUMBERS))
    for x in samples:
        features.add(x)
    return features


@pytest.fixture
def hyperparameters():
    return Hyperparameters(1.3, np.array([0.5, 0.7, 0.9, 1.1]))


@pytest.fixture
def data(training):
    """Energies, and gradients without the rigid motion that features can't see."""
    generator = np.random.default_rng(7)
    energies, gradients = generator.standard_normal(3), generator.standard_normal((3, SIZE))
    internal = [np.linalg.pinv(jacobian) @ jacobian for jacobian in training.jacobians]
    return energies, np.array([p @ g for p, g in zip(internal, gradients, strict=True)])


@pytest.fixture
def process(training, hyperparameters, data):
    return GaussianProcess(training, *data, hyperparameters, CONSTANT, 1e-10)


def test_pair_types_are_the_element_pairs_that_occur():
    assert InverseDistances(NUMBERS).type_labels == ("H-H", "H-C", "H-O", "C-O")


def test_feature_derivatives():
    descriptor = InverseDistances(NUMBERS)
    weights = np.arange(1.0, descriptor.pairs + 1)
    x = GUESS.ravel()
    jacobian = descriptor.jacobian(x)
    assert jacobian == pytest.approx(central(descriptor.features, x).T, abs=1e-8)
    assert descriptor.pull_back(x, weights) == pytest.approx(jacobian.T @ weights)
    numeric = central(lambda y: descriptor.pull_back(y, weights), x)
    assert descriptor.curvature_term(x, weights) == pytest.approx(numeric, abs=1e-7)


def test_every_covariance_block_is_the_derivative_of_the_kernel(training, samples, hyperparameters):
    descriptor, n = training.descriptor, len(samples)
    weights = pair_weights(descriptor, hyperparameters.length_scales)

    def kernel(a, b):
        q = (weights * (descriptor.features(a) - descriptor.features(b)) ** 2).sum()
        return hyperparameters.signal_variance * np.exp(-0.5 * q)

    matrix, _ = covariance(training, hyperparameters, CONSTANT)
    flat = [x.ravel() for x in samples]
    step = 1e-4
    for i in range(n):
        for j in range(n):
            assert matrix[i, j] == pytest.approx(kernel(flat[i], flat[j]) + CONSTANT)
            rows = slice(n + i * SIZE, n + (i + 1) * SIZE)
            columns = slice(n + j * SIZE, n + (j + 1) * SIZE)
            numeric = central(lambda a, b=flat[j]: kernel(a, b), flat[i])
            assert matrix[rows, j] == pytest.approx(numeric, abs=1e-8)
            mixed = central(lambda a, b=flat[j]: central(lambda c: kernel(a, c), b, step), flat[i], step)
            assert matrix[rows, columns] == pytest.approx(mixed, abs=1e-6)
    assert np.array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > -1e-10


def test_derivatives_by_the_log_parameters(training, hyperparameters):
    generator = np.random.default_rng(3)
    matrix, blocks = covariance(training, hyperparameters, CONSTANT)
    a = generator.standard_normal(matrix.shape)
    a += a.T

    def contracted(w):
        parameters = Hyperparameters(np.exp(w[0]), np.exp(w[1:]))
        return (a * covariance(training, parameters, CONSTANT)[0]).sum()

    w = np.log([hyperparameters.signal_variance, *hyperparameters.length_scales])
    signal, lengths = objective_gradient_terms(training, blocks, a)
    assert [signal, *lengths] == pytest.approx(central(contracted, w), rel=1e-6)


def test_prediction_reproduces_data_and_ignores_rigid_motion(process, data, samples):
    for x, energy, gradient in zip(samples, *data, strict=True):
        predicted, slope = process.energy_gradient(x)
        assert predicted == pytest.approx(energy, abs=1e-5)
        assert slope == pytest.approx(gradient, abs=1e-4)
        assert process.standard_deviations(x)[0] < 1e-4
    turned = samples[0] @ np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) + 3.0
    assert process.energy_gradient(turned)[0] == pytest.approx(process.energy_gradient(samples[0])[0])
    assert (
        process.standard_deviations(GUESS + 0.5 * np.random.default_rng(1).standard_normal(GUESS.shape))[0]
        > 1e-2
    )


def test_gradient_and_hessian_of_the_prediction(process):
    x = GUESS.ravel() + 0.03 * np.random.default_rng(11).standard_normal(SIZE)
    numeric = central(lambda y: process.energy_gradient(y)[0], x)
    assert process.gradient(x) == pytest.approx(numeric, abs=1e-5)
    assert process.hessian(x) == pytest.approx(central(process.gradient, x), abs=1e-4)


def test_observations_added_later_do_not_change_a_process(process, training, samples):
    before = process.energy_gradient(samples[0] + 0.01)
    training.add(GUESS)
    after = process.energy_gradient(samples[0] + 0.01)
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])


def test_standard_deviation_is_the_one_of_the_joint_gaussian(process, training, hyperparameters):
    x = GUESS + 0.05
    joint = TrainingFeatures(training.descriptor)
    joint.phi, joint.jacobians = training.phi, training.jacobians
    joint.add(x)
    matrix, _ = covariance(joint, hyperparameters, CONSTANT)
    n = len(training)
    here = [n, *range(matrix.shape[0] - SIZE, matrix.shape[0])]
    there = [i for i in range(matrix.shape[0]) if i not in here]
    k = matrix[np.ix_(there, there)] + 1e-10 * np.eye(len(there))
    cross = matrix[np.ix_(there, here)]
    variance = (matrix[np.ix_(here, here)] - cross.T @ np.linalg.solve(k, cross)).diagonal()
    energy, force = process.standard_deviations(x)
    assert energy == pytest.approx(np.sqrt(variance[0]), rel=1e-4)
    assert force == pytest.approx(np.sqrt(variance[1:].mean()), rel=1e-4)


def _posterior(training):
    generator = np.random.default_rng(5)
    energies, gradients = generator.standard_normal(3), generator.standard_normal((3, SIZE))
    scales = DataScales.of(training, energies)
    return Posterior(training, energies, gradients, scales, constant_variance(energies), 1e-3, 28.0), scales


def test_gradient_of_the_posterior(training):
    posterior, _ = _posterior(training)
    w = np.log([1.3, 0.5, 0.7, 0.9, 1.1])
    numeric = central(lambda v: posterior.evaluate(v).value, w)
    assert posterior.evaluate(w).gradient() == pytest.approx(numeric, rel=1e-5)


def test_fit_finds_an_optimum(training):
    posterior, scales = _posterior(training)
    start = scales.initial(4)
    found, _ = fit(posterior, start, ScaledConjugateGradient(step_tolerance=1e-6, objective_tolerance=1e-10))
    w = np.log([found.signal_variance, *found.length_scales])
    assert np.abs(posterior.evaluate(w).gradient()).max() < 1e-2
    assert np.isinf(posterior.evaluate(np.full(5, 60.0)).value)


def test_data_scales_follow_the_published_formulas(training):
    energies = np.array([0.0, 6.0, -3.0])
    scales = DataScales.of(training, energies)
    assert scales.energy_variance == pytest.approx(9.0)
    assert scales.initial(2).signal_variance == pytest.approx((0.67449 * 3.0) ** 2)
    distances = [
        np.sqrt(2.0) * np.linalg.norm(training.phi[i] - training.phi[j]) for i in range(3) for j in range(3)
    ]
    assert scales.feature_range == pytest.approx(max(distances))
    assert constant_variance(energies) == 1.0
    assert constant_variance(np.array([4.0, 2.0])) == 9.0


def test_scaled_conjugate_gradient_minimises_rosenbrock():
    def rosenbrock(w):
        x, y = w
        gradient = np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])
        return Evaluated((1 - x) ** 2 + 100 * (y - x**2) ** 2, lambda: gradient)

    minimiser = ScaledConjugateGradient(2000, 1e-9, 1e-14, 1e-4)
    w, success, _ = minimiser.minimise(rosenbrock, np.array([-1.2, 1.0]))
    assert success
    assert w == pytest.approx([1.0, 1.0], abs=1e-2)


def test_scaled_conjugate_gradient_backs_off_from_forbidden_regions():
    def walled(w):
        x = w[0]
        if x <= 0:
            return Evaluated(np.inf, lambda: np.array([np.nan]))
        return Evaluated(x - np.log(x), lambda: np.array([1.0 - 1.0 / x]))

    w, success, _ = ScaledConjugateGradient(step_tolerance=1e-8, objective_tolerance=1e-12).minimise(
        walled, np.array([5.0])
    )
    assert success
    assert w[0] == pytest.approx(1.0, abs=1e-3)


def test_bordered_factor_gives_the_same_process_as_a_new_one():
    generator = np.random.default_rng(7)
    descriptor = InverseDistances(np.array([6, 1, 1, 8]))
    base = 1.5 * generator.standard_normal((4, 3))
    points = base + 0.1 * generator.standard_normal((6, 4, 3))
    energies, gradients = generator.standard_normal(6), generator.standard_normal((6, 12))
    kernel = Hyperparameters(0.7, np.linspace(0.4, 0.9, len(descriptor.type_labels)))
    training, grown = TrainingFeatures(descriptor), None
    for n, point in enumerate(points, start=1):
        training.add(point)
        if n in (2, 3, 6):  # one and several observations at a time
            grown = GaussianProcess(training, energies[:n], gradients[:n], kernel, 1.3, 1e-5, grown)
    new = GaussianProcess(training, energies, gradients, kernel, 1.3, 1e-5)
    assert list(grown._order) != list(new._order)
    x = base + 0.05
    assert grown.energy_gradient(x)[0] == pytest.approx(new.energy_gradient(x)[0], rel=1e-8)
    assert grown.gradient(x) == pytest.approx(new.gradient(x), rel=1e-7)
    assert grown.hessian(x) == pytest.approx(new.hessian(x), rel=1e-6, abs=1e-6)
    assert grown.standard_deviations(x) == pytest.approx(new.standard_deviations(x), rel=1e-6)


@pytest.mark.parametrize("change", ["kernel", "constant", "noise", "data"])
def test_a_factor_of_something_else_is_not_extended(change):
    generator = np.random.default_rng(8)
    descriptor = InverseDistances(np.array([6, 1, 8]))
    energies, gradients = generator.standard_normal(3), generator.standard_normal((3, 9))
    first, second = TrainingFeatures(descriptor), TrainingFeatures(descriptor)
    points = 1.5 * generator.standard_normal((4, 3, 3))
    for k in range(3):
        first.add(points[k])
        second.add(points[3 - k] if change == "data" else points[k])
    kernel = Hyperparameters(0.7, np.full(3, 0.5))
    previous = GaussianProcess(first.subset([0, 1]), energies[:2], gradients[:2], kernel, 1.0, 1e-5)
    other = (
        Hyperparameters(0.8, np.full(3, 0.5)) if change == "kernel" else kernel,
        1.5 if change == "constant" else 1.0,
        1e-4 if change == "noise" else 1e-5,
    )
    found = GaussianProcess(second, energies, gradients, *other, previous)
    assert np.array_equal(
        found.gradient(points[0]), GaussianProcess(second, energies, gradients, *other).gradient(points[0])
    )


def test_a_fit_keeps_out_of_where_the_covariance_is_indefinite(training):
    # The same point twice: jitter could factorise that, and the signal variance would grow on and on.
    training.add(GUESS)
    training.add(GUESS)
    energies, gradients = np.zeros(5), np.zeros((5, SIZE))
    scales = DataScales.of(training, energies)
    posterior = Posterior(training, energies, gradients, scales, 1.0, 1e-12, 28.0)
    kinds = len(training.descriptor.type_labels)
    assert np.isfinite(posterior.evaluate(np.full(1 + kinds, -2.0)).value)
    assert posterior.evaluate(np.concatenate([[30.0], np.full(kinds, -2.0)])).value == np.inf
