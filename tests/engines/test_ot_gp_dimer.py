"""The published GP searches on GFN2-xTB: a real molecule, its saddle proved, and replay to the bit."""

import numpy as np
import pytest

from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.evaluation import Outcome
from saddleflow.geometry import largest_displacement
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.settings import Engine, GPDimer, OTGPDimer
from saddleflow.vibrations import internal_modes
from saddleflow.xtb import XTB

HCN = Reaction("hcn", ("C", "N", "H"), np.array([[0.0, 0.0, 0.0], [1.19, 0.0, 0.0], [0.45, 1.15, 0.0]]))
FORMALDEHYDE = Reaction(
    "formaldehyde",
    ("C", "O", "H", "H"),
    np.array([[0.0, 0.0, 0.0], [1.18, 0.0, 0.0], [-0.9, 0.9, 0.1], [0.25, 1.2, 0.0]]),
)  # not planar: a plane of symmetry would be kept, with what is unstable across it


def run(reaction, method, journal=None):
    ledger = Ledger(create_engine(Engine(program="xtb"), reaction), journal, {}, method.max_calls)
    try:
        return carry_out(ledger, reaction, method.algorithm, method, {"program": "xtb"})
    finally:
        ledger.close()


@pytest.mark.parametrize("reaction", [HCN, FORMALDEHYDE], ids=lambda r: r.name)
@pytest.mark.parametrize("changes", [{}, {"transport_combination": "sum"}, {"fit_every": 2}])
def test_finds_a_first_order_saddle(reaction, changes):
    found = run(reaction, OTGPDimer(**changes))
    assert found.result.outcome is Outcome.CONVERGED
    positions = found.evaluations[found.result.evaluation].positions
    modes = internal_modes(XTB(reaction.numbers).hessian(positions), positions.ravel())
    assert modes.index == 1
    assert abs(modes.vectors[:, 0] @ found.result.mode.ravel()) > 0.9


def test_both_published_searches_find_the_same_saddle():
    ends = [run(FORMALDEHYDE, method) for method in (GPDimer(), OTGPDimer())]
    first, second = (r.evaluations[r.result.evaluation].positions for r in ends)
    assert largest_displacement(first, second) < 0.05


def test_an_interrupted_search_goes_on_where_it_was(tmp_path):
    whole = run(HCN, OTGPDimer())
    run(HCN, OTGPDimer(max_calls=6), tmp_path / "journal.jsonl")
    resumed = run(HCN, OTGPDimer(), tmp_path / "journal.jsonl")
    assert len(resumed.evaluations) == len(whole.evaluations)
    pairs = zip(whole.evaluations, resumed.evaluations, strict=True)
    assert all(np.array_equal(a.positions, b.positions) for a, b in pairs)
