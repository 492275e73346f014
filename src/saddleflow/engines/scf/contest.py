"""Several starts compete: the lowest state wins."""

from __future__ import annotations

import numpy as np

from .iterations import LOOSE, TIGHT, iterate
from .minimisation import minimise

LOOSE_LIMIT, TIGHT_LIMIT, MINIMISER_LIMIT = 60, 100, 300
"""Iterations of a competing start, of the accepted state, and of a minimisation where these do not end."""
SAME_STATE = 2e-5
"""Two starts whose energies differ by less (Hartree, 0.5 meV) have found the same state."""
LONG_HISTORY = 20
"""Fock matrices kept where a known state is followed; competing starts want to forget sooner."""


class Contest:
    """Several starts on one set of integrals; the lowest state wins.

    The order and the rule to stop come from measurements on transition-state guesses (docs/engines.md): no
    single start finds the lowest state always, but few are needed until they agree.

    Parameters
    ----------
    field : Field
        Fock builder.
    guess : list of ndarray
        Fock matrix of each spin from superposed atomic densities.
    """

    FIRST_RESTRICTED = ("sad", "damp 4 mix", "gwh", "core")
    FIRST_UNRESTRICTED = ("sad", "damp 12 mix", "mix 1 0", "mix 0 0", "best mix 0 0")
    """Starts that are always made."""
    FURTHER = ("damp 4 mix", "mix 0 1", "mix 0 0", "damp 12 mix", "best mix 0 0", "best mix 1 0")
    FURTHER += ("damp 20 mix", "mix 1 1", "gwh", "core", "best mix 0 1")
    """Starts made, in this order, when the first ones do not agree."""
    SWAPS = tuple(
        f"{whose}swap {which}"
        for which in ("1 0 0", "0 0 0", "1 0 1", "0 1 0", "1 1 0", "0 2 0", "1 2 0", "0 0 1")
        for whose in ("", "best ")
    )
    """Starts made when an open shell has not settled after those: spin (1: beta), and which orbitals."""
    ENOUGH = 4
    """So many starts with the lowest energy so far end the contest,"""
    INDEPENDENT = 3
    """if so many of them do not start from another's orbitals: those lead back too easily."""

    def __init__(self, field, guess):
        self.field = field
        self.atomic = field.orbitals(guess)
        self.solutions = {}
        self.tried = 0

    def run(self):
        """Lowest converged state, to the loose thresholds, and its name; None when no start converges."""
        first = self.FIRST_RESTRICTED if self.field.restricted else self.FIRST_UNRESTRICTED
        for name in first:
            self.start(name)
        for name in self.FURTHER if self.field.restricted else self.FURTHER + self.SWAPS:
            if self.settled():
                break
            if name not in first:
                self.start(name)
        return self.best()

    def settled(self):
        """Whether enough independent starts agree."""
        voters = self.voters()
        independent = sum("best" not in name for name in voters)
        return len(voters) >= self.ENOUGH and independent >= self.INDEPENDENT

    def best(self):
        """Name and solution of the lowest state so far; of equal ones the earliest."""
        return next(((name, self.solutions[name]) for name in self.voters()), None)

    def voters(self):
        """Names of the starts that have found the lowest state so far."""
        lowest = min((solution.energy for solution in self.solutions.values()), default=0.0)
        return [name for name, s in self.solutions.items() if s.energy < lowest + SAME_STATE]

    def start(self, name):
        """Make one start and keep its solution.

        Where the iterations do not converge, or to a state above a determinant that they have passed (by Ritz
        there is a lower one), they are followed from their lowest determinant by steps downhill.
        """
        occupied = self.occupied(name)
        if occupied is None:
            return
        self.tried += 1
        solution = iterate(self.field, occupied, LOOSE, LOOSE_LIMIT)
        passed, determinant = solution.lowest
        if determinant is not None and not (solution.converged and solution.energy < passed + SAME_STATE):
            solution = minimise(self.field, determinant, LOOSE[1], MINIMISER_LIMIT)
        if solution.converged:
            self.solutions[name] = solution

    def occupied(self, name):
        """Occupied orbitals of a named start; None where it makes no sense yet."""
        field, words = self.field, name.split()
        if words[0] == "sad":
            return field.occupied(self.atomic)
        if words[0] == "mix":
            return field.mixed(self.atomic, int(words[1]), int(words[2]))
        if words[0] == "damp":
            count = int(words[1])
            share = {4: 0.2, 12: 0.5, 20: 0.3}[count]
            before = iterate(field, field.occupied(self.atomic), (0.0, 0.0), count, share, count)
            return field.mixed(before.orbitals, 0, 0)
        if words[0] == "best":
            best = self.best()
            make = field.swapped if words[1] == "swap" else field.mixed
            return None if best is None else make(best[1].orbitals, *map(int, words[2:]))
        if words[0] == "swap":
            return field.swapped(self.atomic, *map(int, words[1:]))
        core = field.core_hamiltonian
        if words[0] == "gwh":
            # Generalised Wolfsberg-Helmholz: 1.75 S_ij (H_ii + H_jj) / 2.
            diagonal = np.diag(core)
            core = 0.875 * field.overlap * (diagonal[:, None] + diagonal[None, :])
            np.fill_diagonal(core, diagonal)
        return field.occupied(field.orbitals([core] * len(field.spins)))


def solve(field, atomic, previous, multi_start):
    """Converged state at a geometry.

    Parameters
    ----------
    field : Field
        Fock builder.
    atomic : list of ndarray or None
        Fock matrices of superposed atomic densities; not needed with `previous`.
    previous : list of ndarray or None
        Occupied orbitals of the previous geometry in the orthogonal basis: follow that state.
    multi_start : bool
        Let several starts compete where there are no previous orbitals.

    Returns
    -------
    (Solution or None, dict)
        None when nothing converges; notes say which start won and how many were made.
    """
    if previous is not None:
        solution = iterate(field, field.from_orthogonal(previous), TIGHT, TIGHT_LIMIT, history=LONG_HISTORY)
        return (solution if solution.converged else None), {"scf_start": "previous"}
    contest = Contest(field, atomic[: len(field.spins)])
    if not multi_start:
        solution = iterate(field, contest.occupied("sad"), TIGHT, TIGHT_LIMIT)
        return (solution if solution.converged else None), {"scf_start": "sad"}
    found = contest.run()
    if found is None:
        return None, {"scf_starts": contest.tried}
    name, loose = found
    notes = {"scf_start": name, "scf_starts": contest.tried, "scf_votes": len(contest.voters())}
    solution = iterate(field, loose.occupied, TIGHT, TIGHT_LIMIT, history=LONG_HISTORY)
    # A state left for a higher one on the way is not the one that won.
    if not (solution.converged and solution.energy < loose.energy + SAME_STATE):
        solution = minimise(field, loose.occupied, TIGHT[1], MINIMISER_LIMIT)
    return (solution if solution.converged else None), notes
