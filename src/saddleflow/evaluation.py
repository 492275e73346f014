"""What an engine answers, what the ledger keeps of it, and how a search ends.

Units everywhere: Angstrom, eV, eV/Angstrom, Cartesian derivatives, float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

# Energies of one electronic state at one geometry, from different SCFs, differ by less than this, eV.
SAME_STATE = 1e-3


class Purpose(StrEnum):
    """What an evaluation was made for; the ledger counts by it."""

    SEARCH = "search"
    ROTATION = "rotation"
    STATE = "state"
    VERIFICATION = "verification"


class Outcome(StrEnum):
    """How a search ended.  Every outcome is a result; only ``CONVERGED`` claims a stationary point."""

    CONVERGED = "converged"
    MAX_CALLS = "max_calls"
    MAX_STEPS = "max_steps"
    SCF_FAILED = "scf_failed"
    GEOMETRY_FAILED = "geometry_failed"
    DISSOCIATED = "dissociated"
    ENERGY_LIMIT = "energy_limit"
    LOST_MODE = "lost_mode"
    STALLED = "stalled"


@dataclass(frozen=True)
class EngineResult:
    """One answer of an engine.

    Parameters
    ----------
    energy : float
        Total energy in eV.
    forces : ndarray, shape (N, 3)
        Minus the Cartesian gradient, in eV/Angstrom.
    scf_iterations : int or None
        Iterations of the accepted SCF, summed over its starts; None where the engine has no SCF.
    spin_square : float or None
        Expectation value of S^2; None where the engine does not give it.
    state : bytes or None
        Opaque state (orbitals) that makes the next evaluation reproducible when it is restored.
    notes : dict
        Further facts worth storing (JSON-serialisable), such as which SCF start won.
    """

    energy: float
    forces: np.ndarray
    scf_iterations: int | None = None
    spin_square: float | None = None
    state: bytes | None = None
    notes: dict = field(default_factory=dict)


class Engine(Protocol):
    """A source of energies and forces for one molecule (fixed elements, charge and multiplicity)."""

    name: str

    def evaluate(self, positions: np.ndarray) -> EngineResult:
        """Energy and forces at `positions` (shape (N, 3), Angstrom).

        Raises
        ------
        EngineError
            Any of its subclasses.
        """
        ...

    def hessian(self, positions: np.ndarray) -> np.ndarray | None:
        """Analytic Hessian (shape (3N, 3N), eV/Angstrom^2), or None where the engine has none."""
        ...

    def restore(self, state: bytes) -> None:
        """Take up the state that an earlier evaluation returned (no-op where there is none)."""
        ...

    def provenance(self) -> dict:
        """Program, version, level of theory and settings, JSON-serialisable."""
        ...

    def close(self) -> None:
        """Release processes and files."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What the surrogate had predicted for a point before the engine was asked.

    Parameters
    ----------
    energy : float
        Predicted total energy in eV.
    forces : ndarray, shape (N, 3)
        Predicted forces in eV/Angstrom.
    energy_sigma : float
        Standard deviation of the energy prediction in eV.
    force_sigma : float
        Root mean square standard deviation of the force components in eV/Angstrom.
    """

    energy: float
    forces: np.ndarray
    energy_sigma: float = float("nan")
    force_sigma: float = float("nan")


@dataclass(frozen=True)
class Evaluation:
    """One counted evaluation, as journaled and stored.

    Parameters
    ----------
    index : int
        0-based position in the ledger.
    purpose : Purpose
        What it was made for.
    positions : ndarray, shape (N, 3)
        Angstrom.
    energy : float
        eV; NaN when the evaluation failed.
    forces : ndarray, shape (N, 3)
        eV/Angstrom; NaN when the evaluation failed.
    engine_seconds, surrogate_seconds : float
        Wall time inside the engine, and outside it since the previous evaluation returned.
    scf_iterations, spin_square, notes
        As in :class:`EngineResult`.
    prediction : Prediction or None
        The surrogate's prediction for this point.
    error : str
        ``""``, or ``"ScfError: message"`` when it failed.
    """

    index: int
    purpose: Purpose
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    engine_seconds: float
    surrogate_seconds: float
    scf_iterations: int | None = None
    spin_square: float | None = None
    notes: dict = field(default_factory=dict)
    prediction: Prediction | None = None
    error: str = ""

    @property
    def gradient(self) -> np.ndarray:
        """Cartesian gradient as a vector, shape (3N,), eV/Angstrom."""
        return -self.forces.ravel()

    @property
    def max_atom_force(self) -> float:
        """Largest force on an atom in eV/Angstrom."""
        return float(np.sqrt((self.forces**2).sum(axis=1)).max())

    @property
    def force_norm(self) -> float:
        """2-norm of the whole force vector in eV/Angstrom."""
        return float(np.linalg.norm(self.forces))


class Evaluate(Protocol):
    """The only way from a search to the potential."""

    def __call__(
        self, positions: np.ndarray, purpose: Purpose = Purpose.SEARCH, prediction: Prediction | None = None
    ) -> Evaluation:
        """Count, journal and return the evaluation at `positions` (shape (N, 3), Angstrom).

        Raises
        ------
        SearchStopped
            When the budget of calls is used up.
        ScfError, GeometryError
            When the point can't be evaluated; the failed call is counted too.
        """
        ...


class SearchStopped(Exception):
    """Ends a search from inside with an outcome.

    Parameters
    ----------
    outcome : Outcome
        How the search ended.
    message : str
        For the user, one line.
    """

    def __init__(self, outcome: Outcome, message: str):
        super().__init__(message)
        self.outcome = outcome
        self.message = message


@dataclass(frozen=True)
class TracePoint:
    """State of a search after an evaluation of purpose ``search``.

    Parameters
    ----------
    evaluation : int
        Index of the evaluation that this state belongs to.
    mode : ndarray, shape (N, 3)
        Unit vector along the (estimated) minimum mode.
    curvature : float
        Estimated curvature along it in eV/Angstrom^2.
    hyperparameters : dict of str to float
        Of the surrogate, empty where there is none.
    notes : dict
        Further scalars (trust radius, surrogate steps, ...), JSON-serialisable.
    """

    evaluation: int
    mode: np.ndarray
    curvature: float
    hyperparameters: dict[str, float] = field(default_factory=dict)
    notes: dict = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """What a search returns.

    Parameters
    ----------
    outcome : Outcome
        How it ended.
    message : str
        One line for the user.
    evaluation : int
        Index of the evaluation that is the answer (the saddle, or the best point so far); -1 if none.
    mode : ndarray, shape (N, 3)
        Unit vector along the minimum mode there.
    curvature : float
        Curvature along it as far as the search knows, eV/Angstrom^2.
    trace : tuple of TracePoint
        One a translation step.
    hessian : ndarray, shape (3N, 3N), or None
        The search's own model Hessian at the answer (eV/Angstrom^2), for starting the verification.
    """

    outcome: Outcome
    message: str
    evaluation: int
    mode: np.ndarray
    curvature: float
    trace: tuple[TracePoint, ...] = ()
    hessian: np.ndarray | None = None
