"""The analytic surfaces are what they claim: exact derivatives, and a first-order saddle where they say."""

import numpy as np
import pytest

from saddleflow.engines.analytic import Leps, MuellerBrown, QuadraticSaddle, Transfer
from saddleflow.errors import GeometryError
from saddleflow.geometry import rigid_motion_basis

SADDLE = np.array([[0.0, 0.0, 0.0], [1.4, 0.2, 0.0], [2.1, 1.3, 0.4]])
EIGENVALUES = np.array([-2.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0])
SURFACES = [
    QuadraticSaddle(SADDLE, EIGENVALUES, seed=3),
    MuellerBrown(atoms=3, seed=1),
    Leps(),
    Transfer(),
]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: type(s).__name__)
def test_derivatives_are_those_of_the_energy(surface):
    rng = np.random.default_rng(5)
    positions = surface.saddle + 0.08 * rng.standard_normal(surface.saddle.shape)
    direction = rng.standard_normal(positions.shape)
    step = 1e-4
    ahead, behind = (surface.evaluate(positions + sign * step * direction) for sign in (1, -1))
    slope = (ahead.energy - behind.energy) / (2 * step)
    assert slope == pytest.approx(-(surface.evaluate(positions).forces * direction).sum(), rel=1e-5)
    bend = -(ahead.forces - behind.forces).ravel() / (2 * step)
    hessian = surface.hessian(positions)
    assert np.abs(hessian - hessian.T).max() < 1e-10
    np.testing.assert_allclose(bend, hessian @ direction.ravel(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: type(s).__name__)
def test_the_named_point_is_a_first_order_saddle(surface):
    assert np.abs(surface.evaluate(surface.saddle).forces).max() < 1e-6
    values = np.linalg.eigvalsh(surface.hessian(surface.saddle))
    assert (values < -1e-4).sum() == 1


def test_both_published_saddles_of_mueller_and_brown():
    surface = MuellerBrown(atoms=4, scale=1.0)
    for point, energy in zip(MuellerBrown.SADDLES, (-40.6648, -72.2489), strict=True):
        result = surface.evaluate(surface.embed(point))
        assert result.energy == pytest.approx(energy, abs=1e-3)
        assert np.abs(result.forces).max() < 1e-4


@pytest.mark.parametrize("surface", [Leps(), Transfer()], ids=lambda s: type(s).__name__)
def test_rigid_motion_changes_nothing(surface):
    rng = np.random.default_rng(8)
    positions = surface.saddle + 0.1 * rng.standard_normal(surface.saddle.shape)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    here, there = surface.evaluate(positions), surface.evaluate(positions @ rotation.T + [1.0, -2.0, 3.0])
    assert there.energy == pytest.approx(here.energy, abs=1e-12)
    np.testing.assert_allclose(there.forces, here.forces @ rotation.T, atol=1e-10)
    rigid = rigid_motion_basis(surface.saddle)
    assert np.abs(surface.hessian(surface.saddle) @ rigid).max() < 1e-6


def test_the_transfer_has_a_minimum_on_either_side():
    from scipy.optimize import minimize

    surface = Transfer()
    modes = np.linalg.eigh(surface.hessian(surface.saddle))[1]
    ends = []
    for sign in (1, -1):
        start = surface.saddle.ravel() + 0.1 * sign * modes[:, 0]
        found = minimize(lambda x: surface.derivatives(x)[:2], start, jac=True, method="BFGS")
        ends.append(found.x.reshape(-1, 3))
        assert found.fun < surface.evaluate(surface.saddle).energy - 0.1
    bonds = [[np.linalg.norm(x[0] - x[1]), np.linalg.norm(x[1] - x[2])] for x in ends]
    assert (bonds[0][0] - bonds[0][1]) * (bonds[1][0] - bonds[1][1]) < 0


@pytest.mark.parametrize(
    "positions",
    [np.zeros((3, 3)), np.full((3, 3), np.nan), np.zeros((2, 3))],
    ids=["coinciding atoms", "not a number", "wrong shape"],
)
def test_impossible_geometries_are_refused(positions):
    with pytest.raises(GeometryError):
        Leps().evaluate(positions)
