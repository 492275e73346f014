"""Downhill from a determinant: slower than the extrapolated iterations at their best, but it always arrives.

Geometric direct minimisation (Van Voorhis and Head-Gordon, Mol. Phys. 100, 1713 (2002)): quasi-Newton steps
along geodesics of the occupied spaces, the earlier steps carried along in the orbitals of each point.
"""

# ruff: noqa: B905 - the interpreter may be older than zip(strict=)
from __future__ import annotations

import numpy as np

from .iterations import Solution

MEMORY = 15
"""Steps that the curvature is learned from."""
LEAST_GAP = 0.1
"""Hartree: added to the orbital energy differences that precondition."""
LARGEST_ROTATION = 0.5
"""Of one orbital into another in a step, radians."""
DECREASE, NOISE = 1e-4, 1e-10
"""A step is taken where the energy falls by this part of what its slope says, or rises by no more than the
second (Hartree; the sum over integrals is no more exact)."""
SHORTEST = 1e-3
"""Trials are quartered until one is below this part of the first; it is taken whatever the energy."""


def minimise(field, occupied, threshold, limit):
    """Follow the energy downhill to a stationary determinant.

    Parameters
    ----------
    field : Field
        Fock builder.
    occupied : list of ndarray
        Occupied orbitals of each spin.
    threshold : float
        Root mean square orbital gradient, Hartree.
    limit : int
        Steps at most.

    Returns
    -------
    Solution
        Its orbitals are those of the Fock matrix within the occupied and within the empty ones.
    """
    point = _Point(field, [_completed(field, each) for each in occupied])
    steps, changes = [], []
    for count in range(1, limit + 1):
        if point.size < threshold:
            return point.solution(count, True)
        step = -_inverse_times(point.gradient, point.diagonal, steps, changes)
        slope = step @ point.gradient
        if slope >= 0.0:
            step, steps, changes = -point.gradient / point.diagonal, [], []
            slope = step @ point.gradient
        part = min(1.0, LARGEST_ROTATION / np.abs(step).max())
        shortest = SHORTEST * part
        while True:
            new = _Point(field, point.moved(part * step))
            if new.energy <= point.energy + DECREASE * part * slope + NOISE or part < shortest:
                break
            part *= 0.25
        # Along a geodesic the components of a step, and of the gradient before, stay in the moved orbitals.
        steps.append(part * step)
        changes.append(new.raw_gradient - point.gradient)
        kept = [i for i, (s, y) in enumerate(zip(steps, changes)) if s @ y > 1e-14][-MEMORY:]
        steps = [new.in_own_orbitals(steps[i]) for i in kept]
        changes = [new.in_own_orbitals(changes[i]) for i in kept]
        point = new
    return point.solution(limit, False)


class _Point:
    """Energy and gradient of a determinant, in the orbitals that make its Fock matrix diagonal in blocks."""

    def __init__(self, field, coefficients):
        self._field = field
        self.energy, fock = field.fock([c[:, :n] for c, n in zip(coefficients, field.spins)])
        field.builds += 1
        factor = 4.0 if field.restricted else 2.0
        raw, own, gaps, square, self.orbitals, self._turns = [], [], [], [], [], []
        for c, matrix, n in zip(coefficients, fock, field.spins):
            blocks = c.T @ matrix @ c
            below, turn_below = np.linalg.eigh(blocks[:n, :n])
            above, turn_above = np.linalg.eigh(blocks[n:, n:])
            self._turns.append((turn_below, turn_above))
            raw.append(factor * blocks[n:, :n].ravel())
            own.append((turn_above.T @ (factor * blocks[n:, :n]) @ turn_below).ravel())
            gaps.append((above[:, None] - below[None, :]).ravel())
            square.append(2.0 * (blocks[n:, :n] ** 2).sum() / blocks.size)
            turned = np.hstack([c[:, :n] @ turn_below, c[:, n:] @ turn_above])
            self.orbitals.append((np.concatenate([below, above]), turned))
        self.raw_gradient, self.gradient = np.concatenate(raw), np.concatenate(own)
        self.diagonal = factor * (np.abs(np.concatenate(gaps)) + LEAST_GAP)
        self.size = float(np.sqrt(np.mean(square)))  # as the iterations measure it

    def _blocks(self, vector):
        """Empty-by-occupied matrix of each spin."""
        answer, end = [], 0
        for (_, c), n in zip(self.orbitals, self._field.spins):
            begin, end = end, end + (c.shape[1] - n) * n
            answer.append(vector[begin:end].reshape(c.shape[1] - n, n))
        return answer

    def in_own_orbitals(self, vector):
        """Step or gradient, given in the orbitals that this point was made with, in its own."""
        turned = zip(self._blocks(vector), self._turns)
        return np.concatenate([(above.T @ block @ below).ravel() for block, (below, above) in turned])

    def moved(self, step):
        """Orbitals at the end of the geodesic along a step."""
        answer = []
        for (_, c), block, n in zip(self.orbitals, self._blocks(step), self._field.spins):
            left, angles, right = np.linalg.svd(block, full_matrices=False)
            occupied, empty = c[:, :n] @ right.T, c[:, n:] @ left
            cos, sin = np.cos(angles), np.sin(angles)
            new_occupied = c[:, :n] + (occupied * (cos - 1.0) + empty * sin) @ right
            new_empty = c[:, n:] + (empty * (cos - 1.0) - occupied * sin) @ left.T
            answer.append(np.hstack([new_occupied, new_empty]))
        return answer

    def solution(self, count, converged):
        """What the iterations answer."""
        occupied = self._field.occupied(self.orbitals)
        lowest = (self.energy, occupied)
        return Solution(self.energy, self.orbitals, occupied, count, converged, lowest)


def _completed(field, occupied):
    """All orthonormal orbitals, the first of which span the occupied ones."""
    turns = np.linalg.svd(field.orthogonaliser.T @ (field.overlap @ occupied))[0]
    return field.orthogonaliser @ turns


def _inverse_times(gradient, diagonal, steps, changes):
    """Inverse Hessian of limited-memory BFGS (Nocedal and Wright, algorithm 7.4) times the gradient.

    Not :class:`saddleflow.searches.lbfgs.LimitedMemoryBFGS`, which Psi4's interpreter can't import and which
    knows no diagonal, nor pairs that are turned into other orbitals after each step.
    """
    answer, weights = gradient.copy(), []
    for s, y in zip(reversed(steps), reversed(changes)):
        weight = (s @ answer) / (s @ y)
        weights.append(weight)
        answer = answer - weight * y
    answer = answer / diagonal
    for s, y, weight in zip(steps, changes, reversed(weights)):
        answer = answer + (weight - (y @ answer) / (s @ y)) * s
    return answer
