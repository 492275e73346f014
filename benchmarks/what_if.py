"""Stored searches of prior-gp-dimer with another setting or constant, evaluated only where they go elsewhere.

    python benchmarks/what_if.py FOLDER ROWS.jsonl [--settings '{"observations": 10}']
                                 [--constants '{"searches.trust_region.GOOD": 0.5}'] [--only NAMES...]

FOLDER holds run files (*.h5, also in subfolders).  What a search asks is looked up there; from where the
change first acts on, the engine of the run file computes it.  Both ways are the same until then, so that the
searches in which it acts are a fair sample of what it does (those that were hard by chance are not chosen for
that).  Rows are appended as searches end, and searches with a row are left out: it can be stopped and started
again.  Searches alone: what `go_on` does after them, lower states and proofs are left out.  Needs the number
of threads that the searches had (OMP_NUM_THREADS=1 in the workflow): with another one sums are rounded
otherwise, and every search goes elsewhere.
"""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from saddleflow.analysis.published import CONSENSUS_TOLERANCE
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import REPLAY_TOLERANCE, Ledger
from saddleflow.errors import GeometryError, ScfError
from saddleflow.evaluation import EngineResult, SearchStopped
from saddleflow.run import fitted_parameters
from saddleflow.run_file import RunFile, read_run_file
from saddleflow.searches import prior_gp_dimer
from saddleflow.searches.base import guard_dissociation
from saddleflow.searches.start_direction import start_direction
from saddleflow.settings import Engine, PriorGPDimer


class StoredEngine:
    """Answers what a run file holds, and asks its engine for the rest."""

    name = "stored"

    def __init__(self, run: RunFile):
        self._run, self._engine, self.new = run, None, 0

    def evaluate(self, positions: np.ndarray) -> EngineResult:
        for stored in self._run.evaluations:
            if np.abs(stored.positions - positions).max() <= REPLAY_TOLERANCE:
                if stored.error:
                    raise ScfError(stored.error)
                return EngineResult(stored.energy, stored.forces, spin_square=stored.spin_square)
        if self._engine is None:
            self._engine = create_engine(Engine.model_validate(self._run.engine), self._run.reaction)
        self.new += 1
        return self._engine.evaluate(positions)

    def restore(self, state: bytes) -> None:
        """Nothing: what comes next starts from where the engine stands."""

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def searched(run: RunFile, settings: dict) -> dict:
    """One row: calls, outcome and energy of the search as it was and as it is with these settings."""
    reaction, engine = run.reaction, StoredEngine(run)
    method = PriorGPDimer.model_validate(run.method | settings)
    # As a job does it: the search itself knows nothing of the level of theory.
    fitted = fitted_parameters({"method": method.model_dump(), "engine": run.engine}, reaction)
    method = method.model_copy(update={"surface_parameters": fitted or "published"})
    ledger = Ledger(engine, None, {}, method.max_calls)
    along, energy = np.zeros_like(reaction.positions), None
    if method.starts_along_direction:
        along = start_direction(reaction, method.start)

    def evaluate(positions, *arguments):
        guard_dissociation(positions, reaction.positions, method.dissociation_gap)
        return ledger.evaluate(positions, *arguments)

    try:
        result = prior_gp_dimer.search(evaluate, reaction, method, along, [])
        outcome, energy = str(result.outcome), ledger.evaluations[result.evaluation].energy
    except SearchStopped as stop:
        outcome = str(stop.outcome)
    except (ScfError, GeometryError) as error:
        outcome = type(error).__name__
    finally:
        ledger.close()
    return {
        "name": reaction.name,
        "calls": len(ledger.evaluations),
        "new": engine.new,
        "outcome": outcome,
        "energy": energy,
        "before": run.calls(),
        "outcome_before": str(run.result.outcome),
        "energy_before": None if run.answer is None else run.answer.energy,
    }


def summary(rows: list[dict]) -> str:
    """What the change did in the searches in which it acts."""
    acted = [row for row in rows if row["new"]]
    if not acted:
        return f"{len(rows)} searches, in none of which it acts"
    now, before = (np.array([row[key] for row in acted]) for key in ("calls", "before"))
    fewer, more = int((now < before).sum()), int((now > before).sum())
    chance = binomtest(fewer, fewer + more).pvalue if fewer + more else 1.0
    energies = [(row["energy"], row["energy_before"]) for row in acted]
    other = [
        row["name"]
        for row, (a, b) in zip(acted, energies, strict=True)
        if (a is None) != (b is None) or (a is not None and abs(a - b) > CONSENSUS_TOLERANCE)
    ]
    return (
        f"{len(rows)} searches; it acts in {len(acted)}: {before.sum()} -> {now.sum()} calls, "
        f"{fewer} with fewer, {more} with more (sign test p = {chance:.2g})\n"
        f"another saddle, or one of both none: {' '.join(other) or 'in none'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--settings", type=json.loads, default={}, help="of prior-gp-dimer, JSON")
    parser.add_argument("--constants", type=json.loads, default={}, help="of the modules that use them, JSON")
    parser.add_argument("--only", nargs="*", help="names of reactions, in the order wanted")
    options = parser.parse_args()
    for path, value in options.constants.items():
        module, _, name = path.rpartition(".")
        module = importlib.import_module(f"saddleflow.{module}")
        getattr(module, name)  # a slip of the pen is no new constant
        setattr(module, name, value)
    rows = (
        [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    )
    runs = {run.reaction.name: run for run in map(read_run_file, sorted(options.folder.rglob("*.h5")))}
    for name in options.only or runs:
        if any(row["name"] == name for row in rows):
            continue
        rows.append(searched(runs[name], options.settings))
        with options.rows.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
