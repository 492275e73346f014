"""Start directions are unit vectors, reproducible, free of rigid motion, and really the softest xTB mode."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.vibrations import Vibrations
from tblite.ase import TBLite

import saddleflow.xtb
from saddleflow.errors import GeometryError, InputError, ScfError
from saddleflow.geometry import rigid_motion_basis
from saddleflow.reaction import Reaction
from saddleflow.searches.start_direction import lowest_mode, start_direction, start_positions
from saddleflow.settings import Start
from saddleflow.xtb import XTB

HCN = Reaction("hcn", ("H", "C", "N"), np.array([[0.0, 1.1, 0.6], [0.0, 0.0, 0.0], [0.0, 0.0, 1.18]]))
BENT = np.array([[0.0, 0.0, 0.0], [0.3, 0.9, 0.0], [0.1, -0.2, 1.1], [1.2, 0.1, 0.2]])


def rotation(seed=3):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def test_energy_and_gradient_agree_with_tblites_ase_calculator():
    for charge, multiplicity in ((0, 1), (1, 2)):
        atoms = Atoms(HCN.symbols, HCN.positions)
        atoms.calc = TBLite(
            method="GFN2-xTB", charge=charge, multiplicity=multiplicity, accuracy=0.01, verbosity=0
        )
        energy, gradient = XTB(HCN.numbers, charge, multiplicity).energy_gradient(HCN.positions)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(-gradient, atoms.get_forces(), atol=1e-5)


def test_hessian_agrees_with_ases_finite_differences(tmp_path):
    atoms = molecule("H2CO")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
    vibrations = Vibrations(atoms, delta=0.005, name=str(tmp_path / "vib"))
    vibrations.run()
    reference = vibrations.get_vibrations().get_hessian_2d()
    np.testing.assert_allclose(XTB(atoms.numbers).hessian(atoms.positions), reference, atol=5e-3)


def test_softest_mode_has_the_lowest_curvature_of_all_internal_directions():
    direction = start_direction(HCN, Start())
    assert np.linalg.norm(direction) == pytest.approx(1.0, abs=1e-12)
    rigid = rigid_motion_basis(HCN.positions)
    np.testing.assert_allclose(rigid.T @ direction.ravel(), 0, atol=1e-5)
    hessian = XTB(HCN.numbers).hessian(HCN.positions)
    curvature = direction.ravel() @ hessian @ direction.ravel()
    others = np.random.default_rng(0).normal(size=(9, 2000))
    others -= rigid @ (rigid.T @ others)
    others /= np.linalg.norm(others, axis=0)
    assert curvature < (others * (hessian @ others)).sum(axis=0).min()
    # The hydrogen goes round the C-N bond.
    assert curvature < 0


def test_softest_mode_turns_with_the_molecule_and_repeats_bit_for_bit():
    direction = start_direction(HCN, Start())
    assert direction.tobytes() == start_direction(HCN, Start()).tobytes()
    turned = start_direction(replace(HCN, positions=HCN.positions @ rotation()), Start())
    assert abs(np.sum(turned * (direction @ rotation()))) == pytest.approx(1.0, abs=1e-5)


def test_lowest_vibration_agrees_with_ases_vibrational_analysis(tmp_path):
    atoms = Atoms(HCN.symbols, HCN.positions)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
    vibrations = Vibrations(atoms, delta=0.005, name=str(tmp_path / "vib"))
    vibrations.run()
    reference = vibrations.get_mode(0)
    direction = start_direction(HCN, Start(direction="xtb_lowest_vibration"))
    assert abs(np.sum(direction * reference)) / np.linalg.norm(reference) == pytest.approx(1.0, abs=1e-4)


def test_charge_and_multiplicity_reach_xtb():
    neutral, cation = (
        start_direction(replace(HCN, charge=charge, multiplicity=1 + charge), Start()) for charge in (0, 1)
    )
    assert np.abs(neutral - cation).max() > 1e-3


def test_degenerate_modes_and_ties_do_not_depend_on_rounding():
    linear = np.array([[0.0, 0.0, -1.2], [0.0, 0.0, 0.0], [0.0, 0.0, 1.2]])
    hessian = XTB(np.array([8, 6, 8])).hessian(linear)
    _, mode = lowest_mode(hessian, linear)
    assert np.abs(mode[:, 2]).max() < 1e-5  # the doubly degenerate bend
    generator = np.random.default_rng(1)
    for _ in range(5):
        noise = 1e-11 * generator.normal(size=hessian.shape)
        assert lowest_mode(hessian + noise + noise.T, linear)[1].tobytes() == mode.tobytes()


@pytest.mark.parametrize("positions", [BENT, BENT[:2], BENT[:1]])
def test_random_direction_follows_seed_and_name(positions):
    reaction = Reaction("a", ("H",) * len(positions), positions)
    first = start_direction(reaction, Start(direction="random", seed=1))
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-12)
    assert first.tobytes() == start_direction(reaction, Start(direction="random", seed=1)).tobytes()
    if len(positions) > 2:
        np.testing.assert_allclose(rigid_motion_basis(positions).T @ first.ravel(), 0, atol=1e-12)
        for other in (
            start_direction(reaction, Start(direction="random", seed=2)),
            start_direction(replace(reaction, name="b"), Start(direction="random", seed=1)),
        ):
            assert np.abs(first - other).max() > 1e-2


def test_random_direction_is_the_same_in_every_process():
    """The numbers are part of the contract: a seed in a paper must mean the same tomorrow."""
    direction = start_direction(Reaction("a", ("H",), BENT[:1]), Start(direction="random", seed=7))
    np.testing.assert_allclose(direction, [[-0.61745497, -0.53532806, -0.57634472]], atol=1e-8)


# A chain of five atoms 3 Angstrom apart: the ends have one neighbour each.
CHAIN = Reaction("chain", ("H",) * 5, np.outer(np.arange(5.0), [3.0, 0.0, 0.0]))


def test_the_published_random_start_moves_an_atom_of_lowest_coordination_and_its_neighbours():
    ends = set()
    for seed in range(20):
        start = Start(direction="random_lowest_coordination", random_displacement=0.01, seed=seed)
        direction = start_direction(CHAIN, start)
        assert np.linalg.norm(direction) == pytest.approx(1.0, abs=1e-12)
        assert direction.tobytes() == start_direction(CHAIN, start).tobytes()
        moving = tuple(np.flatnonzero(direction.any(axis=1)))
        assert moving in {(0, 1), (3, 4)}
        ends.add(moving)
        moved = start_positions(CHAIN, start, direction) - CHAIN.positions
        assert tuple(np.flatnonzero(moved.any(axis=1))) == moving
        # Independent numbers: the displacement does not lie along the direction.
        assert abs(np.sum(moved * direction)) < 0.999 * np.linalg.norm(moved)
    assert len(ends) == 2


def test_displacements_have_the_asked_size():
    along = Start(direction="file", displacement=0.02)
    direction = BENT / np.linalg.norm(BENT)
    reaction = Reaction("a", ("H",) * 4, BENT)
    np.testing.assert_allclose(
        start_positions(reaction, along, direction) - BENT, 0.02 * direction, atol=1e-14
    )
    moved = [
        start_positions(reaction, Start(random_displacement=0.01, seed=seed), direction) - BENT
        for seed in range(200)
    ]
    assert np.std(moved) == pytest.approx(0.01, rel=0.1)


def test_a_given_direction_is_taken_as_it_is():
    given = np.arange(12.0).reshape(4, 3)
    reaction = Reaction("a", ("H",) * 4, BENT, start_direction=given)
    direction = start_direction(reaction, Start(direction="file"))
    np.testing.assert_allclose(direction, given / np.linalg.norm(given), rtol=1e-14)


def test_difference_forgets_rigid_motion():
    stretch = np.zeros((4, 3))
    stretch[0] = [0.0, 0.3, 0.1]
    turn = np.cross([0.1, 0.2, 0.3], BENT) + np.eye(3)[0]
    plain, moved = (
        start_direction(Reaction("a", ("H",) * 4, BENT, difference=difference), Start(direction="difference"))
        for difference in (stretch, stretch + turn)
    )
    np.testing.assert_allclose(plain, moved, atol=1e-12)


@pytest.mark.parametrize(
    ("reaction", "direction", "message"),
    [
        (
            Reaction("a", ("H",) * 4, BENT, source="t.tsv, row 3"),
            "file",
            "t.tsv, row 3: start.direction is file",
        ),
        (Reaction("a", ("H",) * 4, BENT), "difference", "a comes without a difference"),
        (Reaction("a", ("H",) * 4, BENT, start_direction=0 * BENT), "file", "is no direction"),
        (Reaction("a", ("H",) * 4, BENT, difference=np.ones((4, 3))), "difference", "is no direction"),
        (Reaction("a", ("H",) * 4, BENT, start_direction=np.ones((3, 3))), "file", r"has shape \(3, 3\)"),
        (Reaction("a", ("Lr", "H"), BENT[:2]), "xtb_softest_mode", "set start.direction: random"),
        (replace(HCN, multiplicity=30), "xtb_softest_mode", "not compatible"),
    ],
)
def test_what_cannot_be_is_one_clear_line(reaction, direction, message):
    with pytest.raises(InputError, match=message) as caught:
        start_direction(reaction, Start(direction=direction))
    assert "\n" not in str(caught.value)


def test_scf_that_fails_at_every_temperature_recommends_another_direction(monkeypatch):
    monkeypatch.setattr(saddleflow.xtb, "ATTEMPTS", ((300.0, 1), (1000.0, 2)))
    with pytest.raises(ScfError, match=r"hcn: .*1000 K.*set start.direction: random"):
        start_direction(HCN, Start())


def test_scf_is_tried_again_with_smearing(monkeypatch):
    monkeypatch.setattr(saddleflow.xtb, "ATTEMPTS", ((300.0, 1), (300.0, 250)))
    assert np.linalg.norm(start_direction(HCN, Start())) == pytest.approx(1.0)


def test_gradients_nearby_are_those_of_the_points_at_the_same_temperature(monkeypatch):
    points = [HCN.positions * (1.0 + 0.002 * k) for k in range(3)]
    surface = XTB(HCN.numbers, method="GFN1-xTB")
    one_by_one = np.array([surface.energy_gradient(point)[1] for point in points])
    assert surface.gradients(points) == pytest.approx(one_by_one, abs=1e-4)
    # One iteration at 300 K is too few: the SCF at the first point is that at 5000 K, and so are the others.
    monkeypatch.setattr(saddleflow.xtb, "ATTEMPTS", ((300.0, 1), (5000.0, 250)))
    hot = surface.energy_gradient(points[0])[1]
    monkeypatch.setattr(saddleflow.xtb, "ATTEMPTS", ((300.0, 250),))
    assert surface.gradients(points)[0] == pytest.approx(hot, abs=1e-4)
    assert np.abs(surface.gradients(points)[0] - one_by_one[0]).max() > 1e-3


def test_coinciding_and_broken_atoms_are_geometry_errors():
    with pytest.raises(GeometryError):
        XTB(np.array([1, 1])).energy_gradient(np.zeros((2, 3)))
    with pytest.raises(GeometryError, match="not finite"):
        XTB(np.array([1, 1])).energy_gradient(np.full((2, 3), np.nan))


def test_what_was_asked_before_does_not_change_an_answer():
    surface, moved = XTB(HCN.numbers, accuracy=0.1), 1.01 * HCN.positions
    surface.energy_gradient(HCN.positions)
    surface.gradients([1.001 * HCN.positions])
    with pytest.raises(GeometryError):
        surface.energy_gradient(0.0 * HCN.positions)
    energy, gradient = surface.energy_gradient(moved)
    alone, expected = XTB(HCN.numbers, accuracy=0.1).energy_gradient(moved)
    assert energy == alone
    assert gradient.tobytes() == expected.tobytes()


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_molecules_pulled_apart_converge_at_some_temperature(method):
    """Most of the stretched ones do not at 300 K; what takes long there or needs smearing is not given up."""
    carbon_monoxide = np.array([6, 8]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.5]])
    for numbers, positions in (carbon_monoxide, (HCN.numbers, 2.5 * HCN.positions)):
        energy, gradient = XTB(numbers, method=method).energy_gradient(positions)
        assert np.isfinite(energy) and np.isfinite(gradient).all()


def test_a_short_memory_changes_nothing_where_an_scf_converges_as_it_should(monkeypatch):
    found = {}
    for memory in (saddleflow.xtb.MEMORY, 250):
        monkeypatch.setattr(saddleflow.xtb, "MEMORY", memory)
        found[memory] = XTB(HCN.numbers).energy_gradient(HCN.positions)
    (energy, gradient), (other, its_gradient) = found.values()
    assert energy == other and (gradient == its_gradient).all()
