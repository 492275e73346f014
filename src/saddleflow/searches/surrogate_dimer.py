"""Rotation and translation of a dimer on a surrogate surface (GP-dimer, arXiv 2505.12519)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from saddleflow.geometry import distance_matrix, project_out, rigid_motion_basis
from saddleflow.searches.lbfgs import LimitedMemoryBFGS

Gradient = Callable[[np.ndarray], np.ndarray]
"""Surrogate gradient (shape (D,), eV/Angstrom) at a flat position (shape (D,), Angstrom)."""

ATOM_STEP_FRACTION = 0.99
"""Of the largest allowed motion of an atom, so that a scaled step stays inside."""


def rotational_force(difference: np.ndarray, mode: np.ndarray, separation: float) -> np.ndarray:
    """F_rot = -2 (g1 - g0)_perp / separation, shape (D,), eV/Angstrom^2."""
    return -2.0 * (difference - (difference @ mode) * mode) / separation


def rotation_angle(rotational: float, curvature: float) -> float:
    """Estimated angle to the minimum mode, 0.5 atan(|F_rot| / (2 |C|)), rad."""
    return 0.5 * float(np.arctan2(rotational, 2.0 * abs(curvature)))


@dataclass(frozen=True)
class RotationResult:
    """Outcome of the rotations at one midpoint.

    Parameters
    ----------
    mode : ndarray, shape (D,)
        Unit vector.
    curvature : float
        Along it, eV/Angstrom^2.
    rotations : int
        How many turns were made.
    """

    mode: np.ndarray
    curvature: float
    rotations: int


def rotate(
    gradient: Gradient,
    midpoint: np.ndarray,
    g0: np.ndarray,
    mode: np.ndarray,
    separation: float,
    tolerance: float,
    max_rotations: int,
    rigid: np.ndarray | None = None,
    refuse_rising: bool = False,
) -> RotationResult:
    """Turn the dimer on the surrogate towards its minimum mode, with L-BFGS directions.

    Parameters
    ----------
    gradient : callable
        Of the surrogate.
    midpoint, g0 : ndarray, shape (D,)
        Position in Angstrom and the surrogate's gradient there.
    mode : ndarray, shape (D,)
        Unit vector to start from.
    separation : float
        Midpoint to image 1, Angstrom.
    tolerance : float
        Stop below this angle, rad.
    max_rotations : int
        At most as many.
    rigid : ndarray, shape (D, k), optional
        Orthonormal directions that the mode is kept free of.
    refuse_rising : bool
        End before a turn that raises the curvature.
    """
    memory = LimitedMemoryBFGS(max(len(mode), 1))
    if rigid is not None:
        mode = _unit(project_out(rigid, mode))
    g1 = gradient(midpoint + separation * mode)
    curvature = (g1 - g0) @ mode / separation
    old_mode = old_force = None
    for count in range(max_rotations):
        force = rotational_force(g1 - g0, mode, separation)
        if rigid is not None:
            force = project_out(rigid, force)
        if old_mode is not None:
            memory.add(mode - old_mode, old_force - force)
        theta = memory.apply(force)
        theta = theta - (theta @ mode) * mode
        norm = np.linalg.norm(theta)
        if norm < 1e-12:
            return RotationResult(mode, curvature, count)
        theta /= norm
        if force @ theta < 0:
            theta = -theta
        f0 = force @ theta
        trial = rotation_angle(f0, curvature)
        if trial < tolerance:
            return RotationResult(mode, curvature, count)
        mode_trial = _unit(mode * np.cos(trial) + theta * np.sin(trial))
        theta_trial = _unit(theta * np.cos(trial) - mode * np.sin(trial))
        g1_trial = gradient(midpoint + separation * mode_trial)
        f_trial = rotational_force(g1_trial - g0, mode_trial, separation) @ theta_trial
        a1 = (f_trial - f0 * np.cos(2 * trial)) / (2.0 * np.sin(2 * trial))
        b1 = -0.5 * f0
        angle = 0.5 * np.arctan(b1 / a1) if a1 != 0.0 else 0.25 * np.pi
        if angle < 0:
            angle += 0.5 * np.pi
        turned = _unit(mode * np.cos(angle) + theta * np.sin(angle))
        g1_turned = gradient(midpoint + separation * turned)
        curvature_turned = (g1_turned - g0) @ turned / separation
        if refuse_rising and curvature_turned > curvature + 1e-9:
            return RotationResult(mode, curvature, count)
        old_mode, old_force = mode, force
        mode, g1, curvature = turned, g1_turned, curvature_turned
        if np.arccos(np.clip(abs(mode @ old_mode), 0.0, 1.0)) < tolerance:
            return RotationResult(mode, curvature, count + 1)
    return RotationResult(mode, curvature, max_rotations)


@dataclass
class Translator:
    """L-BFGS translation of the midpoint on the surrogate.

    Parameters
    ----------
    max_step : float
        Length of a step at most (2-norm), Angstrom.
    convex_step : float
        Length of a step uphill along the mode where the curvature is positive, Angstrom.
    distance_ratio_limit : float
        No atom moves further than half of (1 - limit) times its nearest-neighbour distance.
    remove_rigid_motion : bool
        Project translations and rotations out of the steps.
    memory_after_limited_step : bool
        Go on with L-BFGS after a step that was shortened because atoms are near; else all later steps of this
        translator follow the force alone.
    """

    max_step: float
    convex_step: float
    distance_ratio_limit: float
    remove_rigid_motion: bool
    memory_after_limited_step: bool = False
    _memory: LimitedMemoryBFGS = field(init=False)
    _last_step: np.ndarray | None = field(init=False, default=None)
    _last_force: np.ndarray | None = field(init=False, default=None)

    def __post_init__(self):
        self._memory = LimitedMemoryBFGS(1000)

    def _forget(self) -> None:
        self._memory.clear()
        self._last_step = self._last_force = None

    def step(
        self, position: np.ndarray, gradient: np.ndarray, mode: np.ndarray, curvature: float
    ) -> np.ndarray:
        """Step of the midpoint, shape (D,), Angstrom.

        Parameters
        ----------
        position, gradient : ndarray, shape (D,)
            Midpoint and surrogate gradient.
        mode : ndarray, shape (D,)
            Unit vector along the minimum mode.
        curvature : float
            Along it, eV/Angstrom^2.
        """
        along = (gradient @ mode) * mode
        if curvature < 0:
            force = 2.0 * along - gradient
            if self._last_step is not None:
                self._memory.add(self._last_step, self._last_force - force)
            step = self._memory.apply(force)
            if self.remove_rigid_motion:
                step = project_out(rigid_motion_basis(position.reshape(-1, 3)), step)
            length = np.linalg.norm(step)
            if length > self.max_step:
                step *= self.max_step / length
                self._forget()
            else:
                self._last_step, self._last_force = step, force
        else:
            norm = np.linalg.norm(along)
            # On top of a ridge the force has no component along the mode: either way is uphill.
            step = self.convex_step * (along / norm if norm > 1e-12 else mode)
            self._forget()
        return self._within_neighbours(position, step)

    def _within_neighbours(self, position: np.ndarray, step: np.ndarray) -> np.ndarray:
        nearest = distance_matrix(position.reshape(-1, 3)).min(axis=1)
        limits = 0.5 * (1.0 - self.distance_ratio_limit) * nearest
        motions = np.sqrt((step.reshape(-1, 3) ** 2).sum(axis=1))
        if (motions > ATOM_STEP_FRACTION * limits).any():
            moving = motions > 0
            step = step * ATOM_STEP_FRACTION * (limits[moving] / motions[moving]).min()
            self._forget()
            if not self.memory_after_limited_step:
                self._memory.memory = 0
        elif self._last_step is not None:
            self._last_step = step
        return step


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
