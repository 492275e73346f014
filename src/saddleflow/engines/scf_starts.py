"""Self-consistent field from many starts on one set of integrals: the lowest state wins.

The program (Psi4 or PySCF) builds Fock matrices; the iterations are done here, so both programs find the
same states and nothing is carried from one geometry to the next except what the caller passes in.  Also
runs inside Psi4's own interpreter (see psi4_worker.py): imports the standard library and numpy, no more.
Atomic units.
"""

# ruff: noqa: B905 - the interpreter may be older than zip(strict=)
from __future__ import annotations

import io
from collections import namedtuple

import numpy as np

LOOSE = (1e-6, 1e-5)
"""Energy and orbital-gradient thresholds (Hartree) of the starts that compete."""
TIGHT = (1e-8, 3e-8)
"""Thresholds of the accepted state."""
LOOSE_LIMIT, TIGHT_LIMIT, STUBBORN_LIMIT = 60, 100, 250
"""Iterations of a competing start, of the accepted state, and of starts damped for long or level shifted."""
SAME_STATE = 2e-5
"""Two starts whose energies differ by less (Hartree, 0.5 meV) have found the same state."""
LONG_HISTORY = 20
"""Fock matrices kept where a known state is followed; competing starts want to forget sooner."""
SHIFT = 0.5
"""Level shift (Hartree) of last resort."""


class Field:
    """Fock matrices of one geometry; a program derives its own and gives :meth:`fock`.

    Parameters
    ----------
    overlap, core_hamiltonian : ndarray, shape (n, n)
        One-electron matrices.
    electrons : (int, int)
        Number of alpha and beta electrons.
    restricted : bool
        One set of orbitals for both spins.
    independent : int or None
        So many linearly independent functions are kept; None: those with overlap eigenvalues above 1e-7.
    """

    def __init__(self, overlap, core_hamiltonian, electrons, restricted, independent=None):
        self.restricted = restricted
        self.electrons = electrons
        self.overlap = overlap
        self.core_hamiltonian = core_hamiltonian
        values, vectors = np.linalg.eigh(overlap)
        dropped = int((values < 1e-7).sum()) if independent is None else len(values) - independent
        values, vectors = values[dropped:], vectors[:, dropped:]
        self.orthogonaliser = vectors / np.sqrt(values)
        self.root = (vectors * np.sqrt(values)) @ vectors.T
        self.inverse_root = self.orthogonaliser @ vectors.T
        self.builds = 0

    @property
    def spins(self):
        """Number of electrons of each independent set of orbitals."""
        return self.electrons[:1] if self.restricted else self.electrons

    def fock(self, occupied):
        """Energy and Fock matrices (one a spin set) of the determinant with these occupied orbitals."""
        raise NotImplementedError

    def orbitals(self, fock):
        """Orbital energies and coefficients of each Fock matrix."""
        answer = []
        for matrix in fock:
            values, vectors = np.linalg.eigh(self.orthogonaliser.T @ matrix @ self.orthogonaliser)
            answer.append((values, self.orthogonaliser @ vectors))
        return answer

    def occupied(self, orbitals):
        """Lowest orbitals of each spin."""
        return [coefficients[:, :n] for (_, coefficients), n in zip(orbitals, self.spins)]

    def mixed(self, orbitals, below, above):
        """Occupied orbitals with one occupied and one empty orbital turned by 45 degrees, spins oppositely.

        `below` counts down from the highest occupied orbital, `above` up from the lowest empty one.  Breaks
        the symmetry between the spins, and also moves a converged state out of its minimum.
        """
        answer = []
        for (_, coefficients), n, sign in zip(orbitals, self.spins, (1.0, -1.0)):
            chosen = coefficients[:, :n].copy()
            if n - 1 - below >= 0 and n + above < coefficients.shape[1]:
                empty = coefficients[:, n + above]
                chosen[:, n - 1 - below] = (chosen[:, n - 1 - below] + sign * empty) / np.sqrt(2.0)
            answer.append(chosen)
        return answer

    def swapped(self, orbitals, spin, below, above):
        """Occupied orbitals, one exchanged for an empty one, counted as in :meth:`mixed`; None if absent."""
        coefficients, n = orbitals[spin][1], self.spins[spin]
        if below >= n or n + above >= coefficients.shape[1]:
            return None
        answer = [each.copy() for each in self.occupied(orbitals)]
        answer[spin][:, n - 1 - below] = coefficients[:, n + above]
        return answer

    def gradient(self, fock, occupied):
        """Orbital gradients F D S - S D F in the orthogonal basis."""
        answer = []
        for matrix, orbitals in zip(fock, occupied):
            half = matrix @ (orbitals @ (orbitals.T @ self.overlap))
            answer.append(self.orthogonaliser.T @ (half - half.T) @ self.orthogonaliser)
        return answer

    def spin_square(self, occupied):
        """Expectation value of S^2 of a determinant (Szabo and Ostlund, eq. 2.271)."""
        n_alpha, n_beta = self.electrons
        z = 0.5 * (n_alpha - n_beta)
        if self.restricted:
            return z * (z + 1.0)
        cross = occupied[0].T @ self.overlap @ occupied[1]
        return z * (z + 1.0) + n_beta - float((cross**2).sum())

    def to_orthogonal(self, occupied):
        """Occupied orbitals in the symmetrically orthogonalised basis, S^1/2 C, for the next geometry."""
        return [self.root @ orbitals for orbitals in occupied]

    def from_orthogonal(self, orthogonal):
        """Occupied orbitals here from those of another geometry, C = S^-1/2 (S'^1/2 C')."""
        return [self.inverse_root @ orbitals for orbitals in orthogonal]


