"""Frequencies against closed formulas and independent matrices; bonds against chemical sense."""

import numpy as np
import pytest
from ase import units
from ase.data import atomic_masses, atomic_numbers

from saddleflow.geometry import rigid_motion_basis, rigid_motion_products
from saddleflow.lowest_curvature import lowest_mode_by_products
from saddleflow.vibrations import (
    assemble_hessian,
    changed_bonds,
    difference_products,
    finite_difference_hessian,
    internal_directions,
    vibrational_analysis,
)

BENT = np.array([[0.0, 0.1, 0.0], [1.1, 0.0, 0.1], [1.4, 1.0, 0.0], [0.3, -0.4, 1.2]])
SYMBOLS = ("C", "O", "H", "H")
RESTS = {(0, 1): 1.2, (1, 2): 0.9, (0, 3): 1.3, (0, 2): 1.5, (1, 3): 1.8, (2, 3): 2.0}


def wave_number(stiffness, mass):
    """hbar omega in cm-1 of a spring (eV/A^2) and a mass (u), straight from SI."""
    omega = np.sqrt(stiffness * 1.602176634e-19 * 1e20 / (mass * 1.66053906660e-27))
    return omega / (2 * np.pi * 2.99792458e10)


def springs(positions, stiffness=7.0):
    """Gradient of anharmonic springs between all pairs (quadratic and cubic in the stretch)."""
    gradient = np.zeros_like(positions)
    for (i, j), rest in RESTS.items():
        d = positions[i] - positions[j]
        r = np.linalg.norm(d)
        force = (stiffness * (r - rest) - 4.0 * (r - rest) ** 2) * d / r
        gradient[i] += force
        gradient[j] -= force
    return gradient


def full_hessian(positions, step=1e-5):
    """The usual 6N central differences, rigid motion included."""
    columns = []
    for unit in np.eye(positions.size).reshape(-1, *positions.shape):
        columns.append(
            (springs(positions + step * unit) - springs(positions - step * unit)).ravel() / (2 * step)
        )
    return np.array(columns)


def masses(symbols):
    return atomic_masses[[atomic_numbers[symbol] for symbol in symbols]]


def test_diatomic_has_the_frequency_of_its_spring():
    axis = np.array([0.6, 0.0, 0.8])
    block = 30.0 * np.outer(axis, axis)
    hessian = np.block([[block, -block], [-block, block]])
    found = vibrational_analysis(hessian, np.array([0 * axis, 1.1 * axis]), ("C", "O"))
    m, n = masses(("C", "O"))
    assert found.linear
    assert found.negative_count == 0
    np.testing.assert_allclose(found.frequencies_cm1, [wave_number(30.0, m * n / (m + n))], rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.modes[0] @ axis), [n, m] / np.hypot(m, n), rtol=1e-9)


def test_linear_triatomic_has_four_modes_as_in_textbooks():
    """Symmetric stretch k/m, antisymmetric k(1/m + 2/M), two bends from k_b (1/m + 2/M)/2 (Wilson et al.)."""
    k, bend = 40.0, -3.0
    line = np.array([[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])
    second = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0]) / 4
    hessian = np.kron(k * line, np.diag([0.0, 0.0, 1.0])) + np.kron(bend * second, np.diag([1.0, 1.0, 0.0]))
    positions = np.array([[0.0, 0.0, -1.2], [0.0, 0.0, 0.0], [0.0, 0.0, 1.2]])
    found = vibrational_analysis(hessian, positions, ("O", "C", "O"))
    m, centre = masses(("O", "C"))
    expected = [
        -wave_number(-bend * (2 / m + 4 / centre) / 4, 1.0),
        -wave_number(-bend * (2 / m + 4 / centre) / 4, 1.0),
        wave_number(k / m, 1.0),
        wave_number(k * (1 / m + 2 / centre), 1.0),
    ]
    assert (found.linear, found.negative_count) == (True, 2)
    np.testing.assert_allclose(found.frequencies_cm1, expected, rtol=1e-6)


def test_a_single_atom_has_no_vibrations():
    found = vibrational_analysis(np.zeros((3, 3)), np.zeros((1, 3)), ("H",))
    assert (len(found.frequencies_cm1), found.negative_count, found.linear) == (0, 0, False)


