"""Saddle search on a Gaussian process that corrects cheap surfaces.

A walk (:mod:`saddleflow.searches.prior_walk`) from the bare guess that loses the ridge or its patience is
followed by one from the relaxed guess, by a careful one and by the published search, within one budget.
"""

from __future__ import annotations

import numpy as np

from saddleflow.evaluation import Evaluate, Evaluation, SearchResult, TracePoint
from saddleflow.reaction import Reaction
from saddleflow.searches import gp_dimer
from saddleflow.searches.prior_walk import Walk
from saddleflow.searches.start_direction import start_direction
from saddleflow.settings import GPDimer, PriorGPDimer

CAREFUL_TRUST = 0.5
"""Part of the trusted error and of the largest trust radius with which the careful walk begins."""


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
    # The guess is on its ridge, however strained.  A walk that got lost would do so again from there, so the
    # next one relaxes the strain on the prior first, and only the last one steps more carefully.
    bare = method.model_copy(update={"relaxation_distance": 0.0})
    asked: list[Evaluation] = []
    for settings, trust, leaves in ((bare, 1.0, True), (method, 1.0, True), (bare, CAREFUL_TRUST, False)):
        walk = Walk(evaluate, reaction, settings, direction, trace, leaves, trust, asked)
        result = walk.run()
        if result is not None:
            return result
        asked += walk.model.evaluations
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
    return gp_dimer.search(evaluate, reaction, published, direction, trace)
