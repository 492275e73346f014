"""The many SCF starts against an exhaustive search, on structures that no start was chosen on.

    python benchmarks/scf_outside.py OUTPUT.jsonl FOLDER... [--random 30] [--molecules 40]

Structures: those of the FOLDERs, and molecules and radicals of ASE's G2 set (some with Cl made Br), distorted
at random by 0.15 Angstrom, or with their longest bond to a terminal atom stretched 1.6 times; neutral ones,
cations, anions and triplets in turn.  The reference is the lowest of the starts' own answer and of so many
random starts (random rotations of occupied into empty orbitals, or random orbitals), damped, by PySCF at
HF/3-21G.  OUTPUT keeps finished structures, so an interrupted run goes on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ase.build import molecule
from ase.collections import g2
from ase.units import Hartree
from scipy.linalg import expm

from saddleflow.engines.checks import check_electrons
from saddleflow.engines.pyscf_engine import PyscfEngine, PyscfField
from saddleflow.engines.scf.iterations import LOOSE, iterate
from saddleflow.errors import InputError, ScfError
from saddleflow.reaction import Reaction
from saddleflow.reactions import read_reactions
from saddleflow.settings import Engine

TOLERANCE_MEV = 1.0
LIMIT = 250
ELECTRONS = {"neutral": (0, 0), "cation": (1, 1), "anion": (-1, 1), "triplet": (0, 2)}
"""Charge, and how many unpaired electrons more than the neutral molecule has at least (ions: modulo two)."""
HEAVIEST = 35


def made(number: int) -> list[Reaction]:
    """So many distorted molecules, evenly over the set."""
    names = [name for name in g2.names if 3 <= len(molecule(name)) <= 9]
    reactions = []
    for count, place in enumerate(np.linspace(0, len(names) - 1, number).astype(int)):
        atoms, generator = molecule(names[place]), np.random.default_rng(count)
        symbols = ["Br" if s == "Cl" and count % 2 else s for s in atoms.get_chemical_symbols()]
        positions = atoms.get_positions()
        if count % 3 == 2:
            distances = atoms.get_all_distances() + 1e3 * np.eye(len(atoms))
            last = int(distances.min(axis=0).argmax())
            partner = int(distances[last].argmin())
            positions[last] += 0.6 * (positions[last] - positions[partner])
        else:
            positions = positions + 0.15 * generator.standard_normal(positions.shape)
        kind = list(ELECTRONS)[count % len(ELECTRONS)]
        charge, more = ELECTRONS[kind]
        unpaired = int(atoms.numbers.sum()) % 2
        unpaired = unpaired + more if kind == "triplet" else (unpaired + more) % 2
        name = f"{names[place]}-{kind}-{'stretched' if count % 3 == 2 else 'distorted'}"
        reactions.append(Reaction(name, tuple(symbols), positions, charge, unpaired + 1))
    return reactions


def random_orbitals(field, guess, generator: np.random.Generator, number: int) -> list[np.ndarray]:
    """Occupied orbitals of a random start; two of three are rotations of the guess, ever larger ones."""
    occupied = []
    for (_, orbitals), electrons in zip(guess, field.spins, strict=True):
        size = orbitals.shape[1]
        turn = np.zeros((size, size))
        turn[electrons:, :electrons] = generator.standard_normal((size - electrons, electrons))
        scale = (0.3, 1.0, 10.0)[number % 3] / np.sqrt(size)
        occupied.append((orbitals @ expm(scale * (turn - turn.T)))[:, :electrons])
    return occupied


def exhaustive(reaction: Reaction, starts: int) -> dict:
    """Energy of the engine's many starts, and of the lowest random one, in eV."""
    options = Engine(program="pyscf")
    engine = PyscfEngine(options, reaction)
    try:
        result = engine.evaluate(reaction.positions)
        ours, notes = result.energy, result.notes
    except ScfError:
        ours, notes = None, {}
    mean_field = engine._mean_field(reaction.positions)
    field = PyscfField(mean_field, reaction.multiplicity == 1)
    guess = field.orbitals(field.fock_of_density(mean_field.get_init_guess(key="minao"))[1])
    generator, energies = np.random.default_rng(1), []
    for number in range(starts):
        occupied = random_orbitals(field, guess, generator, number)
        solution = iterate(field, occupied, LOOSE, LIMIT, damping=0.4, damped=8)
        if solution.converged:
            energies.append(solution.energy * Hartree)
    return {"ours": ours, "notes": notes, "random": sorted(energies)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--random", type=int, default=30, help="random starts a structure")
    parser.add_argument("--molecules", type=int, default=40)
    arguments = parser.parse_args()
    reactions = [r for folder in arguments.folders for r in read_reactions(folder)]
    done = {}
    if arguments.output.exists():
        done = {r["name"]: r for r in map(json.loads, arguments.output.read_text().splitlines())}
    for reaction in made(arguments.molecules) + reactions:
        if reaction.name in done or max(reaction.numbers) > HEAVIEST:
            continue
        try:
            check_electrons(reaction)
        except InputError as error:
            print(f"{reaction.name}: left out, {error}")
            continue
        record = {"name": reaction.name, "multiplicity": reaction.multiplicity, "charge": reaction.charge}
        done[reaction.name] = record | exhaustive(reaction, arguments.random)
        with arguments.output.open("a") as file:
            file.write(json.dumps(done[reaction.name]) + "\n")
    above = {}
    for name, record in done.items():
        lowest = min([*record["random"], *([] if record["ours"] is None else [record["ours"]])])
        above[name] = np.inf if record["ours"] is None else 1e3 * (record["ours"] - lowest)
    wrong = {name: value for name, value in above.items() if value > TOLERANCE_MEV}
    print(f"{len(above)} structures, {len(above) - len(wrong)} on the lowest state found")
    print("above it, meV:", ", ".join(f"{name} {value:.0f}" for name, value in wrong.items()) or "none")


if __name__ == "__main__":
    main()
