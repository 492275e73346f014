"""Where a search looks first: the unit vector along which the minimum mode is sought."""

from __future__ import annotations

import zlib

import numpy as np

from saddleflow.errors import InputError, ScfError
from saddleflow.geometry import project_out, rigid_motion_basis
from saddleflow.reaction import Reaction
from saddleflow.settings import Start
from saddleflow.xtb import XTB

# Modes closer than this (eV/Angstrom^2) count as degenerate: finite differences can't order them.
DEGENERACY = 1e-3
# Decimals kept of an xTB mode, so that another processor's rounding gives the same direction bit for bit.
DECIMALS = 6


def start_direction(reaction: Reaction, start: Start) -> np.ndarray:
    """Unit vector along which a search starts.

    The same reaction and settings give the same vector, so that an interrupted search can be replayed.

    Parameters
    ----------
    reaction : Reaction
        Start geometry, charge, multiplicity and, for ``file`` and ``difference``, the direction.
    start : settings.Start
        Kind of direction and seed.

    Returns
    -------
    ndarray, shape (N, 3)
        ``xtb_softest_mode``: lowest eigenvector of the projected Cartesian GFN2-xTB Hessian at the guess;
        ``random``: Gaussian numbers; ``difference``: product minus reactant.  Rigid motion is projected out
        of these three.  ``file``: the given direction, only normalised.

    Raises
    ------
    InputError
        When the reaction carries no direction of the asked kind, or a vanishing one.
    ScfError
        When xTB does not converge at the guess.
    """
    if start.direction == "file":
        return _unit(_given(reaction, "start_direction", "file"), reaction, "its start direction")
    if start.direction == "difference":
        difference = _internal(_given(reaction, "difference", "difference"), reaction.positions)
        return _unit(difference, reaction, "product minus reactant without rigid motion")
    if start.direction == "random":
        # The name is mixed in, so that one seed does not give all molecules of a set the same numbers.
        entropy = (start.seed, zlib.crc32(reaction.name.encode()))
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        direction = generator.standard_normal(reaction.positions.shape)
        return _unit(_internal(direction, reaction.positions), reaction, "the random direction")
    return _softest_mode(reaction)


def lowest_mode(hessian: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Lowest mode of a Cartesian Hessian with rigid motion projected out.

    Parameters
    ----------
    hessian : ndarray, shape (3N, 3N)
        eV/Angstrom^2.
    positions : ndarray, shape (N, 3)
        Angstrom.

    Returns
    -------
    curvature : float
        eV/Angstrom^2.
    mode : ndarray, shape (N, 3)
        Unit vector; of two nearly equal modes always the same mixture, and the first of its largest
        components is positive.
    """
    rigid = rigid_motion_basis(positions)
    if rigid.shape[1] >= positions.size:
        rigid = rigid[:, :0]
    internal = np.linalg.svd(np.eye(positions.size) - rigid @ rigid.T)[0][
        :, : positions.size - rigid.shape[1]
    ]
    values, vectors = np.linalg.eigh(internal.T @ hessian @ internal)
    lowest = internal @ vectors[:, values < values[0] + DEGENERACY]
    mode = lowest[:, 0]
    if lowest.shape[1] > 1:
        # Any mixture of degenerate modes is as good; a fixed vector picks the same one on every machine.
        mode = lowest @ (lowest.T @ np.random.Generator(np.random.PCG64(0)).standard_normal(positions.size))
    mode = np.round(mode / np.linalg.norm(mode), DECIMALS) + 0.0  # no negative zeros
    first = np.flatnonzero(np.abs(mode) > np.abs(mode).max() - 1e-3)[0]
    return float(values[0]), (mode * np.sign(mode[first]) / np.linalg.norm(mode)).reshape(positions.shape)


def _softest_mode(reaction: Reaction) -> np.ndarray:
    xtb = XTB(reaction.numbers, reaction.charge, reaction.multiplicity)
    try:
        hessian = xtb.hessian(reaction.positions)
    except ScfError as error:
        raise ScfError(
            f"{reaction.name}: no softest xTB mode at the start ({error}); set start.direction: random"
        ) from error
    except InputError as error:
        raise InputError(
            f"{reaction.name}: no softest xTB mode at the start ({error}); set start.direction: random"
        ) from error
    return lowest_mode(hessian, reaction.positions)[1]


def _given(reaction: Reaction, attribute: str, name: str) -> np.ndarray:
    direction = getattr(reaction, attribute)
    where, what = reaction.source or reaction.name, attribute.replace("_", " ")
    if direction is None:
        raise InputError(
            f"{where}: start.direction is {name}, but {reaction.name} comes without a {what}; "
            "give one or set start.direction: xtb_softest_mode"
        )
    if direction.shape != reaction.positions.shape:
        raise InputError(
            f"{where}: the {what} of {reaction.name} has shape {direction.shape}, "
            f"its geometry {reaction.positions.shape}"
        )
    return direction


def _internal(direction: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Without rigid motion, unless nothing would be left (a single particle on a model surface)."""
    rigid = rigid_motion_basis(positions)
    return direction if rigid.shape[1] >= positions.size else project_out(rigid, direction)


def _unit(direction: np.ndarray, reaction: Reaction, name: str) -> np.ndarray:
    length = float(np.linalg.norm(direction))
    if not np.isfinite(length) or length < 1e-10:
        raise InputError(f"{reaction.source or reaction.name}: {name} is no direction (length {length:g})")
    return direction / length
