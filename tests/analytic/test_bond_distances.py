import numpy as np
import pytest

from saddleflow.surrogate.bond_distances import BondDistances

NUMBERS = np.array([6, 1, 1, 8, 6])
POSITIONS = np.random.default_rng(3).normal(size=(5, 3)) * 1.4


def derivative(function, x, step=1e-5):
    columns = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.size)]
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("decay_length", [0.6, 1.0])
def test_derivatives_agree_with_differences(decay_length):
    descriptor = BondDistances(NUMBERS, decay_length)
    x = POSITIONS.ravel()
    weights = np.random.default_rng(4).normal(size=descriptor.pairs)
    jacobian = descriptor.jacobian(x)
    np.testing.assert_allclose(jacobian, derivative(descriptor.features, x), atol=1e-7)
    np.testing.assert_allclose(descriptor.pull_back(x, weights), jacobian.T @ weights, atol=1e-12)
    curvature = descriptor.curvature_term(x, weights)
    expected = derivative(lambda y: descriptor.pull_back(y, weights), x)
    np.testing.assert_allclose(curvature, expected, atol=1e-7)


def test_a_bond_of_covalent_length_counts_one_whatever_the_elements():
    for pair, length in (((6, 1), 0.76 + 0.31), ((6, 6), 1.52)):
        descriptor = BondDistances(np.array(pair), 1.0)
        assert descriptor.features(np.array([[0.0, 0, 0], [0, 0, length]])) == pytest.approx([1.0])
