"""The learned prior: features against differences, a known correction found again, files that are refused."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saddleflow.errors import RunFileError
from saddleflow.surrogate.body_ordered import CUTOFF, BodyOrdered
from saddleflow.surrogate.learned_prior import LearnedPrior, read_learned_prior, write_learned_prior
from saddleflow.surrogate.learning import changes, learn
from saddleflow.surrogate.prior_process import WeightPrior

ELEMENTS = [1, 6, 8]
NUMBERS = np.array([6, 8, 1, 1, 6])


def molecule(seed, spread=1.4):
    """Five atoms that do not collide."""
    generator = np.random.default_rng(seed)
    while True:
        positions = spread * generator.standard_normal((5, 3))
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1)[np.triu_indices(5, 1)]
        if distances.min() > 0.8:
            return positions


def test_derivatives_of_the_features():
    features, x, step = BodyOrdered(ELEMENTS, NUMBERS), molecule(0), 1e-5
    _, jacobian = features.values_jacobian(x)
    for i, unit in enumerate(np.eye(15).reshape(-1, 5, 3)):
        up, down = (features.values_jacobian(x + sign * step * unit)[0] for sign in (1, -1))
        assert jacobian[:, i] == pytest.approx((up - down) / (2 * step), abs=1e-7)
    coefficients = np.random.default_rng(1).standard_normal(features.size)
    assert features.gradient(x, coefficients) == pytest.approx(coefficients @ jacobian, abs=1e-10)


def test_features_know_no_orientation_and_no_order_of_like_atoms():
    features, x = BodyOrdered(ELEMENTS, NUMBERS), molecule(2)
    values, _ = features.values_jacobian(x)
    turned = x @ Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix().T + 3.0
    assert features.values_jacobian(turned)[0] == pytest.approx(values, abs=1e-10)
    swapped = x[[4, 1, 3, 2, 0]]
    assert features.values_jacobian(swapped)[0] == pytest.approx(values, abs=1e-10)


def test_separate_fragments_add_up():
    features, x = BodyOrdered(ELEMENTS, NUMBERS), molecule(3)
    far = x.copy()
    far[3:] += 4 * CUTOFF
    parts = [BodyOrdered(ELEMENTS, NUMBERS[p]).values_jacobian(x[p])[0] for p in (slice(0, 3), slice(3, 5))]
    assert features.values_jacobian(far)[0] == pytest.approx(sum(parts), abs=1e-12)


def searched(seed, weights, surface_weights, steps=8):
    """Steps of a search whose truth is 'surfaces' plus a known correction in the features."""
    generator, features = np.random.default_rng(seed), BodyOrdered(ELEMENTS, NUMBERS)
    positions = [molecule(seed)]
    for _ in range(steps):
        positions.append(positions[-1] + 0.08 * generator.standard_normal((5, 3)))
    positions = np.array(positions)
    springs = generator.standard_normal((2, 15, 15))
    springs = 3.0 * (springs + springs.transpose(0, 2, 1))
    surfaces = np.array([springs @ (x - positions[0]).ravel() for x in positions])
    jacobians = np.array([features.values_jacobian(x)[1] for x in positions])
    truth = np.einsum("nkd,k->nd", surfaces, surface_weights) + weights @ jacobians
    return features, positions, truth, surfaces


def test_a_known_correction_is_found_again():
    generator = np.random.default_rng(5)
    size = BodyOrdered(ELEMENTS, NUMBERS).size
    weights = np.zeros(size)
    weights[:66] = generator.standard_normal(66)  # pair terms only; the learning does not know that
    known = [changes(*searched(seed, weights, [0.7, 0.2])) for seed in range(30)]
    mean, factor = learn(known, 2)
    assert mean[:2] == pytest.approx([0.7, 0.2], abs=0.1)
    assert factor.shape[0] == size + 2
    for seed in (100, 101, 102):
        one = changes(*searched(seed, weights, [0.7, 0.2]))
        relative = mean - np.concatenate([[0.5, 0.5], np.zeros(size)])
        left = one.square - 2 * relative @ one.vector + relative @ one.matrix @ relative
        assert left < 0.15 * one.square


def test_a_surface_without_answer_and_a_jump_teach_nothing():
    features, positions, truth, surfaces = searched(7, np.zeros(768), [0.5, 0.5])
    surfaces[3] = np.nan
    fewer = changes(features, positions, truth, surfaces)
    assert np.isfinite(fewer.matrix).all() and fewer.count > 0
    assert changes(features, positions, truth, np.full_like(surfaces, np.nan)) is None
    assert changes(features, positions[:1], truth[:1], surfaces[:1]) is None


def learned(elements=(1, 6, 8)):
    size = BodyOrdered(list(elements), np.array(elements)).size + 1
    values = np.random.default_rng(0).standard_normal((size, 4))
    return LearnedPrior(
        "xtb:GFN2-xTB", ("GFN1-xTB",), elements, values[:, 0], values[:, 1:], ("a", "b"), 17, "0" * 64
    )


def test_a_file_keeps_every_bit_and_equal_content_is_equal_bytes(tmp_path):
    for name in ("one.h5", "two.h5"):
        write_learned_prior(tmp_path / name, learned())
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    again = read_learned_prior(tmp_path / "one.h5")
    assert np.array_equal(again.mean, learned().mean) and np.array_equal(again.factor, learned().factor)
    assert (again.level, again.surfaces, again.elements) == ("xtb:GFN2-xTB", ("GFN1-xTB",), (1, 6, 8))
    assert (again.reactions, again.evaluations, again.sources) == (("a", "b"), 17, "0" * 64)


def test_what_does_not_fit_is_said():
    prior = learned()
    assert prior.misfit("xtb:GFN2-xTB", {1, 6}) == ""
    assert "learned from xtb:GFN2-xTB, not from psi4:hf/3-21g" in prior.misfit("psi4:hf/3-21g", {1})
    assert prior.misfit("xtb:GFN2-xTB", {1, 7, 16}).endswith("no N, S")
    assert "GFN1-xTB, not constant" in prior.misfit("xtb:GFN2-xTB", {1}, "constant")


def test_damaged_and_strange_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "prior.h5"
    with pytest.raises(RunFileError, match="no such file"):
        read_learned_prior(path)
    write_learned_prior(path, learned())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFileError, match="truncated or damaged"):
        read_learned_prior(path)
    path.write_text("no HDF5 at all")
    with pytest.raises(RunFileError):
        read_learned_prior(path)


def test_weights_without_a_surface_are_those_given_that_it_has_none():
    generator = np.random.default_rng(3)
    prior = WeightPrior(generator.standard_normal(5), generator.standard_normal((5, 8)))
    covariance, rest = prior.factor @ prior.factor.T, [0, 1, 3, 4]
    left = prior.without(2)
    gain = covariance[rest, 2] / covariance[2, 2]
    assert left.mean == pytest.approx(prior.mean[rest] - gain * prior.mean[2])
    expected = covariance[np.ix_(rest, rest)] - np.outer(gain, covariance[2, rest])
    assert left.factor @ left.factor.T == pytest.approx(expected)
    certain = WeightPrior(prior.mean, np.zeros((5, 8))).without(2)
    assert certain.mean == pytest.approx(prior.mean[rest])