def test_modes_are_free_of_rigid_motion_and_orthogonal_by_mass():
    found = vibrational_analysis(full_hessian(BENT), BENT, SYMBOLS)
    roots = np.sqrt(masses(SYMBOLS))
    weighted = (found.modes * roots[None, :, None]).reshape(6, 12)
    weighted /= np.linalg.norm(weighted, axis=1)[:, None]
    np.testing.assert_allclose(weighted @ weighted.T, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(weighted @ rigid_motion_basis(BENT, roots), 0, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(found.modes, axis=(1, 2)), 1, atol=1e-12)


def test_frequencies_do_not_depend_on_orientation_or_order():
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    order = [2, 0, 3, 1]
    hessian = full_hessian(BENT)
    big = np.kron(np.eye(4), turn)
    moved = (big.T @ hessian @ big).reshape(4, 3, 4, 3)[order][:, :, order].reshape(12, 12)
    frequencies = vibrational_analysis(moved, (BENT @ turn + 1.0)[order], tuple(SYMBOLS[i] for i in order))
    np.testing.assert_allclose(
        frequencies.frequencies_cm1, vibrational_analysis(hessian, BENT, SYMBOLS).frequencies_cm1, atol=1e-6
    )


def test_differences_along_internal_directions_give_the_same_frequencies_for_fewer_gradients():
    """Also at a geometry with forces, where the rigid block of the Hessian does not vanish."""
    calls = []

    def gradient(positions):
        calls.append(positions)
        return springs(positions)

    assert np.abs(springs(BENT)).max() > 1.0
    few = finite_difference_hessian(gradient, BENT, SYMBOLS, 1e-4)
    assert len(calls) == 2 * 6
    assert max(np.linalg.norm(x - BENT) for x in calls) == pytest.approx(1e-4)
    reference = vibrational_analysis(full_hessian(BENT), BENT, SYMBOLS)
    found = vibrational_analysis(few, BENT, SYMBOLS)
    np.testing.assert_allclose(found.frequencies_cm1, reference.frequencies_cm1, atol=1e-3)
    assert found.negative_count == reference.negative_count
    for a, b in zip(found.modes, reference.modes, strict=True):
        assert abs((a * b).sum()) == pytest.approx(1.0, abs=1e-6)
    translations = np.tile(np.eye(3), (4, 1)).reshape(12, 3)
    np.testing.assert_allclose(few @ translations, 0, atol=1e-10)


def test_asymmetry_tells_of_gradients_from_two_surfaces():
    directions = internal_directions(BENT, SYMBOLS)
    honest = difference_products(springs, BENT, directions, 1e-4)
    assert assemble_hessian(directions, honest, SYMBOLS)[1] < 1e-4

    def jumping(positions):
        return springs(positions) * (2.0 if positions[0, 0] > BENT[0, 0] else 1.0)

    broken = difference_products(jumping, BENT, directions, 1e-4)
    assert assemble_hessian(directions, broken, SYMBOLS)[1] > 100


@pytest.mark.parametrize(("bend", "linear"), [(0.0, True), (0.02, True), (0.3, False)])
def test_a_linear_molecule_bent_by_convergence_noise_keeps_its_bends(bend, linear):
    positions = np.array([[0.0, 0.0, -1.2], [bend, 0.0, 0.0], [0.0, 0.0, 1.2]])
    found = vibrational_analysis(np.eye(9), positions, ("O", "C", "O"))
    assert (found.linear, len(found.frequencies_cm1)) == (linear, 4 if linear else 3)
    assert internal_directions(positions, ("O", "C", "O")).shape == (9, 4 if linear else 3)


def test_wave_number_of_one_electronvolt_is_right():
    """A quantum of 1 eV is 8065.54 cm-1; frequencies of springs must be on that scale."""
    stiffness = units._amu * (units._e / units._hbar) ** 2 / units._e * 1e-20
    hessian = stiffness / 2 * np.kron([[1.0, -1.0], [-1.0, 1.0]], np.diag([1.0, 0, 0]))
    mass = masses(("H",))[0]
    found = vibrational_analysis(hessian * mass, np.array([[0.0, 0, 0], [1.0, 0, 0]]), ("H", "H"))
    np.testing.assert_allclose(found.frequencies_cm1, [8065.544], rtol=1e-6)


HCN = np.array([[0.0, 1.05, 0.55], [0.0, 0.0, 0.0], [0.0, 0.0, 1.18]])


def test_hydrogen_goes_from_carbon_to_nitrogen():
    mode = np.array([[0.0, 0.3, 0.9], [0.0, -0.03, -0.02], [0.0, 0.01, -0.05]])
    for sign in (1, -1):
        assert changed_bonds(("H", "C", "N"), HCN, sign * mode, 1.3) == "breaks H1-C2, forms H1-N3"


def test_torsion_changes_no_bond_and_says_what_moves():
    peroxide = np.array([[0.0, 0, 0], [1.45, 0, 0], [-0.2, 0.95, 0.0], [1.65, -0.95, 0.0]])
    mode = np.zeros((4, 3))
    mode[2, 2], mode[3, 2] = 0.7, 0.7
    text = changed_bonds(("O", "O", "H", "H"), peroxide, mode, 1.3)
    assert text.startswith("no bond changes; ")
    assert text.count(",") == 2


def test_bonds_of_atoms_alone():
    assert changed_bonds(("H",), np.zeros((1, 3)), np.ones((1, 3))) == "no bonds"
    far = np.array([[0.0, 0, 0], [0, 0, 9.0]])
    assert changed_bonds(("H", "H"), far, far) == "no bonds"


@pytest.mark.parametrize(("with_model", "products", "accuracy"), [(True, 5, 1e-3), (False, 11, 1e-3)])
def test_lowest_mode_is_found_by_few_products(with_model, products, accuracy):
    generator = np.random.default_rng(2)
    positions = generator.normal(size=(7, 3))
    rigid = rigid_motion_basis(positions)
    basis, _ = np.linalg.qr(np.hstack([rigid, generator.normal(size=(21, 15))]))
    values = np.concatenate([np.zeros(6), [-1.0, 0.3], np.linspace(1.0, 60.0, 13)])
    hessian = basis @ np.diag(values) @ basis.T
    noise = generator.normal(size=(21, 21))
    model = hessian + 0.15 * (noise + noise.T)
    start = basis[:, 6] + 0.5 * generator.normal(size=21) / np.sqrt(21)
    calls = []

    def product(direction):
        calls.append(direction)
        np.testing.assert_allclose(rigid.T @ direction, 0, atol=1e-10)
        return hessian @ direction

    mode = lowest_mode_by_products(
        product, start.reshape(7, 3), positions, products, model if with_model else None, tolerance=1e-3
    )
    assert len(calls) <= products
    assert np.linalg.norm(mode) == pytest.approx(1.0)
    assert mode.ravel() @ hessian @ mode.ravel() == pytest.approx(-1.0, abs=20 * accuracy)
    assert calls[0] @ hessian @ calls[0] > -0.9  # the start was not the answer


def test_lowest_mode_of_a_space_that_is_soon_exhausted():
    positions = np.array([[0.0, 0, 0], [0, 0, 1.0]])
    stretch = np.array([0.0, 0, 1, 0, 0, -1]) / np.sqrt(2)
    mode = lowest_mode_by_products(lambda v: -2.0 * v, np.ones((2, 3)) + stretch.reshape(2, 3), positions, 5)
    assert abs(mode.ravel() @ stretch) == pytest.approx(1.0)


@pytest.mark.parametrize("left", [0.0, 1e-13])
def test_a_start_that_only_turns_the_molecule_is_replaced(left):
    """The mode of a search on a linear molecule can have become its rotation."""
    positions = np.array([[0.0, 0, -1.1], [0, 0, 0], [0, 0, 1.2]])
    start = np.cross([1.0, 0, 0], positions - positions.mean(axis=0))
    start = start / np.linalg.norm(start) + left
    hessian = np.kron(np.array([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]]), np.diag([-0.5, -0.5, 20.0]))
    mode = lowest_mode_by_products(lambda vector: hessian @ vector, start, positions, 9).ravel()
    assert np.linalg.norm(mode) == pytest.approx(1.0)
    assert np.abs(rigid_motion_basis(positions).T @ mode).max() < 1e-9
    assert mode @ hessian @ mode < 0


@pytest.mark.parametrize("positions", [BENT, np.arange(4.0)[:, None] * [1.1, 0.2, -0.3]])
def test_what_a_hessian_makes_of_rigid_motion_needs_no_calculation(positions):
    """Against differences of gradients, in a bent and a linear molecule, both far from their minimum."""
    stiffnesses = (3.0, 20.0)
    gradients = np.array([springs(positions, k).ravel() for k in stiffnesses])
    basis, products = rigid_motion_products(positions, gradients)
    assert basis == pytest.approx(rigid_motion_basis(positions))
    for k, product in zip(stiffnesses, products, strict=True):
        for vector, found in zip(basis.T.reshape(-1, 4, 3), product.T, strict=True):
            change = springs(positions + 1e-5 * vector, k) - springs(positions - 1e-5 * vector, k)
            assert found == pytest.approx(change.ravel() / 2e-5, abs=1e-5)
