"""A reaction: a guessed transition state with charge and multiplicity, and what makes it unfit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers

from saddleflow.geometry import distance_matrix
from saddleflow.xyz_files import LARGEST_MOLECULE, shown

SMALLEST_DISTANCE = 0.2
"""Angstrom; atoms closer than this are a mistake in the file."""
LONGEST_NAME = 80
"""Characters; names become parts of file names."""
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]*\Z")


@dataclass(frozen=True)
class Reaction:
    """One guessed transition state.

    Parameters
    ----------
    name : str
        Letters, digits and ``._+-`` only; it becomes part of file names.
    symbols : tuple of str
        Chemical symbols of the N atoms.
    positions : ndarray, shape (N, 3)
        Guess in Angstrom.
    charge : int
        Total charge.
    multiplicity : int
        2S + 1.
    start_direction : ndarray, shape (N, 3), or None
        Direction for start ``file``.
    difference : ndarray, shape (N, 3), or None
        Product minus reactant for start ``difference``, Angstrom.
    source : str
        File (and line, frame or row) that it was read from.
    """

    name: str
    symbols: tuple[str, ...]
    positions: np.ndarray
    charge: int = 0
    multiplicity: int = 1
    start_direction: np.ndarray | None = None
    difference: np.ndarray | None = None
    source: str = ""

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers, shape (N,)."""
        return np.array([atomic_numbers[s] for s in self.symbols])

    def to_dict(self) -> dict:
        """JSON-serialisable form, floats exact."""
        return {
            "name": self.name,
            "symbols": list(self.symbols),
            "positions": self.positions.tolist(),
            "charge": self.charge,
            "multiplicity": self.multiplicity,
            "start_direction": None if self.start_direction is None else self.start_direction.tolist(),
            "difference": None if self.difference is None else self.difference.tolist(),
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, data: dict) -> Reaction:
        """Inverse of :meth:`to_dict`."""

        def array(key: str) -> np.ndarray | None:
            return None if data.get(key) is None else np.array(data[key], float)

        return cls(
            name=data["name"],
            symbols=tuple(data["symbols"]),
            positions=np.array(data["positions"], float),
            charge=int(data["charge"]),
            multiplicity=int(data["multiplicity"]),
            start_direction=array("start_direction"),
            difference=array("difference"),
            source=data.get("source", ""),
        )


def lowest_multiplicity(numbers: np.ndarray, charge: int) -> int:
    """Lowest multiplicity (2S + 1) that the electron count allows: 1 or 2."""
    return 1 + int(np.sum(numbers) - charge) % 2


def check_reaction(reaction: Reaction) -> list[str]:
    """Everything that makes a reaction unfit for a search.

    Parameters
    ----------
    reaction : Reaction
        Any, also one that was built in Python.

    Returns
    -------
    list of str
        One line a problem, each starting with the reaction's source or name; empty if all is well.
    """
    where = reaction.source or reaction.name or "reaction"
    return [f"{where}: {text}" for _, text in reaction_problems(reaction)]


def reaction_problems(reaction: Reaction) -> Iterable[tuple[int | None, str]]:
    """Yield the problems of :func:`check_reaction` as (0-based index of the atom or None, text)."""
    if (problem := name_problem(reaction.name)) is not None:
        yield None, problem
    unknown = [s for s in reaction.symbols if atomic_numbers.get(s, 0) < 1]
    if unknown:
        yield reaction.symbols.index(unknown[0]), f"unknown element {shown(str(unknown[0]))}"
        return
    positions = np.asarray(reaction.positions, float)
    count = len(reaction.symbols)
    if positions.shape != (count, 3):
        yield None, f"positions have shape {positions.shape}, expected ({count}, 3)"
        return
    if not np.isfinite(positions).all():
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        yield atom, f"atom {atom + 1} ({reaction.symbols[atom]}) has a coordinate that is not a finite number"
        return
    if not 2 <= count <= LARGEST_MOLECULE:
        yield None, f"{count} atom{'s' * (count != 1)}; a reaction needs 2 to {LARGEST_MOLECULE}"
    distances = distance_matrix(positions)
    for j, i in zip(*np.nonzero(np.tril(distances < SMALLEST_DISTANCE)), strict=True):
        first, second = (f"{k + 1} ({reaction.symbols[k]})" for k in (int(i), int(j)))
        text = f"atoms {first} and {second} are {distances[i, j]:.3g} A apart; correct a coordinate"
        yield int(j), f"{text} (coordinates are Angstrom)"
    yield from ((None, text) for text in _spin_problems(reaction))
    for label, array in (("start_direction", reaction.start_direction), ("difference", reaction.difference)):
        if array is None:
            continue
        if np.shape(array) != (count, 3) or not np.isfinite(array).all():
            yield None, f"{label} must be {count} x 3 finite numbers"
        elif float(np.abs(array).max()) < 1e-6:
            yield None, f"{label} is zero; give a direction or leave it out"


def _spin_problems(reaction: Reaction) -> Iterable[str]:
    """Charge and multiplicity that no molecule of these atoms can have."""
    protons, count = int(reaction.numbers.sum()), len(reaction.symbols)
    electrons, unpaired = protons - reaction.charge, reaction.multiplicity - 1
    if electrons < 1 or electrons > protons + 2 * count:
        yield f"charge {reaction.charge} is impossible with {protons} protons; correct charge="
    elif unpaired < 0 or unpaired > electrons:
        yield f"multiplicity {reaction.multiplicity} is impossible with {electrons} electrons; correct it"
    elif (electrons - unpaired) % 2:
        lowest = 1 + electrons % 2
        kind = "an even" if electrons % 2 == 0 else "an odd"
        allowed = f"write {lowest}, {lowest + 2}, ... (or correct the charge, now {reaction.charge})"
        yield f"multiplicity {reaction.multiplicity} is impossible with {kind} number of electrons; {allowed}"


def name_problem(name: str) -> str | None:
    """Why a name can't be part of a file name, and what to write instead; None if it can."""
    if len(name) <= LONGEST_NAME and _NAME.match(name) and ".." not in name:
        return None
    proposal = re.sub(r"[^A-Za-z0-9._+-]+", "_", name).lstrip(".-")
    proposal = re.sub(r"\.\.+", ".", proposal)[:LONGEST_NAME].strip("_") or "reaction"
    rule = f"letters, digits and ._+- only, at most {LONGEST_NAME}, no leading . or -"
    return f"name {shown(name)} can't be used ({rule}); write for example name={proposal}"
