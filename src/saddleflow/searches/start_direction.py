"""Where a search looks first: the unit vector along which the minimum mode is sought."""

from __future__ import annotations

import zlib

import numpy as np

from saddleflow.errors import InputError, ScfError
from saddleflow.geometry import distance_matrix, project_out, rigid_motion_basis
from saddleflow.reaction import Reaction
from saddleflow.settings import Start
from saddleflow.vibrations import root_masses
from saddleflow.xtb import XTB

# Modes closer than this (eV/Angstrom^2) count as degenerate: finite differences can't order them.
DEGENERACY = 1e-3
# Decimals kept of an xTB mode, so that another processor's rounding gives the same direction bit for bit.
DECIMALS = 6
# Angstrom: atoms this near are neighbours, and move together in the published random start.
NEIGHBOUR_DISTANCE = 3.3


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
        ``xtb_lowest_vibration``: :func:`lowest_vibration` of the same Hessian;
        ``random``: Gaussian numbers; ``difference``: product minus reactant.  Rigid motion is projected out
        of these three.  ``random_lowest_coordination``: Gaussian numbers on one of the atoms with the fewest
        neighbours and on all atoms near it, nothing projected out (arXiv 2505.12519).  ``file``: the given
        direction, only normalised.

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
        direction = _generator(reaction, start).standard_normal(reaction.positions.shape)
        return _unit(_internal(direction, reaction.positions), reaction, "the random direction")
    if start.direction == "random_lowest_coordination":
        numbers = _generator(reaction, start, "direction").standard_normal(reaction.positions.shape)
        direction = _loose_atoms(reaction, start) * numbers
        return _unit(direction, reaction, "the random direction")
    hessian = _hessian(reaction)
    if start.direction == "xtb_lowest_vibration":
        return lowest_vibration(hessian, reaction.symbols)
    return lowest_mode(hessian, reaction.positions)[1]


def start_positions(reaction: Reaction, start: Start, direction: np.ndarray) -> np.ndarray:
    """Where a search makes its first evaluation, shape (N, 3), Angstrom.

    Parameters
    ----------
    reaction : Reaction
        The guess.
    start : settings.Start
        Displacements.
    direction : ndarray, shape (N, 3)
        Unit vector of the search.
    """
    positions = reaction.positions + start.displacement * direction.reshape(-1, 3)
    if start.random_displacement:
        numbers = _generator(reaction, start, "displacement").standard_normal(positions.shape)
        loose = start.direction == "random_lowest_coordination"
        positions = positions + start.random_displacement * (
            _loose_atoms(reaction, start) * numbers if loose else numbers
        )
    return positions


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
    return float(values[0]), _reproducible(mode).reshape(positions.shape)


def lowest_vibration(hessian: np.ndarray, symbols: tuple[str, ...]) -> np.ndarray:
    """Displacements, a unit vector of shape (N, 3), of the lowest mode of the mass-weighted Hessian.

    Parameters
    ----------
    hessian : ndarray, shape (3N, 3N)
        eV/Angstrom^2; rigid motion is not projected out.
    symbols : tuple of str
        Elements.
    """
    roots = np.repeat(root_masses(symbols), 3)
    _, vectors = np.linalg.eigh(hessian / np.outer(roots, roots))
    return _reproducible(vectors[:, 0] / roots).reshape(-1, 3)


def _reproducible(mode: np.ndarray) -> np.ndarray:
    """Unit vector, rounded, with the first of its largest components positive."""
    mode = np.round(mode / np.linalg.norm(mode), DECIMALS) + 0.0  # no negative zeros
    first = np.flatnonzero(np.abs(mode) > np.abs(mode).max() - 1e-3)[0]
    return mode * np.sign(mode[first]) / np.linalg.norm(mode)


def _generator(reaction: Reaction, start: Start, *purpose: str) -> np.random.Generator:
    """Random numbers that follow the seed and the name: one seed gives two molecules different ones."""
    words = (zlib.crc32(word.encode()) for word in (reaction.name, *purpose))
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((start.seed, *words))))


def _loose_atoms(reaction: Reaction, start: Start) -> np.ndarray:
    """1 for one of the atoms with the fewest neighbours, drawn, and for these; else 0; shape (N, 1)."""
    near = distance_matrix(reaction.positions) < NEIGHBOUR_DISTANCE
    neighbours = near.sum(axis=1)
    chosen = _generator(reaction, start, "atom").choice(np.flatnonzero(neighbours == neighbours.min()))
    moving = near[chosen].astype(float)
    moving[chosen] = 1.0
    return moving[:, None]


def _hessian(reaction: Reaction) -> np.ndarray:
    xtb = XTB(reaction.numbers, reaction.charge, reaction.multiplicity)
    try:
        return xtb.hessian(reaction.positions)
    except ScfError as error:
        raise ScfError(
            f"{reaction.name}: no softest xTB mode at the start ({error}); set start.direction: random"
        ) from error
    except InputError as error:
        raise InputError(
            f"{reaction.name}: no softest xTB mode at the start ({error}); set start.direction: random"
        ) from error


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
