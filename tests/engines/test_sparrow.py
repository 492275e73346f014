"""Semiempirical methods of the prior mean through Sparrow."""

import subprocess
import sys

import numpy as np
import pytest
from ase.build import molecule

from saddleflow.errors import GeometryError, InputError
from saddleflow.sparrow import Sparrow, available

pytestmark = pytest.mark.skipif(not available(), reason="scine-sparrow has no package for this machine")
NUMBERS = np.array([6, 8, 1, 1])
POSITIONS = np.array([[0.0, 0.0, 0.0], [1.25, 0.05, 0.0], [-0.6, 0.95, 0.0], [-0.6, -0.9, 0.1]])


@pytest.mark.parametrize("method", ["PM3", "PM6", "DFTB3"])
@pytest.mark.parametrize(("charge", "multiplicity"), [(0, 1), (1, 2)])
def test_gradient_belongs_to_the_energy(method, charge, multiplicity):
    surface = Sparrow(NUMBERS, charge, multiplicity, method)
    gradient = surface.energy_gradient(POSITIONS)[1]
    step = np.zeros_like(POSITIONS)
    step[1, 0] = 1e-3
    difference = surface.energy_gradient(POSITIONS + step)[0] - surface.energy_gradient(POSITIONS - step)[0]
    # The tables of DFTB3 are interpolated: its gradients are a little off.
    assert gradient[1, 0] == pytest.approx(difference / 2e-3, abs=0.03 if method == "DFTB3" else 2e-3)
    assert gradient.sum(axis=0) == pytest.approx(0.0, abs=1e-4)


def test_the_answer_does_not_depend_on_what_was_asked_before():
    fresh, used = Sparrow(NUMBERS, 0, 1, "PM6"), Sparrow(NUMBERS, 0, 1, "PM6")
    used.gradients([POSITIONS * 1.3, POSITIONS * 0.9])
    assert used.energy_gradient(POSITIONS)[0] == fresh.energy_gradient(POSITIONS)[0]
    assert np.array_equal(used.energy_gradient(POSITIONS)[1], fresh.energy_gradient(POSITIONS)[1])


@pytest.mark.parametrize("seed", [2, 3])
def test_where_the_quick_way_leads_to_a_higher_state_the_sure_one_is_gone(seed):
    vinyl = molecule("C2H3")
    positions = vinyl.get_positions() + 0.25 * np.random.default_rng(seed).standard_normal((5, 3))
    surface, quick = (Sparrow(vinyl.get_atomic_numbers(), 0, 2, "PM6") for _ in range(2))
    quick._has_mixer = True  # taken for chosen: Sparrow's own default
    lower, gradient = surface.energy_gradient(positions)
    assert lower < quick.energy_gradient(positions)[0] - 1.0
    # It is the same everywhere from then on: one surface.
    step = np.zeros_like(positions)
    step[0, 0] = 1e-3
    difference = surface.energy_gradient(positions + step)[0] - surface.energy_gradient(positions - step)[0]
    assert gradient[0, 0] == pytest.approx(difference / 2e-3, abs=5e-3)


def test_gradients_nearby_are_those_of_the_points():
    surface = Sparrow(NUMBERS, 0, 1, "PM3")
    points = [POSITIONS * (1.0 + 0.002 * k) for k in range(3)]
    one_by_one = [surface.energy_gradient(point)[1] for point in points]
    assert np.array(Sparrow(NUMBERS, 0, 1, "PM3").gradients(points)) == pytest.approx(
        np.array(one_by_one), abs=1e-4
    )
    surface.energy_gradient(POSITIONS)
    assert surface.gradients(points) == pytest.approx(np.array(one_by_one), abs=1e-4)


def test_says_what_it_cannot_do():
    with pytest.raises(InputError, match="DFTB3 can't describe this molecule"):
        Sparrow(np.array([92, 1]), 0, 1, "DFTB3").energy_gradient(np.array([[0.0, 0, 0], [2.0, 0, 0]]))
    with pytest.raises(GeometryError, match="closer"):
        Sparrow(NUMBERS, 0, 1, "PM6").energy_gradient(np.zeros((4, 3)))
    with pytest.raises(GeometryError, match="not finite"):
        Sparrow(NUMBERS, 0, 1, "PM6").energy_gradient(np.full((4, 3), np.nan))


def test_loading_it_does_not_import_the_package_tools():
    # The packages' own initialisation does, for 0.4 s of every search.
    code = (
        "import sys; from saddleflow.sparrow import Sparrow; import numpy as np\n"
        "for _ in range(2): Sparrow(np.array([1, 1])).energy_gradient(np.array([[0.0, 0, 0], [0, 0, 0.8]]))\n"
        "print('setuptools' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
