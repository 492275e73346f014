"""From finished searches to a learned prior."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from saddleflow import sparrow
from saddleflow.errors import GeometryError, InputError, RunFileError, ScfError
from saddleflow.method_settings import SPARROW_METHODS
from saddleflow.run_file import RunFile, read_run_file
from saddleflow.settings import Engine
from saddleflow.surrogate.body_ordered import BodyOrdered
from saddleflow.surrogate.learned_prior import LearnedPrior
from saddleflow.surrogate.learning import Changes, changes, learn
from saddleflow.surrogate.prior_mean import MIXTURE, PriorMean, prior_mean

MOST_ELEMENTS = 5
"""The number of features grows with the third power: 768 for 3 elements, 3315 for 5."""


def run_files(sources: Iterable[Path]) -> list[Path]:
    """Run files among files and in folders: of a results folder those of its searches."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            searches = source / "searches"
            found += (searches if searches.is_dir() else source).rglob("*.h5")
        else:
            found.append(source)
    return sorted(set(found))


def learned_from(paths: Sequence[Path], prior: str = "auto", method: str = "") -> LearnedPrior:
    """Learn a prior from run files.

    Parameters
    ----------
    paths : sequence of Path
        Run files, in any order.
    prior : str
        Cheap surfaces that it corrects, joined by +; or auto: those of the prior auto that are installed.
    method : str
        Use the searches of this method only; empty: of all.

    Returns
    -------
    LearnedPrior
        The same files and program versions make the same numbers.

    Raises
    ------
    InputError
        When the files are of different levels of theory, or too few.
    RunFileError
        When one of them can't be read.
    EngineUnavailable
        When a surface can't be had.
    """
    runs = [run for run in map(read_run_file, paths) if method in ("", run.method_name)]
    runs.sort(key=lambda run: (run.reaction.name, run.method_name, run.created))
    levels = sorted({level_of(run) for run in runs})
    if len(levels) > 1:
        raise InputError(
            f"searches of different levels of theory teach no one prior: {', '.join(levels)}; "
            "name run files of one level"
        )
    elements = sorted({int(number) for run in runs for number in run.reaction.numbers})
    if len(elements) > MOST_ELEMENTS:
        raise InputError(
            f"the searches have {len(elements)} elements, and a prior can be learned for {MOST_ELEMENTS} at "
            "most; name run files of reactions with fewer"
        )
    names = [name for name in MIXTURE if name not in SPARROW_METHODS or sparrow.available()]
    if prior != "auto":
        names = prior.split("+")
    reactions: dict[str, Changes] = {}
    evaluations, digest = 0, hashlib.sha256()
    for run in runs:
        rows = [row for row in run.evaluations[run.first_on_state : run.proved_from] if not row.error]
        if not rows:
            continue
        try:
            mean = prior_mean(run.reaction, "+".join(names))
            cheap = np.array([_gradients(mean, row.positions) for row in rows])
        except InputError:  # a surface without parameters for one of the elements
            continue
        positions = np.array([row.positions for row in rows])
        gradients = np.array([row.gradient for row in rows])
        found = changes(BodyOrdered(elements, run.reaction.numbers), positions, gradients, cheap)
        if found is None:
            continue
        name = run.reaction.name
        reactions[name] = reactions[name] + found if name in reactions else found
        evaluations += len(rows)
        for part in (name.encode(), run.reaction.numbers.tobytes(), positions.tobytes(), gradients.tobytes()):
            digest.update(part)
    if not reactions:
        raise InputError("there is no search with two evaluations near each other to learn from")
    mean_weights, factor = learn(list(reactions.values()), len(names))
    return LearnedPrior(
        levels[0],
        tuple(names),
        tuple(elements),
        mean_weights,
        factor,
        tuple(reactions),
        evaluations,
        digest.hexdigest(),
    )


def level_of(run: RunFile) -> str:
    """Level of theory of a run file, as :attr:`saddleflow.settings.Engine.level`."""
    try:
        return Engine.model_validate(run.engine).level
    except ValueError:
        raise RunFileError(f"{run.reaction.name}: its engine settings name no level of theory") from None


def _gradients(mean: PriorMean, positions: np.ndarray) -> np.ndarray:
    """Gradients of the cheap surfaces, shape (k, 3N); NaN where one has no answer."""
    try:
        return mean.energies_gradients(positions.ravel())[1]
    except (ScfError, GeometryError):
        return np.full((len(mean.potentials), positions.size), np.nan)