Solution = namedtuple("Solution", "energy orbitals occupied iterations converged lowest")
Solution.__doc__ = (
    "Where the iterations of one start ended; energy and orbitals of the lowest determinant seen."
)


class Diis:
    """Direct inversion in the iterative subspace (Pulay 1982, commutator form)."""

    def __init__(self, size=8):
        self.size = size
        self.focks, self.errors = [], []

    def extrapolate(self, fock, error):
        """Best combination of the Fock matrices so far."""
        self.focks.append(fock)
        self.errors.append(np.concatenate([part.ravel() for part in error]))
        if len(self.focks) > self.size:
            # The worst goes, not the oldest: keeps the subspace useful after a bad first iteration.
            worst = int(np.argmax([vector @ vector for vector in self.errors[:-1]]))
            del self.focks[worst], self.errors[worst]
        n = len(self.focks)
        if n < 2:
            return fock
        stacked = np.array(self.errors)
        matrix = np.zeros((n + 1, n + 1))
        matrix[:n, :n] = stacked @ stacked.T
        scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix)[:n], 1e-300))
        matrix[:n, :n] *= scale[:, None] * scale[None, :]
        matrix[:n, n] = matrix[n, :n] = scale
        right = np.zeros(n + 1)
        right[n] = 1.0
        weights = np.linalg.lstsq(matrix, right, rcond=1e-14)[0][:n] * scale
        return [sum(w * old[spin] for w, old in zip(weights, self.focks)) for spin in range(len(fock))]


