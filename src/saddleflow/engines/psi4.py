"""Psi4 as an engine: Hartree-Fock and density functionals through a worker in Psi4's own interpreter."""

from __future__ import annotations

import base64

import numpy as np
from ase.units import Bohr, Hartree

from saddleflow import settings
from saddleflow.engines.checks import check_electrons, check_positions
from saddleflow.engines.psi4_interpreter import launch, start_worker
from saddleflow.engines.worker_process import WorkerDied, WorkerProcess, WorkerTimeout
from saddleflow.errors import EngineCrashed, EngineError, EngineTimeout, GeometryError, InputError, ScfError
from saddleflow.evaluation import EngineResult
from saddleflow.reaction import Reaction

RECYCLE_AFTER = 300
"""Calls after which the worker is replaced: Psi4's memory grows slowly."""
ERRORS: dict[str, type[EngineError] | type[InputError]] = {
    "scf": ScfError,
    "geometry": GeometryError,
    "input": InputError,
}


class Psi4Engine:
    """Energies and forces of one molecule from Psi4.

    Parameters
    ----------
    options : saddleflow.settings.Engine
        Level of theory and limits.
    reaction : Reaction
        Elements, charge and multiplicity.

    Raises
    ------
    EngineUnavailable
        When no interpreter has a working Psi4.
    InputError
        When charge and multiplicity don't fit the elements.
    """

    name = "psi4"

    def __init__(self, options: settings.Engine, reaction: Reaction):
        check_electrons(reaction)
        self._options = options
        self._molecule = {
            "symbols": list(reaction.symbols),
            "charge": reaction.charge,
            "multiplicity": reaction.multiplicity,
            "method": options.method,
            "basis": options.basis,
            "multi_start": options.multi_start,
        }
        self._state = ""
        self._worker: WorkerProcess | None
        self._worker, self._interpreter = start_worker(options.python, options.memory_mb, options.threads)
        self._versions = dict(self._worker.greeting["result"])

    def evaluate(self, positions: np.ndarray) -> EngineResult:
        """Energy and forces at `positions` (shape (N, 3), Angstrom).

        The first call searches for the lowest SCF state; the next ones follow it from their predecessor's
        orbitals.

        Raises
        ------
        ScfError, GeometryError, EngineTimeout, EngineCrashed
        """
        answer = self._ask("evaluate", positions)
        self._state = answer["state"]
        gradient = np.array(answer["gradient"], float).reshape(-1, 3) * (Hartree / Bohr)
        return EngineResult(
            energy=answer["energy"] * Hartree,
            forces=-gradient,
            scf_iterations=answer["iterations"],
            spin_square=answer["spin_square"],
            state=base64.b64decode(self._state),
            notes=answer["notes"],
        )

    def hessian(self, positions: np.ndarray) -> np.ndarray | None:
        """Analytic Hessian (shape (3N, 3N), eV/Angstrom^2), or None where this Psi4 has none.

        Raises
        ------
        ScfError, GeometryError, EngineTimeout, EngineCrashed
        """
        answer = self._ask("hessian", positions)
        if answer["hessian"] is None:
            return None
        size = 3 * len(self._molecule["symbols"])
        return np.array(answer["hessian"], float).reshape(size, size) * (Hartree / Bohr**2)

    def restore(self, state: bytes) -> None:
        """Start the next evaluation from the orbitals in `state`; empty: search all starts again."""
        self._state = base64.b64encode(state).decode("ascii")

    def provenance(self) -> dict:
        """Program, versions, level of theory and settings."""
        return {
            "program": "psi4",
            "version": self._versions["psi4"],
            "level": self._options.level,
            "interpreter": self._interpreter.executable,
            "python": self._versions["python"],
            "numpy": self._versions["numpy"],
            "settings": {
                **self._versions["settings"],
                "threads": self._options.threads,
                "memory_mb": self._options.memory_mb,
                "multi_start": self._options.multi_start,
            },
        }

    def close(self) -> None:
        """Stop the worker and remove its scratch folder."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ask(self, call: str, positions: np.ndarray) -> dict:
        """One call; a dead worker is replaced once. All a call depends on travels with it."""
        request = {
            "call": call,
            **self._molecule,
            "positions": (check_positions(positions, len(self._molecule["symbols"])) / Bohr).ravel().tolist(),
            "state": self._state,
        }
        trouble = ""
        for _ in range(2):
            try:
                answer = self._running_worker().ask(request, self._options.timeout_seconds)
            except WorkerTimeout as error:
                self._worker = None
                raise EngineTimeout(f"Psi4 stopped: {error}") from error
            except WorkerDied as error:
                self._worker = None
                trouble = str(error)
                continue
            if "result" in answer:
                return answer["result"]
            kind = ERRORS.get(answer["error"])
            if kind is not None:
                raise kind(f"Psi4: {answer['message']}")
            # After an exception from its C++ side a Psi4 process is not to be trusted any more.
            self.close()
            trouble = answer["message"]
        raise EngineCrashed(f"Psi4 crashed twice at the same geometry: {trouble}")

    def _running_worker(self) -> WorkerProcess:
        if self._worker is not None and self._worker.calls >= RECYCLE_AFTER:
            self.close()
        if self._worker is None:
            self._worker = launch(self._interpreter, self._options.memory_mb, self._options.threads)
        return self._worker


def psi4_problems(options: settings.Engine, symbols: set[str]) -> list[str]:
    """What a worker says against basis and method, one line a problem.

    Parameters
    ----------
    options : saddleflow.settings.Engine
        Level of theory.
    symbols : set of str
        Elements that the basis has to cover.

    Raises
    ------
    EngineUnavailable
        When no interpreter has a working Psi4.
    """
    worker, _ = start_worker(options.python, options.memory_mb, options.threads)
    try:
        request = {
            "call": "check",
            "symbols": sorted(symbols),
            "basis": options.basis,
            "method": options.method,
        }
        answer = worker.ask(request, 120.0)
    except (WorkerDied, WorkerTimeout) as error:
        return [f"engine psi4: the check of basis and method failed: {error}"]
    finally:
        worker.close()
    if "result" not in answer:
        return [f"engine psi4: {answer['message']}"]
    return [f"engine.{problem}" for problem in answer["result"]["problems"]]
