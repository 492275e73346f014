"""Sella (Hermes, Sargsyan, Najm and Zador, J. Chem. Theory Comput. 18, 6974 (2022)) behind the ledger.

The package `sella` does the search; every energy that it asks for goes through `evaluate`, its probes of the
Hessian as rotations.  The start direction is not used: Sella's first probe follows the gradient.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from saddleflow.errors import GeometryError, InputError, SaddleflowError, ScfError, one_line
from saddleflow.evaluation import (
    Evaluate,
    Evaluation,
    Outcome,
    Purpose,
    SearchResult,
    SearchStopped,
    TracePoint,
)
from saddleflow.reaction import Reaction
from saddleflow.searches.base import is_converged
from saddleflow.settings import Sella
from saddleflow.vibrations import internal_modes
from saddleflow.xtb import XTB


class CountedCalculator(Calculator):
    """ASE calculator that answers by the ledger.

    Parameters
    ----------
    evaluate : Evaluate
        Of the search.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, evaluate: Evaluate):
        super().__init__()
        self._evaluate = evaluate
        self.purpose = Purpose.SEARCH
        self.latest: Evaluation | None = None
        """Newest evaluation that was no probe."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Evaluate the positions, once for energy and forces together."""
        super().calculate(atoms, properties, system_changes)
        evaluation = self._evaluate(self.atoms.get_positions(), self.purpose)
        if self.purpose is Purpose.SEARCH:
            self.latest = evaluation
        self.results = {"energy": evaluation.energy, "forces": evaluation.forces}

    def watch(self, event: str, probes: int) -> None:
        """Tell probes of the Hessian from steps; Sella calls this as it starts and ends a series of them."""
        self.purpose = Purpose.ROTATION if event in ("start", "evaluation") else Purpose.SEARCH


def search(
    evaluate: Evaluate, reaction: Reaction, method: Sella, direction: np.ndarray, trace: list[TracePoint]
) -> SearchResult:
    """Search a first-order saddle with Sella; see :data:`saddleflow.searches.base.Search`.

    Raises
    ------
    InputError
        When the package is not installed.
    """
    if problem := method.missing_package():
        raise InputError(f"method {problem}")
    calculator = CountedCalculator(evaluate)
    atoms = Atoms(reaction.symbols, reaction.positions, calculator=calculator)
    atoms.get_forces()
    # Sella's eigensolver takes numbers from numpy's global generator: seeded, a search can be replayed.
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(method.start.seed)  # noqa: NPY002
    try:
        return _run(calculator, atoms, reaction, method, trace)
    except (SearchStopped, SaddleflowError):
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError) as error:
        # Coordinates that Sella can't keep up end a search; they are no fault of the machine.
        text = one_line(error) or "no message"
        raise SearchStopped(Outcome.STALLED, f"Sella gave up: {type(error).__name__}: {text}") from error
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _run(
    calculator: CountedCalculator,
    atoms: Atoms,
    reaction: Reaction,
    method: Sella,
    trace: list[TracePoint],
) -> SearchResult:
    """Step until the true forces meet the criterion."""
    from sella import Sella as Optimizer

    start = _xtb_hessian(reaction) if method.initial_hessian == "xtb" else None
    optimizer = Optimizer(
        atoms,
        internal=method.internal,
        order=1,
        logfile=None,
        eta=method.probe_step,
        gamma=method.eigensolver_tolerance,
        threepoint=method.central_differences,
        delta0=method.trust_radius,
        nsteps_per_diag=method.steps_between_probes,
        hessian_function=None if start is None else lambda _: start,
    )
    optimizer.fmax = method.convergence.threshold
    optimizer.diagkwargs["progress"] = calculator.watch
    _record(optimizer, calculator, trace, np.nan)
    for _ in range(method.max_steps):
        if is_converged(calculator.latest, method.convergence):
            break
        radius = optimizer.delta
        optimizer.step()
        if start is not None:
            # The xTB Hessian is where the search starts; what it learns later is worth more.
            optimizer.pes.hessian_function = None
            optimizer.pes.first_diag = False
        _record(optimizer, calculator, trace, radius)
    if not is_converged(calculator.latest, method.convergence):
        raise SearchStopped(Outcome.MAX_STEPS, f"not converged after max_steps = {method.max_steps} steps")
    end, hessian = trace[-1], cartesian_hessian(optimizer)
    return SearchResult(Outcome.CONVERGED, "", end.evaluation, end.mode, end.curvature, tuple(trace), hessian)


def _xtb_hessian(reaction: Reaction) -> np.ndarray | None:
    """GFN2-xTB Hessian of the guess (shape (3N, 3N), eV/Angstrom^2); None where xTB has no solution there."""
    xtb = XTB(reaction.numbers, reaction.charge, reaction.multiplicity)
    try:
        return xtb.hessian(reaction.positions)
    except (ScfError, GeometryError):
        return None


def cartesian_hessian(optimizer) -> np.ndarray | None:
    """Sella's model Hessian in Cartesians, shape (3N, 3N), eV/Angstrom^2; None before there is one.

    In internal coordinates q it is B^T H B plus the gradient times the second derivatives of q; the latter
    vanish at a stationary point and are left out.
    """
    pes = optimizer.pes
    if not pes.H.initialized:
        return None
    model = np.array(pes.H.asarray())
    if pes.int is not None:
        # Dummy atoms of linear bends come last and have no place in a molecule's Hessian.
        jacobian = np.asarray(pes.int.jacobian())[:, : 3 * len(pes.atoms)]
        model = jacobian.T @ model @ jacobian
    return 0.5 * (model + model.T)


def _record(optimizer, calculator: CountedCalculator, trace: list[TracePoint], radius: float) -> None:
    latest = calculator.latest
    mode, curvature = _lowest(optimizer, latest)
    notes = {} if np.isnan(radius) else {"trust_radius": float(radius)}
    if trace and trace[-1].evaluation == latest.index:
        trace.pop()
    trace.append(TracePoint(latest.index, mode, curvature, notes=notes))


def _lowest(optimizer, latest: Evaluation) -> tuple[np.ndarray, float]:
    """Lowest mode (N, 3) of the model Hessian and its curvature; a force direction before there is one."""
    hessian = cartesian_hessian(optimizer)
    if hessian is None or not np.isfinite(hessian).all():
        return latest.forces / max(latest.force_norm, 1e-12), float("nan")
    modes = internal_modes(hessian, latest.positions.ravel())
    return modes.vectors[:, 0].reshape(-1, 3), float(modes.values[0])
