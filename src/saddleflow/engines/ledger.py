"""The ledger: the only way to an engine.  It counts, times, journals and replays evaluations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from saddleflow.engines.journal import Journal
from saddleflow.errors import GeometryError, ScfError
from saddleflow.evaluation import (
    Engine,
    Evaluation,
    Outcome,
    Prediction,
    Purpose,
    SearchStopped,
)

REPLAY_TOLERANCE = 1e-8
"""A replayed search must ask for the journaled positions to this accuracy in Angstrom."""

_FAILURES: dict[str, type[ScfError | GeometryError]] = {
    "ScfError": ScfError,
    "GeometryError": GeometryError,
}


class Ledger:
    """Counts every evaluation and answers from the journal what was evaluated before.

    Parameters
    ----------
    engine : Engine
        Source of energies and forces.
    journal_path : Path or None
        Where evaluations become durable; None keeps them in memory only.
    key : dict
        What the evaluations depend on; a journal with another key is set aside.
    max_calls : int
        Budget, failed calls included.
    header : dict, optional
        Further facts for the journal's first line.
    on_evaluation : callable, optional
        Called with each evaluation that the engine (not the journal) answered.
    wait : bool
        Wait for another process that writes the same journal instead of raising.
    """

    FRESH = -1
    """In place of an evaluation's index: start from no orbitals at all."""

    def __init__(
        self,
        engine: Engine,
        journal_path: Path | None,
        key: dict,
        max_calls: int,
        header: dict | None = None,
        on_evaluation: Callable[[Evaluation], None] | None = None,
        wait: bool = False,
    ):
        self.engine = engine
        self.max_calls = max_calls
        self.evaluations: list[Evaluation] = []
        self._journal = (
            None
            if journal_path is None
            else Journal(journal_path, key, (header or {}) | {"max_calls": max_calls}, wait)
        )
        self._replay = len(self._journal.stored) if self._journal else 0
        self._engine_is_current = self._replay == 0
        self._states: dict[int, bytes] = {}
        self._on_evaluation = on_evaluation
        self._returned = time.perf_counter()

    @property
    def calls(self) -> dict[str, int]:
        """Number of evaluations by purpose."""
        return dict(Counter(str(e.purpose) for e in self.evaluations))

    @property
    def waited(self) -> bool:
        """Whether another process had the journal first; it may have finished the search."""
        return self._journal is not None and self._journal.waited

    @property
    def replayed(self) -> int:
        """How many evaluations the journal held at the start."""
        return self._replay

    @property
    def engine_seconds(self) -> float:
        """Wall time inside the engine, as journaled."""
        return sum(e.engine_seconds for e in self.evaluations)

    @property
    def surrogate_seconds(self) -> float:
        """Wall time outside the engine, as journaled, up to now."""
        tail = time.perf_counter() - self._returned
        return sum(e.surrogate_seconds for e in self.evaluations) + tail

    def evaluate(
        self,
        positions: np.ndarray,
        purpose: Purpose = Purpose.SEARCH,
        prediction: Prediction | None = None,
        orbitals: int | None = None,
    ) -> Evaluation:
        """Energy and forces at `positions`; see :class:`saddleflow.evaluation.Evaluate`.

        Parameters
        ----------
        positions, purpose, prediction
            As there.
        orbitals : int or None
            Start from those of this evaluation, one of the last two that have any, or from none (FRESH);
            None: of the last.

        Raises
        ------
        SearchStopped
            With outcome ``max_calls`` when the budget is used up.
        ScfError, GeometryError
            The engine could not evaluate this point; the call counts.
        EngineCrashed, EngineTimeout
            The machine failed; nothing is journaled, the job has to be repeated.
        """
        positions = np.array(positions, float)
        index = len(self.evaluations)
        if index < self._replay:
            stored = self._journal.stored[index]
            if stored.purpose == purpose and _same(stored.positions, positions):
                return self._finish(stored)
            # Another version of a library may round differently: what follows is evaluated anew.
            self._journal.truncate(index)
            self._replay = index
        if index >= self.max_calls:
            raise SearchStopped(Outcome.MAX_CALLS, f"the budget of {self.max_calls} calls is used up")
        if not self._engine_is_current or orbitals is not None:
            state = self._state(index, orbitals)
            if state is not None:
                self.engine.restore(state)
            self._engine_is_current = True
        started = time.perf_counter()
        surrogate_seconds = started - self._returned
        facts: dict = {"energy": float("nan"), "forces": np.full_like(positions, np.nan)}
        state = None
        try:
            result = self.engine.evaluate(positions)
        except (ScfError, GeometryError) as error:
            facts["error"] = f"{type(error).__name__}: {error}"
        else:
            state = result.state
            facts = {
                "energy": float(result.energy),
                "forces": np.array(result.forces, float),
                "scf_iterations": result.scf_iterations,
                "spin_square": result.spin_square,
                "notes": result.notes,
            }
        evaluation = Evaluation(
            index=index,
            purpose=purpose,
            positions=positions,
            engine_seconds=time.perf_counter() - started,
            surrogate_seconds=surrogate_seconds,
            prediction=prediction,
            **facts,
        )
        if self._journal:
            self._journal.append(evaluation, state)
        elif state is not None:
            self._states = dict([*self._states.items(), (index, state)][-2:])
        if self._on_evaluation:
            self._on_evaluation(evaluation)
        return self._finish(evaluation)

    def _state(self, index: int, orbitals: int | None) -> bytes | None:
        """Engine state that evaluation `index` has to start from; None: as the engine stands."""
        if orbitals == self.FRESH:
            return b""
        before = index if orbitals is None else orbitals + 1
        if self._journal:
            return self._journal.state_before(before)
        return next((self._states[i] for i in sorted(self._states, reverse=True) if i < before), None)

    def _finish(self, evaluation: Evaluation) -> Evaluation:
        self.evaluations.append(evaluation)
        self._returned = time.perf_counter()
        if evaluation.error:
            kind, _, message = evaluation.error.partition(": ")
            raise _FAILURES[kind](message)
        return evaluation

    def close(self, remove_journal: bool = False) -> None:
        """Close journal and engine; with `remove_journal`, the run file has taken the journal's place."""
        if self._journal:
            self._journal.close(remove=remove_journal)
        self.engine.close()


def _same(stored: np.ndarray, asked: np.ndarray) -> bool:
    return stored.shape == asked.shape and bool(np.abs(stored - asked).max() <= REPLAY_TOLERANCE)
