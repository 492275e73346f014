"""Distances as coordinates: with springs between atoms the strain-free Hessian is that of the springs."""

import numpy as np
import pytest

from saddleflow.curvilinear import Distances

NUMBERS = np.array([6, 8, 1, 1, 7])
POSITION = np.array(
    [[0.0, 0.0, 0.0], [1.25, 0.05, 0.1], [-0.6, 0.95, 0.0], [-0.6, -0.9, 0.3], [0.4, 0.7, 1.3]]
).ravel()
FIRST, SECOND = np.triu_indices(5, 1)
PULLS = np.linspace(-2.0, 2.0, 10)
START = np.linalg.norm(POSITION.reshape(-1, 3)[FIRST] - POSITION.reshape(-1, 3)[SECOND], axis=1)
SPRINGS = 30.0 * np.exp(-2.0 * (START - 1.0))


def energy(position):
    """Springs between all atoms that also pull where they start."""
    x = position.reshape(-1, 3)
    stretch = np.linalg.norm(x[FIRST] - x[SECOND], axis=1) - START
    return float((0.5 * SPRINGS * stretch**2 + PULLS * stretch).sum())


def central(function, x, step=1e-4):
    return np.array([(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(len(x))])


def gradient(x):
    return central(energy, x)


def jacobian(x):
    return central(lambda y: Distances(NUMBERS, y).lengths, x).T


def test_lengths_are_the_distances():
    assert Distances(NUMBERS, POSITION).lengths == pytest.approx(START)


def test_curvature_is_the_second_derivative_of_the_distances():
    distances = Distances(NUMBERS, POSITION)
    pulled = central(lambda y: jacobian(y).T @ PULLS, POSITION)
    assert distances.curvature(PULLS) == pytest.approx(pulled, abs=1e-4)


def test_pulls_reproduce_the_gradient_and_the_strain_free_hessian_does_not_know_them():
    """With ten distances for nine internal motions the pulls are not unique, what they make nearly is."""
    distances, slope = Distances(NUMBERS, POSITION), gradient(POSITION)
    assert jacobian(POSITION).T @ distances.pulls(slope) == pytest.approx(slope, abs=0.1)
    hessian = central(gradient, POSITION)
    springs = jacobian(POSITION).T @ (SPRINGS[:, None] * jacobian(POSITION))
    free = distances.strain_free(slope, hessian)
    assert free == pytest.approx(free.T, abs=1e-5)
    assert np.linalg.norm(free - springs) < 0.35 * np.linalg.norm(hessian - springs)


def test_a_move_changes_the_distances_as_its_start_says():
    distances = Distances(NUMBERS, POSITION)
    step = 0.3 * np.random.default_rng(0).standard_normal(15) / np.sqrt(15)
    moved = distances.moved(step)
    wanted = distances.lengths + jacobian(POSITION) @ step
    straight = np.abs(Distances(NUMBERS, POSITION + step).lengths - wanted)[:4].max()
    assert np.abs(Distances(NUMBERS, moved).lengths - wanted)[:4].max() < 0.2 * straight
    assert np.linalg.norm(moved - POSITION - step) < 0.5 * np.linalg.norm(step)


def test_a_hessian_is_carried_with_a_turning_group():
    """The two last atoms turn by 0.2 rad about the first one: the springs turn with them."""
    angle = 0.2
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    x = POSITION.reshape(-1, 3).copy()
    x[2:4] = x[2:4] @ turn.T
    turned = x.ravel()
    before, after = (jacobian(y).T @ (SPRINGS[:, None] * jacobian(y)) for y in (POSITION, turned))
    carried = Distances(NUMBERS, turned).carried(before, Distances(NUMBERS, POSITION))
    assert np.linalg.norm(carried - after) < 0.55 * np.linalg.norm(before - after)


def test_the_secant_of_nearby_geometries_is_the_plain_one():
    """Also where forces act: if a part of the old gradient were lost, a short step would ruin a Hessian."""
    step = 1e-4 * np.random.default_rng(1).standard_normal(15)
    here, there = Distances(NUMBERS, POSITION + step), Distances(NUMBERS, POSITION)
    free = there.strain_free(gradient(POSITION), central(gradient, POSITION))
    moved, change = here.secant(gradient(POSITION + step), there, gradient(POSITION))
    assert moved == pytest.approx(step, abs=1e-7)
    assert change == pytest.approx(free @ step, abs=1e-5)


def test_a_change_is_one_of_the_distances_however_far_and_however_the_molecule_has_turned():
    here, step = Distances(NUMBERS, POSITION), 1e-4 * np.random.default_rng(2).standard_normal(15)
    angle = 0.7
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    turned = ((POSITION + step).reshape(-1, 3) @ turn.T + 1.0).ravel()
    change = here.change(Distances(NUMBERS, turned))
    assert np.linalg.norm(change) == pytest.approx(1.0)
    assert change == pytest.approx(here.rates(step[:, None])[:, 0], abs=1e-3)
    assert not here.change(here).any()
