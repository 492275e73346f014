"""Real orbitals that stay on a higher state: the fall is noticed and the points before it are excluded."""

import numpy as np
import pytest

from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.engines.state_watch import EXCLUDED, StateChanged, StateWatch
from saddleflow.evaluation import Purpose
from saddleflow.reaction import Reaction
from saddleflow.settings import Engine

BOHR = 0.529177


def beryllium_dihydride(z, shift=0.0):
    """Be + H2 on their way to HBeH (Purvis et al., 1983), z Bohr apart; two configurations cross at 2.9."""
    y = (2.54 - 0.46 * z) * BOHR
    return np.array([[0.0, 0.0, 0.0], [0.0, y + shift, z * BOHR], [0.0, -y, z * BOHR]])


@pytest.mark.psi4
def test_orbitals_that_stay_on_a_higher_state_are_found_out_when_they_fall():
    reaction = Reaction("beh2", ("Be", "H", "H"), beryllium_dihydride(2.0))
    ledger = Ledger(create_engine(Engine(program="psi4"), reaction), None, {}, 20)
    watch = StateWatch(ledger)
    try:
        for z in (2.0, 2.4, 2.8, 3.0):
            watch.evaluate(beryllium_dihydride(z))
        assert watch.records == [], "symmetry keeps the higher state smoothly: nothing to see yet"
        with pytest.raises(StateChanged) as changed:
            watch.evaluate(beryllium_dihydride(3.0, 0.125))
    finally:
        ledger.close()
    (record,) = watch.records
    assert record["result"] == EXCLUDED and record["earlier_lower_by"] > 0.3
    assert changed.value.evaluation.index == record["first"]
    # From all starts, unless the orbitals failed and the call did that by itself; then the earlier point.
    assert sum(e.purpose is Purpose.STATE for e in ledger.evaluations) in (1, 2)


@pytest.mark.psi4
def test_a_higher_state_that_is_followed_smoothly_is_seen_where_the_search_ends():
    """Also where little is broken of the symmetry that keeps it: no jump tells, the starts do."""
    reaction = Reaction("beh2", ("Be", "H", "H"), beryllium_dihydride(2.0))
    for shift in (0.0, 0.1):
        ledger = Ledger(create_engine(Engine(program="psi4"), reaction), None, {}, 20)
        watch = StateWatch(ledger)
        try:
            for z in (2.0, 2.4, 2.8, 3.0):
                last = watch.evaluate(beryllium_dihydride(z))
            if shift:
                last = watch.evaluate(beryllium_dihydride(3.0, shift))
            assert watch.records == []
            lower = watch.lower_state(last.index)
        finally:
            ledger.close()
        assert lower is not None and last.energy - lower.energy > 0.1
        assert lower.purpose is Purpose.VERIFICATION
        (record,) = watch.records
        assert (record["result"], record["first"]) == (EXCLUDED, lower.index)
