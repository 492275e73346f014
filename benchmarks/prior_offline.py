"""Stored searches of prior-gp-dimer, asked again offline: what another surrogate or another phase would do.

    python benchmarks/prior_offline.py steps FOLDER [--settings '{"prior": "GFN2-xTB+PM6"}']
    python benchmarks/prior_offline.py phases FOLDER [--settings ...]

FOLDER holds run files (*.h5, also in subfolders).  No electronic structure is computed.

steps    error of the force that the surrogate, conditioned on the points before, predicts for the next
         stored point: largest error on an atom over the largest force before.  Geometric means.
phases   the first walk of each search is led along its stored points; of every phase is printed where it
         would go: force predicted there, its expected error, the force by the surrogate of all stored
         points (near the true one along the search), and the steps on the surrogate.
"""

import argparse
import contextlib
import json
from pathlib import Path

import numpy as np

from saddleflow.evaluation import Purpose
from saddleflow.geometry import largest_displacement, largest_motion
from saddleflow.run_file import RunFile, read_run_file
from saddleflow.searches.prior_model import PriorModel
from saddleflow.searches.prior_walk import Walk
from saddleflow.settings import PriorGPDimer

SMALLEST_FORCE = 0.02
"""eV/Angstrom: below it an error is measured against it."""


def points(run: RunFile) -> list:
    """Evaluations of the search with an answer."""
    return [e for e in run.evaluations if e.forces is not None and e.purpose is Purpose.SEARCH]


def step_errors(run: RunFile, method: PriorGPDimer) -> list[tuple[float, float, int]]:
    """Error over the force before, that force (eV/Angstrom), and the number of the point, for every step."""
    model, found = PriorModel(run.reaction, method), []
    for number, point in enumerate(points(run)):
        if number:
            before = model.evaluations
            distances = [largest_displacement(e.positions, point.positions) for e in before]
            base = int(np.argmin(distances))
            model.update(base)
            predicted = model.predict(point.positions.ravel()).forces
            error, force = largest_motion((predicted - point.forces).ravel()), before[base].max_atom_force
            found.append((error / max(force, SMALLEST_FORCE), force, number))
        model.add(point)
    return found


def steps(options: argparse.Namespace, method: PriorGPDimer) -> None:
    """Print errors of steps, gathered."""
    rows = np.array([row for run in runs(options) for row in step_errors(run, method)])
    ratio, force, number = rows.T
    groups = {
        "all": force > 0.0,
        "force above 0.5": force > 0.5,
        "0.1 to 0.5": (force > 0.1) & (force <= 0.5),
        "below 0.1": force <= 0.1,
        "first step": number == 1,
        "steps 2 to 4": (number > 1) & (number < 5),
        "steps 5 to 9": (number > 4) & (number < 10),
        "later": number > 9,
    }
    for name, chosen in groups.items():
        if chosen.any():
            mean = np.exp(np.log(np.maximum(ratio[chosen], 1e-3)).mean())
            print(f"{name:16s} {int(chosen.sum()):5d} steps  geometric mean {mean:.3f}")


def phases(options: argparse.Namespace, method: PriorGPDimer) -> None:
    """Print what each phase of the first walks proposes."""
    print("search  point   force  predicted  expected error  judged  steps")
    for run in runs(options):
        for number, force, predicted, expected, judged, count in proposals(run, method):
            forces = f"{force:7.3f}  {predicted:9.3f}  {expected:14.3f}  {judged:6.3f}"
            print(f"{run.reaction.name:8s} {number:4d} {forces}  {count:5d}", flush=True)


def proposals(run: RunFile, method: PriorGPDimer) -> list[tuple]:
    """Rows of one search: number of the point, force before, predicted, expected error, judged, steps."""
    bases = {point.evaluation: "base" in point.notes for point in run.result.trace}
    stored = points(run)
    end = next((k for k, e in enumerate(stored) if k and not bases.get(e.index, False)), len(stored))
    stored = stored[:end]
    judge, rows = PriorModel(run.reaction, method), []
    for point in stored:
        judge.add(point)
    judge.update(len(stored) - 1)
    answers, seen = iter(stored), {}

    def evaluate(position, purpose=Purpose.SEARCH, prediction=None):
        point = next(answers)
        if prediction is not None:
            place = position.ravel()
            judged = largest_motion(judge.process.energy_gradient(place, judge.prior(place))[1])
            predicted = largest_motion(prediction.forces.ravel())
            there = walk.model.predict(point.positions.ravel())
            seen["error"] = largest_motion((there.forces - point.forces).ravel())
            seen["sigma"] = there.force_sigma
            expected = walk.trust.error_per_sigma * prediction.force_sigma
            force = walk.model.evaluations[walk.base].max_atom_force
            rows.append((point.index, force, predicted, expected, judged, seen["steps"]))
        return point

    walk = Walk(evaluate, run.reaction, method, np.zeros_like(run.reaction.positions), [])
    phase, observe = walk.phases.phase, walk.trust.observe

    def counted(*arguments):
        found = phase(*arguments)
        seen["steps"] = found.steps
        return found

    # The walk learns from how well its surrogate foresaw the stored point, not its own proposal.
    walk.phases.phase = counted
    walk.trust.observe = lambda error, sigma, force: observe(seen["error"], seen["sigma"], force)
    with contextlib.suppress(StopIteration):  # it would have gone on
        walk.run()
    return rows


def runs(options: argparse.Namespace):
    """Run files of the folder."""
    for path in sorted(options.folder.rglob("*.h5")):
        yield read_run_file(path)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["steps", "phases"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--settings", default="{}", help="of prior-gp-dimer, JSON")
    options = parser.parse_args()
    method = PriorGPDimer(**json.loads(options.settings))
    {"steps": steps, "phases": phases}[options.what](options, method)


if __name__ == "__main__":
    main()
