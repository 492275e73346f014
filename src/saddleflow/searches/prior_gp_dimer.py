"""Saddle search on a Gaussian process that corrects cheap surfaces.

A walk (:mod:`saddleflow.searches.prior_walk`) begins at the guess, relaxed where it surely stays on its
ridge.  One that loses the ridge or its patience is followed by one from the guess as far as it can relax, by
a careful one from the bare guess, by one from the best point so far and by the published search, within one
budget.  Where the prior misleads a walk, a careful one from the bare guess along a measured mode comes next.
"""

from __future__ import annotations

import numpy as np

from saddleflow.evaluation import Evaluate, Evaluation, SearchResult, TracePoint
from saddleflow.reaction import Reaction
from saddleflow.searches import gp_dimer
from saddleflow.searches.base import guard_rise
from saddleflow.searches.guess_relaxation import Relaxation
from saddleflow.searches.prior_walk import Lost, Walk
from saddleflow.searches.start_direction import start_direction
from saddleflow.settings import GPDimer, PriorGPDimer

NEXT = (Relaxation.PARTIAL, Relaxation.NONE, Relaxation.GATHERED)
"""Walks after a lost first one."""
NEXT_IF_MISLED = (Relaxation.MEASURED, Relaxation.GATHERED)
"""Those where the prior misleads: relaxing on it is no use, and the mode to climb has to be measured."""


def search(
    evaluate: Evaluate,
    reaction: Reaction,
    method: PriorGPDimer,
    direction: np.ndarray,
    trace: list[TracePoint],
) -> SearchResult:
    """Search a first-order saddle; see :data:`saddleflow.searches.base.Search`.

    Without a direction (zeros) the first walk climbs the surrogate's lowest mode, and the published search
    asks for one when its turn comes.
    """
    asked: list[Evaluation] = []
    walks = [Relaxation.SURE, *NEXT]
    while walks:
        relaxation = walks.pop(0)
        if relaxation is Relaxation.GATHERED and not asked:
            continue  # nothing had a solution
        walk = Walk(evaluate, reaction, method, direction, trace, relaxation, asked)
        result = walk.run()
        if not isinstance(result, Lost):
            return result
        asked += walk.model.evaluations
        if result is Lost.MISLED and relaxation not in NEXT_IF_MISLED:
            walks = list(NEXT_IF_MISLED)
        elif not walk.began_bare and Relaxation.PARTIAL in walks:
            walks.remove(Relaxation.PARTIAL)  # this one began at the relaxed guess already
    # Where the prior leads astray the published search, which knows nothing of it, starts from the guess:
    # in its most robust form, since it is the last resort.
    published = GPDimer(
        convergence=method.convergence,
        start=method.start,
        max_calls=method.max_calls,
        internal_mode=True,
        fit_subset=30,
        refuse_repeated_points=True,
        refuse_rising_rotations=True,
        failure_retries=4,
    )
    if not direction.any():
        direction = start_direction(reaction, method.start)
    return gp_dimer.search(guard_rise(evaluate, method.energy_limit), reaction, published, direction, trace)
