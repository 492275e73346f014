"""A reaction: a guessed transition state with charge and multiplicity, and how sets of them are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers


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