def iterate(field, occupied, thresholds, limit, damping=0.0, damped=0, shift=0.0, history=8):
    """Iterate from a set of occupied orbitals.

    Parameters
    ----------
    field : Field
        Fock builder.
    occupied : list of ndarray
        Occupied orbitals of each spin.
    thresholds : (float, float)
        Energy change and root mean square orbital gradient, Hartree.
    limit : int
        Iterations at most.
    damping, damped : float, int
        Share of the previous Fock matrix kept, without extrapolation, in the first `damped` iterations.
    shift : float
        Level shift of the empty orbitals in Hartree.
    history : int
        Fock matrices kept for the extrapolation.

    Returns
    -------
    Solution
    """
    diis = Diis(history)
    energy_before, fock_before, lowest = np.inf, None, (np.inf, None)
    for iteration in range(1, limit + 1):
        energy, fock = field.fock(occupied)
        field.builds += 1
        error = field.gradient(fock, occupied)
        size = float(np.sqrt(np.mean([np.mean(part**2) for part in error])))
        if not np.isfinite(energy):
            break
        if energy < lowest[0]:
            lowest = (energy, occupied)
        if abs(energy - energy_before) < thresholds[0] and size < thresholds[1]:
            # One more diagonalisation makes the orbitals canonical, and of an extrapolated matrix it is worth
            # one more iteration to the forces; the energy's error is of second order anyway.
            orbitals = field.orbitals(fock if shift else diis.extrapolate(fock, error))
            return Solution(energy, orbitals, field.occupied(orbitals), iteration, True, lowest)
        if iteration <= damped:
            if fock_before is not None:
                fock = [(1.0 - damping) * new + damping * old for new, old in zip(fock, fock_before)]
            mixed = fock_before = fock
        else:
            mixed = diis.extrapolate(fock, error)
        if shift:
            mixed = [
                matrix + shift * (field.overlap - half @ half.T)
                for matrix, half in zip(mixed, [field.overlap @ orbitals for orbitals in occupied])
            ]
        energy_before = energy
        orbitals = field.orbitals(mixed)
        occupied = field.occupied(orbitals)
    return Solution(energy, orbitals, occupied, limit, False, lowest)


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
    STUBBORN = ("sad", "damp 12 mix", "mix 1 0")
    """Starts damped for long, then with level shift, when no two starts found the lowest state."""
    ENOUGH = 4
    """So many starts with the lowest energy so far end the contest,"""
    INDEPENDENT = 3
    """if so many of them do not start from another's orbitals: those lead back too easily."""
    lowest = (np.inf, None)
    """Energy and orbitals of the lowest determinant seen, converged or not: no answer may lie above it."""

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
        for options in ({"damping": 0.5, "damped": 50}, {"shift": SHIFT}):
            if self.solutions and self.undercut():
                self.start("lowest", STUBBORN_LIMIT, **options)
        if len(self.voters()) < 2:
            for name in self.STUBBORN:
                self.start(name, STUBBORN_LIMIT, damping=0.5, damped=50)
        if not self.solutions:
            for name in self.STUBBORN:
                self.start(name, STUBBORN_LIMIT, shift=SHIFT)
        return self.best()

    def settled(self):
        """Whether enough independent starts agree, and no determinant lies below what they have found."""
        voters = self.voters()
        independent = sum("best" not in name for name in voters)
        return len(voters) >= self.ENOUGH and independent >= self.INDEPENDENT and not self.undercut()

    def undercut(self):
        """Whether a determinant seen on the way lies below all converged states: none is the lowest."""
        return not self.solutions or self.lowest[0] < self.best()[1].energy - SAME_STATE

    def best(self):
        """Name and solution of the lowest state so far; of equal ones the earliest."""
        return next(((name, self.solutions[name]) for name in self.voters()), None)

    def voters(self):
        """Names of the starts that have found the lowest state so far."""
        lowest = min((solution.energy for solution in self.solutions.values()), default=0.0)
        return [name for name, s in self.solutions.items() if s.energy < lowest + SAME_STATE]

    def start(self, name, limit=None, **options):
        """Make one start, with options of :func:`iterate`, and keep its solution when it converges."""
        occupied = self.occupied(name)
        if occupied is None:
            return
        self.tried += 1
        solution = iterate(self.field, occupied, LOOSE, limit or LOOSE_LIMIT, **options)
        self.lowest = min(self.lowest, solution.lowest, key=lambda seen: seen[0])
        before = self.solutions.get(name)
        if solution.converged and (before is None or solution.energy < before.energy):
            self.solutions[name] = solution

    def occupied(self, name):
        """Occupied orbitals of a named start; None where it makes no sense yet."""
        field, words = self.field, name.split()
        if words[0] in ("sad", "lowest"):
            return field.occupied(self.atomic) if words[0] == "sad" else self.lowest[1]
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
    for limit, options in (
        (TIGHT_LIMIT, {}),
        (STUBBORN_LIMIT, {"damping": 0.3, "damped": 20}),
        (STUBBORN_LIMIT, {"damping": 0.5, "damped": 50}),
        (STUBBORN_LIMIT, {"shift": SHIFT}),
    ):
        solution = iterate(field, loose.occupied, TIGHT, limit, history=LONG_HISTORY, **options)
        # A state left for a higher one on the way is not the one that won.
        if solution.converged and solution.energy < loose.energy + SAME_STATE:
            return solution, notes
    return None, notes


def pack(occupied):
    """Orbitals as the bytes of an uncompressed npz: exact, small, no pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, *occupied)
    return buffer.getvalue()


def unpack(state):
    """Inverse of :func:`pack`."""
    with np.load(io.BytesIO(state), allow_pickle=False) as archive:
        return [archive[name] for name in archive.files]
