"""How far a walk trusts its surrogate."""

import numpy as np
import pytest

from saddleflow.searches.trust_region import FIRST_ERROR, TOLERATED_FORCE, TrustRegion
from saddleflow.settings import PriorGPDimer

METHOD = PriorGPDimer(trusted_error=1.0, max_trust_radius=0.8, min_trust_radius=0.05)


def unasked():
    raise AssertionError("the standard deviation decides nothing here")


def test_walks_on_while_the_expected_error_is_below_the_force():
    trust = TrustRegion(METHOD)
    assert trust.use(0.3, lambda: 1.5 / FIRST_ERROR, 2.0) == pytest.approx(0.75)
    assert trust.use(0.3, lambda: 2.5 / FIRST_ERROR, 2.0) == pytest.approx(1.25)
    small = trust.use(0.3, lambda: 0.9 * TOLERATED_FORCE / FIRST_ERROR, 0.2)
    assert small == pytest.approx(0.9), "small errors are mended by the next evaluation"
    assert trust.use(0.3, lambda: 0.5 * TOLERATED_FORCE / FIRST_ERROR, 0.02) > 1.0, "it is nearly there"


def test_radii_hold_whatever_the_expected_error():
    trust = TrustRegion(METHOD)
    assert trust.use(0.04, unasked, 0.1) == pytest.approx(0.05)
    assert trust.use(0.88, unasked, 100.0) == pytest.approx(1.1)
    trust.halve()
    assert trust.use(0.44, unasked, 100.0) == pytest.approx(1.1)


def test_learns_how_wrong_its_standard_deviations_are():
    """Errors that are ten times the standard deviation: so much is expected after some of them."""
    trust = TrustRegion(METHOD)
    for _ in range(30):
        trust.observe(1.0, 0.1, 2.0)
    assert trust.error_per_sigma == pytest.approx(10.0, rel=0.05)
    assert trust.use(0.3, lambda: 0.3, 2.0) > 1.0
    for _ in range(30):
        trust.observe(0.1, 0.1, 2.0)
    assert trust.use(0.3, lambda: 0.3, 2.0) < 1.0


def test_grows_again_where_predictions_are_good_up_to_where_it_began():
    trust = TrustRegion(METHOD, 0.25)
    assert trust.radius == pytest.approx(0.2)
    assert trust.observe(1.0, 0.3, 2.0) == pytest.approx(0.5)
    assert trust.radius == pytest.approx(0.2)
    for _ in range(5):
        trust.observe(0.1, 0.3, 2.0)
    assert trust.radius == pytest.approx(0.8)


def test_an_exact_prediction_is_no_division_by_zero():
    trust = TrustRegion(METHOD)
    trust.observe(0.0, 0.0, 1.0)
    assert np.isfinite(trust.error_per_sigma) and trust.error_per_sigma > 0.0


def test_allows_more_error_where_the_walk_is_cut_short_again_and_again_in_one_direction():
    ahead, aside = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    trust = TrustRegion(METHOD)
    trust.went(ahead, True, 0.8)
    assert trust.allowance == 1.0, "one phase has no direction to go on in"
    used = []
    for _ in range(4):
        trust.went(ahead, True, 0.8)
        used.append(trust.use(0.1, lambda: 2.0 / FIRST_ERROR, 2.0))
    assert used == pytest.approx([0.5, 0.25, 0.25, 0.25])
    small = trust.use(0.1, lambda: 0.9 * TOLERATED_FORCE / FIRST_ERROR, 0.2)
    assert small == pytest.approx(0.9), "a saddle may be near"
    trust.went(aside, True, 0.8)
    assert trust.allowance == 1.0
    trust.went(aside, True, 0.8)
    assert trust.allowance == 2.0
    trust.went(aside, False, 0.8)
    assert trust.allowance == 1.0, "the surrogate was stationary"


def test_allows_no_more_after_a_bad_prediction():
    trust = TrustRegion(METHOD)
    for ratio in (0.5, 0.5, 2.0):
        trust.went(np.array([1.0, 0.0]), True, ratio)
    assert trust.allowance == 1.0
