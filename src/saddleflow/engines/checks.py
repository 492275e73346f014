"""What can be told wrong about a molecule before a program is asked."""

from __future__ import annotations

import numpy as np

from saddleflow.errors import GeometryError, InputError
from saddleflow.geometry import distance_matrix
from saddleflow.reaction import SMALLEST_DISTANCE, Reaction


def check_positions(positions: np.ndarray, atoms: int) -> np.ndarray:
    """Positions as a float array, if an engine can be asked about them.

    Parameters
    ----------
    positions : ndarray, shape (N, 3)
        Angstrom.
    atoms : int
        N that is expected.

    Returns
    -------
    ndarray, shape (N, 3)

    Raises
    ------
    GeometryError
        Wrong shape, numbers that are not finite, or atoms closer than 0.2 Angstrom.
    """
    array = np.asarray(positions, float)
    if array.shape != (atoms, 3):
        raise GeometryError(f"positions have shape {array.shape}, expected ({atoms}, 3)")
    if not np.isfinite(array).all():
        raise GeometryError("positions hold numbers that are not finite")
    # Programs answer nonsense below this, and do so without complaint.
    distances = distance_matrix(array)
    if distances.min() < SMALLEST_DISTANCE:
        first, second = np.unravel_index(int(distances.argmin()), distances.shape)
        raise GeometryError(
            f"atoms {first + 1} and {second + 1} are only {distances.min():.3f} Angstrom apart"
        )
    return array


def check_electrons(reaction: Reaction) -> None:
    """Charge and multiplicity have to fit the number of electrons.

    Raises
    ------
    InputError
        When they don't.
    """
    electrons = int(reaction.numbers.sum()) - reaction.charge
    unpaired = reaction.multiplicity - 1
    where = f"{reaction.source or reaction.name}: "
    if reaction.multiplicity < 1 or electrons < 1 or unpaired > electrons or (electrons - unpaired) % 2:
        raise InputError(
            f"{where}charge {reaction.charge} and multiplicity {reaction.multiplicity} are impossible "
            f"with {electrons} electrons; change charge or multiplicity"
        )
