"""From a stationary point that is no first-order saddle on to one: a proof by a few calls says where."""

from __future__ import annotations

import numpy as np

from saddleflow.engines.ledger import Ledger
from saddleflow.errors import EngineCrashed, EngineTimeout, GeometryError, ScfError
from saddleflow.evaluation import Purpose, SearchResult, SearchStopped
from saddleflow.geometry import largest_motion
from saddleflow.reaction import Reaction
from saddleflow.saddle_index import IndexProof
from saddleflow.settings import Verification
from saddleflow.verification_levels import largest_jump, model_hessian, proof_by_products

# Largest motion of an atom by which a search leaves such a point, Angstrom: up along the softest mode of a
# minimum, or down along the second negative one.
DEPARTURE = {0: 0.3, 2: 0.15}
# By any of these a proof ends without a verdict; the answer stands, and the verification will say more.
UNPROVED = (SearchStopped, ScfError, GeometryError, EngineCrashed, EngineTimeout)


def proof_at(ledger: Ledger, reaction: Reaction, result: SearchResult) -> IndexProof | None:
    """Number of negative modes where a search has converged, by calls of purpose ``verification``.

    Parameters
    ----------
    ledger : Ledger
        Of the search.
    reaction : Reaction
        Elements, charge and multiplicity.
    result : SearchResult
        Converged.

    Returns
    -------
    IndexProof or None
        With index None where it is not decided.  None where nothing can be said: the budget ended, no model
        Hessian, another electronic state at a displaced point, a fault of the engine.
    """
    answer = ledger.evaluations[result.evaluation]
    # The last call may have been another one at the same point, from other orbitals.
    orbitals = [answer.index]
    jumps = [0.0]

    def change(displaced: np.ndarray) -> tuple[float, np.ndarray]:
        start = orbitals.pop() if orbitals else None
        evaluation = ledger.evaluate(displaced, Purpose.VERIFICATION, None, start)
        jumps.append(abs(evaluation.energy - answer.energy))
        return evaluation.energy - answer.energy, evaluation.gradient - answer.gradient

    model, settings = model_hessian(reaction, result, answer.positions), Verification()
    try:
        proof, _ = proof_by_products(change, reaction, answer.positions, model, settings)
    except UNPROVED:
        return None
    return None if max(jumps) > largest_jump(settings) else proof


def departure(
    proof: IndexProof, position: np.ndarray, start: np.ndarray, mode: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Where to search on, and along which direction.

    Parameters
    ----------
    proof : IndexProof
        Of a stationary point.
    position, start : ndarray, shape (N, 3)
        That point, and where the search began, Angstrom.
    mode : ndarray, shape (N, 3)
        The search's own mode, which tells the reaction coordinate of two negative modes.

    Returns
    -------
    (ndarray, ndarray) or None
        Positions and unit vector, both (N, 3); None at a first-order saddle, and for an index that leaves no
        choice.
    """
    # Two negative Ritz values are enough to go on, even where one is within its error: the answer stays if
    # the search does not converge from there.
    index = 2 if proof.likely == 2 else proof.index
    if index not in DEPARTURE or (index == 2 and proof.second is None):
        return None
    climb, leave = proof.mode, proof.mode
    if index == 2:
        lowest_is_reactive = abs((proof.mode * mode).sum()) >= abs((proof.second * mode).sum())
        climb, leave = (proof.mode, proof.second) if lowest_is_reactive else (proof.second, proof.mode)
    # Out of a minimum the search goes back to where it came from; from a ridge either side will do.
    sign = 1.0 if (leave * (start - position)).sum() >= 0.0 else -1.0
    step = sign * DEPARTURE[index] / largest_motion(leave)
    return position + step * leave, climb
