"""The index that a few products prove is that of the full Hessian, or it is not said at all."""

import numpy as np
import pytest
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from saddleflow.engines.analytic import MuellerBrown
from saddleflow.hessian_products import FAR_DISPLACEMENT
from saddleflow.saddle_index import FLOOR_FRACTION, SOFTNESS, prove_index
from saddleflow.vibrations import internal_directions, vibrational_analysis

STEP = 0.005
ETHANOL = molecule("CH3CH2OH")
SYMBOLS, POSITIONS = tuple(ETHANOL.get_chemical_symbols()), ETHANOL.get_positions()
BASIS = np.linalg.qr(internal_directions(POSITIONS, SYMBOLS))[0]
SIZE = BASIS.shape[1]


def hessian_of(eigenvalues, seed):
    """Cartesian Hessian with these curvatures (eV/Angstrom^2) in the space without rigid motion."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))[0]
    return BASIS @ (turn * eigenvalues) @ turn.T @ BASIS.T


def prove(hessian, model, most=24, noise=0.0, zero=0.0, cubic=0.0, quartic=None):
    """Proof, and the true frequencies.

    `noise` is that of curvatures by near differences, `cubic` in eV/Angstrom^3; `quartic` are a direction and
    the fourth derivative along it, eV/Angstrom^4.
    """
    generator, asked = np.random.default_rng(0), []
    skew = generator.normal(size=POSITIONS.size)
    along, fourth = quartic or (skew, 0.0)

    def change(step):
        near = np.linalg.norm(step) == pytest.approx(STEP)
        assert near or np.linalg.norm(step) == pytest.approx(FAR_DISPLACEMENT)
        asked.append(step)
        a, b = step @ skew, step @ along
        energy = 0.5 * step @ hessian @ step + cubic * a**3 / 3 + fourth * b**4 / 24
        gradient = hessian @ step + cubic * a**2 * skew + fourth * b**3 * along / 6
        return energy, gradient + STEP * noise * generator.normal(size=step.size)

    proof = prove_index(change, POSITIONS, SYMBOLS, model, most, STEP, zero)
    assert proof.evaluations == len(asked) <= most
    return proof, vibrational_analysis(hessian, POSITIONS, SYMBOLS).frequencies_cm1


def softened(hessian, generator):
    """Model that errs at random, but within what the floor allows: A >= 0.3 model_+ - 0.2."""
    values, vectors = np.linalg.eigh(BASIS.T @ hessian @ BASIS)
    turn = np.linalg.qr(np.eye(SIZE) + 0.1 * generator.normal(size=(SIZE, SIZE)))[0]
    scaled = np.where(values > 0, values * generator.uniform(0.5, 2.5, SIZE), values)
    model = vectors @ turn @ np.diag(scaled) @ turn.T @ vectors.T
    lowest = np.linalg.eigvalsh(BASIS.T @ hessian @ BASIS - floor_of(model))[0]
    if lowest < 0:  # shift the model until the assumption holds
        model = model + lowest / FLOOR_FRACTION * np.eye(SIZE)
    assumed = np.linalg.eigvalsh(BASIS.T @ hessian @ BASIS - floor_of(model))[0] >= 0
    return BASIS @ model @ BASIS.T, assumed


def floor_of(model):
    values, vectors = np.linalg.eigh(model)
    lowered = np.where(values > 0, FLOOR_FRACTION * values, values / FLOOR_FRACTION)
    return (vectors * lowered) @ vectors.T - SOFTNESS * np.eye(SIZE)


@settings(max_examples=60, deadline=None)
@given(
    negative=st.integers(0, 3),
    soft=st.lists(st.floats(-0.05, 0.3), max_size=4),
    seed=st.integers(0, 2**31),
    noise=st.sampled_from([0.0, 0.003]),
)
def test_the_index_is_right_or_not_said(negative, soft, seed, noise):
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.4, 60.0, SIZE)
    values[: len(soft)] = soft
    values[len(soft) : len(soft) + negative] = -generator.uniform(0.1, 30.0, negative)
    hessian = hessian_of(values, seed)
    model, assumed = softened(hessian, generator)
    proof, frequencies = prove(hessian, model, 2 * SIZE, noise)
    if proof.index is not None and assumed:
        assert proof.index == (frequencies < 0).sum()
        (lowest, lowest_most), (second, second_most) = proof.bounds_cm1
        if noise == 0.0:
            assert lowest - 0.1 <= frequencies[0] <= lowest_most + 0.1
            assert second - 0.1 <= frequencies[1] <= second_most + 0.1
    if proof.index is None:
        assert proof.reason


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.05, 0.3))
def test_a_saddle_with_a_fair_model_is_proved_by_a_handful_of_products(seed, scale):
    generator = np.random.default_rng(seed)
    values = np.concatenate([[-generator.uniform(2, 40)], generator.uniform(0.5, 60.0, SIZE - 1)])
    hessian = hessian_of(values, seed)
    error = generator.normal(size=(SIZE, SIZE)) * scale / 2
    model = hessian + BASIS @ (error + error.T) @ BASIS.T
    proof, frequencies = prove(hessian, model, noise=0.002)
    assert proof.index == 1
    assert proof.products <= 7
    assert proof.bounds_cm1[0, 1] == pytest.approx(frequencies[0], rel=0.02)
    assert proof.mode.shape == POSITIONS.shape


def test_a_second_order_saddle_that_the_model_takes_for_one_of_first_order_is_found_out():
    values = np.concatenate([[-10.0, -0.5], np.linspace(0.5, 50.0, SIZE - 2)])
    hessian = hessian_of(values, 1)
    model = hessian_of(np.concatenate([[-10.0, 0.4], np.linspace(0.5, 50.0, SIZE - 2)]), 1)
    proof, _ = prove(hessian, model)
    assert proof.index == 2
    assert proof.products <= 8


@pytest.mark.parametrize(
    ("softest", "said"), [(0.00005, None), (-0.00005, None), (0.003, 1), (-0.003, 2), (0.05, 1), (-0.05, 2)]
)
def test_what_is_smaller_than_the_error_of_the_products_is_not_decided(softest, said):
    values = np.concatenate([[-10.0, softest], np.linspace(1.0, 50.0, SIZE - 2)])
    hessian = hessian_of(values, 2)
    proof, _ = prove(hessian, hessian, noise=0.002)
    assert proof.index == said
    assert proof.evaluations <= 12
    if said is None:
        assert "too soft for differences of gradients" in proof.reason


def test_a_soft_mode_that_one_sided_differences_leave_in_doubt_is_measured_to_both_sides():
    values = np.concatenate([[-10.0, 0.02], np.linspace(1.0, 50.0, SIZE - 2)])
    hessian = hessian_of(values, 2)
    proof, frequencies = prove(hessian, hessian, cubic=20.0)
    assert proof.index == 1
    assert proof.evaluations == proof.products + 2
    assert proof.bounds_cm1[1, 0] <= frequencies[1] <= proof.bounds_cm1[1, 1]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("fourth", [-60.0, 60.0])
def test_far_away_the_quartic_part_of_a_soft_mode_is_told_from_its_curvature(fourth, sign):
    values = np.concatenate([[-10.0, sign * 0.006], np.linspace(1.0, 50.0, SIZE - 2)])
    hessian = hessian_of(values, 2)
    soft = np.linalg.eigh(hessian)[1][:, np.abs(np.linalg.eigvalsh(hessian) - values[1]).argmin()]
    # Half of the quartic part alone, as gradients would show it, outweighs the curvature.
    assert abs(fourth) * FAR_DISPLACEMENT**2 / 12 > abs(values[1])
    proof, frequencies = prove(hessian, hessian, quartic=(soft, fourth))
    assert proof.index == (1 if sign > 0 else 2)
    assert proof.bounds_cm1[1, 0] <= frequencies[1] <= proof.bounds_cm1[1, 1]


def test_two_soft_modes_are_both_measured_far_away():
    values = np.concatenate([[-10.0, 0.003, 0.004], np.linspace(1.0, 50.0, SIZE - 3)])
    hessian = hessian_of(values, 2)
    proof, _ = prove(hessian, hessian, noise=0.002)
    assert proof.index == 1
    assert proof.evaluations == proof.products + 4


def test_a_worthless_model_proves_nothing_or_the_truth():
    generator = np.random.default_rng(3)
    for seed in range(20):
        hessian = hessian_of(np.concatenate([[-10.0, -2.0], np.linspace(1.0, 50.0, SIZE - 2)]), seed)
        model = hessian_of(generator.uniform(0.1, 50.0, SIZE), 100 + seed)
        proof, _ = prove(hessian, model, 2 * SIZE)
        assert proof.index in (None, 2)


def test_products_with_all_directions_need_no_model():
    hessian = hessian_of(np.concatenate([[-10.0, -2.0], np.linspace(1.0, 50.0, SIZE - 2)]), 4)
    proof, frequencies = prove(hessian, np.zeros_like(hessian), 2 * SIZE)
    assert proof.index in (None, 2)
    exact, frequencies = prove(hessian, 0.3 * hessian, 2 * SIZE)
    assert exact.index == 2
    assert exact.bounds_cm1[0, 1] == pytest.approx(frequencies[0], rel=0.02)


def test_small_imaginary_frequencies_can_be_ignored():
    values = np.concatenate([[-10.0, -0.02], np.linspace(1.0, 50.0, SIZE - 2)])
    hessian = hessian_of(values, 5)
    frequencies = vibrational_analysis(hessian, POSITIONS, SYMBOLS).frequencies_cm1
    assert prove(hessian, hessian)[0].index == 2
    assert prove(hessian, hessian, zero=3 * abs(frequencies[1]))[0].index == 1


@pytest.mark.parametrize("atoms", [2, 3, 5])
def test_on_a_surface_by_differences_of_its_gradient(atoms):
    surface = MuellerBrown(atoms)
    for saddle in surface.SADDLES:
        positions = surface.embed(saddle)
        start = surface.evaluate(positions)

        def change(step, positions=positions, start=start):
            there = surface.evaluate(positions + step.reshape(-1, 3))
            return there.energy - start.energy, (start.forces - there.forces).ravel()

        symbols = ("C",) * atoms
        hessian = surface.hessian(positions)
        frequencies = vibrational_analysis(hessian, positions, symbols).frequencies_cm1
        proof = prove_index(change, positions, symbols, hessian, 24, STEP)
        assert proof.index in (None, (frequencies < 0).sum())
        assert proof.index is not None or min(abs(frequencies)) < 30
