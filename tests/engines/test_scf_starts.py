"""The contest of SCF starts: when it stops, and that every start arrives."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import molecule as build_molecule

from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.scf import Field, contest, iterations
from saddleflow.engines.scf.minimisation import minimise
from saddleflow.reaction import Reaction
from saddleflow.reactions import read_reactions
from saddleflow.settings import Engine

# Start structure d128 of the transition-state set of Hermes, Sargsyan, Najm and Zador (2022), read in place
# where the set lies beside the project: twelve of sixteen guesses agree on a state 0.79 eV too high.  The
# published energy is NWChem's at HF/3-21G.
AGREED_TOO_HIGH = Path(__file__).parents[3] / "shared/benchmarks/hermes500_dev/doublets/128.xyz"
AGREED_ENERGY = -10368.12189


class Scripted(contest.Contest):
    """Contest whose starts have known ends: name to energy, None for one that does not converge."""

    def __init__(self, energies, restricted=False):
        self.field = SimpleNamespace(restricted=restricted)
        self.energies = energies
        self.solutions = {}
        self.made = []

    def start(self, name):
        self.made.append(name)
        energy = self.energies.get(name, self.energies.get("else"))
        if energy is not None:
            self.solutions[name] = SimpleNamespace(energy=energy)


@pytest.mark.parametrize(("restricted", "made"), [(True, 4), (False, 5)])
def test_first_starts_that_agree_are_enough(restricted, made):
    starts = Scripted({"else": -1.0}, restricted)
    assert starts.run()[0] == "sad"
    assert len(starts.made) == made


def test_agreement_with_ones_own_offspring_counts_for_little():
    # "sad", "mix 1 0" and two that start from their orbitals agree: not enough to stop before "mix 1 1".
    only = ("sad", "mix 1 0", "best mix 0 0", "best mix 1 0")
    starts = Scripted({**dict.fromkeys(only, -1.0), "mix 1 1": -1.1})
    assert starts.run()[0] == "mix 1 1"
    # A third independent one is.
    starts = Scripted({**dict.fromkeys((*only, "damp 4 mix"), -1.0), "mix 1 1": -1.1})
    assert starts.run()[0] == "sad"
    assert "mix 1 1" not in starts.made


def test_nothing_that_converges_is_no_answer():
    assert Scripted({}).run() is None


def test_orbitals_are_exchanged_only_while_nothing_is_settled():
    # Two states that turn up in turn: four starts with the lower one, then no exchange is tried.
    starts = Scripted({"else": -1.0, "sad": -0.9})
    starts.run()
    assert not any("swap" in name for name in starts.made)
    # The lowest state comes from an exchange alone; closed shells have none.
    alone = {"damp 12 mix": -1.0, "mix 0 0": -1.0, "swap 1 0 1": -1.1}
    assert Scripted(alone).run()[0] == "swap 1 0 1"
    assert "swap" not in Scripted(alone, restricted=True).run()[0]


def test_exchanged_orbitals():
    field = Field(np.eye(4), np.diag([0.0, 1.0, 2.0, 3.0]), (2, 1), False)
    orbitals = field.orbitals([field.core_hamiltonian] * 2)
    alpha, beta = field.swapped(orbitals, 0, 1, 1)
    assert np.abs(alpha).argmax(axis=0).tolist() == [3, 1]
    assert np.abs(beta).argmax(axis=0).tolist() == [0]
    assert field.swapped(orbitals, 1, 1, 0) is None
    assert field.swapped(orbitals, 0, 0, 2) is None


def hubbard(sites, electrons, repulsion, restricted=False):
    """Field of a chain of sites with one orbital each, energies in units of the hopping."""

    class Chain(Field):
        def fock(self, occupied):
            densities = [orbitals @ orbitals.T for orbitals in occupied]
            if self.restricted:
                densities = densities * 2
            focks = [
                self.core_hamiltonian + repulsion * np.diag(np.diag(other)) for other in reversed(densities)
            ]
            energy = 0.5 * sum(
                ((self.core_hamiltonian + f) * d).sum() for f, d in zip(focks, densities, strict=True)
            )
            return energy, focks[: len(self.spins)]

    hopping = -(np.eye(sites, k=1) + np.eye(sites, k=-1))
    return Chain(np.eye(sites), hopping, electrons, restricted)


def orbitals_of(field, seed):
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=field.overlap.shape))[0]
    return [rotation[:, :n] for n in field.spins]


@pytest.mark.parametrize("restricted", [True, False])
def test_steps_downhill_end_where_the_iterations_do(restricted):
    field = hubbard(6, (3, 3), 1.0, restricted)
    expected = iterations.iterate(field, orbitals_of(field, 0), (1e-12, 1e-10), 200)
    found = minimise(field, orbitals_of(field, 0), 1e-9, 200)
    assert expected.converged
    assert found.converged
    assert found.energy == pytest.approx(expected.energy, abs=1e-12)
    gradient = field.gradient(field.fock(found.occupied)[1], found.occupied)
    assert max(np.sqrt(np.mean(part**2)) for part in gradient) < 1.1e-9


def test_steps_downhill_never_rise_and_arrive_where_iterations_oscillate():
    field = hubbard(8, (4, 3), 6.0)
    arrived = 0
    for seed in range(10):
        start = orbitals_of(field, seed)
        found = minimise(field, start, 1e-8, 300)
        assert found.converged
        assert found.energy <= field.fock(start)[0]
        plain = iterations.iterate(field, start, (1e-10, 1e-8), 60)
        arrived += plain.converged
        if plain.converged and plain.energy > plain.lowest[0] + 1e-6:
            assert minimise(field, plain.lowest[1], 1e-8, 300).energy < plain.energy
    assert arrived < 10, "an example that is too easy shows nothing"


@pytest.mark.pyscf
def test_a_lower_determinant_that_did_not_converge_is_not_passed_over():
    # Vinyl of ASE's G2 set as a quartet with a C-H bond of 1.75 Angstrom: four of the first seven starts
    # agree on a state 0.50 eV too high, the other three do not converge, at lower energies.
    molecule = build_molecule("C2H3")
    positions = molecule.get_positions()
    positions[2] += 0.6 * (positions[2] - positions[0])
    reaction = Reaction("vinyl", tuple(molecule.get_chemical_symbols()), positions, 0, 4)
    result = create_engine(Engine(program="pyscf"), reaction).evaluate(positions)
    assert result.energy == pytest.approx(-2087.745021, abs=1e-4)


@pytest.mark.pyscf
@pytest.mark.parametrize("limit", ["LOOSE_LIMIT", "TIGHT_LIMIT"])
def test_too_few_iterations_end_in_the_same_state(monkeypatch, limit):
    positions = np.array([[0.0, 0, 0], [0, 0, 1.0], [0.9, 0, -0.4]])
    reaction = Reaction("amino", ("N", "H", "H"), positions, multiplicity=2)
    expected = create_engine(Engine(program="pyscf"), reaction).evaluate(positions)
    monkeypatch.setattr(contest, limit, 1)
    result = create_engine(Engine(program="pyscf"), reaction).evaluate(positions)
    assert result.energy == pytest.approx(expected.energy, abs=1e-6)
    assert result.forces == pytest.approx(expected.forces, abs=1e-4)


@pytest.mark.psi4
@pytest.mark.skipif(not AGREED_TOO_HIGH.exists(), reason="the transition-state set is not beside the project")
def test_a_state_on_which_many_guesses_agree_is_not_believed():
    (reaction,) = read_reactions(AGREED_TOO_HIGH)
    one = create_engine(Engine(program="psi4"), reaction)
    try:
        result = one.evaluate(reaction.positions)
    finally:
        one.close()
    assert result.energy == pytest.approx(AGREED_ENERGY, abs=1e-3)
